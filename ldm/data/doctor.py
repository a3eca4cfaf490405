"""The data doctor: reads every image and annotation once, before training does, and reports what it would stumble over.

A dataset tells of itself by `check()`, which yields a sentence 'where: what' for everything that is wrong. What it has
beyond that is told too: `vocab` and the `published_vocabulary` (objects, predicates, attributes) that published models
have, and a `summary()` of its annotations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice

from torch.utils.data import Dataset

NAMED = 3  # findings of a kind that are printed in full


def examine(datasets: Mapping[str, Dataset]) -> int:
    """Print a report per split. Returns a process's exit code: 0 where nothing is wrong, else 1."""
    total = 0
    for split, dataset in datasets.items():
        findings = check(dataset)
        total += len(findings)
        print("\n".join(report(split, dataset, findings)))
    print(f"{total} findings" if total else "Nothing is wrong.")
    return int(total > 0)


def check(dataset: Dataset, limit: int | None = None) -> list[str]:
    """What is wrong with the dataset, the first `limit` findings or all; an empty one is a finding."""
    if not len(dataset):
        return [f"{type(dataset).__name__}: there is no image in it"]
    return list(islice(dataset.check(), limit))


def report(split: str, dataset: Dataset, findings: list[str]) -> list[str]:
    """Lines: what is there, and the findings by their kind."""
    lines = [f"{split}: {type(dataset).__name__}, {len(dataset)} images"]
    if hasattr(dataset, "summary"):
        lines[0] += f", {dataset.summary()}"
    if hasattr(dataset, "vocab"):
        lines.append(f"  vocabulary: {_vocabulary(dataset)}")
    kinds: dict[str, list[str]] = {}
    for finding in findings:
        kinds.setdefault(_kind(finding), []).append(finding)
    for kind, alike in sorted(kinds.items(), key=lambda item: -len(item[1])):
        lines.append(f"  {len(alike)} x {kind}")
        lines += [f"    {finding}" for finding in alike[:NAMED]]
        if len(alike) > NAMED:
            lines.append(f"    and {len(alike) - NAMED} more")
    return lines


def _vocabulary(dataset: Dataset) -> str:
    names = ("objects", "predicates", "attributes")
    counts = tuple(len(getattr(dataset.vocab, name)) for name in names)
    text = ", ".join(f"{count} {name}" for count, name in zip(counts, names))
    published = getattr(dataset, "published_vocabulary", counts)
    if counts == published:
        return text
    return f"{text}; published models have {', '.join(map(str, published))}, so their weights do not fit"


def _kind(finding: str) -> str:
    """The finding without its place, names and numbers."""
    where, _, what = finding.partition(": ")
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'|\"[^\"]*\"|\(.*\)", "...", what or where))
