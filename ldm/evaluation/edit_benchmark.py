"""The edit benchmark: editors on tasks with a known answer. Was the edit made, and is the rest of the image unchanged?

A judge that sees pixels only (`ldm.evaluation.edit_judges`) reads the edited image and compares it with the target graph.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.evaluation.benchmark import Benchmark, BenchmarkReport
from ldm.evaluation.edit_judges import Judge, WorldJudge
from ldm.evaluation.edit_report import CELL_PIXELS, MAX_PSNR, MEASURES, PRESERVATION, markdown, summarise
from ldm.evaluation.edit_tasks import EditTask, changed_boxes, object_boxes
from ldm.evaluation.editors import (
    NO_TRUTH,
    Editor,
    EditResult,
    code_digest,
    describe_default_edit,
    draws_noise,
    make_editor,
    needs_truth,
    parse_editor,
    reconstruct,
)
from ldm.evaluation.report import picture_sheet, save_picture
from ldm.evaluation.runner import Job, Measure, file_name
from ldm.evaluation.task_sources import TaskSource
from ldm.evaluation.truth_measures import (
    Features,
    changed_pixels,
    compare_with_truth,
    patch_features,
    shadow_follows,
)
from ldm.graph.validation import Box
from ldm.models.loading import load_model
from ldm.util import image_similarity
from ldm.util.config_merging import ConfigPaths
from ldm.util.errors import UserError, did_you_mean


def run(
    benchmark: Benchmark,
    methods: Sequence[str],
    operations: Sequence[str] | None,
    options: dict,
    seeds: Sequence[int] = (0,),
    failures_first: bool = True,
) -> BenchmarkReport:
    """Measures editors, or resumes doing so, and draws a sheet of pictures for each.

    Args:
        methods: editors with their options, as `ldm.evaluation.editors.parse_editor` reads them.
        operations: some of the source's; None for all.
        options: steps and guidance scales that the editors share.
        seeds: of editors that draw noise; others make each edit once.
        failures_first: whether the sheets begin with failures.

    Raises:
        UserError: an unknown editor, operation or model, or a folder of other results.
    """
    for method in methods:
        parse_editor(method)
    digests = {method: code_digest(method) for method in methods}
    source, judge = benchmark.source, benchmark.judge
    operations = operations or source.operations
    for name in operations:
        if name not in source.operations:
            known = source.operations
            raise UserError(f"--operations {name}: choose from {', '.join(known)}{did_you_mean(name, known)}")
    numbers = {name: benchmark.numbers(source.count(name), f"edits of the operation {name!r}") for name in operations}
    first = [source.task(name, numbers[name][0]) for name in operations]
    if any(task.truth is None for task in first) and any(map(needs_truth, methods)):
        raise UserError(f"--methods {','.join(methods)}: {NO_TRUTH}")
    model = benchmark.load_model([task.target for task in first])
    jobs = list_jobs(methods, numbers, seeds)
    prepare_worker = partial(
        prepare, source, judge, benchmark.checkpoint, benchmark.config, benchmark.device, options, digests
    )
    if verdict := judge.identity():
        options = {**options, "judge": verdict}
    folder, protocol, rows = benchmark.measure(
        model, options, jobs, prepare_worker, lambda job, row: row.get("editor_code") == digests.get(job[0])
    )
    for method in methods:
        sheet = sheet_of_method(folder, source, method, jobs, rows, failures_first)
        save_picture(sheet, folder / f"sheet_{file_name(method)}.png")
    summaries = summarise(jobs, rows)
    protocol |= {"edit": describe_default_edit(), "seeds": list(seeds), "editor_code": digests, "measures": MEASURES}
    return BenchmarkReport(folder, protocol, summaries, markdown(summaries), _refusals(methods, jobs, rows))


def list_jobs(methods: Sequence[str], numbers: Mapping[str, Sequence[int]], seeds: Sequence[int]) -> list[Job]:
    """The jobs (method, operation, seed, number of the task), the first tasks of all kinds first.

    Args:
        numbers: of the tasks of each operation.
    """
    seeds_of = {method: seeds if draws_noise(method) else seeds[:1] for method in methods}
    jobs = [
        (method, operation, f"{seed}", number)
        for operation, of_operation in numbers.items()
        for number in of_operation
        for method in methods
        for seed in seeds_of[method]
    ]
    return sorted(jobs, key=lambda job: job[-1])


def prepare(
    source: TaskSource,
    judge: Judge,
    checkpoint: str | None,
    config: ConfigPaths | None,
    device: str,
    options: dict,
    digests: dict[str, str | None],
) -> Measure:
    """Loads the model and returns the function that does a job (method, operation, seed, number of the task)."""
    model = load_model(checkpoint, config, device)
    editors: dict[tuple[str, str], Editor] = {}
    features = patch_features(model)

    def measure_job(job: Job) -> tuple[dict, Image.Image | None]:
        method, operation, seed, index = job
        if (method, seed) not in editors:
            editors[method, seed] = make_editor(method, model, seed=int(seed), **options)
        task = source.task(operation, index)
        row, image = measure(task, editors[method, seed], partial(reconstruct, model), features, judge)
        return row | ({"editor_code": digests[method]} if digests[method] else {}), image

    return measure_job


def measure(
    task: EditTask,
    editor: Editor,
    reconstruct: Callable[[Image.Image], Image.Image] | None = None,
    features: Features | None = None,
    judge: Judge | None = None,
) -> tuple[dict, Image.Image | None]:
    """Makes one edit and compares it with the known answer.

    Args:
        reconstruct: passes an image through the autoencoder.
        features: of an image's patches, for the distance to the true result.
        judge: of the edited image; by default the checker of the task's world.

    Returns:
        The row, and the edited image. An edit that the editor refuses with a UserError counts as a failure; its message
        is the row's complaint, and there is no image.
    """
    judge = judge or WorldJudge(task.scenes)
    started = time.perf_counter()
    try:
        result = editor(task)
    except UserError as error:
        return {"success": False, "refused": True, "complaints": [str(error)]}, None
    seconds = time.perf_counter() - started
    judgement, complaints, shown = judge.judge(task, result.image)
    truth = _nearness_to_truth(task, result.image, features, judge.judges_shadows)
    if truth.get("shadow") is False and task.changed - set(task.target.ids):
        judgement["success"] = False
        complaints.append("a shadow or reflection of what was removed stays")
    row = {
        **judgement,
        **truth,
        **_preservation(task, changed_boxes(task, shown, judge.shadow_reach), result.image, reconstruct),
        **_region_of(task, result),
        "round_trip_error": _round_trip_error(result),
        "evaluations": result.evaluations,
        "seconds": seconds,
        "complaints": complaints,
    }
    return row, result.image


def _nearness_to_truth(task: EditTask, image: Image.Image, features: Features | None, shadows: bool) -> dict:
    """Similarity to the true result where that differs from the source; empty where none is known, and for a relation, of
    which many are true."""
    if task.operation == "relation" or task.truth is None:
        return {}
    changed = changed_pixels(task.picture, task.truth)
    numbers = compare_with_truth(image, task.truth, changed, features)
    if shadows and task.operation != "restyle":
        numbers["shadow"] = shadow_follows(image, task.picture, task.truth, changed, object_boxes(task))
    return numbers


def _region_of(task: EditTask, result: EditResult) -> dict:
    """How much of the image the editor's region covers, and whether all pixels outside it are the source's."""
    if result.region is None or task.operation == "restyle":
        return {}
    before, after = (np.asarray(image.convert("RGB")) for image in (task.picture, result.image))
    outside = result.region == 0
    return {"outside": bool((before == after)[outside].all()), "region": float(1 - outside.mean())}


def _preservation(
    task: EditTask, boxes: Sequence[Box], image: Image.Image, reconstruct: Callable[[Image.Image], Image.Image] | None
) -> dict:
    """Similarity to the source image, and to its reconstruction, outside the changed boxes; None after a restyle."""
    if task.operation == "restyle":
        return dict.fromkeys(PRESERVATION)
    size = task.picture.width
    mask = image_similarity.mask_outside(boxes, size, CELL_PIXELS / size)
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


def sheet_of_method(
    folder: Path, source: TaskSource, method: str, jobs: Sequence[Job], rows: Sequence[dict], failures_first: bool
) -> Image.Image:
    """Edits of one method, a line for each operation: source, true answer, and the edited image in its frame."""

    def context(job: Job) -> tuple[list[tuple[str, Image.Image]], str]:
        _, operation, _, number = job
        task = source.task(operation, number)
        source_title, truth_title = (
            f"{title}, composed" if composed else title
            for title, composed in zip((f"{operation} {number}", "truth"), task.composed)
        )
        pictures = [(source_title, task.picture)]
        if task.truth is not None:
            pictures.append((truth_title, task.truth))
        if task.reference is not None:
            pictures.insert(1, ("style", task.reference))
        return pictures, "edited"

    pairs = [(job, row) for job, row in zip(jobs, rows) if job[0] == method]
    return picture_sheet(folder, [job for job, _ in pairs], [row for _, row in pairs], context, failures_first, names=2)


def _refusals(methods: Sequence[str], jobs: Sequence[Job], rows: Sequence[dict]) -> tuple[str, ...]:
    remarks = []
    for method in methods:
        messages = [row["complaints"][0] for job, row in zip(jobs, rows) if job[0] == method and row.get("refused")]
        if messages:
            remarks.append(f"{method} refused {len(messages)} edits: {messages[0]}")
    return tuple(remarks)
