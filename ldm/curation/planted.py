"""A pool of drawn scenes of which half is junk, to measure what a curation is worth: each picture says what was planted."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from ldm.curation.pictures import METADATA
from ldm.synthetic.worlds import find_world
from ldm.util.files import atomic_write

JUNK = ("copy", "mirrored", "blurred", "dark", "flat")
PLANTED = "planted"  # property of a picture: what is wrong with it, "nothing" for a good one


def write_pool(folder: Path, count: int, seed: int, world: str = "shapes") -> None:
    """Draws `count` pictures with graphs, half of them junk of five kinds in equal parts, in random order.

    Junk keeps the graph of the picture that it was made of. A copy is a recompressed one of a good picture, and a mirrored
    picture is one of a good picture whose graph was not mirrored; blurred, dark and flat ones are of scenes of their own.

    Raises:
        UserError: there is no such world.
    """
    scenes, rng = find_world(world), random.Random(f"pool/{world}/{seed}")
    drawn = [scenes.random_graph(rng) for _ in range(count)]
    good = [scenes.render(graph, scenes.random_background(rng)) for graph in drawn[: count // 2]]
    lines: list[tuple[Image.Image, dict[str, Any]]] = []
    for index in range(count):
        if index < len(good):
            kind, graph, picture = "nothing", drawn[index], good[index]
        else:
            kind = JUNK[index % len(JUNK)]
            of = rng.randrange(len(good))
            is_copy = kind in ("copy", "mirrored")
            graph = drawn[of] if is_copy else drawn[index]
            picture = spoil(good[of] if is_copy else scenes.render(graph, scenes.random_background(rng)), kind)
        lines.append((picture, {PLANTED: kind, "graph": graph.to_json()}))
    rng.shuffle(lines)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    texts = []
    for index, (picture, line) in enumerate(lines):
        name = f"images/{index:05}.png"
        with atomic_write(folder / name) as temporary:
            picture.save(temporary, "PNG")
        texts.append(json.dumps({"file_name": name, **line}))
    with atomic_write(folder / METADATA) as temporary:
        temporary.write_text("\n".join(texts) + "\n", encoding="utf-8")


def spoil(picture: Image.Image, kind: str) -> Image.Image:
    """A picture as junk of one of the kinds in JUNK."""
    if kind == "copy":
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=70)
        return Image.open(file).convert("RGB")
    if kind == "mirrored":
        return ImageOps.mirror(picture)
    if kind == "blurred":
        return picture.filter(ImageFilter.GaussianBlur(picture.width / 16))
    if kind == "dark":
        return ImageEnhance.Brightness(picture).enhance(0.06)
    return picture.resize((1, 1), Image.Resampling.BOX).resize(picture.size)  # its mean colour
