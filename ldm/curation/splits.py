"""Splits: made by whole groups, and refused if pictures of two of them are the same."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from ldm.curation.duplicates import Duplicate, Removal, components
from ldm.curation.errors import CurationError, LeakError
from ldm.curation.pictures import Picture

NAMED = 5  # pairs in a message


def leaks(pictures: Sequence[Picture], duplicates: Sequence[Duplicate]) -> list[Duplicate]:
    """The duplicates of which one picture is in another split than the other."""
    return [pair for pair in duplicates if pictures[pair.first].split != pictures[pair.second].split]


def refuse_leaks(pictures: Sequence[Picture], duplicates: Sequence[Duplicate], group_by: str | None = None) -> None:
    """Raises LeakError if splits share a picture or a group; the message names the first pairs."""
    leaking = leaks(pictures, duplicates)
    if leaking:
        named = "; ".join(
            f"{_place(pictures[pair.first])} and {_place(pictures[pair.second])} ({pair.kind})"
            for pair in leaking[:NAMED]
        )
        more = f" and {len(leaking) - NAMED} more pairs" if len(leaking) > NAMED else ""
        raise LeakError(
            f"{len(leaking)} pairs of pictures leak between splits: {named}{more}; split by group, or take those of train "
            "out with --leaks remove, or list pairs that are meant in --declared-pairs"
        )
    homes: dict[str, Picture] = {}
    for picture in pictures:
        group = picture.group(group_by)
        if group is not None and homes.setdefault(group, picture).split != picture.split:
            raise LeakError(
                f"{group_by} {group} is in two splits, with {_place(homes[group])} and {_place(picture)}; split by whole "
                "groups, as --validation-share does"
            )


def remove_leaks(pictures: Sequence[Picture], duplicates: Sequence[Duplicate]) -> dict[int, Removal]:
    """What has to leave so that nothing leaks: the training picture of each pair, else the validation picture."""
    removed = {}
    for pair in leaks(pictures, duplicates):
        rank = ["train", "validation", "test"].index
        row, other = sorted((pair.first, pair.second), key=lambda row: rank(pictures[row].split))
        removed.setdefault(row, Removal(f"leak: {pair.kind} of a picture of {pictures[other].split}", other))
    return removed


def split_by_group(
    pictures: Sequence[Picture],
    duplicates: Sequence[Duplicate],
    share: float,
    group_by: str | None = None,
    seed: int = 0,
) -> list[str]:
    """Assigns each picture to "train" or "validation", whole groups of groups and duplicates at a time.

    Args:
        share: of the pictures in the validation split, which gets no more than that, as nearly as groups allow.
        group_by: property that pictures of a group share; those without it are groups of their own.
        seed: of the order in which groups are drawn.

    Raises:
        CurationError: there are fewer than two groups, or none is small enough.
    """
    links = [(pair.first, pair.second) for pair in duplicates]
    first: dict[str, int] = {}
    for row, picture in enumerate(pictures):
        if (group := picture.group(group_by)) is not None:
            links.append((first.setdefault(group, row), row))
    roots = components(len(pictures), links)
    groups, counts = np.unique(roots, return_counts=True)
    order = list(zip(groups.tolist(), counts.tolist()))
    random.Random(seed).shuffle(order)
    room, chosen = round(share * len(pictures)), set()
    for group, count in order:
        if count <= room and len(chosen) < len(groups) - 1:
            chosen.add(group)
            room -= count
    if not chosen:
        raise CurationError(
            f"no validation split of {share:.0%}: the {len(groups)} groups are too large; raise --validation-share, "
            "or group by another property"
        )
    return ["validation" if root in chosen else "train" for root in roots.tolist()]


def _place(picture: Picture) -> str:
    return f"{picture.split}'s {picture.name}"
