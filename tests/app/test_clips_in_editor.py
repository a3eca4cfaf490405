"""Clips in the editor: sampled from a node's graph to the edited one, played and not kept."""

import base64
import io

import numpy as np
import pytest
import torch
from browser import Browser
from PIL import Image, ImageSequence
from tiny import tiny_model

from ldm.app.clips import ClipMaker, storyboard_of
from ldm.app.editor import Editor
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.video import VideoDiffusion
from ldm.sampling.clips import default_clip_options, sample_clip
from ldm.sampling.options import SampleOptions

FRAMES = 6


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory):
    """A video model with random temporal layers beside a tiny image model."""
    torch.manual_seed(0)
    saved = {}
    tiny_model().on_save_checkpoint(saved)
    path = tmp_path_factory.mktemp("image") / "last.ckpt"
    torch.save(saved, path)
    video = VideoDiffusion(f"{path}", frames=FRAMES, head_channels=16).eval().requires_grad_(False)
    for parameter in video.temporal.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    return video


@pytest.fixture
def player(model, clip_model, tmp_path):
    """A browser of an editor with a video model."""
    editor = Editor(model, tmp_path / "clips", clips=ClipMaker(lambda: clip_model))
    with Browser(editor) as browser:
        yield browser
    editor.close()


def ask(browser: Browser, session: dict, graph: dict, **options) -> dict:
    body = {"node": session["current"], "graph": graph, "options": options}
    return browser.json("POST", f"sessions/{session['id']}/clip", body, status=202)


def test_a_clip_is_that_of_the_library_and_leaves_the_session_as_it_was(player, clip_model, shapes, changed):
    photograph, _ = shapes
    session = player.open_photograph(*shapes)
    token = player.editor.store.token
    address = f"/api/events?session={session['id']}&token={token}"
    with player.websocket_connect(address, headers={"Host": "localhost:8765"}) as socket:
        before = socket.receive_json()["session"]
        job = ask(player, session, changed, steps=2, seed=3)
        events = []
        while not events or events[-1]["type"] != "job" or events[-1]["job"]["state"] != "done":
            events.append(socket.receive_json())
    (clip,) = [event for event in events if event["type"] == "clip"]
    assert job["kind"] == "clip" and clip["job"] == job["id"] and clip["frames"] == FRAMES
    content = base64.b64decode(clip["image"].removeprefix("data:image/webp;base64,"))
    played = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(io.BytesIO(content)))]

    source = SceneGraph.from_json(session["nodes"][0]["graph"])
    board = storyboard_of(source, SceneGraph.from_json(changed), FRAMES)
    options = SampleOptions(**default_clip_options(clip_model, {"steps": 2}))
    expected = sample_clip(clip_model, board, 3, options, style=photograph, first=photograph)
    assert len(played) == FRAMES and all(map(np.array_equal, played, map(np.asarray, expected)))
    assert player.json("GET", f"sessions/{session['id']}")["nodes"] == before["nodes"]
    assert [event["fraction"] for event in events if event["type"] == "progress"]


def test_the_last_frames_show_the_edited_graph(shapes):
    source = SceneGraph(("circle",), ((0.0, 0.0, 0.2, 0.2),), (("red",),), (), ("a",))
    edited = SceneGraph(("circle",), ((0.8, 0.8, 1.0, 1.0),), (("blue",),), (), ("a",))
    graphs = storyboard_of(source, edited, 16).graphs()
    assert graphs[0] == source and graphs[11:] == [edited] * 5
    assert graphs[5].boxes[0][0] == pytest.approx(0.8 * 5 / 11) and graphs[10].known_attributes == (("red",),)
    assert len(storyboard_of(source, edited, 2).graphs()) == 2


def test_a_clip_needs_a_model_of_clips_and_a_graph_of_the_picture(player, browser, shapes, changed):
    assert player.json("GET", "app")["model"]["clips"] and not browser.json("GET", "app")["model"]["clips"]
    session = browser.open_photograph(*shapes)
    body = {"node": session["current"], "graph": changed}
    assert browser.json("POST", f"sessions/{session['id']}/clip", body, status=409)["code"] == "no_clips"
    session = player.open_photograph(shapes[0], None)
    body["node"] = session["current"]
    assert player.json("POST", f"sessions/{session['id']}/clip", body, status=409)["code"] == "no_graph_yet"
