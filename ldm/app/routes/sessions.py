"""Sessions and their trees."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from ldm.app import graphs, views
from ldm.app.editor import Editor
from ldm.app.errors import NotNow, RequestError
from ldm.app.limits import IMAGE_SIDE
from ldm.app.pictures import changed_share
from ldm.app.planning import tell_operations
from ldm.app.routes.parts import Body, Id, TheEditor
from ldm.app.store import NewNode
from ldm.graph.diff import diff
from ldm.graph.scene_graph import SceneGraph

router = APIRouter()

Side = Annotated[int, Field(ge=16, le=IMAGE_SIDE)]


class Canvas(Body):
    width: Side
    height: Side


class NewSession(Body):
    title: str | None = None
    image: str | None = None
    example: str | None = None
    canvas: Canvas | None = None
    graph: dict[str, Any] | None = None


class Title(Body):
    title: str


class NodeId(Body):
    node: Id


class Graph(Body):
    graph: dict[str, Any] | None


@router.get("/sessions")
def list_sessions(editor: TheEditor) -> dict:
    return {"sessions": [views.session_in_list(*each) for each in editor.store.list_sessions()]}


@router.post("/sessions", status_code=201)
def new_session(editor: TheEditor, body: NewSession) -> dict:
    given = [name for name in ("image", "example", "canvas") if getattr(body, name) is not None]
    if len(given) != 1:
        raise RequestError("give one of image, example and canvas")
    graph = None if body.graph is None else _explicit(editor, body.graph)
    title, root = _root(editor, body, graph)
    return editor.session_json(editor.store.new_session(body.title or title, root).id)


@router.get("/sessions/{sid}")
def session(editor: TheEditor, sid: str) -> dict:
    return editor.session_json(sid)


@router.patch("/sessions/{sid}")
def rename(editor: TheEditor, sid: str, body: Title) -> dict:
    editor.store.rename(sid, body.title)
    return editor.tell_session(sid)


@router.delete("/sessions/{sid}")
def delete(editor: TheEditor, sid: str) -> dict:
    editor.delete_session(sid)
    return {"deleted": sid}


@router.post("/sessions/{sid}/current")
def go_to(editor: TheEditor, sid: str, body: NodeId) -> dict:
    editor.store.go_to(sid, body.node)
    return editor.tell_session(sid)


@router.post("/sessions/{sid}/undo")
def undo(editor: TheEditor, sid: str) -> dict:
    editor.store.undo(sid)
    return editor.tell_session(sid)


@router.post("/sessions/{sid}/redo")
def redo(editor: TheEditor, sid: str) -> dict:
    editor.store.redo(sid)
    return editor.tell_session(sid)


@router.post("/sessions/{sid}/read")
def read(editor: TheEditor, sid: str, body: NodeId) -> dict:
    picture = editor.store.session(sid).node(body.node).picture
    if editor.reader is None:
        raise NotNow(editor.reader_note)
    if picture is None:
        raise NotNow("a canvas shows nothing yet").coded("empty_canvas")
    found = editor.reader.read_graph(editor.store.pictures.read(picture))
    if found is None:
        return {"graph": None, "note": "nothing was found in this picture: draw a box around each object and name it"}
    return {"graph": graphs.to_json(graphs.explicit(found)), "note": ""}


@router.put("/nodes/{nid}/graph")
def set_graph(editor: TheEditor, nid: Id, body: Graph) -> dict:
    node = editor.store.node(nid)
    graph = None if body.graph is None else _explicit(editor, body.graph)
    editor.store.set_graph(nid, graph)
    return editor.tell_session(node.session)


@router.put("/nodes/{nid}/draft")
def set_draft(editor: TheEditor, nid: Id, body: Graph) -> dict:
    editor.store.set_draft(nid, body.graph)
    return {"node": nid}


@router.delete("/nodes/{nid}")
def delete_node(editor: TheEditor, nid: Id) -> dict:
    node = editor.store.node(nid)
    editor.delete_node(nid)
    return editor.tell_session(node.session)


@router.get("/nodes/{a}/compare/{b}")
def compare(editor: TheEditor, a: Id, b: Id) -> dict:
    first, second = editor.store.node(a), editor.store.node(b)
    sentences, told = [], None
    if first.graph and second.graph:
        source, target = SceneGraph.from_json(first.graph), SceneGraph.from_json(second.graph)
        operations = diff(source, target)
        told = tell_operations(operations, source, target)
        sentences = [str(each) for each in operations] or ["the two graphs are the same"]
    share = None
    if first.picture and second.picture and first.size == second.size:
        read = editor.store.pictures.read
        share = round(changed_share(read(first.picture), read(second.picture)), 4)
    return {"sentences": sentences, "operations": told, "changed_share": share}


def _root(editor: Editor, body: NewSession, graph: dict | None) -> tuple[str, NewNode]:
    """The title and the first node of a session."""
    if body.canvas is not None:
        return "Canvas", NewNode("canvas", (body.canvas.width, body.canvas.height), graph=graph)
    if body.example is not None:
        example = editor.examples.find(body.example)
        image, shown = example.open()
        graph = graph or graphs.explicit(shown).to_json()
        return example.title, NewNode("photograph", image.size, editor.store.add_picture(image), graph)
    assert body.image is not None
    return "Photograph", NewNode("photograph", editor.store.picture_size(body.image), body.image, graph)


def _explicit(editor: Editor, data: dict) -> dict:
    """A graph to keep, checked."""
    graph = graphs.explicit(graphs.from_json(data))
    graphs.validate(graph, editor.model, words=editor.words)
    return graph.to_json()
