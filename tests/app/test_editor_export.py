"""What a node leaves for others, and that its command line repeats it."""

import io
import json
import shlex
import zipfile

import numpy as np
import pytest
import torch
from browser import Browser
from PIL import Image

from ldm.app.editor import Editor
from ldm.graph.graph_files import read_graph
from ldm.models.loading import load_model


@pytest.fixture
def saved(checkpoint, tmp_path):
    """A browser of an editor whose model is in a file."""
    model = load_model(checkpoint)
    editor = Editor(model, tmp_path / "sessions", checkpoint.name, ["--ckpt", str(checkpoint)])
    with Browser(editor) as browser:
        yield browser
    editor.close()


def unpack(browser: Browser, node: dict, folder) -> list[str]:
    """Unpacks a node's archive, and returns its command's words after the program."""
    content = browser.get(f"/api/nodes/{node['id']}/export.zip").content
    zipfile.ZipFile(io.BytesIO(content)).extractall(folder)
    assert browser.get(f"/api/nodes/{node['id']}/export.zip").content == content
    command = (folder / f"{node['kind']}_{node['id']}" / "command.txt").read_text()
    threads, python, program, *words = shlex.split(command)
    assert threads == f"OMP_NUM_THREADS={torch.get_num_threads()}"
    assert (python, program) == ("python", "scripts/ddim_invert_edit.py")
    return words


def same_pixels(first, second) -> bool:
    return bool((np.asarray(Image.open(first).convert("RGB")) == np.asarray(Image.open(second).convert("RGB"))).all())


@pytest.mark.parametrize("kind", ["edit", "variant", "style", "sample"])
def test_the_command_repeats_the_picture_bit_for_bit(saved, shapes, changed, kind, tmp_path, monkeypatch, load_script):
    photograph, graph = shapes
    options = {"steps": 2, "seed": 3, "graph_scale": 1.7}
    if kind == "sample":
        session = saved.json("POST", "sessions", {"canvas": {"width": 64, "height": 64}}, 201)
        (node,) = saved.edit(session, graph.to_json(), options=options)
    else:
        session = saved.open_photograph(photograph, graph)
        further = {"style": saved.upload(photograph.rotate(90))["id"]} if kind == "style" else {}
        further |= {"n": 2, "attention": True} if kind == "variant" else {}
        further |= {"options": options | ({} if kind == "style" else {"reach": [0.5, 0, 0.25, 0], "keep": True})}
        node = saved.edit(session, changed, **further)[-1]
    words = unpack(saved, node, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load_script("ddim_invert_edit").main(words) == 0
    folder = tmp_path / f"{node['kind']}_{node['id']}"
    assert same_pixels(folder / "picture.png", folder / "repeated" / "edited.png")
    record, repeated = (json.loads((folder / name / "record.json").read_text()) for name in ("", "repeated"))
    assert record["settings"] == repeated["settings"] and record["graph"] == repeated["graph"]


def test_the_files_of_a_node_are_those_of_the_archive(saved, shapes, changed, tmp_path):
    session = saved.open_photograph(*shapes)
    (node,) = saved.edit(session, changed)
    unpack(saved, node, tmp_path)
    folder = tmp_path / f"edit_{node['id']}"
    for name in ("picture.png", "graph.json", "panel.png", "record.json", "command.txt"):
        answer = saved.get(f"/api/nodes/{node['id']}/{name}")
        assert answer.content == (folder / name).read_bytes()
        assert answer.headers["Content-Disposition"] == f'attachment; filename="edit_{node["id"]}_{name}"'
    inline = saved.get(f"/api/nodes/{node['id']}/panel.png?inline=1")
    assert inline.headers["Content-Disposition"] == "inline" and Image.open(io.BytesIO(inline.content)).width > 600
    assert read_graph(folder / "graph.json").to_json() == {key: node["graph"][key] for key in node["graph"]}
    record = json.loads((folder / "record.json").read_text())
    assert record["operations"] == node["sentences"] and record["weights"] == saved.editor.weights
    assert same_pixels(
        folder / "photograph.png", io.BytesIO(saved.get(f"/{session['nodes'][0]['image']['url']}").content)
    )


def test_a_command_of_an_unknown_model_says_what_to_add(browser, shapes, changed):
    (node,) = browser.edit(browser.open_photograph(*shapes), changed)
    note, command, _ = browser.get(f"/api/nodes/{node['id']}/command.txt").text.split("\n")
    assert note.startswith("# add the --run") and "ddim_invert_edit.py" in command


def test_a_root_has_its_picture_and_graph_only(saved, shapes):
    session = saved.open_photograph(*shapes)
    path = f"/api/nodes/{session['current']}"
    assert saved.get(f"{path}/picture.png").status_code == saved.get(f"{path}/graph.json").status_code == 200
    for name in ("export.zip", "panel.png", "record.json", "command.txt"):
        answer = saved.get(f"{path}/{name}")
        assert answer.status_code == 404 and "\n" not in answer.json()["error"]
    bare = saved.open_photograph(shapes[0])
    assert saved.get(f"/api/nodes/{bare['current']}/graph.json").status_code == 404
