"""The edit benchmark: editors on tasks with a known answer. Was the edit made, and is the rest of the image unchanged?

A checker that sees pixels only (`ldm.synthetic.checker`) reads the edited image and compares it with the target graph.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.evaluation.benchmark import Benchmark, BenchmarkReport
from ldm.evaluation.edit_tasks import OPERATIONS, EditTask, changed_boxes, make_task
from ldm.evaluation.editors import (
    Editor,
    EditResult,
    code_digest,
    describe_default_edit,
    make_editor,
    parse_editor,
    reconstruct,
)
from ldm.evaluation.report import (
    Column,
    average,
    group_rows,
    percentage,
    picture_sheet,
    save_picture,
    success_share,
    summary_table,
)
from ldm.evaluation.runner import Job, Measure, file_name
from ldm.models.loading import load_model
from ldm.synthetic import checker
from ldm.synthetic.checker import Verdict
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.worlds import find_reader
from ldm.util import image_similarity
from ldm.util.config_merging import ConfigPaths
from ldm.util.errors import UserError

CELL_PIXELS = 8  # pixels per latent cell, in an image of the scenes' own size
MAX_PSNR = 99.0  # dB, reported for equal pixels, whose PSNR is infinite
PRESERVED_PSNR = 45.0  # dB from which pixels count as preserved

# Definitions for the report.
MEASURES = {
    "success": "the edited image shows all of the target graph and nothing else; in a restyle also the reference's style. "
    "success_95 is Wilson's 95 % interval",
    "changed": "the change itself is right: the changed objects and the new relation, or the style",
    "intact": "every object that the operation does not change is still recognised as before",
    "graph": "the edited image shows all of the target graph and nothing else, whatever its style",
    "psnr": f"dB, outside the changed boxes enlarged by {CELL_PIXELS} pixels, against the source image; equal pixels count "
    f"as {MAX_PSNR}",
    "ssim": "of the same pixels",
    "preserved": f"share of edits with a psnr of at least {PRESERVED_PSNR}",
    "psnr_autoencoder": "as psnr, against the autoencoder's reconstruction of the source image; likewise ssim_autoencoder",
    "round_trip_error": "|z0' - z0| / |z0| of the latent after inversion and sampling without an edit",
    "evaluations": "rows that the U-Net computed for one edit, those of guidance included",
    "seconds": "for one edit, on one CPU thread or on the GPU; other workers may slow it down",
}

PRESERVATION = ("psnr", "ssim", "psnr_autoencoder", "ssim_autoencoder")
AVERAGED = (*PRESERVATION, "round_trip_error", "evaluations", "seconds")

COLUMNS = (
    Column("method", "method"),
    Column("operation", "operation"),
    Column("edits", "edits", "d"),
    percentage("success % (95 %)", "success", "success_95"),
    percentage("changed %", "changed"),
    percentage("intact %", "intact"),
    Column("PSNR dB", "psnr", ".1f"),
    Column("SSIM", "ssim", ".4f"),
    percentage(f">= {PRESERVED_PSNR:.0f} dB %", "preserved"),
    Column("PSNR to autoencoder", "psnr_autoencoder", ".1f"),
    Column("round trip", "round_trip_error", ".1e"),
    Column("U-Net rows", "evaluations", ".0f"),
    Column("seconds", "seconds", ".2f"),
)


def run(
    benchmark: Benchmark,
    methods: Sequence[str],
    operations: Sequence[str] | None,
    options: dict,
    failures_first: bool = True,
) -> BenchmarkReport:
    """Measures editors, or resumes doing so, and draws a sheet of pictures for each.

    Args:
        methods: editors with their options, as `ldm.evaluation.editors.parse_editor` reads them.
        operations: some of `OPERATIONS`; None for all.
        options: steps, guidance scales and seed that the editors share.
        failures_first: whether the sheets begin with failures.

    Raises:
        UserError: an unknown editor, operation or model, or a folder of other results.
    """
    for method in methods:
        parse_editor(method)
    digests = {method: code_digest(method) for method in methods}
    operations = operations or OPERATIONS
    model = benchmark.load_model([make_task(benchmark.scenes, name, benchmark.first).target for name in operations])
    jobs = [(method, name, number) for number in benchmark.numbers for name in operations for method in methods]
    prepare_worker = partial(
        prepare, benchmark.scenes, benchmark.checkpoint, benchmark.config, benchmark.device, options, digests
    )
    folder, protocol, rows = benchmark.measure(
        model, options, jobs, prepare_worker, lambda job, row: row.get("editor_code") == digests.get(job[0])
    )
    for method in methods:
        sheet = sheet_of_method(folder, benchmark.scenes, method, jobs, rows, failures_first)
        save_picture(sheet, folder / f"sheet_{file_name(method)}.png")
    summaries = summarise(jobs, rows)
    protocol |= {"edit": describe_default_edit(), "editor_code": digests, "measures": MEASURES}
    return BenchmarkReport(folder, protocol, summaries, markdown(summaries), _refusals(methods, jobs, rows))


def prepare(
    scenes: str,
    checkpoint: str | None,
    config: ConfigPaths | None,
    device: str,
    options: dict,
    digests: dict[str, str | None],
) -> Measure:
    """Loads the model and returns the function that does a job (method, operation, number of the task)."""
    model = load_model(checkpoint, config, device)
    editors: dict[str, Editor] = {}

    def measure_job(job: Job) -> tuple[dict, Image.Image | None]:
        method, operation, index = job
        if method not in editors:
            editors[method] = make_editor(method, model, **options)
        task = make_task(scenes, operation, index)
        row, image = measure(task, editors[method], partial(reconstruct, model))
        return row | ({"editor_code": digests[method]} if digests[method] else {}), image

    return measure_job


def measure(
    task: EditTask, editor: Editor, reconstruct: Callable[[Image.Image], Image.Image] | None = None
) -> tuple[dict, Image.Image | None]:
    """Makes one edit and compares it with the known answer.

    Args:
        reconstruct: passes an image through the autoencoder.

    Returns:
        The row, and the edited image. An edit that the editor refuses with a UserError counts as a failure; its message
        is the row's complaint, and there is no image.
    """
    started = time.perf_counter()
    try:
        result = editor(task)
    except UserError as error:
        return {"success": False, "refused": True, "complaints": [str(error)]}, None
    seconds = time.perf_counter() - started
    reading = checker.read_scene(task.scenes, result.image)
    verdict = checker.check(task.target, reading, task.scenes)
    judgement, complaints = _judge(task, reading, verdict)
    row = {
        **judgement,
        **_preservation(task, reading, result.image, reconstruct),
        "round_trip_error": _round_trip_error(result),
        "evaluations": result.evaluations,
        "seconds": seconds,
        "complaints": complaints,
    }
    return row, result.image


def _judge(task: EditTask, reading: SceneReading, verdict: Verdict) -> tuple[dict, list[str]]:
    """Whether the edited image shows what it should, and what is wrong with it."""
    complaints = list(verdict.complaints)
    if task.reference is not None:
        reader = find_reader(task.scenes)
        changed = reader.same_style(reading.style, reader.read_scene(task.reference).style)
        if not changed:
            complaints.append("the background is not the reference's")
    else:
        ids, changed_ids = task.target.ids, task.changed
        objects_right = all(right for right, id in zip(verdict.objects, ids) if id in changed_ids)
        removal_right = changed_ids <= set(ids) or verdict.extra == 0
        relations_right = all(
            right
            for right, (subject, _, object) in zip(verdict.triples, task.target.known_triples)
            if changed_ids & {ids[subject], ids[object]}
        )
        changed = objects_right and removal_right and (task.operation != "relation" or relations_right)
    intact = all(right for right, id in zip(verdict.objects, task.target.ids) if id not in task.changed)
    judgement = {"success": verdict.passed and changed, "changed": changed, "intact": intact, "graph": verdict.passed}
    return judgement, complaints


def _preservation(task: EditTask, reading: SceneReading, image: Image.Image, reconstruct: Callable | None) -> dict:
    """Similarity to the source image, and to its reconstruction, outside the changed boxes; None after a restyle."""
    if task.operation == "restyle":
        return dict.fromkeys(PRESERVATION)
    size = task.picture.width
    mask = image_similarity.mask_outside(changed_boxes(task, reading.graph), size, CELL_PIXELS / size)
    numbers = []
    for original in (task.picture, reconstruct and reconstruct(task.picture)):
        if original is not None and mask.any():
            psnr = min(MAX_PSNR, image_similarity.psnr(image, original, mask))
            numbers += [psnr, image_similarity.ssim(image, original, mask)]
        else:
            numbers += [None, None]
    return dict(zip(PRESERVATION, numbers))


def _round_trip_error(result: EditResult) -> float | None:
    error = result.round_trip_error() if callable(result.round_trip_error) else result.round_trip_error
    return None if error is None or math.isnan(error) else error


# The report ----------------------------------------------------------------------------------------------------------


def summarise(jobs: Sequence[Job], rows: Sequence[dict]) -> list[dict]:
    """A summary for each method and operation, then one for all of the method's, in the order of the jobs."""
    groups = group_rows(jobs, rows)
    summaries = []
    for method in dict.fromkeys(job[0] for job in jobs):
        of_method = {operation: group for (name, operation), group in groups.items() if name == method}
        of_method["all"] = [row for job, row in zip(jobs, rows) if job[0] == method]
        summaries += [
            {"method": method, "operation": operation, **_summarise_group(group)}
            for operation, group in of_method.items()
        ]
    return summaries


def _summarise_group(rows: Sequence[dict]) -> dict:
    summary = {"edits": len(rows), "refused": sum(row.get("refused", False) for row in rows), **success_share(rows)}
    for key in ("changed", "intact", "graph"):
        summary[key] = sum(row.get(key) is True for row in rows) / len(rows)
    summary |= {key: average(rows, key) for key in AVERAGED}
    summary["preserved"] = average(rows, "psnr", lambda values: np.mean(np.array(values) >= PRESERVED_PSNR))
    return summary


def markdown(summaries: Sequence[dict]) -> str:
    """The summaries as a table, and a sentence on the defaults of `edit`."""
    return f"{summary_table(COLUMNS, summaries)}\n{describe_default_edit()}\n"


def sheet_of_method(
    folder: Path, scenes: str, method: str, jobs: Sequence[Job], rows: Sequence[dict], failures_first: bool
) -> Image.Image:
    """Edits of one method, a line for each operation: source, true answer, and the edited image in its frame."""

    def context(job: Job) -> tuple[list[tuple[str, Image.Image]], str]:
        _, operation, number = job
        task = make_task(scenes, operation, number)
        return [(f"{operation} {number}", task.picture), ("truth", task.truth)], "edited"

    pairs = [(job, row) for job, row in zip(jobs, rows) if job[0] == method]
    return picture_sheet(folder, [job for job, _ in pairs], [row for _, row in pairs], context, failures_first)


def _refusals(methods: Sequence[str], jobs: Sequence[Job], rows: Sequence[dict]) -> tuple[str, ...]:
    remarks = []
    for method in methods:
        messages = [row["complaints"][0] for job, row in zip(jobs, rows) if job[0] == method and row.get("refused")]
        if messages:
            remarks.append(f"{method} refused {len(messages)} edits: {messages[0]}")
    return tuple(remarks)
