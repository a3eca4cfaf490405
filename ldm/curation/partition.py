"""Spherical k-means in numpy and BLAS, with which large pools are cut into parts and pictures are clustered."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldm.curation.errors import CurationError

CHUNK = 16384  # rows that are converted to float32 at once
SAMPLE = 65536  # rows that centroids are fitted on


def unit(vectors: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:  # (N,E) -> (N,E) float32
    """Vectors of length 1, `mean` (E,) subtracted before; a zero vector stays zero."""
    vectors = np.asarray(vectors, np.float32)
    if mean is not None:
        vectors = vectors - mean
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def chunks(count: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices that cover range(count)."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def spherical_kmeans(
    vectors: np.ndarray, k: int, seed: int = 0, iterations: int = 30, sample: int = SAMPLE
) -> np.ndarray:  # (N,E) -> (k,E)
    """Centroids of unit length that maximise the sum of cosines (Dhillon & Modha 2001), begun by k-means++.

    With faiss installed, `faiss.Kmeans(spherical=True)` fits them.

    Args:
        vectors: of unit length, of any float type, and possibly mapped into memory.
        k: number of clusters, at most N.
        seed: of the sample and of the first centroids.
        iterations: at most; it ends when no vector changes its cluster.
        sample: number of vectors that the centroids are fitted on, drawn at random.
    """
    if not 0 < k <= len(vectors):
        raise CurationError(f"{k} clusters of {len(vectors)} pictures: choose at least 1 and at most one per picture")
    rng = np.random.default_rng(seed)
    rows = slice(None) if len(vectors) <= sample else np.sort(rng.choice(len(vectors), max(sample, k), replace=False))
    data = unit(vectors[rows])
    if (fitted := _faiss_centroids(data, k, seed, iterations)) is not None:
        return fitted
    centroids = _first_centroids(data, k, rng)
    labels = np.full(len(data), -1)
    for _ in range(iterations):
        new, similarity = assign(data, centroids)
        if (new == labels).all():
            break
        labels = new
        sums = _sums(data, labels, k)
        empty = np.flatnonzero(np.bincount(labels, minlength=k) == 0)
        if len(empty):  # the vectors that fit worst begin new clusters
            sums[empty] = data[np.argsort(similarity, kind="stable")[: len(empty)]]
        centroids = unit(sums)
    return centroids


def assign(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid of each vector, (N,) int, and its cosine, (N,) float32."""
    labels, cosines = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    for rows in chunks(len(vectors)):
        similarity = unit(vectors[rows]) @ centroids.T
        labels[rows] = similarity.argmax(1)
        cosines[rows] = similarity.max(1)
    return labels, cosines


def nearest_centroids(vectors: np.ndarray, centroids: np.ndarray, probes: int) -> np.ndarray:  # (N,probes) int32
    """The `probes` nearest centroids of each vector, the nearest first."""
    probes = min(probes, len(centroids))
    nearest = np.empty((len(vectors), probes), np.int32)
    for rows in chunks(len(vectors)):
        similarity = unit(vectors[rows]) @ centroids.T
        part = np.argpartition(-similarity, probes - 1, axis=1)[:, :probes]
        order = np.argsort(-np.take_along_axis(similarity, part, 1), axis=1, kind="stable")
        nearest[rows] = np.take_along_axis(part, order, 1)
    return nearest


def _first_centroids(data: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ (Arthur & Vassilvitskii 2007) with the distance 1 - cosine."""
    chosen = [int(rng.integers(len(data)))]
    distance = np.maximum(1 - data @ data[chosen[0]], 0)
    while len(chosen) < k:
        total = distance.sum(dtype=np.float64)
        if total <= 1e-9:  # fewer different vectors than clusters
            rest = np.setdiff1d(np.arange(len(data)), chosen)
            chosen += rng.choice(rest, k - len(chosen), replace=False).tolist()
            break
        row = int(np.searchsorted(distance.cumsum(dtype=np.float64), rng.random() * total).clip(0, len(data) - 1))
        chosen.append(row)
        distance = np.minimum(distance, np.maximum(1 - data @ data[row], 0))
    return data[chosen].copy()


def _sums(data: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=k)
    sums = np.zeros((k, data.shape[1]), np.float32)
    filled = np.flatnonzero(counts)
    starts = np.concatenate([[0], counts.cumsum()[:-1]])[filled]
    for cluster, start, count in zip(filled, starts, counts[filled]):
        sums[cluster] = data[order[start : start + count]].sum(0)
    return sums


def _faiss_centroids(data: np.ndarray, k: int, seed: int, iterations: int) -> np.ndarray | None:
    try:
        from faiss import Kmeans  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    kmeans = Kmeans(
        data.shape[1], k, niter=iterations, spherical=True, seed=seed, min_points_per_centroid=1, verbose=False
    )
    kmeans.train(data)
    return unit(kmeans.centroids)
