"""A share of a validation: its pictures, their scores, and what failed. Shards know nothing of each other.

Shard i of n has every n-th line from the i-th on, of every model. Each stores its rows in a folder of its own, so that
machines need no common file system until the merge.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.evaluation.runner import Job, Measure, run_jobs, source_digest
from ldm.evaluation.validation.lines import ValidationLine
from ldm.evaluation.validation.models import Maker, ModelSpec
from ldm.evaluation.validation.pictures import make_pictures, picture_file, pixel_digest
from ldm.evaluation.validation.plan import Plan
from ldm.evaluation.validation.score_options import ScoreOptions, make_scores
from ldm.evaluation.validation.scores import Score, finite
from ldm.util.errors import UserError
from ldm.util.image_folder import read_record
from ldm.util.images import read_image

SHOWN_FAILURES = 10


@dataclass(frozen=True)
class Shard:
    """Which share of the lines.

    Args:
        index: from 0 on.
        count: how many shards there are.

    Raises:
        UserError: there is no such shard.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise UserError(
                f"--shard-index {self.index}: of {self.count} shards (--num-shards) the last is {self.count - 1}"
            )

    def share(self, lines: Sequence) -> list:
        """Its lines."""
        return list(lines[self.index :: self.count])

    @property
    def folder(self) -> str:
        """Of its rows, below the folder of results."""
        return f"shards/{self.index}-of-{self.count}"

    def __str__(self) -> str:
        return f"shard {self.index} of {self.count}"


@dataclass
class Failures:
    """What went wrong in a shard."""

    shard: Shard
    pictures: int
    messages: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, message: str, pictures: int = 1) -> None:
        """Records a failure of some pictures."""
        self.messages.append(message)
        self.count += pictures

    def tell(self) -> None:
        """Prints the failures on stderr, if there are any."""
        if not self.count:
            return
        print(f"{self.shard}: {self.count} of {self.pictures} pictures failed", file=sys.stderr)
        for message in self.messages[:SHOWN_FAILURES]:
            print(f"  {message}", file=sys.stderr)
        if (more := len(self.messages) - SHOWN_FAILURES) > 0:
            print(f"  and {more} more", file=sys.stderr)


def run_shard(
    plan: Plan,
    lines: Sequence[ValidationLine],
    specs: Sequence[ModelSpec],
    load: Callable[[ModelSpec], Maker],
    options: ScoreOptions,
    shard: Shard,
    folder: Path,
    workers: int = 1,
) -> Failures:
    """Makes and scores the pictures of a shard that the folder lacks.

    Args:
        lines: all lines, in the order of the plan.
        specs: the models, the base first.
        load: makes the maker of a model; called for one model at a time.
        options: of the scores.
        workers: processes that score.

    Returns:
        What failed. What a line or a model lacks does not stop the others.

    Raises:
        UserError: the folder has pictures or rows that were made in another way, or a score lacks its weights.
    """
    share = shard.share(lines)
    identities = {line.id: line.identity for line in plan.lines}
    failures = Failures(shard, len(share) * len(specs))
    failed: set[tuple[str, str]] = set()
    for spec in specs:
        try:
            maker = load(spec)
        except UserError as error:
            failures.add(f"model {spec.name!r}: {error}", len(share))
            failed |= {(spec.name, line.id) for line in share}
            continue
        of_model = make_pictures(maker, spec.name, share, identities, folder)
        for id, message in of_model.items():
            failures.add(f"model {spec.name!r}, line {id}: {message}")
        failed |= {(spec.name, id) for id in of_model}
        del maker
    jobs = [(spec.name, line.id, 0) for spec in specs for line in share if (spec.name, line.id) not in failed]
    for job, row in zip(jobs, _score(plan, share, jobs, options, shard, folder, workers)):
        if not row["success"]:
            failures.add(f"model {job[0]!r}, line {job[1]}: {row['error']}")
    return failures


def _score(
    plan: Plan,
    lines: Sequence[ValidationLine],
    jobs: Sequence[Job],
    options: ScoreOptions,
    shard: Shard,
    folder: Path,
    workers: int,
) -> list[dict]:
    scores = make_scores(plan.scores, options)
    settings = {
        "scores": {name: dict(score.protocol) for name, score in scores.items()},
        "code of ldm/": source_digest(),
    }
    by_id = {line.id: line for line in lines}
    identities = {line.id: line.identity for line in plan.lines}

    def is_current(job: Job, row: dict) -> bool:
        record = read_record(folder / picture_file(job[0], job[1]), check_pixels=False) or {}
        return row["success"] and row["line"] == identities[job[1]] and row["made_by"] == record.get("made_by")

    ready = scores if workers <= 1 else None  # other processes load their own
    prepare = partial(prepare_scoring, plan.scores, options, by_id, identities, folder, ready)
    rows_folder = folder / shard.folder
    rows_folder.mkdir(parents=True, exist_ok=True)
    return run_jobs(rows_folder, settings, jobs, prepare, workers, "scores", is_current)


def prepare_scoring(
    names: Sequence[str],
    options: ScoreOptions,
    lines: Mapping[str, ValidationLine],
    identities: Mapping[str, str],
    folder: Path,
    scores: Mapping[str, Score] | None = None,
) -> Measure:
    """Loads the scores, unless they are given, and returns the function that does a job (model, id, 0)."""
    loaded = make_scores(names, options) if scores is None else scores

    def measure_job(job: Job) -> tuple[dict, None]:
        model, id, _ = job
        path = folder / picture_file(model, id)
        record = read_record(path, check_pixels=False) or {}
        row: dict[str, Any] = {"success": True, "line": identities[id], "made_by": record.get("made_by")}
        try:
            picture = read_image(path)
            row["pixels"] = pixel_digest(picture)
            row["scores"] = _numbers(loaded, picture, lines[id])
        except UserError as error:
            row |= {"success": False, "error": str(error)}
        return row, None

    return measure_job


def _numbers(scores: Mapping[str, Score], picture: Image.Image, line: ValidationLine) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for score in scores.values():
        numbers |= score.measure(picture, line)
    return finite(numbers)
