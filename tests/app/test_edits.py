"""Plans and edits: what the page is told before, on the way and after, against the library's own functions."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from browser import Browser, replaced

import ldm
from ldm.app import limits
from ldm.app.editor import Editor
from ldm.data.demo import DemoValidation
from ldm.editing.plan import make_plan
from ldm.graph.scene_graph import SceneGraph
from ldm.sampling.options import SampleOptions


def pixels(image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def edited_by_the_library(model, photograph, graph, source, **options):
    request = ldm.EditRequest(photograph, SceneGraph.from_json(graph), source)
    return ldm.edit(model, request, ldm.EditOptions(**options))


def test_an_edit_is_that_of_the_library_bit_for_bit(browser, model, shapes, changed):
    photograph, graph = shapes
    session = browser.open_photograph(photograph, graph)
    (node,) = browser.edit(session, changed, options={"steps": 3, "seed": 5})
    expected = edited_by_the_library(model, photograph, changed, graph, steps=3, seed=5)
    assert (pixels(browser.picture(node)) == pixels(expected.image)).all()
    assert (pixels(expected.image) != pixels(photograph)).any()
    assert node["sentences"] == [str(each) for each in expected.plan.operations]
    assert node["options"] == {"given": {"steps": 3, "seed": 5}, "used": plain(expected.settings)}
    assert node["parent"] == session["current"] and node["kind"] == "edit"
    assert browser.json("GET", f"sessions/{session['id']}")["current"] == node["id"]


def plain(settings: dict) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def test_a_plan_says_what_the_library_plans_before_anything_runs(browser, model, shapes):
    photograph, graph = shapes
    session = browser.open_photograph(photograph, graph)
    moved = replaced(graph) | {"objects": list(graph.objects)}
    x0, y0, x1, y1 = moved["boxes"][0]
    shift = 1 / 64 if x1 < 0.9 else -1 / 64  # too little for any relation to end
    moved["boxes"][0] = [x0 + shift, y0, x1 + shift, y1]
    plan = browser.json("POST", f"sessions/{session['id']}/plan", {"node": session["current"], "graph": moved})
    source = SceneGraph.from_json(session["nodes"][0]["graph"])
    expected = make_plan(ldm.EditRequest(photograph, SceneGraph.from_json(moved), source), ldm.EditOptions(), model)
    assert [each["text"] for each in plan["operations"]] == [str(each) for each in expected.operations]
    move = next(each for each in plan["operations"] if each["kind"] == "move")
    assert move["object"] == "o1" and move["boxes"][1] == pytest.approx(moved["boxes"][0])
    assert plan["options"]["method"] == expected.options.method and not plan["nothing"]
    assert plan["steps"] == 10 and plan["seconds"] is None
    assert 0 < plan["region_share"] < 1 and plan["region"]["png"].startswith("data:image/png;base64,")
    assert browser.json("GET", "queue") == {"running": None, "waiting": 0}


def test_a_relation_that_changes_shows_where_the_thing_goes_though_the_page_sends_all_boxes(browser):
    graph = SceneGraph(
        ("square", "circle"), ((0.1, 0.4, 0.3, 0.6), (0.4, 0.4, 0.6, 0.6)), ((), ()), ((0, "left of", 1),)
    )
    session = browser.open_photograph(DemoValidation(8).picture(0), graph)
    edited = session["nodes"][0]["graph"] | {"relationships": [[0, "right of", 1]]}
    plan = browser.json("POST", f"sessions/{session['id']}/plan", {"node": session["current"], "graph": edited})
    (placed,) = plan["placed"]
    assert placed["object"] in ("o1", "o2") and placed["before"] in edited["boxes"]
    boxes = dict(zip(plan["graph"]["ids"], plan["graph"]["boxes"]))
    assert boxes["o1"][0] > boxes["o2"][2] - 1e-9
    assert placed["box"] == boxes[placed["object"]]


def test_a_relation_that_a_dragged_box_leaves_is_dropped_and_a_new_one_is_not(browser):
    boxes = (0.1, 0.6, 0.3, 0.8), (0.1, 0.1, 0.3, 0.3), (0.7, 0.6, 0.9, 0.8)
    relations = ((1, "above", 0), (0, "left of", 2))
    graph = SceneGraph(("square", "triangle", "circle"), boxes, ((), (), ()), relations, ("s", "t", "c"))
    session = browser.open_photograph(DemoValidation(8).picture(0), graph)
    edited = session["nodes"][0]["graph"] | {"boxes": [list(box) for box in boxes]}
    edited["boxes"][1] = [0.4, 0.7, 0.6, 0.9]  # no longer above
    plan = browser.json("POST", f"sessions/{session['id']}/plan", {"node": session["current"], "graph": edited})
    assert plan["dropped"] == [["t", "above", "s"]]
    assert [each["kind"] for each in plan["operations"]] == ["move", "remove_relation"]
    assert plan["graph"]["relationships"] == [[0, "left of", 2]]
    edited["relationships"] = [
        [0, "left of", 2],
        [1, "above", 2],
    ]  # which the box contradicts, but the user asks for it
    plan = browser.json("POST", f"sessions/{session['id']}/plan", {"node": session["current"], "graph": edited})
    assert plan["dropped"] == [] and [1, "above", 2] in plan["graph"]["relationships"]


def test_the_same_graph_plans_nothing(browser, shapes):
    session = browser.open_photograph(*shapes)
    body = {"node": session["current"], "graph": session["nodes"][0]["graph"]}
    plan = browser.json("POST", f"sessions/{session['id']}/plan", body)
    assert plan["nothing"] and plan["operations"] == [] and plan["sentences"] == ["the two graphs are the same"]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"graph": {"objects": ["sqare"]}}, "did you mean 'square'"),
        ({"graph": {"objects": []}}, "at least one object"),
        ({"graph": {"objects": ["circle"]}, "options": {"steps": "many"}}, "steps takes a whole number"),
        ({"graph": {"objects": ["circle"]}, "options": {"stepz": 3}}, "did you mean 'steps'"),
        ({"graph": {"objects": ["circle"]}, "options": {"strength": 2}}, "at most 1"),
        ({"graph": {"objects": ["circle"]}, "style": "0" * 32}, "no such picture"),
        ({"graph": {"objects": ["circle"]}, "stile": None}, "body.stile: extra inputs are not permitted"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused_in_one_sentence(browser, shapes, request_, sentence):
    session = browser.open_photograph(*shapes)
    body = {"node": session["current"], **request_}
    status = 404 if "style" in request_ else 400
    assert sentence in browser.error("POST", f"sessions/{session['id']}/plan", body, status)


def test_variants_differ_by_their_seeds_and_are_siblings(browser, model, shapes, changed):
    photograph, graph = shapes
    session = browser.open_photograph(photograph, graph)
    nodes = browser.edit(session, changed, n=3, options={"steps": 2, "seed": 7})
    assert [node["difference"] for node in nodes] == ["seed 7", "seed 8", "seed 9"]
    assert len({node["image"]["id"] for node in nodes}) == 3 and len({node["job"] for node in nodes}) == 1
    last = edited_by_the_library(model, photograph, changed, graph, steps=2, seed=9)
    assert (pixels(browser.picture(nodes[2])) == pixels(last.image)).all()


def test_a_sweep_makes_one_edit_per_value(browser, shapes, changed):
    session = browser.open_photograph(*shapes)
    nodes = browser.edit(session, changed, n=2, sweep={"option": "graph_scale", "values": [1, 4]})
    assert [node["difference"] for node in nodes] == [
        "graph-scale 1 seed 0",
        "graph-scale 1 seed 1",
        "graph-scale 4 seed 0",
        "graph-scale 4 seed 1",
    ]
    assert [node["options"]["used"]["graph_scale"] for node in nodes] == [1, 1, 4, 4]
    assert nodes[0]["sweep"] == {"option": "graph_scale", "values": [1, 4]} and nodes[0]["n"] == 2


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"sweep": {"option": "seed", "values": [1]}}, "'seed' is not one of"),
        ({"sweep": {"option": "graph_scle", "values": [1]}}, "did you mean 'graph_scale'"),
        ({"n": 2, "options": {"method": "ddim", "sampler": "ddim"}}, "draws no noise"),
        ({"n": 33, "sweep": {"option": "steps", "values": [2, 3]}}, "66 variants"),
        ({"n": 0}, "body.n"),
    ],
)
def test_variants_that_cannot_be_made_are_refused(browser, shapes, changed, request_, sentence):
    session = browser.open_photograph(*shapes)
    body = {"node": session["current"], "graph": changed, **request_}
    assert sentence in browser.error("POST", f"sessions/{session['id']}/edits", body)


def test_an_edit_with_style_and_mask_is_that_of_the_library(browser, model, shapes, changed):
    photograph, graph = shapes
    style, mask = DemoValidation(8).picture(5), photograph.convert("L").point(lambda level: 255 * (level > 128))
    session = browser.open_photograph(photograph, graph)
    pictures = {"style": browser.upload(style)["id"], "mask": browser.upload(mask)["id"]}
    (node,) = browser.edit(session, changed, **pictures)
    request = ldm.EditRequest(photograph, SceneGraph.from_json(changed), graph, style, mask)
    expected = ldm.edit(model, request, ldm.EditOptions(steps=2))
    assert (pixels(browser.picture(node)) == pixels(expected.image)).all()
    assert node["style"]["id"] == pictures["style"] and node["mask"]["id"] == pictures["mask"]


def test_a_canvas_samples_a_picture_of_the_graph(browser, model, shapes):
    graph = shapes[1].to_json()
    session = browser.json("POST", "sessions", {"canvas": {"width": 64, "height": 64}, "graph": graph}, 201)
    assert session["nodes"][0]["image"] is None and session["nodes"][0]["size"] == {"width": 64, "height": 64}
    (node,) = browser.edit(session, graph, options={"steps": 2, "seed": 4})
    options = SampleOptions(2, sampler="dpm++", graph_scale=2.0, style_scale=2.0)
    expected = ldm.sample_images(model, [SceneGraph.from_json(graph)], [4], options)[0]
    assert node["kind"] == "sample" and (pixels(browser.picture(node)) == pixels(expected)).all()
    sentence = browser.error(
        "POST", f"sessions/{session['id']}/plan", {"node": 1, "graph": graph, "options": {"method": "ddim"}}
    )
    assert "unknown option 'method'" in sentence


def test_attention_to_each_object_is_kept_with_the_node(browser, shapes):
    session = browser.open_photograph(*shapes)
    job = browser.json("POST", f"sessions/{session['id']}/attention", {"node": session["current"]}, 202)
    assert browser.wait(job)["state"] == "done"
    after = browser.json("GET", f"sessions/{session['id']}")
    maps = after["nodes"][0]["attention"]
    assert [each["object"] for each in maps] == session["nodes"][0]["graph"]["ids"]
    assert len(after["nodes"]) == 1 and browser.get(f"/{maps[0]['image']['url']}").status_code == 200


def test_a_graph_is_needed_for_attention(browser, shapes):
    session = browser.open_photograph(shapes[0])
    path = f"sessions/{session['id']}/attention"
    assert "draw a box" in browser.error("POST", path, {"node": session["current"]}, 409)


def test_a_waiting_job_and_a_running_one_are_cancelled(gated, shapes, changed):
    editor, gate = gated
    with Browser(editor) as browser:
        session = browser.open_photograph(*shapes)
        running, waiting = browser.start(session, changed), browser.start(session, changed)
        assert gate.reached.wait(300)
        assert browser.json("GET", f"jobs/{waiting['id']}")["place"] == 1
        assert browser.json("DELETE", f"jobs/{waiting['id']}")["state"] == "cancelled"
        browser.json("DELETE", f"jobs/{running['id']}")
        gate.opened.set()
        assert browser.wait(running)["state"] == "cancelled"
        assert len(browser.json("GET", f"sessions/{session['id']}")["nodes"]) == 1
        assert "ended already" in browser.error("DELETE", f"jobs/{running['id']}", status=409)
        assert browser.edit(session, changed)[0]["kind"] == "edit"


def test_variants_that_are_done_stay_when_the_job_is_cancelled(gated, shapes, changed):
    editor, gate = gated
    gate.opened.set()
    with Browser(editor) as browser:
        session = browser.open_photograph(*shapes)
        made = threading.Event()
        publish = editor.hub.publish

        def stop_after_the_first(session_id, event):
            publish(session_id, event)
            if event["type"] == "node" and not made.is_set():
                made.set()
                editor.worker.cancel(event["job"])

        editor.worker.publish = editor.hub.publish = stop_after_the_first
        job = browser.wait(browser.start(session, changed, n=5))
        assert job["state"] == "cancelled" and len(job["nodes"]) == 1
        assert browser.json("GET", f"sessions/{session['id']}")["current"] == job["nodes"][0]


def test_ten_clients_queue_edits_and_none_are_mixed(editor, model):
    data = DemoValidation(8)

    def client(number: int) -> bool:
        photograph, graph = data.picture(number % 8), data.scene(number % 8)[0]
        browser = Browser(editor)  # without its own event loop: requests of several threads
        session = browser.open_photograph(photograph, graph)
        jobs = [
            browser.start(session, replaced(graph), options={"steps": 1, "seed": 10 * number + k}) for k in range(2)
        ]
        ends = [browser.wait(job) for job in jobs]
        nodes = {node["id"]: node for node in browser.json("GET", f"sessions/{session['id']}")["nodes"]}
        for k, job in enumerate(ends):
            seed = 10 * number + k
            expected = edited_by_the_library(model, photograph, replaced(graph), graph, steps=1, seed=seed)
            (made,) = job["nodes"]
            if (pixels(browser.picture(nodes[made])) != pixels(expected.image)).any():
                return False
        return len(nodes) == 3

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(client, range(10)))
    assert browser_queue(editor) == 0


def browser_queue(editor: Editor) -> int:
    running, waiting = editor.worker.state()
    return waiting + (running is not None)


def test_too_many_waiting_jobs_are_refused(gated, shapes, changed, monkeypatch):
    monkeypatch.setattr("ldm.app.worker.JOBS_PER_SESSION", 2)
    editor, gate = gated
    with Browser(editor) as browser:
        session = browser.open_photograph(*shapes)
        browser.start(session, changed)
        assert gate.reached.wait(300)
        for _ in range(2):
            browser.start(session, changed)
        body = {"node": session["current"], "graph": changed}
        assert "too many edits" in browser.error("POST", f"sessions/{session['id']}/edits", body, 429)
        for job in editor.worker.of_session(session["id"]):
            editor.worker.cancel(job.id)


def test_an_error_in_the_program_fails_the_job_and_not_the_server(
    browser, editor, shapes, changed, monkeypatch, caplog
):
    session = browser.open_photograph(*shapes)
    with monkeypatch.context() as patch:
        patch.setattr(editor.performer, "make", lambda *arguments: 1 / 0)
        job = browser.wait(browser.start(session, changed))
    assert job["state"] == "failed" and "server's terminal" in job["error"] and "ZeroDivisionError" in caplog.text
    assert browser.edit(session, changed)


def test_the_limits_are_those_that_hold(browser):
    assert browser.json("GET", "app")["limits"]["variants"] == limits.VARIANTS
