"""What browsers are told while an edit runs."""

import asyncio
import base64
import io

import numpy as np
import pytest
import torch
from browser import Browser, replaced
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from ldm.app.events import MOST_WAITING, Hub, Subscriber


def connect(browser: Browser, session: dict):
    token = browser.editor.store.token
    return browser.websocket_connect(
        f"/api/events?session={session['id']}&token={token}", headers={"Host": "localhost:8765"}
    )


def until(socket, type_: str, **values: object) -> list[dict]:
    """All events up to the first one of this type with these values of its job."""
    events = []
    while True:
        events.append(socket.receive_json())
        job = events[-1].get("job")
        if events[-1]["type"] == type_ and all(job[key] == value for key, value in values.items()):
            return events


def test_an_edit_is_told_from_the_queue_to_the_picture(browser, shapes, changed):
    session = browser.open_photograph(*shapes)
    with connect(browser, session) as socket:
        hello = socket.receive_json()
        assert hello["type"] == "hello" and hello["session"]["id"] == session["id"] and hello["protocol"] == 1
        job = browser.start(session, changed, n=2, options={"steps": 4})
        events = until(socket, "job", state="done")
    types = [event["type"] for event in events]
    assert [event["job"]["state"] for event in events if event["type"] == "job"][0] == "queued"
    assert types.count("node") == 2 and types.index("preview") < types.index("node")
    fractions = [event["fraction"] for event in events if event["type"] == "progress"]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert {event["job"] for event in events if event["type"] in ("progress", "preview", "node")} == {job["id"]}
    preview = next(event for event in events if event["type"] == "preview")
    assert preview["image"].startswith("data:image/webp;base64,") and preview["width"] == shapes[0].width
    last = [event["session"] for event in events if event["type"] == "session"][-1]
    assert last["current"] == events[types.index("node")]["node"]["id"] and len(last["nodes"]) == 3


def test_previews_are_decoded_by_the_model_s_tiny_autoencoder(browser, editor, shapes, changed, monkeypatch):
    """One that decodes everything to green."""

    class Green(torch.nn.Module):
        def decode(self, z):
            return torch.tensor([-1.0, 1.0, -1.0]).view(1, 3, 1, 1).expand(len(z), 3, 32, 32)

    monkeypatch.setattr(editor.model, "preview_model", Green())
    session = browser.open_photograph(*shapes)
    with connect(browser, session) as socket:
        browser.start(session, changed, options={"steps": 4, "region": "none"})
        events = until(socket, "job", state="done")
    preview = next(event["image"] for event in events if event["type"] == "preview")
    image = Image.open(io.BytesIO(base64.b64decode(preview.split(",")[1]))).convert("RGB")
    red, green, blue = np.asarray(image, int).reshape(-1, 3).mean(0)
    assert green > 200 and max(red, blue) < 60


def test_two_browsers_see_the_same_and_others_nothing(browser, shapes):
    session, other = browser.open_photograph(*shapes), browser.open_photograph(shapes[0])
    with connect(browser, session) as first, connect(browser, session) as second, connect(browser, other) as stranger:
        for socket in (first, second, stranger):
            assert socket.receive_json()["type"] == "hello"
        browser.json("PATCH", f"sessions/{session['id']}", {"title": "renamed"})
        for socket in (first, second):
            told = socket.receive_json()
            assert told["type"] == "session" and told["session"]["title"] == "renamed"
        stranger.send_json({"type": "ping"})
        assert stranger.receive_json() == {"type": "pong"}


def test_a_deleted_session_closes_the_socket(browser, shapes):
    session = browser.open_photograph(*shapes)
    with connect(browser, session) as socket:
        socket.receive_json()
        browser.json("DELETE", f"sessions/{session['id']}")
        assert socket.receive_json() == {"type": "deleted", "session": session["id"]}
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()


def test_those_that_wait_are_told_their_place(gated, shapes):
    editor, gate = gated
    with Browser(editor) as browser:
        session = browser.open_photograph(*shapes)
        with connect(browser, session) as socket:
            jobs = [browser.start(session, replaced(shapes[1])) for _ in range(3)]
            assert gate.reached.wait(300)
            assert [browser.json("GET", f"jobs/{job['id']}")["place"] for job in jobs] == [0, 1, 2]
            gate.opened.set()
            events = until(socket, "job", id=jobs[2]["id"], state="done")
        places = [
            event["job"]["place"] for event in events if event["type"] == "job" and event["job"]["id"] == jobs[2]["id"]
        ]
        assert places[-1] == 0 and 1 in places and sorted(places, reverse=True) == places


def test_only_the_latest_progress_waits_for_a_slow_browser():
    subscriber = Subscriber("x", asyncio.new_event_loop())
    for step in range(3):
        subscriber.put({"type": "progress", "job": 1, "step": step})
        subscriber.put({"type": "preview", "job": 1, "step": step})
        subscriber.put({"type": "node", "job": 1, "step": step})
    assert [(event["type"], event["step"]) for event in subscriber.events] == [
        ("node", 0),
        ("node", 1),
        ("progress", 2),
        ("preview", 2),
        ("node", 2),
    ]


def test_a_browser_that_reads_too_slowly_is_to_connect_again():
    subscriber = Subscriber("x", asyncio.new_event_loop())
    for _ in range(MOST_WAITING + 1):
        assert not subscriber.overrun
        subscriber.put({"type": "job"})
    assert subscriber.overrun


def test_a_hub_without_listeners_hands_nothing_out():
    Hub().publish("x", {"type": "job"})
