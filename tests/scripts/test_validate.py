"""scripts/validate.py, with a tiny model."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from paths import ROOT
from PIL import Image

from ldm.evaluation.validation import shards


@pytest.fixture
def main(load_script, monkeypatch):
    """main(argv) -> exit code; the code's digest is fixed, since the code may be edited while the tests run."""
    monkeypatch.setattr(shards, "source_digest", lambda: "digest")
    return load_script("validate").main


@pytest.fixture
def arguments(checkpoint, tmp_path):
    """Two drawn scenes in two steps, the base a tiny model, into out/."""
    words = ["run", "shapes", "--n", "2", "--steps", "2", "--device", "cpu", "--base", str(checkpoint.parents[1])]
    return [*words, "--outdir", str(tmp_path / "out")]


def last_line(text):
    return text.strip().splitlines()[-1]


def test_models_are_sampled_and_compared_with_the_base(main, arguments, tmp_path, capsys):
    assert main([*arguments, "--model", "copy=base", "--model", "few=base@steps=1"]) == 0
    output = capsys.readouterr().out
    assert "copy: no difference; it is the base under another name" in output and "too few" in output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["same_pictures"] == ["copy"] and report["arguments"]["steps"] == 2
    assert report["models"]["few"]["options"]["steps"] == 1 and report["models"]["base"]["options"]["steps"] == 2
    assert {each["model"] for each in report["differences"]} == {"copy", "few"}


def test_shards_on_two_machines_make_the_pictures_of_one(main, arguments, tmp_path, capsys):
    assert main(arguments) == 0
    parts = [tmp_path / "part0", tmp_path / "part1"]
    for index, part in enumerate(parts):
        assert main([*arguments, "--outdir", str(part), "--num-shards", "2", "--shard-index", str(index)]) == 0
    assert "2 of 4 of model 'base' (shard 0 of 2)" in capsys.readouterr().out
    assert main(["merge", str(parts[0]), "--outdir", str(tmp_path / "all"), "--device", "cpu"]) == 2
    assert "2 of 4 of model 'base' (shard 1 of 2)" in last_line(capsys.readouterr().err)
    assert main(["merge", *map(str, parts), "--outdir", str(tmp_path / "all"), "--device", "cpu"]) == 0
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("out", "all")]
    assert reports[0]["averages"] == reports[1]["averages"]
    for part in parts:
        for picture in (part / "pictures" / "base").iterdir():
            with (
                Image.open(picture) as ours,
                Image.open(tmp_path / "out" / "pictures" / "base" / picture.name) as whole,
            ):
                assert ours.tobytes() == whole.tobytes()


def test_edits_and_samples_of_one_file_are_compared(main, checkpoint, tmp_path, scene, capsys):
    photograph, source, target = scene
    photograph.save(tmp_path / "photo.png")
    edit = {"id": "edit", "ref": "photo.png", "source_sg": source.to_json(), "sg": target.to_json(), "type": "replace"}
    sample = {"id": "sample", "sg": target.to_json(), "type": "sample", "steps": 1}
    (tmp_path / "validation.jsonl").write_text(json.dumps(edit) + "\n" + json.dumps(sample) + "\n")
    words = [
        "run",
        str(tmp_path / "validation.jsonl"),
        "--steps",
        "2",
        "--device",
        "cpu",
        "--outdir",
        str(tmp_path / "out"),
    ]
    words += ["--base", str(checkpoint), "--world", "shapes"]
    assert main(words) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "psnr_outside" in table and "passed" in table and "| base | replace |" in table
    assert Image.open(tmp_path / "out" / "pictures" / "base" / "edit.png").size == photograph.size
    assert main(["vote", str(tmp_path / "validation.jsonl"), str(tmp_path / "out")]) == 2
    assert "no model but the base" in last_line(capsys.readouterr().err)


def test_a_failed_line_shows_in_the_exit_code(main, arguments, checkpoint, tmp_path, capsys):
    lines = [{"id": "a", "sg": {"objects": ["circle"]}}, {"id": "b", "sg": {"objects": ["unicorn"]}}]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["run", str(tmp_path / "v.jsonl"), *arguments[4:], "--world", "shapes"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert (
        "shard 0 of 1: 1 of 2 pictures failed" in error and "line b: sg, objects[0]: " in error and "unicorn" in error
    )
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "none.jsonl"], "none.jsonl: cannot be read"),
        (["run", "shapes", "--num-shards", "2"], "--num-shards and --shard-index go together"),
        (["run", "shapes", "--num-shards", "2", "--shard-index", "2"], "of 2 shards"),
        (["run", "shapes", "--scores", "checkers"], "did you mean 'checker'"),
        (["run", "shapes", "--model", "a=shipped@sampler=dpm+"], "dpm+"),
        (["merge", "nowhere"], "nowhere/plan.json: cannot be read"),
    ],
)
def test_mistakes_are_one_sentence(main, words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert message in last_line(error) and "Traceback" not in error


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_report(checkpoint, tmp_path):
    """Killed as soon as the first pictures are there; pictures and averages are those of a run that was left alone."""
    words = [sys.executable, "scripts/validate.py", "run", "shapes", "--n", "12", "--steps", "4", "--device", "cpu"]
    words += ["--base", str(checkpoint.parents[1]), "--model", "few=base@steps=1", "--outdir"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    with subprocess.Popen([*words, str(killed)], cwd=ROOT, env=environment) as process:
        while not list(killed.glob("pictures/base/*.png")) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (killed / "report.json").exists()
    for folder in (killed, alone):
        subprocess.run([*words, str(folder)], cwd=ROOT, env=environment, check=True)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (killed, alone)]
    assert reports[0]["averages"] == reports[1]["averages"]


@pytest.mark.slow
def test_processes_of_torchrun_share_the_lines(checkpoint, tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--"]
    words += ["scripts/validate.py", "run", "shapes", "--n", "2", "--steps", "1", "--device", "cpu"]
    words += ["--base", str(checkpoint.parents[1]), "--outdir", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(words, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["pictures"] == 4
    assert sorted(path.name for path in (tmp_path / "out" / "shards").iterdir()) == ["0-of-2", "1-of-2"]
