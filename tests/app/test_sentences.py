"""What the server tells a page so that it can say it in its own language."""

import errno
import sqlite3

import pytest
from browser import replaced

from ldm.app.errors import disk_error
from ldm.app.server import STATIC
from ldm.editing.options import EditOptions
from ldm.graph.diff import diff
from ldm.graph.placement import place_objects
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError
from ldm.util.errors import UserError
from ldm.util.options import from_mapping


def refused(browser, path: str, body: dict) -> dict:
    answer = browser.post(f"/api/{path}", json=body)
    assert answer.status_code >= 400, answer.text
    return answer.json()


def test_an_unknown_name_is_told_with_the_names_that_it_resembles(browser, shapes):
    session = browser.open_photograph(*shapes)
    graph = {**replaced(shapes[1]), "objects": ["squar", *shapes[1].objects[1:]]}
    told = refused(browser, f"sessions/{session['id']}/plan", {"node": session["current"], "graph": graph})
    assert told["code"] == "unknown_object" and told["values"] == {"name": "squar", "similar": "square"}


def test_a_refusal_and_a_missing_session_have_codes(browser):
    assert browser.request("GET", "/api/sessions/none").json()["code"] == "no_session"
    wrong = browser.request("GET", "/api/app", headers={"Authorization": "Bearer wrong"})
    assert wrong.json()["code"] == "wrong_token"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EROFS, "Read-only file system"), "disk_read_only"),
        (PermissionError(errno.EACCES, "Permission denied"), "disk_read_only"),
        (OSError(errno.EIO, "Input/output error"), "disk"),
        (sqlite3.OperationalError("disk I/O error"), "disk"),
    ],
)
def test_what_is_wrong_with_the_disk_is_told_apart(error, code):
    assert disk_error(error).code == code


@pytest.mark.parametrize(
    ("options", "code", "bounds"),
    [({"strength": 2.0}, "option_range", "≥ 0, ≤ 1"), ({"steps": "x"}, "option_type", None)],
)
def test_an_option_that_does_not_fit_is_told_with_its_bounds(options, code, bounds):
    with pytest.raises(UserError) as caught:
        from_mapping(EditOptions, options)
    assert caught.value.code == code and caught.value.values["option"] == next(iter(options))
    assert caught.value.values.get("bounds") in (bounds, "> 0, ≤ 1" if bounds else None)


def test_where_nothing_fits_the_object_is_named():
    boxes = ((0.1, 0.1, 0.3, 0.3), (0.6, 0.6, 0.8, 0.8))
    source = SceneGraph(("square", "circle"), boxes, ((), ()), ((0, "above", 1),))
    target = SceneGraph(("square", "circle"), (), ((), ()), ((0, "above", 1), (1, "above", 0)))
    with pytest.raises(GraphError, match="give '(square|circle)' .object [01] of the edited graph. a box") as caught:
        place_objects(source, target, diff(source, target))
    assert caught.value.code == "no_position" and caught.value.values["object"] in ("square", "circle")


def test_files_of_the_page_are_compressed_and_sent_once(browser):
    plain = browser.request("GET", "/static/app.js", headers={"Accept-Encoding": "identity"})
    packed = browser.request("GET", "/static/app.js", headers={"Accept-Encoding": "gzip"})
    assert plain.content == packed.content == (STATIC / "app.js").read_bytes()
    assert packed.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    again = browser.request("GET", "/static/app.js", headers={"If-None-Match": plain.headers["etag"]})
    assert again.status_code == 304 and again.content == b"" and "content-security-policy" in again.headers
