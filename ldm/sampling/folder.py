"""Samples of many graphs, in a folder that several processes fill and that a restarted command completes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ldm import plots
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.sampling.options import SampleOptions
from ldm.sampling.sample import apply_layout, derive_seed, sample_images
from ldm.util.files import remove_leftovers
from ldm.util.image_folder import is_made, save_image, write_index
from ldm.util.images import to_image
from ldm.words.naming import Naming

SHEET_GRAPHS, SHEET_REPEATS = 8, 4  # maximum numbers on the contact sheet

Scenes = Sequence[tuple[Tensor | None, SceneGraph]]  # graphs, each with its image if it comes from a data set


def image_path(graph: int, repeat: int) -> str:
    """File name of the `repeat`-th image of the `graph`-th graph."""
    return f"images/{graph:06}_{repeat:02}.png"


def graph_path(graph: int) -> str:
    """File name of the drawing of the `graph`-th graph."""
    return f"graphs/{graph:06}.png"


def sample_all(
    model: LatentDiffusion,
    scenes: Scenes,
    folder: Path,
    options: SampleOptions,
    style: Image.Image | None = None,
    seed: int = 0,
    repeats: int = 1,
    provenance: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    rank: int = 0,
    world: int = 1,
    naming: Naming | None = None,
) -> bool:
    """Samples the images that the folder lacks.

    Args:
        repeats: images per graph.
        provenance: further entries of each record, such as the weights.
        batch_size: images between two writes to disk.
        rank, world: index of this process and number of processes.
        naming: that named the graphs, whose drawings show the words as they were written.

    Returns:
        Whether all images are there now, those of other processes included.

    Raises:
        UserError: the folder has images that were made in another way.
    """
    places = [(index, repeat) for index in range(len(scenes)) for repeat in range(repeats)]
    share = places[rank::world]
    naming = naming or Naming()
    shared = {**dataclasses.asdict(options), **(provenance or {})}
    remove_leftovers(folder)
    with tqdm(total=len(share), desc="sampling", unit="image", disable=rank > 0) as bar:
        for start in range(0, len(share), batch_size):
            batch, missing = share[start : start + batch_size], []
            for index, repeat in batch:
                graph = scenes[index][1]
                record = {"file": image_path(index, repeat), "graph_index": index, "repeat": repeat}
                record |= {"seed": derive_seed(seed, index, repeat), **shared, "graph": graph.to_json()}
                record |= naming.record_of(graph)
                if is_made(folder, record):
                    continue
                with_boxes, complaint = apply_layout(graph, record["seed"], options)
                if with_boxes is not graph:
                    record["boxes"] = with_boxes.boxes
                if complaint:
                    record["complaint"] = complaint
                    bar.write(f"graph {index}, image {repeat}: {complaint}", sys.stderr)
                written = next((each.show(graph) for each in naming.wordings(graph)), graph)
                missing.append((written, with_boxes, record))
            _sample_missing(model, missing, folder, options, style)
            bar.update(len(batch))
    names = [image_path(*place) for place in places]
    return write_index(folder, names, lambda: sheet(folder, scenes, repeats))


def sheet(folder: Path, scenes: Scenes, repeats: int) -> Image.Image:
    """A contact sheet of the first graphs, each with its image in the data set, if it has one, and its samples."""
    panels = []
    for index in range(min(len(scenes), SHEET_GRAPHS)):
        image = scenes[index][0]
        images = [(f"graph {index}", Image.open(folder / graph_path(index)))]
        images += [] if image is None else [("data set", to_image(image))]
        for repeat in range(min(repeats, SHEET_REPEATS)):
            images.append((f"sample {repeat}", Image.open(folder / image_path(index, repeat))))
        panels.append(plots.panel(images, height=256))
    return plots.grid(panels, columns=2 if repeats == 1 else 1)


def _sample_missing(
    model: LatentDiffusion, missing: Sequence[tuple], folder: Path, options: SampleOptions, style
) -> None:
    """Samples and writes the images of (graph as it was written, graph with boxes, record)."""
    seeds = [record["seed"] for _, _, record in missing]
    images = sample_images(model, [with_boxes for _, with_boxes, _ in missing], seeds, options, style)
    for (graph, _, record), image in zip(missing, images):
        if record["repeat"] == 0:  # written before its image, so that each graph with an image has a drawing
            drawing = folder / graph_path(record["graph_index"])
            save_image(drawing, plots.draw_graph(graph), {"graph": record["graph"]})
        save_image(folder / record["file"], image, record)
