"""What the benchmarks report: averages, Markdown tables, sheets of pictures, and the report file."""

from __future__ import annotations

import contextlib
import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ldm import plots
from ldm.evaluation.runner import PICTURES_PER_GROUP, Job, picture_path
from ldm.util.files import atomic_write
from ldm.util.tables import markdown_table

PICTURE_HEIGHT = 128  # pixels, on a sheet
RESAMPLES = 1000  # of the bootstrap
GREEN, RED = (30, 150, 60), (205, 40, 40)
PACKAGES = ("torch", "torchvision", "pillow", "torch-fidelity", "lpips")


# Numbers -------------------------------------------------------------------------------------------------------------


def group_rows(jobs: Sequence[Job], rows: Sequence[dict]) -> dict[tuple, list[dict]]:
    """The rows of each group of jobs, that is of jobs that differ in their number only."""
    groups: dict[tuple, list[dict]] = {}
    for job, row in zip(jobs, rows):
        groups.setdefault(job[:-1], []).append(row)
    return groups


def success_share(rows: Sequence[dict], repeats: float = 1) -> dict:
    """The share of successful rows and its 95 % confidence interval.

    Args:
        repeats: rows of each task. The interval is that of as many rows as there are tasks, since repeats of a task
            say little about other tasks.
    """
    successes = sum(row["success"] for row in rows)
    interval = wilson_interval(successes / repeats, len(rows) / repeats)
    return {"success": successes / len(rows), "success_95": interval}


def average(rows: Iterable[dict], key: str, function: Callable[[list], Any] = np.mean) -> float | None:
    """Mean (or another average) of a number over the rows that have it; None if none has."""
    known = [row[key] for row in rows if row.get(key) is not None]
    return float(function(known)) if known else None


def bootstrap_interval(rows: Sequence[dict], tasks: Sequence, key: str) -> tuple[float, float] | None:
    """Confidence interval of 95 % of a number's mean, by drawing tasks with replacement (Efron 1979).

    Args:
        tasks: of each row its task; repeats of a task are drawn together.
        key: rows without this number are left out.

    Returns:
        None if no row has the number.
    """
    values: dict[Any, list[float]] = {}
    for row, task in zip(rows, tasks):
        if row.get(key) is not None:
            values.setdefault(task, []).append(float(row[key]))
    if not values:
        return None
    sums, counts = np.array([(sum(group), len(group)) for group in values.values()]).T
    draws = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    low, high = np.quantile(sums[draws].sum(1) / counts[draws].sum(1), (0.025, 0.975))
    return float(low), float(high)


def wilson_interval(successes: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a share, by default of 95 % (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    middle = share + z**2 / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = ((middle + sign * reach) / (1 + z**2 / count) for sign in (-1, 1))
    return min(1.0, max(0.0, low)), min(1.0, max(0.0, high))


# Tables --------------------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A column of a table of summaries.

    Args:
        heading: text above the column.
        key: entry of the summary that is shown; a value of None leaves the cell empty.
        form: format specification of numbers; empty for text.
        factor: multiplies numbers, 100 for percentages.
        interval: entry with the confidence interval, shown in parentheses.
    """

    heading: str
    key: str
    form: str = ""
    factor: float = 1
    interval: str | None = None

    def cell(self, summary: Mapping) -> str:
        """The text of this column for one summary."""
        value = summary[self.key]
        if value is None:
            return ""
        if not self.form:
            return str(value)
        text = format(self.factor * value, self.form)
        if self.interval:
            low, high = (format(self.factor * edge, self.form) for edge in summary[self.interval])
            text = f"{text} ({low} to {high})"
        return text


def percentage(heading: str, key: str, interval: str | None = None) -> Column:
    """A column of shares, shown in percent."""
    return Column(heading, key, ".1f", 100, interval)


def summary_table(columns: Sequence[Column], summaries: Iterable[Mapping]) -> str:
    """A Markdown table with a row for each summary."""
    rows = ([column.cell(summary) for column in columns] for summary in summaries)
    text_columns = sum(not column.form for column in columns)
    return markdown_table((column.heading for column in columns), rows, text_columns) + "\n"


# Pictures ------------------------------------------------------------------------------------------------------------


def picture_sheet(
    folder: Path,
    jobs: Sequence[Job],
    rows: Sequence[dict],
    context: Callable[[Job], tuple[list[tuple[str, Image.Image]], str]],
    failures_first: bool = True,
    names: int | None = None,
) -> Image.Image:
    """Stored results, one line for each group of jobs, in green or red frames above their first complaint.

    Args:
        folder: where `run_jobs` stored the pictures.
        context: returns the titled pictures that are shown before the result of a job, and the title of the result.
        failures_first: whether failures come before successes; else the order of the jobs counts.
        names: how many of a job's first names its group consists of; None for all.
    """
    groups: dict[tuple, list[tuple[Job, dict]]] = {}
    for job, row in zip(jobs, rows):
        if picture_path(folder, job).exists():
            groups.setdefault(job[:-1][:names], []).append((job, row))
    cells = []
    for pairs in groups.values():
        if failures_first:
            pairs = sorted(pairs, key=lambda pair: pair[1]["success"])
        for job, row in pairs[:PICTURES_PER_GROUP]:
            pictures, title = context(job)
            with Image.open(picture_path(folder, job)) as result:
                framed = _framed(result.convert("RGB"), row["success"])
            cells.append(plots.panel([*pictures, (title, framed)], row["complaints"][:1], height=PICTURE_HEIGHT))
        cells += [_blank()] * (PICTURES_PER_GROUP - len(pairs[:PICTURES_PER_GROUP]))
    return plots.grid(cells, PICTURES_PER_GROUP) if cells else _blank()


def _blank() -> Image.Image:
    return Image.new("RGB", (1, 1), plots.PAPER)


def _framed(picture: Image.Image, success: bool) -> Image.Image:
    size = PICTURE_HEIGHT, round(PICTURE_HEIGHT * picture.height / picture.width)
    return ImageOps.expand(picture.resize(size, Image.Resampling.NEAREST), 6, GREEN if success else RED)


# Files ---------------------------------------------------------------------------------------------------------------


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a PNG file atomically."""
    with atomic_write(path) as temporary:
        picture.save(temporary, "PNG")


def write_report(path: Path, report: Mapping, arguments: Mapping) -> None:
    """Writes a report as JSON, together with the command's arguments and the versions of the packages it depends on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    with atomic_write(path) as temporary:
        temporary.write_text(
            json.dumps({**report, "arguments": dict(arguments), "versions": versions}, indent=2) + "\n"
        )
