"""Which of several alike pictures is kept, and why each of the others is not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ldm.curation.crops import find_crop
from ldm.curation.measures import THUMBNAIL
from ldm.curation.pairs import CROP, EXACT, FLIP, KINDS, NEAR, Features, Thresholds, exact_pairs, near_pairs
from ldm.curation.store import Records

MIN_FLIP_CORRELATION = 0.9  # of the grey copies of a picture and of the mirrored other one
RULE = "the largest, of equally large ones the sharpest, then the first by name"


class Duplicate(NamedTuple):
    """Two pictures that are the same one in some way.

    Args:
        first, second: rows, first < second; of a crop, `whole` is the row of the picture that contains the other.
        kind: "exact copy", "near duplicate", "mirror image" or "crop".
        score: cosine, or correlation for mirror images and crops.
        whole: see above; -1 for other kinds.
    """

    first: int
    second: int
    kind: str
    score: float
    whole: int = -1


def find_duplicates(
    records: Records,
    thresholds: Thresholds,
    min_crop_correlation: float = 0.93,
    declared: Collection[tuple[int, int]] = (),
    **sharing,
) -> list[Duplicate]:
    """All pairs of pictures that are duplicates, each pair once with its strongest kind.

    Args:
        records: of the pool.
        thresholds: of near duplicates, and how many neighbours are tried as crops.
        min_crop_correlation: of a crop with its place.
        declared: pairs that are alike on purpose, which are left out.
        sharing: folder, rank, world and seed of `near_pairs`; processes other than the first get no pairs.
    """
    features = Features(records["embedding"], records["hash"], records["mirrored"])
    readable = records["size"].min(1) > 0
    rows = np.concatenate([exact_pairs(records["checksum"]), near_pairs(features, thresholds, **sharing)])
    if sharing.get("rank"):  # the first process verifies the candidates
        return []
    sizes, found = records["size"], {}
    for first, second, kind_, score, _ in rows.tolist():
        pair, kind = (first, second), KINDS[kind_]
        if pair in found or pair in declared or not (readable[first] and readable[second]):
            continue
        duplicate: Duplicate | None = Duplicate(first, second, kind, score)
        if kind == FLIP:
            duplicate = _verify_flip(records, first, second)
        elif kind == CROP:
            duplicate = _verify_crop(records, sizes, first, second, min_crop_correlation)
        if duplicate:
            found[pair] = duplicate
    return [found[pair] for pair in sorted(found)]


def _verify_flip(records: Records, first: int, second: int) -> Duplicate | None:
    correlation = correlate(records.thumbnail(first), records.thumbnail(second)[:, ::-1])
    return Duplicate(first, second, FLIP, correlation) if correlation >= MIN_FLIP_CORRELATION else None


def _verify_crop(
    records: Records, sizes: np.ndarray, first: int, second: int, min_correlation: float
) -> Duplicate | None:
    """Either may be a part of the other: sizes do not tell, since crops are often enlarged."""
    best = (0.0, first)
    for whole, part in ((first, second), (second, first)):
        aspects = tuple(sizes[row][0] / sizes[row][1] for row in (whole, part))
        correlation, _ = find_crop(records.thumbnail(whole), records.thumbnail(part), (aspects[0], aspects[1]))
        best = max(best, (correlation, whole))
    return Duplicate(first, second, CROP, best[0], best[1]) if best[0] >= min_correlation else None


def correlate(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation coefficient of two grey pictures of one size; 0 if either is flat."""
    a, b = (np.asarray(grey, np.float64) - np.mean(grey) for grey in (first, second))
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / norm) if norm > THUMBNAIL**2 else 0.0


class Removal(NamedTuple):
    """Why a picture is not in the set: a reason, and the row of the picture that is there in its place, or -1."""

    reason: str
    keeper: int = -1


def choose_keepers(
    duplicates: Sequence[Duplicate], sizes: np.ndarray, sharpness: np.ndarray, names: Sequence[str]
) -> dict[int, Removal]:
    """Keeps one of alike pictures; what is removed is a duplicate of its keeper itself, not of a duplicate of it.

    Pictures are gone through from the best to the worst by RULE; one is removed if it is a duplicate of one that was kept.

    Args:
        sizes: (N,2) width, height.
        sharpness: (N,).
        names: (N,).

    Returns:
        Row of each removed picture -> why.
    """
    alike: dict[int, list[tuple[int, Duplicate]]] = {}
    for duplicate in duplicates:
        alike.setdefault(duplicate.first, []).append((duplicate.second, duplicate))
        alike.setdefault(duplicate.second, []).append((duplicate.first, duplicate))
    order = sorted(alike, key=lambda row: (-int(sizes[row].prod()), -float(sharpness[row]), names[row]))
    removed: dict[int, Removal] = {}
    gone_through: set[int] = set()
    for row in order:
        kept = [(other, duplicate) for other, duplicate in alike[row] if other in gone_through and other not in removed]
        if kept:
            keeper, duplicate = min(kept, key=lambda pair: (KINDS.index(pair[1].kind), -pair[1].score, pair[0]))
            measure = "" if duplicate.kind == EXACT else f" ({_score_name(duplicate.kind)} {duplicate.score:.3f})"
            removed[row] = Removal(f"{duplicate.kind}{measure}", keeper)
        gone_through.add(row)
    return removed


def components(count: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:  # -> (count,)
    """The smallest row that each row is connected with, through any number of pairs."""
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    _, labels = connected_components(links, directed=False)
    return np.unique(labels, return_index=True)[1][labels]


def _score_name(kind: str) -> str:
    return "cosine" if kind == NEAR else "correlation"
