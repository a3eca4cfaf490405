"""Examines data sets before training (`trainer.py --check`) and reports missing images and broken annotations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice

from ldm.data.protocols import CheckableDataset, GraphDataset, SceneGraphDataset

PRINTED_PROBLEMS = 3  # of one kind that are printed in full
TABLES = ("objects", "predicates", "attributes")


def examine(datasets: Mapping[str, CheckableDataset]) -> int:
    """Prints a report for each split.

    Returns:
        The program's exit code: 1 if there are any problems, else 0.
    """
    total = 0
    for split, dataset in datasets.items():
        problems = find_problems(dataset)
        total += len(problems)
        print("\n".join(map(_printable, report(split, dataset, problems))))
    print(f"{total} problem{'s' if total > 1 else ''} found." if total else "No problems found.")
    return int(total > 0)


def find_problems(dataset: CheckableDataset, limit: int | None = None) -> list[str]:
    """Returns the first `limit` problems of a data set, or all, each as 'where: what'; an empty data set is a problem."""
    if not len(dataset):
        return [f"{type(dataset).__name__}: the data set has no images"]
    return list(islice(dataset.check(), limit))


def report(split: str, dataset: CheckableDataset, problems: list[str]) -> list[str]:
    """Returns lines that describe a data set and list its problems, grouped by kind."""
    lines = [f"{split}: {type(dataset).__name__}, {len(dataset)} images"]
    if isinstance(dataset, SceneGraphDataset):
        lines[0] += f", {dataset.summary()}"
    if isinstance(dataset, GraphDataset):
        lines.append(f"  vocabulary: {_describe_vocabulary(dataset)}")
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(_kind(problem), []).append(problem)
    for kind, group in sorted(kinds.items(), key=lambda item: -len(item[1])):
        lines.append(f"  {len(group)} x {kind}")
        lines += [f"    {problem}" for problem in group[:PRINTED_PROBLEMS]]
        if len(group) > PRINTED_PROBLEMS:
            lines.append(f"    and {len(group) - PRINTED_PROBLEMS} more")
    return lines


def _describe_vocabulary(dataset: GraphDataset) -> str:
    vocab = dataset.vocab
    counts = len(vocab.objects), len(vocab.predicates), len(vocab.attributes)
    text = ", ".join(f"{count} {table}" for count, table in zip(counts, TABLES))
    published = dataset.published_vocabulary if isinstance(dataset, SceneGraphDataset) else None
    if published in (None, counts):
        return text
    return (
        f"{text}; SGDiff's and sg2im's graph encoders have {', '.join(map(str, published))}, so their weights do not fit "
        "(those of U-Net, autoencoder and CLIP do)"
    )


def _printable(line: str) -> str:
    """The line with everything that is no text, such as bytes of file names, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _kind(problem: str) -> str:
    """The problem without its location, names and numbers."""
    where, _, what = problem.partition(": ")
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'|\"[^\"]*\"|\(.*\)", "...", what or where))
