"""Whatever a request says, the answer is what was asked for or one sentence, and the session can still be opened."""

import json

import pytest

from ldm.app.limits import BODY_BYTES

DEEP = "[" * 50_000 + "]" * 50_000
HUGE = 10**30
BODIES = [
    "",
    "null",
    "[]",
    "3",
    "{",
    DEEP,
    f'{{"node": {DEEP}}}',
    '{"node": NaN}',
    '{"node": 1e999}',
    f'{{"node": {HUGE}}}',
    '{"node": "1"}',
    '{"node": -1}',
    '{"node": true, "graph": {}}',
    '{"graph": {"objects": ["circle"], "ids": [NaN]}}',
    '{"graph": {"objects": ["\\ud800"]}}',
    '{"graph": {"\\ud800": 1}}',
    f'{{"graph": {{"a": {"[" * 900}{"]" * 900}}}}}',
    f'{{"graph": {{"a": {"[" * 40}{"]" * 40}}}}}',
    '{"title": "\\udfff"}',
    json.dumps({"title": "x" * 100_000}),
    '{"image": "\\u0000"}',
    '{"example": "../../etc/passwd"}',
    f'{{"canvas": {{"width": {HUGE}, "height": 64}}}}',
    f'{{"node": 1, "graph": {{"objects": ["circle"]}}, "n": {HUGE}}}',
    f'{{"node": 1, "graph": {{"objects": ["circle"]}}, "sweep": {{"option": "steps", "values": [{HUGE}]}}}}',
    '{"node": 1, "graph": {"objects": ["circle"]}, "options": {"\\ud800": 1}}',
    "\xff",
    " " * (BODY_BYTES + 1),
]
ROUTES = [
    ("POST", "sessions"),
    ("PATCH", "sessions/{sid}"),
    ("POST", "sessions/{sid}/current"),
    ("POST", "sessions/{sid}/read"),
    ("POST", "sessions/{sid}/plan"),
    ("POST", "sessions/{sid}/edits"),
    ("POST", "sessions/{sid}/attention"),
    ("PUT", "nodes/{nid}/graph"),
    ("PUT", "nodes/{nid}/draft"),
    ("POST", "graphs"),
    ("POST", "images"),
]
ADDRESSES = [
    ("GET", f"nodes/{HUGE}/export.zip"),
    ("DELETE", f"nodes/{HUGE}"),
    ("GET", f"nodes/1/compare/{HUGE}"),
    ("GET", f"jobs/{HUGE}"),
    ("DELETE", "jobs/-1"),
    ("POST", f"graphs?node={HUGE}"),
    ("GET", "resolve?kind=object&text=%ff%ed%a0%80&limit=-5"),
    ("GET", f"resolve?kind=object&text={'x' * 5000}&limit={HUGE}"),
    ("GET", f"images/{'0' * 32}.webp?height={HUGE}"),
    ("GET", "sessions/%00"),
    ("GET", "sessions/%ff"),
]
OPTIONS = [
    ("margin", 1e300),
    ("feather", 1e300),
    ("reach", [1e300, 0, 1e300, 0]),
    ("reach", [1]),
    ("floor", [0, 0.5, 1e300]),
    ("floor", [3, 2, 1]),
    ("steps", HUGE),
    ("steps", 0),
    ("steps", -3),
    ("strength", 1e-300),
    ("seed", -HUGE),
    ("seed", HUGE),
    ("interval", [1, 0]),
    ("passes", HUGE),
    ("method", "ddim\n"),
    ("graph_scale", 1e300),
]


@pytest.fixture
def session(browser, shapes):
    return browser.open_photograph(*shapes)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_hostile_body_is_answered_and_harms_nothing(browser, session, method, path):
    path = path.format(sid=session["id"], nid=session["current"])
    for body in BODIES:
        answer = browser.request(method, f"/api/{path}", content=body.encode("latin-1"))
        assert answer.status_code < 500, (body[:80], answer.text)
        if answer.status_code >= 400:
            told = answer.json()
            assert told.keys() == {"error", "code", "values"}
            sentence = told["error"]
            assert "\n" not in sentence and len(sentence) < 1000
        told = browser.json("GET", f"sessions/{session['id']}")
        json.dumps(browser.editor.session_json(session["id"]), allow_nan=False, ensure_ascii=False).encode()  # an event
        assert told["nodes"][0]["image"] == session["nodes"][0]["image"] and len(told["title"]) <= 200
    for job in browser.editor.worker.of_session(session["id"]):
        browser.editor.worker.cancel(job.id)
    assert browser.json("GET", "sessions")["sessions"]


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
def test_a_hostile_address_is_answered(browser, session, method, path):
    assert browser.request(method, f"/api/{path}", content=b"{}").status_code < 500


@pytest.mark.parametrize(("option", "value"), OPTIONS)
def test_an_extreme_option_is_planned_or_refused(browser, session, changed, option, value):
    body = {"node": session["current"], "graph": changed, "options": {option: value}}
    answer = browser.post(f"/api/sessions/{session['id']}/plan", content=json.dumps(body))
    assert answer.status_code in (200, 400), answer.text
    share = answer.json().get("region_share")
    assert share is None or 0 <= share <= 1
