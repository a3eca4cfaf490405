"""Editors measured on edits whose right answer is known: did it happen, and is the rest as it was?

What an edited picture shows is seen by the checker (`ldm.metrics`), which knows pixels only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ldm import plots
from ldm.evaluation.edit_tasks import Task, changed_boxes, task
from ldm.evaluation.editors import Editor, editor, own_way, reconstructed
from ldm.evaluation.runner import SHOWN, Measure, picture_path, wilson
from ldm.models.loading import load_model
from ldm.synthetic import checker
from ldm.util import image_similarity
from ldm.util.errors import UserError

CELL = 8  # pixels of a picture of IMAGE_SIZE that one latent cell stands for
EQUAL = 99.0  # dB that stand for equal pixels, whose PSNR has no bound
HEIGHT = 128  # pixels of a picture on a sheet
GREEN, RED = (30, 150, 60), (205, 40, 40)
KEPT = 45.0  # dB from which on pixels are said to be the source's

# What a reader needs to know to compare a number; the report says it.
MEASURES = {
    "success": "all of the target graph is seen in the edited picture and nothing else; in a restyle also the reference's "
    "style. success_95 is Wilson's interval",
    "changed": "what the operation is about is right: the changed objects and the relation asked for, or the style",
    "intact": "every object that the operation leaves alone is still seen as it was",
    "graph": "all of the target graph is seen and nothing else, whatever the style",
    "psnr": f"dB, outside the changed boxes, grown by {CELL} pixels, against the source picture; equal pixels count as {EQUAL}",
    "ssim": "of the same pixels",
    "preserved": f"share of edits whose psnr is at least {KEPT}",
    "psnr_autoencoder": "as psnr, against what the autoencoder alone makes of the source picture; so ssim_autoencoder",
    "round_trip_error": "|z0' - z0| / |z0| of the latent after inversion and sampling without an edit",
    "evaluations": "rows given to the U-Net for one edit, guidance's included",
    "seconds": "for one edit, on one thread of a CPU or on the GPU; other workers may have slowed it down",
}


class Recipe(NamedTuple):
    """All that a process needs to measure: the model's files, and what the methods share."""

    scenes: str
    checkpoint: str | None
    config: str | None
    device: str
    shared: dict

    def prepare(self) -> Measure:
        """What does a job (method, operation, number of the task)."""
        model = load_model(self.checkpoint, self.config, self.device)
        editors: dict[str, Editor] = {}

        def measure_job(job: tuple[str, str, int]) -> tuple[dict, Image.Image | None]:
            method, operation, index = job
            if method not in editors:
                editors[method] = editor(method, model, **self.shared)
            return measure(
                task(self.scenes, operation, index), editors[method], lambda picture: reconstructed(model, picture)
            )

        return measure_job


def measure(
    task: Task, editor: Editor, reconstruct: Callable[[Image.Image], Image.Image] | None = None
) -> tuple[dict, Image.Image | None]:
    """One edit's row, and its picture. reconstruct: what the autoencoder alone makes of a picture. An edit that the
    editor refuses, because it came to nothing, is a failure, and its complaint says why."""
    begun = time.perf_counter()
    try:
        edited = editor(task)
    except UserError as error:
        return {"success": False, "refused": True, "complaints": [str(error)]}, None
    seconds = time.perf_counter() - begun
    seen = checker.read_scene(task.scenes, edited.image)
    verdict = checker.check(task.target, seen, task.scenes)
    right = [ok for ok, id in zip(verdict.objects, task.target.ids) if id in task.changed]
    others = [ok for ok, id in zip(verdict.objects, task.target.ids) if id not in task.changed]
    complaints = list(verdict.complaints)
    if task.operation == "restyle":
        changed = checker.same_style(seen.look, checker.read_scene(task.scenes, task.reference).look)
        if not changed:
            complaints.append("the background is not the reference's")
    else:
        claims = [
            ok
            for ok, (subject, _, object) in zip(verdict.triples, task.target.triples)
            if task.changed & {task.target.ids[subject], task.target.ids[object]}
        ]
        gone = not task.changed - set(task.target.ids) or verdict.extra == 0
        changed = all(right) and gone and (task.operation != "relation" or all(claims))
    row = {
        "success": verdict.passed and changed,
        "changed": changed,
        "intact": all(others),
        "graph": verdict.passed,
        **_preserved(task, seen.graph, edited.image, reconstruct),
        "round_trip_error": error() if callable(error := edited.round_trip_error) else error,
        "evaluations": edited.evaluations,
        "seconds": seconds,
        "complaints": complaints,
    }
    return {key: None if value is not None and _is_nan(value) else value for key, value in row.items()}, edited.image


def _preserved(task: Task, seen, image: Image.Image, reconstruct: Callable | None) -> dict:
    """Outside the changed boxes; after a restyle there is no such place."""
    names = ("psnr", "ssim", "psnr_autoencoder", "ssim_autoencoder")
    if task.operation == "restyle":
        return dict.fromkeys(names)
    size = task.picture.width
    mask = image_similarity.outside(changed_boxes(task, seen), size, CELL / size)
    numbers = []
    for before in (task.picture, reconstruct and reconstruct(task.picture)):
        pair = (math.nan, math.nan)
        if before is not None and mask.any():
            pair = min(EQUAL, image_similarity.psnr(image, before, mask)), image_similarity.ssim(image, before, mask)
        numbers += pair
    return dict(zip(names, numbers))


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


# The report ----------------------------------------------------------------------------------------------------------


def summary(jobs: Sequence[tuple], rows: Sequence[dict]) -> list[dict]:
    """A line for each method and operation, and one for all of a method's, in the order of the jobs."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for (method, operation, _), row in zip(jobs, rows):
        groups.setdefault((method, operation), []).append(row)
        groups.setdefault((method, "all"), []).append(row)
    order = list(dict.fromkeys(method for method, _ in groups))
    lines = sorted(groups, key=lambda group: (order.index(group[0]), group[1] == "all"))
    return [{"method": m, "operation": o, **_line(groups[m, o])} for m, o in lines]


def _line(rows: Sequence[dict]) -> dict:
    count = len(rows)
    successes = sum(row["success"] for row in rows)
    line = {
        "edits": count,
        "refused": sum(row.get("refused", False) for row in rows),
        "success": successes / count,
        "success_95": wilson(successes, count),
    }
    for name in ("changed", "intact", "graph"):
        line[name] = sum(row.get(name) is True for row in rows) / count
    for name in ("psnr", "ssim", "psnr_autoencoder", "ssim_autoencoder", "round_trip_error", "evaluations", "seconds"):
        known = [row[name] for row in rows if row.get(name) is not None]
        line[name] = float(np.mean(known)) if known else None
    outside = [row["psnr"] for row in rows if row.get("psnr") is not None]
    line["preserved"] = sum(psnr >= KEPT for psnr in outside) / len(outside) if outside else None
    return line


def markdown(lines: Sequence[dict]) -> str:
    head = (
        "method", "operation", "edits", "success % (95 %)", "changed %", "intact %", "PSNR dB", "SSIM", f">= {KEPT:.0f} dB %",
        "PSNR to autoencoder", "round trip", "U-Net rows", "seconds",
    )  # fmt: skip
    table = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    for line in lines:
        low, high = (f"{100 * edge:.1f}" for edge in line["success_95"])
        cells = (
            line["method"], line["operation"], str(line["edits"]), f"{100 * line['success']:.1f} ({low} to {high})",
            f"{100 * line['changed']:.1f}", f"{100 * line['intact']:.1f}", _number(line["psnr"], ".1f"),
            _number(line["ssim"], ".4f"), _number(line["preserved"], ".1f", 100),
            _number(line["psnr_autoencoder"], ".1f"), _number(line["round_trip_error"], ".1e"),
            _number(line["evaluations"], ".0f"), _number(line["seconds"], ".2f"),
        )  # fmt: skip
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join([*table, "", own_way()]) + "\n"


def _number(value: float | None, form: str, times: float = 1) -> str:
    return "" if value is None else format(times * value, form)


def sheet(
    folder: Path, scenes: str, method: str, jobs: Sequence[tuple], rows: Sequence[dict], show: str
) -> Image.Image:
    """Edits of one method, a line for each operation: the source, the truth, and the edited picture in a green or red
    frame over its first complaint. show: 'any' of them, the first ones, or 'failures' first."""
    groups: dict[str, list[tuple[tuple, dict]]] = {}
    for job, row in zip(jobs, rows):
        if job[0] == method and picture_path(folder, job).exists():
            groups.setdefault(job[1], []).append((job, row))
    cells = []
    for operation, made in groups.items():
        if show == "failures":
            made = sorted(made, key=lambda one: one[1]["success"])
        for job, row in made[:SHOWN]:
            one = task(scenes, operation, job[2])
            edited = Image.open(picture_path(folder, job)).convert("RGB")
            pictures = (
                (f"{operation} {job[2]}", one.picture),
                ("truth", one.truth),
                ("edited", framed(edited, row["success"])),
            )
            cells.append(plots.panel(pictures, row["complaints"][:1], height=HEIGHT))
        cells += [Image.new("RGB", (1, 1), plots.PAPER)] * (SHOWN - len(made[:SHOWN]))
    return plots.grid(cells, SHOWN) if cells else Image.new("RGB", (1, 1), plots.PAPER)


def framed(picture: Image.Image, passed: bool) -> Image.Image:
    """Enlarged, in green where it passed, in red where not."""
    large = picture.resize((HEIGHT, round(HEIGHT * picture.height / picture.width)), Image.Resampling.NEAREST)
    return ImageOps.expand(large, 6, GREEN if passed else RED)
