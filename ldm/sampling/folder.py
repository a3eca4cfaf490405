"""Samples of many graphs in a folder that several processes fill and any of them can go on with."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ldm import plots
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.sampling.sample import SampleOptions, apply_layout, derive_seed, sample_images
from ldm.util import gallery
from ldm.util.images import to_image

SHEET_GRAPHS, SHEET_REPEATS = 8, 4  # at most

Scenes = Sequence[tuple[Tensor | None, SceneGraph]]  # each with its image in a data set, if it is of one


def sample_all(
    model: LatentDiffusion,
    scenes: Scenes,
    folder: Path,
    settings: SampleOptions,
    style: Image.Image | None = None,
    seed: int = 0,
    repeats: int = 1,
    made_by: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    rank: int = 0,
    world: int = 1,
) -> bool:
    """Whether all pictures, `repeats` of each graph, are there now; those of other processes too.

    made_by: what else the records say, such as the weights. batch_size: pictures between two writes to disk. Raises
    UserError where the folder has pictures that were made in another way.
    """
    places = [(index, repeat) for index in range(len(scenes)) for repeat in range(repeats)]
    share = places[rank::world]
    with tqdm(total=len(share), desc="sampling", unit="picture", disable=rank > 0) as bar:
        for start in range(0, len(share), batch_size):
            batch, missing = share[start : start + batch_size], []
            for index, repeat in batch:
                graph = scenes[index][1]
                own = {"graph_index": index, "repeat": repeat, "seed": derive_seed(seed, index, repeat)}
                record = {"file": gallery.image_path(index, repeat), **own, **vars(settings), **(made_by or {})}
                record["graph"] = graph.to_json()
                if gallery.has(folder, record):
                    continue
                arranged, complaint = apply_layout(graph, record["seed"], settings)
                if arranged is not graph:
                    record["boxes"] = arranged.boxes
                if complaint:
                    record["complaint"] = complaint
                    bar.write(f"graph {index}, picture {repeat}: {complaint}", sys.stderr)
                missing.append((graph, arranged, record))
            told, graphs, records = zip(*missing) if missing else ((), (), ())
            images = sample_images(model, graphs, [record["seed"] for record in records], settings, style)
            for graph, record, image in zip(told, records, images):
                if record["repeat"] == 0:  # before its picture, so that what has a picture has a drawing
                    drawing = folder / gallery.graph_path(record["graph_index"])
                    gallery.save(drawing, plots.draw_graph(graph), {"graph": record["graph"]})
                gallery.save(folder / record["file"], image, record)
            bar.update(len(batch))
    names = [gallery.image_path(*place) for place in places]
    return gallery.finish(folder, names, lambda: sheet(folder, scenes, repeats))


def sheet(folder: Path, scenes: Scenes, repeats: int) -> Image.Image:
    """The first graphs, each with its picture in the data set, if it has one, and its samples."""
    panels = []
    for index in range(min(len(scenes), SHEET_GRAPHS)):
        image = scenes[index][0]
        pictures = [(f"graph {index}", Image.open(folder / gallery.graph_path(index)))]
        pictures += [] if image is None else [("data set", to_image(image))]
        for repeat in range(min(repeats, SHEET_REPEATS)):
            pictures.append((f"sample {repeat}", Image.open(folder / gallery.image_path(index, repeat))))
        panels.append(plots.panel(pictures, height=256))
    return plots.grid(panels, columns=2 if repeats == 1 else 1)
