"""Two sets of edits, compared task by task: the difference in success, with its interval."""

from __future__ import annotations

import json
from pathlib import Path

from ldm.evaluation.report import Column, bootstrap_interval, percentage, summary_table
from ldm.evaluation.runner import ROWS
from ldm.util.errors import UserError, did_you_mean

Task = tuple[str, str, int]  # operation, seed, number

COLUMNS = (
    Column("operation", "operation"),
    Column("pairs", "pairs", "d"),
    percentage("first: success %", "first"),
    percentage("second: success %", "second"),
    percentage("second - first, points (95 %)", "difference", "difference_95"),
)


def compare(first: Path, second: Path, methods: tuple[str | None, str | None] = (None, None)) -> list[dict]:
    """Compares the edits of two folders of the edit benchmark that were made of the same tasks with the same seeds.

    Args:
        first, second: folders of results, which may be the same.
        methods: the method in each folder; None for its only one.

    Returns:
        For each operation, and for all: the number of pairs, both shares of successes, and the difference second - first with
        its 95 % interval, of the bootstrap over tasks.

    Raises:
        UserError: a folder holds no results, or several methods and none is named, or no edit is in both.
    """
    one, two = (read_successes(folder, method) for folder, method in zip((first, second), methods))
    common = [task for task in one if task in two]
    if not common:
        raise UserError(f"{first} and {second}: no edit was made in both; give both the same --seed-offset and --seed")
    operations = {
        name: [task for task in common if task[0] == name] for name in dict.fromkeys(task[0] for task in common)
    }
    return [
        {"operation": name, **_summarise([(task, one[task], two[task]) for task in tasks])}
        for name, tasks in {**operations, "all": common}.items()
    ]


def read_successes(folder: Path, method: str | None = None) -> dict[Task, bool]:
    """Whether each edit of a method in a folder of results succeeded. Raises UserError, see `compare`."""
    try:
        rows = [json.loads(line) for line in (folder / ROWS).read_text().splitlines()[1:]]
        found = {tuple(row["job"]): bool(row["success"]) for row in rows}
        known = list(dict.fromkeys(job[0] for job in found if len(job) == 4))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        known = []
    if not known:
        raise UserError(f"{folder}: holds no results of scripts/evaluate.py edits; name the folder that it wrote")
    if method is None and len(known) > 1:
        raise UserError(f"{folder}: holds the methods {', '.join(known)}; name one for each folder with --methods")
    method = method or known[0]
    if method not in known:
        raise UserError(
            f"{folder}: has no edits of the method {method!r}, only {', '.join(known)}{did_you_mean(method, known)}"
        )
    return {job[1:]: success for job, success in found.items() if job[0] == method}


def table(summaries: list[dict]) -> str:
    """The summaries as a Markdown table."""
    return summary_table(COLUMNS, summaries)


def _summarise(pairs: list[tuple[Task, bool, bool]]) -> dict:
    count = len(pairs)
    differences = [{"difference": int(two) - int(one)} for _, one, two in pairs]
    tasks = [(operation, number) for (operation, _, number), _, _ in pairs]
    return {
        "pairs": count,
        "first": sum(one for _, one, _ in pairs) / count,
        "second": sum(two for _, _, two in pairs) / count,
        "difference": sum(each["difference"] for each in differences) / count,
        "difference_95": bootstrap_interval(differences, tasks, "difference"),
    }
