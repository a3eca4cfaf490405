"""The demo's own judgement: a right edit is called right, a wrong one wrong, whatever the kind."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from ldm.evaluation.edit_tasks import OPERATIONS, make_task
from ldm.util.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "demo.py"


@pytest.fixture
def demo(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("demo_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_should_come_out_is_right_and_what_went_in_is_wrong(demo, operation):
    this = make_task("shapes", operation, demo.FIRST_TASK + OPERATIONS.index(operation))
    assert demo.complaints(this, this.truth) == []
    assert demo.complaints(this, this.picture) != []


def test_a_panel_says_the_verdict_and_the_files_for_doing_it_by_hand_are_there(demo, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(demo, "edit", lambda model, photograph, *graph, **more: SimpleNamespace(image=photograph))
    assert demo.edited(None, "remove").width > 500
    assert "remove '" in (said := capsys.readouterr().out) and "checker: wrong: " in said
    assert {path.name for path in tmp_path.iterdir()} == {"remove.png", "remove.json", "remove_source.json"}


def test_an_edit_that_is_refused_is_a_verdict_and_no_end(demo, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise UserError("there is no room")

    monkeypatch.setattr(demo, "edit", refuse)
    assert all(demo.edited(None, operation).width > 300 for operation in OPERATIONS)
    assert capsys.readouterr().out.count("checker: refused: there is no room\n") == len(OPERATIONS)


def test_the_run_is_its_own_whatever_else_trains(demo, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def train(command, check):
        for place in (Path("logs"), Path(command[command.index("--logdir") + 1])):
            (place / "2020-01-01T00-00-00_demo").mkdir(parents=True)
        Path("logs/2999-01-01T00-00-00_demo").mkdir()

    monkeypatch.setattr(demo.subprocess, "run", train)
    monkeypatch.setattr(demo, "losses", lambda run: (1.0, 0.5))
    run = demo.train()
    assert run.is_dir() and run.is_relative_to(demo.FOLDER) and not run.is_relative_to(tmp_path / "logs")


def test_interrupted_it_says_so(demo, monkeypatch, capsys):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.os, "chdir", lambda folder: None)
    monkeypatch.setattr(demo.shipped, "adapters", stop)
    assert demo.main([]) == 130
    assert capsys.readouterr().err == "\ndemo.py: stopped; the next call begins anew\n"
