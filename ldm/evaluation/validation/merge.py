"""The rows of all shards together. Averages over what happens to be there are refused: every row must be there once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.evaluation.runner import ROWS
from ldm.evaluation.validation.pictures import picture_file
from ldm.evaluation.validation.plan import Plan, read_plan
from ldm.util.errors import UserError

SHARD = re.compile(r"(\d+)-of-(\d+)")
VERDICT = "verdict"  # of a classifier, the only score that is a text


@dataclass(frozen=True)
class Results:
    """Everything that was measured.

    Args:
        plan: of all shards.
        rows: model -> id -> row, complete and in the order of the plan.
        settings: that all rows share: protocols of the scores, code.
        folders: where the pictures are.
    """

    plan: Plan
    rows: dict[str, dict[str, dict]]
    settings: dict
    folders: tuple[Path, ...]

    def numbers(self, model: str, measure: str) -> dict[str, float]:
        """A measure of a model's pictures, by id; lines to which it does not apply are left out."""
        rows = self.rows[model]
        return {id: float(row["scores"][measure]) for id, row in rows.items() if measure in row["scores"]}

    def picture(self, model: str, id: str) -> Path:
        """Where a picture is. Raises UserError if it is in none of the folders."""
        paths = [folder / picture_file(model, id) for folder in self.folders]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise UserError(
                f"{picture_file(model, id)} is in none of {', '.join(map(str, self.folders))}; copy the pictures too"
            )
        return found


class IncompleteError(UserError):
    """Rows are missing; the message says how many of which model and shard."""


def collect(folders: Sequence[Path]) -> Results:
    """Reads all rows.

    Args:
        folders: of results, one or several of the same plan.

    Raises:
        IncompleteError: rows are missing.
        UserError: plans or settings differ, or two rows of one picture disagree.
    """
    plans = [read_plan(folder) for folder in folders]
    for folder, plan in zip(folders, plans):
        if plan != plans[0]:
            raise UserError(f"{folder}: has another plan.json than {folders[0]}; merge shards of the same command only")
    plan = plans[0]
    identities = {line.id: line.identity for line in plan.lines}
    found: dict[tuple[str, str], tuple[dict, Path]] = {}
    shards: Counter = Counter()
    settings: dict | None = None
    for path in sorted(path for folder in folders for path in folder.glob(f"shards/*/{ROWS}")):
        of_file, rows = _read_rows(path)
        if settings is not None and of_file != settings:
            raise UserError(f"{path}: its rows were measured otherwise than those of other shards; run its shard again")
        settings = of_file
        if match := SHARD.fullmatch(path.parent.name):
            shards[int(match[2])] += 1
        for row in rows:
            model, id, _ = row["job"]
            if not row["success"] or identities.get(id) != row["line"] or model not in plan.models:
                continue
            _refuse_contradiction(found.get((model, id)), row, path)
            found[model, id] = row, path
    _refuse_missing(plan, found, shards)
    rows_by_model = {model: {line.id: found[model, line.id][0] for line in plan.lines} for model in plan.models}
    for model, rows in rows_by_model.items():
        makers = {json.dumps(row["made_by"], sort_keys=True) for row in rows.values()}
        if len(makers) > 1:
            raise UserError(
                f"model {model!r}: its pictures are of {len(makers)} different models or options; make them anew"
            )
    return Results(plan, rows_by_model, settings or {}, tuple(folders))


def _read_rows(path: Path) -> tuple[dict, list[dict]]:
    """Settings and rows of a shard; of repeated jobs the last row counts, and a line that a kill cut off does not."""
    try:
        complete = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        values: list[Any] = [json.loads(line) for line in complete]
        rows = {_checked_job(row): row for row in values[1:]}
        return values[0]["settings"], list(rows.values())
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, RecursionError):
        raise UserError(f"{path}: damaged, or not the rows of a validation; run its shard again") from None


def _checked_job(row: dict) -> tuple[str, str, int]:
    """The job of a row. Raises TypeError, ValueError or KeyError if the row is not one that a shard writes."""
    model, id, repeat = row["job"]
    types = [(model, str), (id, str), (repeat, int), (row["success"], bool)]
    if row["success"]:
        types += [(row["line"], str), (row["pixels"], str), (row["made_by"], dict), (row["scores"], dict)]
        numbers = [value for name, value in row["scores"].items() if value is not None and name != VERDICT]
        types += [(value, int | float) for value in numbers] + [(row["scores"].get(VERDICT, ""), str)]
        for value in numbers:
            float(value)  # may be too large
    if not all(isinstance(value, kind) for value, kind in types):
        raise TypeError
    return model, id, repeat


def _refuse_contradiction(before: tuple[dict, Path] | None, row: dict, path: Path) -> None:
    if before is not None and before[0]["pixels"] != row["pixels"]:
        model, id, _ = row["job"]
        raise UserError(
            f"model {model!r}, line {id}: {before[1].parent} and {path.parent} have different pictures of it, so they are not "
            "of the same model or device"
        )


def _refuse_missing(plan: Plan, found: dict, shards: Counter) -> None:
    missing = [
        (model, index)
        for model in plan.models
        for index, line in enumerate(plan.lines)
        if (model, line.id) not in found
    ]
    if not missing:
        return
    by_model = Counter(model for model, _ in missing)
    parts = [f"{count} of {len(plan.lines)} of model {model!r}" for model, count in by_model.items()]
    where = ""
    if shards:
        count = max(shards)
        numbers = sorted({index % count for _, index in missing})
        where = f" (shard {', '.join(map(str, numbers))} of {count})"
    raise IncompleteError(
        f"pictures are missing: {'; '.join(parts)}{where}; run these shards again, an average over the others would mislead"
    )
