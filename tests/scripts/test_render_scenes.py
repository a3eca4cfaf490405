"""Arguments of render_scenes.py; Blender and what needs it are replaced."""

import json
import random
import sys
from types import SimpleNamespace

import pytest

from ldm.synthetic.rendered.edits import OPERATIONS
from scripts import render_scenes

WORDS = ["--out", "--seeds", "--edits", "--look", "--masks", "--depth", "--side", "--samples", "--threads"]
WORDS += [
    "--shard-size",
    "--num-shards",
    "--shard-index",
    "0:3",
    "5:2",
    "0:",
    "all",
    "move",
    "clevr",
    "table",
    "1",
    "0",
]
WORDS += ["-1", "64", "nan", "1e9", "9" * 12, "", "\udcff", "ü", "--nonsense", "--se", "--", "x" * 300, "a\nb"]


@pytest.fixture
def written(monkeypatch):
    """The shards that would be written: their seeds, folder and extras."""
    shards = []

    def write_shard(stage, seeds, folder, extras, report):
        shards.append((stage, list(seeds), folder.name, extras))
        report(len(seeds))

    def extras(*values):
        return values

    fakes = {
        "bpy": SimpleNamespace(),
        "ldm.synthetic.rendered.shards": SimpleNamespace(Extras=extras, write_shard=write_shard),
        "ldm.synthetic.rendered.stage": SimpleNamespace(Stage=lambda *values: ("table", *values)),
        "ldm.synthetic.rendered.clevr_stage": SimpleNamespace(ClevrStage=lambda *values: ("clevr", *values)),
    }
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    return shards


def test_the_operations_of_the_help_are_those_of_the_edits():
    assert render_scenes.OPERATIONS == OPERATIONS


def test_seeds_are_split_into_shards_of_a_size(written, tmp_path):
    words = ["--out", str(tmp_path), "--seeds", "10:35", "--shard-size", "10", "--threads", "2", "--masks"]
    assert render_scenes.main(words) == 0
    assert [(seeds[0], seeds[-1], name) for _, seeds, name, _ in written] == [
        (10, 19, "shard-00000"),
        (20, 29, "shard-00001"),
        (30, 34, "shard-00002"),
    ]
    assert {(stage, extras) for stage, _, _, extras in written} == {(("table", 128, 8, 2), ((), True, False, 0))}


def test_machines_share_all_shards_without_overlap(written, tmp_path):
    for index in ("0", "1", "2"):
        words = [
            "--out",
            str(tmp_path),
            "--seeds",
            "0:50",
            "--shard-size",
            "7",
            "--num-shards",
            "3",
            "--shard-index",
            index,
        ]
        assert render_scenes.main(words) == 0
    assert sorted(seed for _, seeds, _, _ in written for seed in seeds) == list(range(50))


def test_a_folder_holds_pictures_of_one_kind_and_can_be_continued(written, tmp_path, capsys):
    words = ["--out", str(tmp_path), "--seeds", "0:20", "--shard-size", "10", "--edits", "move"]
    assert render_scenes.main(words) == 0 and render_scenes.main([*words, "--seeds", "0:40", "--threads", "1"]) == 0
    assert [name for _, _, name, _ in written[-2:]] == ["shard-00002", "shard-00003"]
    capsys.readouterr()
    others = [["--side", "64"], ["--samples", "4"], ["--edits", "add"], ["--masks"], ["--seeds", "5:20"]]
    for other in others:
        assert render_scenes.main([*words, *other]) == 2
        assert "was begun with" in capsys.readouterr().err


def test_the_look_chooses_the_stage(written, tmp_path):
    words = [
        "--out",
        str(tmp_path),
        "--seeds",
        "0:1",
        "--look",
        "clevr",
        "--side",
        "64",
        "--samples",
        "2",
        "--threads",
        "1",
    ]
    assert render_scenes.main(words) == 0
    assert written[0][0] == ("clevr", 64, 2, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--edits", "move", "--look", "clevr"], "leave --edits out"),
        (["--num-shards", "2", "--shard-index", "2"], "--shard-index 2"),
    ],
)
def test_combinations_that_make_no_sense_are_one_sentence(written, tmp_path, words, message, capsys):
    assert render_scenes.main(["--out", str(tmp_path), "--seeds", "0:1", *words]) == 2
    assert message in capsys.readouterr().err and not written


def test_without_blender_the_message_names_the_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "bpy", None)
    assert render_scenes.main(["--out", str(tmp_path), "--seeds", "0:1"]) == 2
    message = capsys.readouterr().err
    assert "pip install -e '.[render]'" in message and message.count("\n") == 1


def test_random_arguments_end_in_one_line(written, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(7)
    codes = set()
    for _ in range(400):
        words = rng.choices(WORDS, k=rng.randint(0, 4))
        if rng.random() < 0.8:
            words = ["--out", "scenes", "--seeds", "0:2", *words]
        try:
            code = render_scenes.main(words)
        except SystemExit as stop:
            code = stop.code
        errors = capsys.readouterr().err
        lines = [
            line for line in errors.splitlines() if "scene/s" not in line and "?scene" not in line and line.strip()
        ]
        codes.add(code)
        assert code in (0, 2) and len(lines) == (code != 0), (words, errors)
    assert codes == {0, 2}


def test_clips_of_a_number_of_frames_are_a_setting_of_the_folder(written, tmp_path, capsys):
    words = ["--out", str(tmp_path), "--seeds", "0:3"]
    assert render_scenes.main([*words, "--frames", "16"]) == 0
    assert [extras for _, _, _, extras in written] == [((), False, False, 16)]
    assert render_scenes.main(words) == 2 and "was begun with frames 16, not 0" in capsys.readouterr().err


@pytest.mark.parametrize("other", [["--edits", "move"], ["--look", "clevr"]])
def test_clips_have_no_edits_and_are_of_the_table(other, written, tmp_path, capsys):
    assert render_scenes.main(["--out", str(tmp_path), "--seeds", "0:3", "--frames", "8", *other]) == 2
    assert "--frames: clips are of the table and without edits" in capsys.readouterr().err and not written


def test_a_folder_that_states_no_frames_has_pictures_and_goes_on(written, tmp_path):
    words = ["--out", str(tmp_path), "--seeds", "0:3"]
    assert render_scenes.main(words) == 0
    stated = json.loads((tmp_path / "settings.json").read_text())
    assert stated.pop("frames") == 0
    (tmp_path / "settings.json").write_text(json.dumps(stated))
    assert render_scenes.main(words) == 0 and render_scenes.main([*words, "--frames", "8"]) == 2
