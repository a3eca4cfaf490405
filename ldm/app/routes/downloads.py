"""Files of a node."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response

from ldm.app.export import Export
from ldm.app.routes.parts import Id, TheEditor

TYPES = {"png": "image/png", "json": "application/json", "txt": "text/plain; charset=utf-8", "zip": "application/zip"}
Name = Literal["export.zip", "picture.png", "graph.json", "panel.png", "record.json", "command.txt"]

router = APIRouter()


@router.get("/nodes/{nid}/{name}")
def download(editor: TheEditor, nid: Id, name: Name, inline: bool = False) -> Response:
    export = Export(editor, editor.store.node(nid))
    content = export.zip() if name == "export.zip" else export.file(name)
    place = "inline" if inline else f'attachment; filename="{export.folder}_{name}"'
    kind = TYPES[name.rpartition(".")[2]]
    return Response(content, media_type=kind, headers={"Content-Disposition": place})
