"""What the page asks for once: the model, options, names, examples."""

from __future__ import annotations

from fastapi import APIRouter, Response

import ldm
from ldm.app import limits, words
from ldm.app.option_list import canvas_options, edit_options
from ldm.app.pictures import encode_png
from ldm.app.reading import CheckerOfWorld
from ldm.app.routes.parts import TheEditor

PROTOCOL = 1

router = APIRouter()


@router.get("/app")
def application(editor: TheEditor) -> dict:
    model = editor.model
    return {
        "protocol": PROTOCOL,
        "version": ldm.__version__,
        "model": {
            "name": editor.name,
            "image_size": model.latent_size * model.first_stage_model.downsampling,
            "latent_size": model.latent_size,
            "max_objects": model.cond_stage_model.max_objects,
            "device": str(model.device),
            "styles": model.global_stage_model is not None,
            "attention": model.cond_stage_model.has_layout,
            "clips": editor.clips is not None,
        },
        "reader": editor.reader and editor.reader.name,
        "reader_note": editor.reader_note,
        "limits": limits.as_json(),
    }


@router.get("/options")
def options(editor: TheEditor) -> dict:
    return {"edit": edit_options(editor.model), "sample": canvas_options(editor.model)}


@router.get("/vocabulary")
def vocabulary(editor: TheEditor) -> dict:
    world = editor.reader.world if isinstance(editor.reader, CheckerOfWorld) else None
    return words.describe(editor.model.vocab, world)


@router.get("/resolve")
def resolve(editor: TheEditor, kind: str, text: str = "", limit: int = 8) -> dict:
    found = editor.resolver.resolve(kind, text[:200], max(1, min(limit, 100)))
    suggestions = [{"name": each.name, "note": each.note} for each in found.suggestions]
    return {"text": text, "name": found.name, "suggestions": suggestions}


@router.get("/examples")
def examples(editor: TheEditor) -> dict:
    listed = []
    for example in editor.examples.all.values():
        image, graph = example.open()
        url = f"api/examples/{example.id}.png"
        told = {"url": url, "width": image.width, "height": image.height}
        names = {"id": example.id, "title": example.title, "number": example.number}
        listed.append({**names, "image": told, "objects": len(graph.objects)})
    return {"examples": listed}


@router.get("/examples/{id}.png")
def example_picture(editor: TheEditor, id: str) -> Response:
    image, _ = editor.examples.find(id).open()
    return Response(encode_png(image), media_type="image/png")
