"""What a complete validation leaves: report.json, table.md and a sheet of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldm import plots
from ldm.evaluation.image_sets import Folder
from ldm.evaluation.metric_networks import EvaluationError, find_weights, load_networks
from ldm.evaluation.report import save_picture, write_report
from ldm.evaluation.validation import frechet, summary
from ldm.evaluation.validation.classifier import measure_confusion, read_labelled, report_classes
from ldm.evaluation.validation.merge import Results
from ldm.evaluation.validation.score_options import ScoreOptions
from ldm.evaluation.validation.scores import to_bytes
from ldm.evaluation.validation.statistics import NO_DIFFERENCE
from ldm.evaluation.validation.votes import KEY, read_votes
from ldm.util.config import resolve
from ldm.util.errors import UserError
from ldm.util.files import atomic_write
from ldm.util.images import read_image, resize_square

REPORT, TABLE, SHEET = "report.json", "table.md", "sheet.png"
SHEET_LINES, SHEET_HEIGHT = 12, 128
FID_SIDE, FID_BATCH = 256, 16  # pixels that pictures are resized to, as `evaluate.py images` does


@dataclass(frozen=True)
class Extras:
    """What a report may need besides the rows.

    Args:
        reference: folder of real images, for FID.
        labelled: JSON Lines of labelled pictures, for the classifier's confusion matrix.
        votes: files of the page for human votes.
        key: of these votes; None for the one in the folder of results.
    """

    reference: str | None = None
    labelled: str | None = None
    votes: Sequence[str] = ()
    key: str | None = None


def write_outcome(
    results: Results, folder: Path, options: ScoreOptions, extras: Extras, arguments: Mapping[str, Any]
) -> str:
    """Writes the report and the sheet.

    Args:
        options: of the scores, for FID and the classifier.
        arguments: of the command, for the report.

    Returns:
        The tables and the verdict, in Markdown.

    Raises:
        UserError: something that a score or the votes need is missing.
    """
    more: dict[str, Any] = {}
    if "fid" in results.plan.scores:
        more["fid"] = _report_fid(results, options, extras)
    if any("verdict" in row["scores"] for rows in results.rows.values() for row in rows.values()):
        more["classes"] = _report_classes(results, options, extras)
        for model in summary.same_pictures(results):
            more["classes"]["models"][model]["verdict"] = NO_DIFFERENCE
    if extras.votes:
        key = Path(extras.key) if extras.key else folder / KEY
        more["votes"] = read_votes(extras.votes, key, results)
    table = summary.tables(results, more)
    if absent := more.get("classes", {}).get("classes_without_lines"):
        table += f"- no line asks for the classes {', '.join(absent)}: the averages are over the others\n"
    report = {"protocol": results.settings, **summary.summarise(results), **more, "verdict": summary.verdict(results)}
    write_report(folder / REPORT, report, arguments)
    with atomic_write(folder / TABLE) as temporary:
        temporary.write_text(table, encoding="utf-8")
    save_picture(sheet(results), folder / SHEET)
    return table


def sheet(results: Results) -> Image.Image:
    """The first lines, each with the pictures of all models."""
    cells = []
    for line in results.plan.lines[:SHEET_LINES]:
        pictures = []
        for model in results.plan.models:
            with Image.open(results.picture(model, line.id)) as picture:
                pictures.append((model, picture.convert("RGB")))
        cells.append(plots.panel(pictures, [line.id], height=SHEET_HEIGHT))
    return plots.grid(cells, columns=1 if len(results.plan.models) > 3 else 2)


def _report_classes(results: Results, options: ScoreOptions, extras: Extras) -> dict:
    if not options.classifier or not extras.labelled:
        raise UserError(
            "a classifier's verdicts mean little without its errors: name labelled pictures with --labelled, and the "
            "classifier with --classifier"
        )
    confusion = measure_confusion(read_labelled(extras.labelled, resolve(options.classifier)))
    verdicts = {
        model: {id: row["scores"]["verdict"] for id, row in rows.items() if "verdict" in row["scores"]}
        for model, rows in results.rows.items()
    }
    labels = {line.id: line.label for line in results.plan.lines if line.label is not None}
    return report_classes(verdicts, labels, results.plan.units, confusion)


def _report_fid(results: Results, options: ScoreOptions, extras: Extras) -> dict:
    if extras.reference is None:
        raise EvaluationError("fid: nothing to compare with; give a folder of real images with --reference")
    if len(results.plan.lines) < 2:
        raise EvaluationError("fid: a covariance needs at least two pictures")
    networks = load_networks(find_weights(["fid"], options.folder), device=options.device)
    real = Folder(extras.reference, FID_SIDE)
    reference = _features(networks.inception, (real[index][None] for index in range(len(real))), options.device)
    ids = [line.id for line in results.plan.lines]
    features = {}
    for model in results.plan.models:
        pictures = (read_image(results.picture(model, id)) for id in ids)
        resized = (to_bytes(resize_square(picture, FID_SIDE)) for picture in pictures)
        features[model] = _features(networks.inception, resized, options.device)
    return frechet.compare_fid(features, reference, [results.plan.units[id] for id in ids])


@torch.no_grad()
def _features(network, pictures, device: str) -> np.ndarray:  # of (1,3,H,W) -> (N,2048)
    rows, batch = [], []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == FID_BATCH:
            rows.append(network(torch.cat(batch).to(device))[0].double().cpu().numpy())
            batch = []
    if batch:
        rows.append(network(torch.cat(batch).to(device))[0].double().cpu().numpy())
    return np.concatenate(rows)
