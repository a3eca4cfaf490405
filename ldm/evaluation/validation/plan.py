"""What a validation consists of, stored beside its results: lines, models and measures. The merge needs nothing else.

plan.json                       this
pictures/MODEL/ID.png           each with its record inside
shards/INDEX-of-COUNT/rows.jsonl    scores of the pictures of a shard
report.json, table.md, sheet.png    once all rows are there
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ldm.evaluation.validation.lines import ID, ValidationLine
from ldm.evaluation.validation.scores import Measure
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, read_json

PLAN = "plan.json"
LONGEST_FORM = 5  # such as +.1f


@dataclass(frozen=True)
class PlannedLine:
    """What the report needs of a line.

    Args:
        identity: of everything that its pictures and scores depend on.
    """

    id: str
    identity: str
    type: str
    unit: str
    label: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a validation consists of.

    Args:
        lines: in their order.
        models: names, the base first.
        scores: names.
        measures: the numbers of the scores, by name.
    """

    lines: tuple[PlannedLine, ...]
    models: tuple[str, ...]
    scores: tuple[str, ...]
    measures: Mapping[str, Measure]

    @property
    def units(self) -> dict[str, str]:
        """Of each line its unit."""
        return {line.id: line.unit for line in self.lines}

    def types(self) -> dict[str, list[str]]:
        """Ids of the lines of each type."""
        groups: dict[str, list[str]] = {}
        for line in self.lines:
            groups.setdefault(line.type, []).append(line.id)
        return groups

    def to_json(self) -> dict:
        """For plan.json."""
        return {
            "lines": [asdict(line) for line in self.lines],
            "models": list(self.models),
            "scores": list(self.scores),
            "measures": {name: measure._asdict() for name, measure in self.measures.items()},
        }


def make_plan(
    lines: Sequence[ValidationLine], models: Sequence[str], scores: Sequence[str], measures: Mapping[str, Measure]
) -> Plan:
    """The plan of some lines. Raises UserError if a file of a line cannot be read."""
    planned = [PlannedLine(line.id, line.identity(), line.type, line.unit, line.label) for line in lines]
    return Plan(tuple(planned), tuple(models), tuple(scores), dict(measures))


def read_plan(folder: Path) -> Plan:
    """The plan in a folder of results.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / PLAN
    values: Any = read_json(path, remedy="name a folder that validate.py run wrote", if_broken="run validate.py again")
    try:
        plan = Plan(
            tuple(PlannedLine(**line) for line in values["lines"]),
            tuple(values["models"]),
            tuple(values["scores"]),
            {name: Measure(**measure) for name, measure in values["measures"].items()},
        )
        _require_form(plan)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not a plan of validate.py ({error!r}); run it again") from None
    return plan


def _require_form(plan: Plan) -> None:
    """Raises ValueError or TypeError for a plan that `write_plan` would not write: its names become paths and its forms text."""
    texts = [text for line in plan.lines for text in (line.identity, line.type, line.unit, line.label or "")]
    if not all(isinstance(text, str) for text in (*texts, *plan.scores, *plan.measures)):
        raise TypeError("a text is missing")
    names = [*plan.models, *(line.id for line in plan.lines)]
    if not plan.models or not plan.lines or not all(ID.fullmatch(name) for name in names):
        raise ValueError("names of models or lines")
    if len(set(plan.models)) < len(plan.models) or len(plan.units) < len(plan.lines):
        raise ValueError("a name twice")
    for measure in plan.measures.values():
        format(1.0 * measure.factor, measure.form)
        if len(measure.form) > LONGEST_FORM or not isinstance(measure.definition, str):
            raise ValueError("a measure")


def write_plan(folder: Path, plan: Plan) -> None:
    """Stores the plan; lines and models may have been added since an earlier one.

    Raises:
        UserError: a line of the earlier plan has changed, or other scores were measured.
    """
    path = folder / PLAN
    if path.exists():
        before = read_plan(folder)
        known = {line.id: line.identity for line in before.lines}
        for line in plan.lines:
            if known.get(line.id, line.identity) != line.identity:
                raise UserError(
                    f"{path}: line {line.id!r} was another one, or one of its files was; give changed lines another id, or "
                    "choose another --outdir"
                )
        if before.scores != plan.scores:
            raise UserError(
                f"{path}: was made with the scores {','.join(before.scores)}, not {','.join(plan.scores)}; choose another "
                "--outdir"
            )
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(plan.to_json(), indent=1) + "\n", encoding="utf-8")
