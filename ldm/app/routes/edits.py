"""Plans, edits and jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from ldm.app.clips import as_clip, no_clips
from ldm.app.editor import Editor
from ldm.app.limits import VARIANTS
from ldm.app.requests import EditAsked, Sweep, ask, ask_attention
from ldm.app.routes.parts import Body, Id, TheEditor
from ldm.app.routes.sessions import NodeId
from ldm.app.store import Node

router = APIRouter()


class Plan(Body):
    node: Id
    graph: dict[str, Any]
    style: str | None = None
    mask: str | None = None
    options: dict[str, Any] = {}


class SweepOf(Body):
    option: str
    values: Annotated[list[float | int], Field(min_length=1, max_length=VARIANTS)]


class Edit(Plan):
    n: Annotated[int, Field(ge=1, le=VARIANTS)] = 1
    sweep: SweepOf | None = None
    attention: bool = False
    previews: bool = True


@router.post("/sessions/{sid}/plan")
def plan(editor: TheEditor, sid: str, body: Plan) -> dict:
    asked, node = _ask(editor, sid, body)
    return editor.plan(asked, node)


@router.post("/sessions/{sid}/edits", status_code=202)
def edit(editor: TheEditor, sid: str, body: Edit) -> dict:
    sweep = body.sweep and Sweep(body.sweep.option, tuple(body.sweep.values))
    asked, node = _ask(editor, sid, body, count=body.n, sweep=sweep, attention=body.attention, previews=body.previews)
    editor.plan(asked, node)  # what cannot be planned is refused at once
    return editor.add_job(sid, asked).to_json()


@router.post("/sessions/{sid}/attention", status_code=202)
def attention(editor: TheEditor, sid: str, body: NodeId) -> dict:
    asked = ask_attention(editor.model, editor.store.session(sid).node(body.node), editor.words)
    return editor.add_job(sid, asked).to_json()


@router.post("/sessions/{sid}/clip", status_code=202)
def clip(editor: TheEditor, sid: str, body: Plan) -> dict:
    if editor.clips is None:
        raise no_clips()
    asked, _ = _ask(editor, sid, body)
    return editor.add_job(sid, as_clip(asked)).to_json()


@router.get("/jobs/{id}")
def job(editor: TheEditor, id: Id) -> dict:
    return editor.worker.find(id).to_json()


@router.delete("/jobs/{id}")
def cancel(editor: TheEditor, id: Id) -> dict:
    return editor.worker.cancel(id).to_json()


@router.get("/queue")
def queue(editor: TheEditor) -> dict:
    running, waiting = editor.worker.state()
    return {"running": running and running.to_json(), "waiting": waiting}


def _ask(editor: Editor, sid: str, body: Plan, **further: Any) -> tuple[EditAsked, Node]:
    """The checked request, and the node that it starts from."""
    node = editor.store.session(sid).node(body.node)
    asked = ask(
        editor.model, editor.store, node, body.graph, body.style, body.mask, body.options, words=editor.words, **further
    )
    return asked, node
