"""Sessions: trees of pictures, undo and redo, graphs, and what is left on disk."""

import io
import json
from types import SimpleNamespace

import pytest
from browser import Browser, encode, replaced
from PIL import Image

from ldm.app.editor import Editor
from ldm.app.errors import NotFound, NotNow
from ldm.app.store import NewNode, Store
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.checker import check


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    yield store
    store.close()


def child(store: Store, session, parent: int, colour: str = "red") -> int:
    picture = store.add_picture(Image.new("RGB", (8, 8), colour))
    return store.add_node(session.id, parent, NewNode("edit", (8, 8), picture))


@pytest.fixture
def tree(store):
    """A session with a root, its children a and b, and a child of a; current is the root."""
    root = store.add_picture(Image.new("RGB", (8, 8)))
    session = store.new_session("tree", NewNode("photograph", (8, 8), root))
    a, b = child(store, session, session.current), child(store, session, session.current, "blue")
    return session, a, b, child(store, session, a, "green")


def test_undo_and_redo_follow_the_way_that_was_taken(store, tree):
    session, a, b, grandchild = tree
    store.go_to(session.id, grandchild)
    for expected in (a, session.current):
        store.undo(session.id)
        assert store.session(session.id).current == expected
    with pytest.raises(NotNow):
        store.undo(session.id)
    for expected in (a, grandchild):
        store.redo(session.id)
        assert store.session(session.id).current == expected
    with pytest.raises(NotNow):
        store.redo(session.id)
    store.go_to(session.id, b)
    store.undo(session.id)
    store.redo(session.id)
    assert store.session(session.id).current == b


def test_a_session_is_the_same_after_a_restart(tmp_path):
    store = Store(tmp_path)
    picture = store.add_picture(Image.new("RGB", (8, 8)))
    session = store.new_session("a  title", NewNode("photograph", (8, 8), picture, {"objects": ["circle"]}))
    store.go_to(session.id, child(store, session, session.current))
    store.set_draft(session.current, {"objects": ["square"]})
    before, token = store.session(session.id), store.token
    store.close()
    again = Store(tmp_path)
    assert again.session(session.id) == before and again.token == token
    assert before.title == "a title" and before.nodes[0].draft == {"objects": ["square"]}
    again.close()


def test_one_server_at_a_time_uses_a_folder(store, tmp_path):
    with pytest.raises(ValueError, match="another server"):
        Store(tmp_path / "store")


def test_nobody_else_can_read_the_sessions(store):
    assert store.folder.stat().st_mode & 0o077 == 0
    assert (store.folder / "token").stat().st_mode & 0o077 == 0


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "sessions.sqlite").write_text("no database" * 100)
    with pytest.raises(ValueError, match=r"sessions.sqlite: damaged"):
        Store(tmp_path)


def test_deleting_a_node_deletes_what_follows_and_only_their_pictures(store, tree):
    session, a, b, grandchild = tree
    store.go_to(session.id, grandchild)
    pictures = {id: store.node(id).picture for id in (session.current, a, b, grandchild)}
    store.delete_node(a)
    after = store.session(session.id)
    assert [node.id for node in after.nodes] == [session.current, b] and after.current == session.current
    for id, picture in pictures.items():
        if id in (a, grandchild):
            with pytest.raises(NotFound):
                store.pictures.path(picture)
        else:
            assert store.pictures.path(picture).is_file()
    with pytest.raises(NotNow):
        store.delete_node(session.current)


def test_a_picture_of_two_sessions_outlives_one_of_them(store, tree):
    session, *_ = tree
    shared = store.node(session.current).picture
    other = store.new_session("other", NewNode("photograph", (8, 8), shared))
    store.delete_session(session.id)
    assert store.pictures.path(shared).is_file()
    store.delete_session(other.id)
    assert not [*store.pictures.folder.rglob("*.png")]


def test_an_upload_that_no_session_took_is_deleted_a_day_later(tmp_path):
    store = Store(tmp_path)
    old, new = (store.add_picture(Image.new("RGB", (8, 8), colour)) for colour in ("red", "blue"))
    with store.database.transaction() as connection:
        connection.execute("UPDATE pictures SET added = '2020-01-01T00:00:00Z' WHERE id = ?", (old,))
    store.close()
    again = Store(tmp_path)
    assert [path.stem for path in again.pictures.folder.rglob("*.png")] == [new]
    again.close()


def test_a_full_disk_is_said_in_one_sentence(browser, editor, shapes, changed, monkeypatch):
    session = browser.open_photograph(*shapes)

    def full(image):
        raise OSError(28, "No space left on device", "/secret/path")

    monkeypatch.setattr(editor.store.pictures, "add", full)
    error = browser.upload(shapes[0], 503)["error"]
    job = browser.wait(browser.start(session, changed))
    assert job["state"] == "failed" and job["error"] == error and "No space left" in error and "secret" not in error


def test_nothing_of_a_failed_transaction_is_kept(store, tree):
    session, *_ = tree
    with pytest.raises(RuntimeError), store.database.transaction():
        child(store, session, session.current, "pink")
        raise RuntimeError
    assert len(store.session(session.id).nodes) == 4


# The routes -----------------------------------------------------------------------------------------------------------


def test_sessions_are_listed_latest_first_with_their_pictures(browser, shapes):
    first = browser.open_photograph(shapes[0])
    second = browser.json("POST", "sessions", {"example": "drawn1", "title": "mine"}, 201)
    listed = browser.json("GET", "sessions")["sessions"]
    assert [each["id"] for each in listed] == [second["id"], first["id"]]
    assert listed[0]["title"] == "mine" and listed[0]["edits"] == 0
    assert listed[1]["image"] == first["nodes"][0]["image"]


def test_an_example_opens_with_its_graph(browser):
    examples = browser.json("GET", "examples")["examples"]
    assert {"example", "drawn1"} <= {each["id"] for each in examples}
    for each in examples[:2]:
        session = browser.json("POST", "sessions", {"example": each["id"]}, 201)
        (root,) = session["nodes"]
        assert check(SceneGraph.from_json(root["graph"]), browser.picture(root), "shapes").passed
        shown = Image.open(io.BytesIO(browser.get(f"/{each['image']['url']}").content))
        assert shown.tobytes() == browser.picture(root).tobytes()


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({}, 400, "one of image, example and canvas"),
        ({"example": "nothing"}, 404, "no such example"),
        ({"image": "../../etc/passwd"}, 404, "no such picture"),
        ({"canvas": {"width": 64, "height": 64}, "example": "example"}, 400, "one of"),
        ({"canvas": {"width": 1, "height": 64}}, 400, "canvas.width"),
        ({"example": "example", "graph": {"objects": ["cirle"]}}, 400, "did you mean 'circle'"),
        ([], 400, "body"),
    ],
)
def test_a_session_that_cannot_be_opened_is_refused(browser, body, status, sentence):
    assert sentence in browser.error("POST", "sessions", body, status)


def test_a_session_is_renamed_and_deleted(browser, editor, shapes):
    session = browser.open_photograph(shapes[0])
    assert browser.json("PATCH", f"sessions/{session['id']}", {"title": " a\nb "})["title"] == "a b"
    browser.json("DELETE", f"sessions/{session['id']}")
    browser.error("GET", f"sessions/{session['id']}", status=404)
    assert not [*editor.store.pictures.folder.rglob("*.png")]


def test_a_session_is_deleted_with_its_jobs(gated, shapes, changed):
    editor, gate = gated
    with Browser(editor) as browser:
        session = browser.open_photograph(*shapes)
        jobs = [browser.start(session, changed) for _ in range(2)]
        assert gate.reached.wait(300)
        gate.opened.set()
        browser.json("DELETE", f"sessions/{session['id']}")
        assert {editor.worker.find(job["id"]).state for job in jobs} <= {"cancelled", "done"}
        browser.error("GET", f"sessions/{session['id']}", status=404)
        assert browser.json("GET", "sessions") == {"sessions": []}


def test_a_node_is_deleted_with_the_jobs_that_start_from_it(gated, shapes, changed):
    editor, gate = gated
    gate.opened.set()
    with Browser(editor) as browser:
        session = browser.open_photograph(*shapes)
        (node,) = browser.edit(session, changed)
        gate.opened.clear()
        gate.reached.clear()
        further = replaced(shapes[1], 1)
        job = browser.start(session, further, node=node["id"])
        assert gate.reached.wait(300)
        gate.opened.set()
        assert len(browser.json("DELETE", f"nodes/{node['id']}")["nodes"]) == 1
        assert browser.json("GET", f"jobs/{job['id']}")["state"] in ("cancelled", "done")


def test_undo_redo_and_going_anywhere(browser, shapes, changed):
    session = browser.open_photograph(*shapes)
    root, path = session["current"], f"sessions/{session['id']}"
    assert "nothing to undo" in browser.error("POST", f"{path}/undo", status=409)
    (node,) = browser.edit(session, changed)
    after = browser.json("POST", f"{path}/undo")
    assert after["current"] == root and after["can_redo"] and not after["can_undo"]
    assert browser.json("POST", f"{path}/redo")["current"] == node["id"]
    assert "nothing to redo" in browser.error("POST", f"{path}/redo", status=409)
    assert browser.json("POST", f"{path}/current", {"node": root})["current"] == root
    browser.error("POST", f"{path}/current", {"node": 99}, 404)
    other = browser.open_photograph(shapes[0])
    browser.error("POST", f"{path}/current", {"node": other["current"]}, 404)


def test_an_edit_goes_on_from_any_node(browser, shapes, changed):
    session = browser.open_photograph(*shapes)
    (first,) = browser.edit(session, changed)
    further = json.loads(json.dumps(first["graph"]))
    further["objects"][1] = "circle" if further["objects"][1] != "circle" else "triangle"
    (second,) = browser.edit(session, further, node=first["id"])
    assert second["parent"] == first["id"] and len(second["sentences"]) == 1
    (sibling,) = browser.edit(session, changed, node=session["current"])
    assert sibling["parent"] == session["current"]


def test_kept_graphs_are_explicit_and_have_ids(browser, shapes):
    session = browser.open_photograph(shapes[0])
    root = session["current"]
    graph = {"objects": ["circle", "square"], "ids": [None, "o1"], "attributes": [["red"], None]}
    after = browser.json("PUT", f"nodes/{root}/graph", {"graph": graph})
    kept = after["nodes"][0]["graph"]
    assert kept["ids"][1] == "o1" and kept["ids"][0] not in (None, "o1")
    assert kept["attributes"] == [["red"], []] and kept["relationships"] == [] and kept["boxes"] == [None, None]
    assert browser.json("PUT", f"nodes/{root}/graph", {"graph": None})["nodes"][0]["graph"] is None
    assert "hexagon" in browser.error("PUT", f"nodes/{root}/graph", {"graph": {"objects": ["hexagon"]}})
    browser.error("PUT", "nodes/99/graph", {"graph": None}, 404)


def test_a_draft_is_kept_until_the_graph_is_set(browser, shapes):
    session = browser.open_photograph(*shapes)
    root, path = session["current"], f"sessions/{session['id']}"
    assert browser.json("PUT", f"nodes/{root}/draft", {"graph": {"objects": ["not yet a na"]}}) == {"node": root}
    assert browser.json("GET", path)["nodes"][0]["draft"] == {"objects": ["not yet a na"]}
    after = browser.json("PUT", f"nodes/{root}/graph", {"graph": shapes[1].to_json()})
    assert after["nodes"][0]["draft"] is None


def test_the_checker_reads_the_graph_of_a_picture(browser, shapes):
    picture, graph = shapes
    session = browser.open_photograph(picture)
    found = browser.json("POST", f"sessions/{session['id']}/read", {"node": session["current"]})
    assert check(SceneGraph.from_json(found["graph"]), picture, "shapes").passed
    assert sorted(found["graph"]["objects"]) == sorted(graph.objects) and all(found["graph"]["ids"])
    blank = browser.open_photograph(Image.new("RGB", (64, 64), "grey"))
    nothing = browser.json("POST", f"sessions/{blank['id']}/read", {"node": blank["current"]})
    assert nothing["graph"] is None and "draw a box" in nothing["note"]


def test_without_a_reader_the_page_is_told(model, tmp_path, shapes, monkeypatch):
    monkeypatch.setattr("ldm.app.editor.find_reader_of", lambda vocab: None)
    editor = Editor(model, tmp_path)
    with Browser(editor) as browser:
        told = browser.json("GET", "app")
        assert told["reader"] is None and "draw a box" in told["reader_note"]
        session = browser.open_photograph(*shapes)
        browser.error("POST", f"sessions/{session['id']}/read", {"node": session["current"]}, 409)
        (node,) = browser.edit(session, replaced(shapes[1]))
        assert node["verdict"] is None
    editor.close()


def test_two_nodes_are_compared(browser, shapes, changed):
    session = browser.open_photograph(*shapes)
    (node,) = browser.edit(session, changed)
    told = browser.json("GET", f"nodes/{session['current']}/compare/{node['id']}")
    assert told["sentences"] == node["sentences"] and 0 < told["changed_share"] <= 1
    assert [each["text"] for each in told["operations"]] == told["sentences"]
    assert told["operations"] == node["operations"]
    same = browser.json("GET", f"nodes/{node['id']}/compare/{node['id']}")
    assert same == {"sentences": ["the two graphs are the same"], "operations": [], "changed_share": 0.0}


def test_a_node_is_deleted_but_no_root(browser, shapes, changed):
    session = browser.open_photograph(*shapes)
    (node,) = browser.edit(session, changed)
    after = browser.json("DELETE", f"nodes/{node['id']}")
    assert after["current"] == session["current"] and len(after["nodes"]) == 1
    assert "delete the session" in browser.error("DELETE", f"nodes/{session['current']}", status=409)


# Pictures and graph files ---------------------------------------------------------------------------------------------


def test_the_same_pixels_have_one_id(browser, shapes):
    photograph, _ = shapes
    first, second = browser.upload(photograph), browser.upload(encode(photograph, "BMP"))
    assert first == second and first["width"] == photograph.width


def test_a_small_copy_is_no_taller_than_asked_for(browser):
    told = browser.upload(Image.new("RGB", (300, 200), "red"))
    small = Image.open(io.BytesIO(browser.get(f"/api/images/{told['id']}.webp?height=100").content))
    assert small.size == (150, 100) and small.format == "WEBP"
    tiny = browser.get(f"/api/images/{told['id']}.webp?height=1")
    assert Image.open(io.BytesIO(tiny.content)).height == 16


def test_graph_files_of_other_projects_are_read(browser, shapes):
    picture = browser.upload(shapes[0].resize((200, 100)))
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 100}],
        "categories": [{"id": 7, "name": "circle"}, {"id": 8, "name": "hexagon"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [20, 10, 100, 50]},
            {"id": 2, "image_id": 1, "category_id": 8, "bbox": [120, 10, 40, 50]},
        ],
    }
    told = browser.post(f"/api/graphs?name=a.json&image={picture['id']}", content=json.dumps(coco)).json()
    (graph,) = told["graphs"]
    assert graph["objects"] == ["circle", "hexagon"] and graph["boxes"][0] == pytest.approx([0.1, 0.1, 0.6, 0.6])
    assert "read as COCO: 2 objects" in told["note"] and "hexagon" in told["unknown"][0] and len(told["unknown"]) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "mine.json: line 1, column 2"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "4300 digits"),
        (b'{"objects": ["a"], "objects": ["b"]}', "'objects' is there twice"),
        (b'{"cat": 3}', "no scene graph"),
        (b"[]", "the list is empty"),
        (b'{"objects": ["circle"], "boxes": [[0, 0, 2, 2]]}', "outside the image"),
    ],
)
def test_a_graph_file_with_a_mistake_is_refused_in_one_sentence(browser, content, sentence):
    answer = browser.post("/api/graphs?name=mine.json", content=content)
    assert answer.status_code == 400 and sentence in answer.json()["error"]


def test_a_graph_file_opens_no_other_file(browser, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (40, 40)).save(secret)
    data = {"objects": ["circle"], "image": str(secret)}
    (graph,) = browser.post("/api/graphs", content=json.dumps(data)).json()["graphs"]
    assert "image" not in graph
    in_pixels = [
        {"image_id": 1, "file_name": str(secret), "objects": [{"names": ["circle"], "x": 5, "y": 5, "w": 9, "h": 9}]}
    ]
    answer = browser.post("/api/graphs", content=json.dumps(in_pixels))
    assert answer.status_code == 400 and "size of the image is unknown" in answer.json()["error"]


def test_a_graph_file_of_an_edit_keeps_the_ids_and_what_it_leaves_out(browser):
    boxes = ((0.1, 0.1, 0.3, 0.3), (0.5, 0.5, 0.9, 0.9))
    graph = SceneGraph(("circle", "square"), boxes, (("red",), ("blue",)), ((0, "above", 1),), ("o1", "o2"))
    session = browser.open_photograph(Image.new("RGB", (64, 64)), graph)
    edited = {"objects": ["triangle", "square", "circle"], "boxes": [[0.0, 0.6, 0.2, 0.8], None, None]}
    for ids in ({}, {"ids": ["o1", "a", "b"]}, {"ids": ["x", "y", "z"]}):
        path = f"/api/graphs?node={session['current']}"
        told = browser.post(path, content=json.dumps(edited | ids)).json()["graphs"][0]
        by_name = dict(zip(told["objects"], zip(told["ids"], told["boxes"], told["attributes"])))
        if ids.get("ids", [""])[0] == "o1":  # says that the circle became the triangle
            assert by_name["triangle"][0] == "o1" and by_name["circle"][0] not in ("o1", "o2")
            continue
        assert by_name["circle"] == ("o1", list(boxes[0]), ["red"]) and by_name["square"][::2] == ("o2", ["blue"])
        assert by_name["triangle"][0] not in ("o1", "o2", None) and by_name["triangle"][2] == []
        assert told["relationships"] == [[2, "above", 1]]
    assert "there is no node" in browser.post("/api/graphs?node=99", content=json.dumps(edited)).json()["error"]


# Names and options ----------------------------------------------------------------------------------------------------


def test_names_are_completed_and_corrected(browser):
    def names(text: str, kind: str = "object") -> list[str]:
        return [each["name"] for each in browser.json("GET", f"resolve?kind={kind}&text={text}")["suggestions"]]

    assert names("s")[0] == "square" and names("trinagle")[0] == "triangle" and names("zzz") == []
    assert "right of" in names("of", "predicate") and names("", "object") == ["circle", "square", "triangle"]
    assert browser.json("GET", "resolve?kind=object&text=Circle")["name"] == "circle"
    assert browser.json("GET", "resolve?kind=object&text=circ")["name"] is None
    assert "choose one of" in browser.error("GET", "resolve?kind=verb&text=a")


def test_the_vocabulary_leaves_out_what_no_user_types(browser):
    told = browser.json("GET", "vocabulary")
    assert told["objects"] == ["circle", "square", "triangle"] and "__in_image__" not in told["predicates"]
    assert ["small", "large"] in told["attribute_groups"] and told["converse"]["left of"] == "right of"
    assert set(told["spatial"]) <= set(told["predicates"])


def test_every_option_of_an_edit_is_listed_with_its_help(browser):
    from dataclasses import fields

    from ldm.editing.options import EditOptions

    listed = browser.json("GET", "options")
    entries = {each["name"]: each for each in listed["edit"]}
    shown = [
        field
        for field in fields(EditOptions)
        if field.name not in ("text_scale", "caption", "negative", "steer", "steer_peak")
    ]
    assert list(entries) == [field.name for field in shown]
    for field in shown:
        assert entries[field.name]["help"] == field.metadata["help"]
    assert entries["reach"]["type"] == "numbers" and len(entries["reach"]["metavar"]) == 4
    assert entries["keep"]["type"] == "boolean" and entries["steps"]["optional"] and not entries["seed"]["sweep"]
    assert [each["name"] for each in listed["sample"]] == ["seed", "steps", "graph_scale", "style_scale", "sampler"]


def test_models_that_read_text_have_the_options_of_text():
    from dataclasses import fields

    from ldm.app.option_list import edit_options
    from ldm.editing.options import EditOptions

    reads_text = SimpleNamespace(text_stage_model=object(), edit_defaults={})
    entries = {each["name"]: each for each in edit_options(reads_text)}
    assert list(entries) == [field.name for field in fields(EditOptions)]
    assert entries["negative"]["type"] == "text" and entries["caption"]["choices"] == ["long", "short"]


def test_a_model_s_own_defaults_are_told(browser, editor, monkeypatch):
    monkeypatch.setattr(editor.model, "edit_defaults", {"reach": [1, 0, 1, 0.25]})
    entries = {each["name"]: each for each in browser.json("GET", "options")["edit"]}
    assert entries["reach"]["default_text"] == "1 0 1 0.25" and entries["reach"]["optional"]
