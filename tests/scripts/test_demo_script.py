"""The demo's judgement of edits, its panels, and its log folder."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from ldm.evaluation import demo as demo_of_edits
from ldm.evaluation.edit_tasks import OPERATIONS
from ldm.util.errors import UserError


@pytest.fixture
def demo(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_of_edits, "FOLDER", tmp_path)
    return demo_of_edits


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_right_answer_has_no_faults_and_the_photograph_has_some(demo, operation):
    task = demo.DEMOS["shapes"].task(operation)
    assert demo.find_faults(task, task.truth) == []
    assert demo.find_faults(task, task.picture) != []


def test_an_edit_is_shown_with_its_verdict_and_its_files_are_written(demo, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(demo, "edit", lambda model, request: SimpleNamespace(image=request.photograph))
    assert demo.edit_and_judge(None, demo.DEMOS["shapes"].task("remove")).width > 500
    printed = capsys.readouterr().out
    assert "remove '" in printed and "checker: wrong" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"remove.png", "remove.json", "remove_source.json"}


def test_a_refused_edit_is_a_verdict_and_does_not_end_the_demo(demo, monkeypatch, capsys):
    def refuse(*arguments):
        raise UserError("there is no room")

    monkeypatch.setattr(demo, "edit", refuse)
    tasks = [demo.DEMOS["shapes"].task(operation) for operation in OPERATIONS]
    assert all(demo.edit_and_judge(None, task).width > 300 for task in tasks)
    assert capsys.readouterr().out.count("checker: refused: there is no room\n") == len(OPERATIONS)


def test_the_log_folder_is_not_among_those_of_other_runs(demo, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def train(command, check):
        for place in (Path("logs"), Path(command[command.index("--logdir") + 1])):
            (place / "2020-01-01T00-00-00_adapters").mkdir(parents=True)
        Path("logs/2999-01-01T00-00-00_adapters").mkdir()

    monkeypatch.setattr(demo.subprocess, "run", train)
    monkeypatch.setattr(demo, "read_losses", lambda log_folder: (1.0, 0.5))
    log_folder = demo.train(demo.DEMOS["shapes"])
    assert log_folder.is_dir() and log_folder.is_relative_to(demo.FOLDER)
    assert not log_folder.is_relative_to(tmp_path / "logs")


def test_ctrl_c_ends_it_with_one_sentence(demo, load_script, monkeypatch, capsys):
    def stop(weights):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.os, "chdir", lambda folder: None)
    monkeypatch.setattr(demo.shipped, "shipped_adapters", stop)
    assert load_script("demo").main(["--scenes", "shapes"]) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1
