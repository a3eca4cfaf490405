"""An editor with a tiny model, and a browser's requests to it."""

import pytest
import torch
from browser import Browser, Gate, replaced
from tiny import randomize_trainable, tiny_model

from ldm.app.editor import Editor
from ldm.data.demo import DemoValidation
from ldm.models.runtime import prepare_for_inference


@pytest.fixture(scope="session")
def model():
    """A tiny model for 32 px pictures of flat shapes, whose adapters have an effect."""
    torch.manual_seed(0)
    model = tiny_model()
    randomize_trainable(model)
    model = model.eval().requires_grad_(False)
    prepare_for_inference(model, "cpu")
    return model


@pytest.fixture
def editor(model, tmp_path):
    editor = Editor(model, tmp_path / "sessions")
    yield editor
    editor.close()


@pytest.fixture
def browser(editor):
    with Browser(editor) as browser:
        yield browser


@pytest.fixture
def gated(model, tmp_path):
    """An editor whose edits wait at a gate, and the gate."""
    gate = Gate(model)
    editor = Editor(model, tmp_path / "gated", decode=gate)
    yield editor, gate
    gate.opened.set()
    editor.close()


@pytest.fixture
def shapes():
    """A photograph of flat shapes, 64 px, and its complete graph."""
    data = DemoValidation(8)
    return data.picture(3), data.scene(3)[0]


@pytest.fixture
def changed(shapes) -> dict:
    """The graph with its first object replaced, in the form that the page sends."""
    return replaced(shapes[1])
