"""Pictures and graph files that a browser sends, and pictures that it asks for."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from ldm.app import graphs, uploads
from ldm.app.editor import Editor
from ldm.app.limits import GRAPH_BYTES, IMAGE_BYTES
from ldm.app.pictures import describe
from ldm.app.routes.parts import Id, TheEditor, plain, read_body
from ldm.graph.scene_graph import SceneGraph

LASTING = {"Cache-Control": "private, max-age=31536000, immutable"}

router = APIRouter()


@router.post("/images", status_code=201)
async def upload(request: Request, editor: TheEditor, background: Literal["white", "black"] = "white") -> dict | None:
    content = await read_body(request, IMAGE_BYTES, "image")
    return await run_in_threadpool(_keep, editor, content, background)


@router.get("/images/{id}.png")
def picture(editor: TheEditor, id: str) -> FileResponse:
    return FileResponse(editor.store.pictures.path(id), media_type="image/png", headers=LASTING)


@router.get("/images/{id}.webp")
def small_copy(editor: TheEditor, id: str, height: int = 160) -> Response:
    content = editor.store.pictures.small_copy(id, max(16, min(height, 1024)))
    return Response(content, media_type="image/webp", headers=LASTING)


@router.post("/graphs")
async def read_graph_file(
    request: Request,
    editor: TheEditor,
    name: str = "graph.json",
    image: str | None = None,
    node: Id | None = None,
) -> dict:
    content = await read_body(request, GRAPH_BYTES, "graph file")
    return await run_in_threadpool(_read_graphs, editor, content, name, image, node)


def _keep(editor: Editor, content: bytes, background: str) -> dict | None:
    image = uploads.decode(content, background)
    return describe(editor.store.add_picture(image), image.size)


def _read_graphs(editor: Editor, content: bytes, name: str, image: str | None, node: int | None) -> dict:
    """`node`: whose edited graph the file is; None for a graph of a picture."""
    source = None if node is None else editor.store.node(node).graph
    name = " ".join(name.split())[:80] or "graph.json"
    found, note = graphs.read_file(content, name, image and editor.store.pictures.path(image))
    if source is None:
        told = [graphs.to_json(graphs.explicit(graph)) for graph in found]
    else:
        known = SceneGraph.from_json(source)
        told = [graphs.to_json(graphs.as_edited(graph, known)) for graph in found]
    unknown = graphs.unknown_names(found[0], editor.model, editor.words) if len(found) == 1 else {}
    names, sentences = map(list, (unknown.values(), unknown))
    return {"graphs": told, "note": plain(note), "unknown": sentences, "unknown_names": list(dict.fromkeys(names))}
