"""Batches of edits through the command line: complete, resumable, shared by processes, and one bad line costs no other."""

import json
import os
import shutil

import numpy as np
import pytest
from paths import ROOT, SHARED
from PIL import Image

from ldm.editing import pipeline
from ldm.editing.options import EditOptions, EditRequest
from ldm.graph.graph_files import write_graphs
from ldm.models.loading import load_model
from ldm.util.files import atomic_write
from ldm.util.image_folder import read_record

NAMES = ["000001.png", "000003.png", "styles/one.png"]


@pytest.fixture
def program(load_script):
    return load_script("ddim_invert_edit").main


@pytest.fixture
def batch(checkpoint, scene, tmp_path):
    """A file of three edits in a folder, and the command that makes them."""
    photograph, graph, other = scene
    photograph.save(tmp_path / "photo.png")
    write_graphs(tmp_path / "source.json", [graph])
    line = {"ref": "photo.png", "source_sg": "source.json", "sg": other.to_json()}
    lines = [line, {**line, "style": "photo.png", "out": "styles/one.png"}, {**line, "seed": 3}]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = ["--ckpt", str(checkpoint), "--steps", "2", "--device", "cpu", "--outdir", str(tmp_path / "out")]
    return tmp_path / "edits.jsonl", ["--batch", str(tmp_path / "edits.jsonl"), *run]


def images_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png") if path.name != "sheet.png")


def test_a_batch_makes_what_is_missing_and_nothing_twice(batch, program, scene, checkpoint):
    path, command = batch
    assert program(command) == 0
    out = path.parent / "out"
    assert images_in(out) == NAMES and (out / "sheet.png").exists()
    records = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert [record["file"] for record in records] == ["000001.png", "styles/one.png", "000003.png"]
    assert all(record["operations"] for record in records)
    request = EditRequest(scene[0], scene[2], scene[1])
    third = pipeline.edit(load_model(checkpoint), request, EditOptions(steps=2, seed=3))
    assert np.array_equal(Image.open(out / "000003.png"), third.image)
    (out / "000003.png").unlink()
    before = (out / "000001.png").stat().st_mtime_ns
    assert program(command) == 0
    assert images_in(out) == NAMES and (out / "000001.png").stat().st_mtime_ns == before


def test_processes_share_a_batch(batch, program, monkeypatch):
    path, command = batch
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, images in (("1", ["styles/one.png"]), ("0", NAMES)):
        monkeypatch.setenv("RANK", rank)
        assert program(command) == 0
        assert images_in(path.parent / "out") == images
    assert len((path.parent / "out" / "index.jsonl").read_text().splitlines()) == 3


def test_a_bad_line_is_reported_and_does_not_affect_the_others(batch, program, capsys):
    path, command = batch
    bad = ['{"sg"', '{"sg": "nowhere.json"}', '{"sg": "source.json", "sterngth": 1}', '{"out": "../x.png", "sg": "a"}']
    bad += [
        '{"sg": "source.json"}',
        '{"sg": "source.json", "ref": "photo.png", "steps": "many"}',
        "[]",
        '{"ref": "photo.png"}',
    ]
    path.write_text("\n".join(bad) + "\n\n" + path.read_text())
    assert program(command) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "edits.jsonl" in line]
    assert [f"line {number}:" in error for number, error in enumerate(errors, 1)] == [True] * 8
    assert "'strength'" in errors[2] and "no photograph" in errors[4]
    out = path.parent / "out"
    assert images_in(out) == ["000010.png", "000012.png", "styles/one.png"]
    assert read_record(out / "000012.png")["options"]["seed"] == 3


def test_a_line_may_have_a_graph_of_another_project_in_it_or_in_a_file(batch, program, scene):
    path, command = batch
    sgedit = {"objects": scene[2].objects, "bboxes": scene[2].boxes, "tuples": []}
    (path.parent / "sgedit.json").write_text(json.dumps(sgedit))
    lines = [{"ref": "photo.png", "source_sg": "source.json", "sg": graph} for graph in (sgedit, "sgedit.json")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert program(command) == 0
    records = [json.loads(line) for line in (path.parent / "out" / "index.jsonl").read_text().splitlines()]
    assert records[0]["operations"] == records[1]["operations"] != []
    assert records[0]["sg"] == records[1]["sg"] and "tuples" not in records[0]["sg"]


def test_an_option_of_a_wrong_type_costs_its_line_alone(batch, program, capsys):
    path, command = batch
    bad = {
        "seed": ("1.5", '"a"', "null"), "steps": ("2.5", "true"), "interval": ("[0, 0.5, 1]", "0.5", '["a", 1]'),
        "keep": ('"no"', "1"), "strength": ('"half"', "NaN"), "method": ("[]",), "graph_scale": ("1" + "0" * 400, "{}"),
    }  # fmt: skip
    wrong = [(key, value) for key, values in bad.items() for value in values]
    line = path.read_text().splitlines()[0]
    right = [f'{line[:-1]}, "seed": {2**70}}}', f'{line[:-1]}, "interval": [0, 1], "keep": true, "graph_scale": 3}}']
    path.write_text("\n".join([*(f'{line[:-1]}, "{key}": {value}}}' for key, value in wrong), *right]))
    assert program(command) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "edits.jsonl" in line]
    for number, (error, (key, _)) in enumerate(zip(errors, wrong, strict=True), 1):
        assert f"line {number}: {key} " in error
    assert images_in(path.parent / "out") == [f"{number:06}.png" for number in (len(wrong) + 1, len(wrong) + 2)]


@pytest.mark.parametrize("content", [None, "\n \n"])
def test_an_unusable_batch_file_is_refused_before_a_model_is_loaded(program, tmp_path, monkeypatch, capsys, content):
    path = tmp_path / "edits.jsonl"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr("ldm.models.loading.load_model", None)
    assert program(["--batch", str(path), "--outdir", str(tmp_path / "out")]) == 2
    assert "edits.jsonl" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_interrupted_batch_says_how_to_continue(batch, program, monkeypatch, capsys):
    path, command = batch
    out, edit = path.parent / "out", pipeline.edit

    def stop(*arguments, **options):
        if images_in(out):
            raise KeyboardInterrupt
        return edit(*arguments, **options)

    monkeypatch.setattr("ldm.editing.batch.edit", stop)
    assert program(command) == 130 and images_in(out) == NAMES[:1]
    assert f"--outdir {out}" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setattr("ldm.editing.batch.edit", edit)
    assert program(command) == 0 and images_in(out) == NAMES
    capsys.readouterr()
    monkeypatch.setattr("ldm.editing.pipeline.edit", stop)
    photograph = ["--ref", str(path.parent / "photo.png"), "--sg", str(path.parent / "source.json")]
    assert program([*photograph, *command[2:]]) == 130
    assert "--outdir" not in capsys.readouterr().err


def test_a_batch_can_use_the_second_order_sampler_half_precision_and_little_memory(batch, program, tmp_path):
    command, options = batch[1], ["--sampler", "dpm++", "--precision", "bf16", "--low-memory"]
    assert program([*command, *options]) == 0
    record = read_record(tmp_path / "out" / "000001.png")
    assert record["precision"] == "bf16" and record["options"]["sampler"] == "dpm++"
    assert record["settings"]["sampler"] == "dpm++" and record["psnr"] is None


def bad_line(**changes):
    return json.dumps({"ref": "photo.png", "source_sg": "source.json", "sg": "source.json", **changes}).encode()


@pytest.mark.parametrize(
    "line",
    [
        bad_line(out="a\0b.png"),
        bad_line(ref="a\0b.png"),
        bad_line(sg="a\0b.json"),
        b'{"ref": "photo.png", "sg": "source.json", "out": "a\\ud800.png"}',
        bad_line(out="a" * 300 + ".png"),
        bad_line(ref="a" * 300 + ".png"),
        bad_line(out="index.jsonl/b.png"),
        bad_line(out="taken.png/b.png"),
        bad_line(out="folder.png"),
        bad_line(out="./sheet.png"),
        bad_line(out="a/../../x.png"),
        bad_line(out="/elsewhere/x.png"),
        bad_line(out=5),
        b'{"sg": ' + b"[" * 100_000,
        b'{"sg": "\xff"}',
        b'{"sg": ' + b"9" * 5000 + b"}",
        b"null",
    ],
)
def test_a_line_that_no_file_can_have_or_no_parser_can_read_costs_itself_alone(batch, program, capsys, line):
    path, command = batch
    out = path.parent / "out"
    (out / "folder.png").mkdir(parents=True)
    (out / "taken.png").write_bytes(b"not an image, and not ours")
    good = path.read_bytes().splitlines()[0]
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\n" + good)  # a byte order mark belongs to no line
    assert program(command) == 2
    assert "line 1:" in capsys.readouterr().err
    assert (out / "000002.png").is_file() and (out / "taken.png").read_bytes().startswith(b"not an image")


def test_only_a_line_feed_ends_a_line(batch, program):
    path, command = batch
    name = "a\u2028b\u0085c.png"
    path.write_text(json.dumps(json.loads(path.read_text().splitlines()[0]) | {"out": name}, ensure_ascii=False))
    assert program(command) == 0 and (path.parent / "out" / name).is_file()


def test_temporary_files_of_killed_processes_are_removed(batch, program):
    path, command = batch
    with atomic_write(path.parent / "out" / "x.png") as temporary:
        temporary.write_bytes(b"x")
        own = temporary.name
    dead = own.replace(f"-{os.getpid()}.", f"-{2**22 + 1}.")  # above Linux's largest process id
    (path.parent / "out" / dead).write_bytes(b"half an image")
    (path.parent / "out" / own).write_bytes(b"still being written")
    path.write_bytes(path.read_bytes().splitlines()[0])
    assert program(command) == 0
    assert not (path.parent / "out" / dead).exists() and (path.parent / "out" / own).exists()


BAD_INPUTS = sorted((SHARED / "bad_inputs" / "batch").glob("*.jsonl")) or [None]


@pytest.mark.parametrize("file", BAD_INPUTS, ids=lambda file: file.stem if file else "missing")
def test_bad_batches_cost_their_bad_lines_alone(file, checkpoint, program, tmp_path, capsys):
    if file is None:
        pytest.skip("the bad inputs are not beside the checkout")
    for name in ("example.png", "example.json", "edited.json"):
        shutil.copy(ROOT / "data" / "flat" / name, tmp_path)
    shutil.copy(file, tmp_path / "edits.jsonl")
    run = ["--ckpt", str(checkpoint), "--steps", "1", "--device", "cpu", "--outdir", str(tmp_path / "out")]
    assert program(["--batch", str(tmp_path / "edits.jsonl"), *run]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert (tmp_path / "out" / "ok.png").exists() == (b'"ok.png"' in file.read_bytes())
