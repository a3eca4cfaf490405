"""Pictures sampled of held-out graphs: do they show what the graph says, in the style of the picture they were shown?

The autoencoder's own pictures of the same scenes say what it loses by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ldm import plots
from ldm.data.demo import DemoValidation
from ldm.evaluation.edit_benchmark import HEIGHT, framed
from ldm.evaluation.edit_tasks import LATER
from ldm.evaluation.editors import reconstructed
from ldm.evaluation.runner import SHOWN, Measure, picture_path, wilson
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.loading import load_model
from ldm.sampling.sample import SampleOptions, derive_seed, sample_images
from ldm.synthetic import checker
from ldm.util import image_similarity

BOXES = ("all", "none", "part")
REFERENCES = ("same", "other", "none")  # the scene's own picture, one of another scene, or no reference at all
AUTOENCODER = "autoencoder"

# What a reader needs to know to compare a number; the report says it.
MEASURES = {
    "layout": "search: objects without a box got one before sampling, so that the graph's relations hold; none: the model "
    "placed them. Either way the picture is judged by the graph as it was told",
    "success": "all that the graph says is seen, and nothing else. success_95 is Wilson's interval",
    "all_objects": "share of scenes in which every object is seen with all its words, and at its box where it has one",
    "objects": "share of all objects that are",
    "triples": "share of all triples that hold between the objects seen",
    "style": "share of scenes whose background passes for the reference's",
    "wrong_style": "the same of another picture, which was not shown: what chance gives",
    "colour": "mean distance from the reference's background in mean colour, of 255; wrong_colour from the other picture's",
    "towards_colour": "how far the background is on the way from the other picture's mean colour, 0, to the reference's, 1: "
    "median; so towards_texture, in the textures' strengths",
    "psnr": "dB, of the autoencoder's picture against the true one",
}


class Recipe(NamedTuple):
    """All that a process needs to sample and look."""

    scenes: str
    checkpoint: str | None
    config: str | None
    device: str
    settings: SampleOptions
    seed: int

    def prepare(self) -> Measure:
        """What does a job (boxes, layout, reference, number of the scene)."""
        model = load_model(self.checkpoint, self.config, self.device)

        def measure_job(job: tuple[str, str, str, int]) -> tuple[dict, Image.Image]:
            boxes, layout, reference, number = job
            if boxes == AUTOENCODER:
                return ceiling(model, self.scenes, number)
            settings = replace(self.settings, layout=layout)
            return sampled(model, self.scenes, boxes, reference, number, settings, self.seed)

        return measure_job


def ceiling(model: LatentDiffusion, scenes: str, index: int) -> tuple[dict, Image.Image]:
    """What the checker says of a true picture that went through the autoencoder."""
    data = _scenes(scenes, index, "all")
    picture = data.picture(index)
    image = reconstructed(model, picture)
    row = _verdict(scenes, data[index][1], image)
    look = checker.read_scene(scenes, image).look
    row |= {"style": checker.same_style(look, checker.read_scene(scenes, picture).look), "psnr": image_similarity.psnr(image, picture)}
    return row, image


def kinds(boxes: Sequence[str], layouts: Sequence[str], references: Sequence[str]) -> list[tuple[str, str, str]]:
    """All but the last of the jobs' names: the autoencoder first; where all boxes are told, none is left to search for."""
    pairs = dict.fromkeys((told, layout if told != "all" else "none") for told in boxes for layout in layouts)
    return [(AUTOENCODER, "none", "same"), *((*pair, reference) for pair in pairs for reference in references)]


def sampled(
    model: LatentDiffusion, scenes: str, boxes: str, reference: str, index: int, settings: SampleOptions, seed: int
) -> tuple[dict, Image.Image]:
    data = _scenes(scenes, index, boxes)
    graph = data[index][1]
    style = _shown(scenes, reference, index)
    image = sample_images(model, [graph], [derive_seed(seed, index, 0)], settings, style)[0]
    row = _verdict(scenes, graph, image)
    if style is not None:
        look, wanted, wrong = (checker.read_scene(scenes, p).look for p in (image, style, _shown(scenes, "wrong", index)))
        row["style"], row["wrong_style"] = checker.same_style(look, wanted), checker.same_style(look, wrong)
        row["colour"], row["wrong_colour"] = (checker.style_distance(look, one).colour for one in (wanted, wrong))
        colour, texture = checker.style_follows(look, wrong, wanted)
        row["towards_colour"], row["towards_texture"] = (None if math.isnan(x) else x for x in (colour, texture))
    return row, image


def _scenes(scenes: str, index: int, boxes: str = "all") -> DemoValidation:
    return DemoValidation(index + 1, scenes=scenes, boxes=boxes)


def _shown(scenes: str, reference: str, index: int) -> Image.Image | None:
    if reference == "none":
        return None
    number = index + {"same": 0, "other": 1, "wrong": 2}[reference] * LATER
    return _scenes(scenes, number).picture(number)


def _verdict(scenes: str, graph, image: Image.Image) -> dict:
    verdict = checker.check(graph, image, scenes)
    return {
        "success": verdict.passed,
        "objects": sum(verdict.objects),
        "of_objects": len(verdict.objects),
        "triples": sum(verdict.triples),
        "of_triples": len(verdict.triples),
        "complaints": list(verdict.complaints),
    }


def summary(jobs: Sequence[tuple], rows: Sequence[dict]) -> list[dict]:
    """A line for each kind of graph, layout and reference, in the order of the jobs."""
    groups: dict[tuple, list[dict]] = {}
    for job, row in zip(jobs, rows):
        groups.setdefault(job[:-1], []).append(row)
    return [dict(zip(("boxes", "layout", "reference"), kind)) | _line(rows) for kind, rows in groups.items()]


def _line(rows: Sequence[dict]) -> dict:
    count, successes = len(rows), sum(row["success"] for row in rows)
    line = {"scenes": count, "success": successes / count, "success_95": wilson(successes, count)}
    line["all_objects"] = sum(row["objects"] == row["of_objects"] for row in rows) / count
    for name in ("objects", "triples"):
        total = sum(row[f"of_{name}"] for row in rows)
        line[name] = sum(row[name] for row in rows) / total if total else None
    for name in ("style", "wrong_style", "colour", "wrong_colour", "towards_colour", "towards_texture", "psnr"):
        known = [row[name] for row in rows if row.get(name) is not None]
        middle = np.median if name.startswith("towards") else np.mean  # a wrong picture may be much like the reference
        line[name] = float(middle(known)) if known else None
    return line


def markdown(lines: Sequence[dict]) -> str:
    head = (
        "boxes", "layout", "reference", "scenes", "passed % (95 %)", "all objects %", "objects %", "relations %", "style %",
        "by chance %", "colour off", "by chance", "towards colour", "towards texture", "PSNR dB",
    )  # fmt: skip
    table = ["| " + " | ".join(head) + " |", "|---|---|---|" + "---:|" * (len(head) - 3)]
    for line in lines:
        low, high = (f"{100 * edge:.1f}" for edge in line["success_95"])
        shares = [line[name] for name in ("all_objects", "objects", "triples", "style", "wrong_style")]
        rest = [line[name] for name in ("colour", "wrong_colour", "towards_colour", "towards_texture", "psnr")]
        forms = (".1f", ".1f", ".2f", ".2f", ".1f")
        cells = [
            line["boxes"],
            line["layout"],
            line["reference"],
            str(line["scenes"]),
            f"{100 * line['success']:.1f} ({low} to {high})",
        ]
        cells += ["" if share is None else f"{100 * share:.1f}" for share in shares]
        cells += ["" if value is None else format(value, form) for value, form in zip(rest, forms)]
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table) + "\n"


def sheet(folder: Path, scenes: str, jobs: Sequence[tuple], rows: Sequence[dict]) -> Image.Image:
    """A line for each kind: true pictures beside what was made of their graphs, in a green or red frame; failures first."""
    groups: dict[tuple, list[tuple[tuple, dict]]] = {}
    for job, row in zip(jobs, rows):
        if picture_path(folder, job).exists():
            groups.setdefault(job[:-1], []).append((job, row))
    cells = []
    for (boxes, layout, reference), made in groups.items():
        made = sorted(made, key=lambda one: one[1]["success"])[:SHOWN]
        for job, row in made:
            image = Image.open(picture_path(folder, job)).convert("RGB")
            number = job[-1]
            pictures = [(f"{boxes} {number}", _scenes(scenes, number).picture(number))]
            if reference == "other":
                pictures.append(("style", _shown(scenes, reference, number)))
            pictures.append(("made" if layout == "none" else "laid out", framed(image, row["success"])))
            cells.append(plots.panel(pictures, row["complaints"][:1], height=HEIGHT))
        cells += [Image.new("RGB", (1, 1), plots.PAPER)] * (SHOWN - len(made))
    return plots.grid(cells, SHOWN)
