"""The demo's own judgement: a right edit is called right, a wrong one wrong, whatever the kind."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from ldm.edit_tasks import OPERATIONS, task

SCRIPT = Path(__file__).parents[1] / "scripts" / "demo.py"


@pytest.fixture
def demo(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("demo_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_should_come_out_is_right_and_what_went_in_is_wrong(demo, operation):
    this = task("shapes", operation, demo.FIRST_TASK + OPERATIONS.index(operation))
    assert demo.complaints(this, this.truth) == []
    assert demo.complaints(this, this.picture) != []


def test_a_panel_says_the_verdict_and_the_files_for_doing_it_by_hand_are_there(demo, monkeypatch, capsys, tmp_path):
    def unchanged(model, photograph, graph, source, style):
        return SimpleNamespace(image=photograph, operations=["turn it"])

    monkeypatch.setattr(demo, "edit", unchanged)
    assert demo.edited(None, "remove").width > 500
    assert "turn it\n" in (said := capsys.readouterr().out) and "checker: wrong: " in said
    assert {path.name for path in tmp_path.iterdir()} == {"remove.png", "remove.json", "remove_source.json"}
