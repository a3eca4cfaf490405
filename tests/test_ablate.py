"""The ablation's table, of reports whose numbers are known, and what is not done twice."""

import json

import pytest

from scripts import ablate


def write_report(folder, name, success, reference="same", towards=None):
    lines = [
        {"boxes": boxes, "reference": reference, "success": success, "triples": 0.5, "all_objects": 0.25, "style": 1.0,
         "towards_colour": towards, "towards_texture": towards}
        for boxes in ("all", "none")
    ]  # fmt: skip
    (folder / name / "scenes").mkdir(parents=True)
    (folder / name / "scenes" / "report.json").write_text(json.dumps({"results": lines}))


def test_a_cell_is_the_mean_over_seeds_and_their_standard_deviation(tmp_path):
    write_report(tmp_path, "encoder_1", 0.8, reference="none")
    write_report(tmp_path, "encoder_2", 1.0, reference="none")
    write_report(tmp_path, "encoder_FiLM_1", 0.4, towards=0.5)
    _, _, encoder, film = ablate.markdown(tmp_path).splitlines()
    assert encoder.split("|")[1:4] == [" encoder ", " 2 ", " 90.0 ± 14.1 "]
    assert film.split("|")[1:5] == [" encoder + FiLM ", " 1 ", " 40.0 ", " 50.0 "]


def test_what_is_measured_is_not_done_again(tmp_path, monkeypatch, capsys):
    for parts in ablate.PARTS:
        write_report(tmp_path, f"{ablate.file_name(parts)}_7", 0.5)
    monkeypatch.setattr(ablate, "call", lambda *words: pytest.fail(f"called {words}"))
    assert ablate.main(["--seeds", "7", "--outdir", str(tmp_path)]) == 0
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out


def test_every_variant_trains_with_its_own_parts_and_seed(tmp_path, monkeypatch):
    calls = []

    def call(*words):
        calls.append(words)
        if words[0] == "trainer.py":
            run = words[words.index("--logdir") + 1] / "run" / "checkpoints"
            run.mkdir(parents=True)
            (run / "last.ckpt").touch()

    monkeypatch.setattr(ablate, "call", call)
    ablate.main(["--seeds", "7", "--outdir", str(tmp_path), "--max-steps", "3"])
    trained, measured = calls[::2], calls[1::2]
    assert len(trained) == len(measured) == len(ablate.PARTS)
    assert all(words[words.index("--seed") + 1] == 7 and "3" in words for words in trained)
    assert len({words[-4:] for words in trained}) == len(trained)  # the overrides
    assert [words[words.index("--references") + 1] for words in measured] == ["none"] + 3 * ["same,other"]
