"""Pairs of pictures that are duplicates: exact, near, mirrored, or candidates for crops.

Small pools are compared completely. A large one is cut into parts by coarse centroids, each picture belonging to the parts
of its nearest ones, and pictures are compared within parts (as SemDeDup does, Abbas et al. 2023, arXiv 2303.09540). Parts are
independent: each process compares its own and stores the pairs, and all are merged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldm.curation.errors import CurationError
from ldm.curation.measures import differing_bits
from ldm.curation.partition import chunks, nearest_centroids, spherical_kmeans
from ldm.util.files import atomic_write, locked_folder

COMPLETE = 20_000  # pictures up to which all pairs are compared
PROBES = 3  # parts that each picture of a larger pool belongs to
PART = 1000  # pictures of a part, on average and counted once
TILE = 2048
PATIENCE = 1800

EXACT, NEAR, FLIP, CROP = "exact copy", "near duplicate", "mirror image", "crop"
PAIR = np.dtype([("first", "<i8"), ("second", "<i8"), ("kind", "u1"), ("score", "<f4"), ("distance", "u1")])
KINDS = (EXACT, NEAR, FLIP, CROP)


@dataclass(frozen=True)
class Thresholds:
    """What counts as a near duplicate: both conditions.

    Args:
        max_hash_distance: differing bits of 64.
        min_cosine: of the embeddings.
        neighbours: nearest pictures of each that are returned as candidates for crops.
    """

    max_hash_distance: int = 6
    min_cosine: float = 0.95
    neighbours: int = 0


@dataclass(frozen=True)
class Features:
    """What pictures are compared by.

    Args:
        embedding: (N,E) of unit length, float16, possibly mapped into memory.
        hash: (N,) uint64, or None for embeddings without pictures.
        mirrored: (N,) uint64, hashes of the mirror images, or None.
    """

    embedding: np.ndarray
    hash: np.ndarray | None = None
    mirrored: np.ndarray | None = None


def exact_pairs(checksums: np.ndarray) -> np.ndarray:  # (N,32) uint8 -> pairs
    """Each file that equals an earlier one, with the first such."""
    first: dict[bytes, int] = {}
    found = []
    for row, checksum in enumerate(map(bytes, checksums)):
        if checksum != bytes(32) and first.setdefault(checksum, row) != row:
            found.append((first[checksum], row, 0, 1.0, 0))
    return np.array(found, PAIR)


def near_pairs(
    features: Features,
    thresholds: Thresholds,
    folder: Path | None = None,
    rank: int = 0,
    world: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """Near duplicates, mirror images and candidates for crops among all pictures.

    Args:
        folder: where processes leave their pairs; needed for several.
        rank: number of this process.
        world: number of processes.
        seed: of the coarse centroids.

    Returns:
        Pairs with first < second, each once, sorted; the same for any number of processes.
    """
    count = len(features.embedding)
    if count <= COMPLETE:
        found = _compare(features, np.arange(count), thresholds) if rank == 0 else np.empty(0, PAIR)
        return _merge(thresholds, found, folder, rank, world)
    centroids = _coarse_centroids(features.embedding, folder, seed)
    members = nearest_centroids(features.embedding, centroids, PROBES)
    found = [np.empty(0, PAIR)]
    for part in range(rank, len(centroids), world):
        rows = np.flatnonzero((members == part).any(1))
        pairs = _compare(features, rows, thresholds)
        found.append(pairs)
    return _merge(thresholds, np.concatenate(found), folder, rank, world)


def _coarse_centroids(embedding: np.ndarray, folder: Path | None, seed: int) -> np.ndarray:
    """Centroids of the parts; of several processes the first one computes them, so that all cut alike."""
    k = math.ceil(len(embedding) / PART)

    def fit() -> np.ndarray:
        return spherical_kmeans(embedding, k, seed, iterations=8, sample=max(32 * k, 4096))

    if folder is None:
        return fit()
    path = folder / "centroids.npy"
    with locked_folder(folder):
        if not path.is_file():
            with atomic_write(path) as temporary:
                np.save(temporary, fit())
    return np.load(path)


def _compare(features: Features, rows: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Compares all pairs of some pictures, tile by tile."""
    found: list[np.ndarray] = [np.empty(0, PAIR)]
    vectors = np.ascontiguousarray(features.embedding[rows]).astype(np.float32)
    for left in chunks(len(rows), TILE):
        for right in chunks(len(rows), TILE):
            if right.start < left.start:
                continue
            cosine = vectors[left] @ vectors[right].T
            found += _pairs_of_tile(features, rows[left], rows[right], cosine, thresholds)
    if thresholds.neighbours:
        found += _neighbours(vectors, rows, thresholds.neighbours)
    return np.concatenate(found)


def _pairs_of_tile(
    features: Features, left: np.ndarray, right: np.ndarray, cosine: np.ndarray, thresholds: Thresholds
) -> Iterator[np.ndarray]:
    later = left[:, None] < right[None]
    close = cosine >= thresholds.min_cosine
    if features.hash is None:
        i, j = np.nonzero(close & later)
        yield _pairs(left[i], right[j], NEAR, cosine[i, j])
        return
    distance = differing_bits(features.hash[left][:, None], features.hash[right][None])
    alike = (distance <= thresholds.max_hash_distance) & later
    i, j = np.nonzero(alike & close)
    yield _pairs(left[i], right[j], NEAR, cosine[i, j], distance[i, j])
    if features.mirrored is not None:
        distance = differing_bits(features.hash[left][:, None], features.mirrored[right][None])
        # of a symmetric picture, the mirror image is a near duplicate
        i, j = np.nonzero((distance <= thresholds.max_hash_distance) & later & ~alike)
        yield _pairs(left[i], right[j], FLIP, cosine[i, j], distance[i, j])


def _neighbours(vectors: np.ndarray, rows: np.ndarray, count: int) -> list[np.ndarray]:
    """Each picture with its nearest ones, as candidates for crops."""
    count, found = min(count, len(rows) - 1), []
    if count < 1:
        return []
    for part in chunks(len(rows), TILE):
        cosine = vectors[part] @ vectors.T
        cosine[np.arange(len(cosine)), np.arange(part.start, part.stop)] = -2
        nearest = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        a, b = np.repeat(rows[part], count), rows[nearest.ravel()]
        score = np.take_along_axis(cosine, nearest, 1).ravel()
        found.append(_pairs(np.minimum(a, b), np.maximum(a, b), CROP, score))
    return found


def _pairs(
    first: np.ndarray, second: np.ndarray, kind: str, score: np.ndarray, distance: np.ndarray | int = 0
) -> np.ndarray:
    pairs = np.empty(len(first), PAIR)
    pairs["first"], pairs["second"], pairs["kind"] = first, second, KINDS.index(kind)
    pairs["score"], pairs["distance"] = score, distance
    return pairs


def _merge(thresholds: Thresholds, found: np.ndarray, folder: Path | None, rank: int, world: int) -> np.ndarray:
    """The pairs of all processes, each pair of a kind once; of the candidates for crops, the nearest of each picture."""
    if world > 1:
        if folder is None:
            raise CurationError("several processes need a folder for their pairs; name one")
        path = folder / f"pairs-{rank:05}-of-{world:05}.npy"
        with atomic_write(path) as temporary:
            np.save(temporary, found)
        paths = [folder / f"pairs-{other:05}-of-{world:05}.npy" for other in range(world)]
        found = np.concatenate([_wait(path) for path in paths])
    found = found[np.lexsort((-found["score"], found["kind"], found["second"], found["first"]))]
    repeated = np.zeros(len(found), bool)
    repeated[1:] = True
    for field in ("first", "second", "kind"):
        repeated[1:] &= found[field][1:] == found[field][:-1]
    found = found[~repeated]
    crops = found["kind"] == KINDS.index(CROP)
    return np.concatenate([found[~crops], _nearest(found[crops], thresholds.neighbours)])


def _nearest(pairs: np.ndarray, count: int) -> np.ndarray:
    """Of candidates that several parts found, those that are among the `count` nearest of either picture."""
    keep = np.zeros(len(pairs), bool)
    for side in ("first", "second"):
        # ties are cut by the pair itself, so that the order in which parts were compared does not matter
        order = np.lexsort((pairs["second"], pairs["first"], -pairs["score"], pairs[side]))
        ends = pairs[side][order]
        start = np.r_[True, ends[1:] != ends[:-1]] if len(ends) else np.empty(0, bool)
        position = np.arange(len(ends)) - np.maximum.accumulate(np.where(start, np.arange(len(ends)), 0))
        keep[order[position < count]] = True
    return pairs[keep]


def _wait(path: Path) -> np.ndarray:
    start = time.monotonic()
    while not path.is_file():
        if time.monotonic() - start > PATIENCE:
            raise CurationError(f"{path}: another process has not written it; run its command again, then this one")
        time.sleep(0.2)
    return np.load(path)
