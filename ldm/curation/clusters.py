"""Clusters of pictures by their embeddings: spherical k-means with a stated number of clusters, or HDBSCAN."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ldm.curation.errors import CurationError
from ldm.curation.partition import assign, spherical_kmeans, unit

CANDIDATES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # numbers of clusters that are tried
SILHOUETTE_SAMPLE = 2000
HDBSCAN_SAMPLE = 20_000
NOISE = -1


@dataclass(frozen=True)
class Clusters:
    """A clustering of N pictures.

    Attributes:
        labels: (N,) cluster of each picture; -1 is HDBSCAN's noise.
        cosines: (N,) cosine of each picture with the centroid of its cluster; 0 for noise.
        centroids: (K,E) of unit length.
        method: how they were found, a sentence for the report.
        silhouettes: mean silhouette of each number of clusters that was tried.
    """

    labels: np.ndarray
    cosines: np.ndarray
    centroids: np.ndarray
    method: str
    silhouettes: dict[int, float] = field(default_factory=dict)

    def members(self, cluster: int) -> np.ndarray:
        """Rows of a cluster's pictures, the nearest to its centroid first."""
        rows = np.flatnonzero(self.labels == cluster)
        return rows[np.argsort(-self.cosines[rows], kind="stable")]

    @property
    def noise_share(self) -> float:
        """Share of the pictures that belong to no cluster."""
        return float((self.labels == NOISE).mean()) if len(self.labels) else 0.0


def cluster_kmeans(vectors: np.ndarray, k: int = 0, seed: int = 0, centre: bool = False) -> Clusters:
    """Spherical k-means.

    Args:
        vectors: (N,E) of unit length.
        k: number of clusters; 0 for the one of CANDIDATES whose silhouette is largest.
        seed: of everything that is drawn.
        centre: subtract the mean first.
    """
    data = unit(vectors, vectors.mean(0, dtype=np.float64).astype(np.float32)) if centre else unit(vectors)
    silhouettes: dict[int, float] = {}
    if not k:
        candidates = [each for each in CANDIDATES if each <= max(2, len(data) // 4)]
        rows = np.sort(np.random.default_rng(seed).permutation(len(data))[:SILHOUETTE_SAMPLE])
        for each in candidates:
            if each < len(data):
                labels, _ = assign(data[rows], spherical_kmeans(data, each, seed))
                silhouettes[each] = silhouette(data[rows], labels)
        k = max(silhouettes, key=lambda each: (silhouettes[each], -each)) if silhouettes else 1
    centroids = spherical_kmeans(data, min(k, len(data)), seed)
    labels, cosines = assign(data, centroids)
    order = np.argsort(-np.bincount(labels, minlength=len(centroids)), kind="stable")  # 0 is the largest
    new = np.argsort(order)
    how = f"silhouette {silhouettes[k]:.3f}, the largest of those tried" if silhouettes else "as given"
    return Clusters(
        new[labels],
        cosines,
        centroids[order],
        f"spherical k-means, {k} clusters ({how}){', mean subtracted' if centre else ''}",
        silhouettes,
    )


def cluster_hdbscan(vectors: np.ndarray, min_size: int = 10, seed: int = 0, centre: bool = False) -> Clusters:
    """HDBSCAN (Campello et al. 2013) on vectors of unit length, where the Euclidean distance grows with the angle.

    Of more than 20,000 pictures it sees a sample; the others join the cluster of their nearest centroid if they are as near
    as 95 % of its own pictures, and are noise otherwise.

    Raises:
        CurationError: scikit-learn is not installed.
    """
    hdbscan = _scikit_learn().cluster.HDBSCAN
    data = unit(vectors, vectors.mean(0, dtype=np.float64).astype(np.float32)) if centre else unit(vectors)
    rows = np.sort(np.random.default_rng(seed).permutation(len(data))[:HDBSCAN_SAMPLE])
    if len(rows) <= min_size:
        raise CurationError(f"clustering hdbscan: {len(rows)} pictures are too few for clusters of {min_size}")
    found = hdbscan(min_cluster_size=min_size, copy=True).fit_predict(data[rows].astype(np.float64))
    k = int(found.max()) + 1
    if k == 0:
        noise = np.full(len(data), NOISE)
        return Clusters(noise, np.zeros(len(data), np.float32), data[:0], "HDBSCAN: all pictures are noise")
    centroids = unit(np.stack([data[rows][found == cluster].mean(0) for cluster in range(k)]))
    labels, cosines = assign(data, centroids)
    limits = np.array([np.quantile((data[rows][found == c] @ centroids[c]), 0.05) for c in range(k)])
    labels[cosines < limits[labels]] = NOISE
    labels[rows] = found
    own = labels != NOISE
    cosines = np.where(own, (data * centroids[np.maximum(labels, 0)]).sum(1), 0).astype(np.float32)
    order = np.argsort(-np.bincount(labels[own], minlength=k), kind="stable")
    labels = np.where(own, np.argsort(order)[labels], NOISE)
    share = float((labels == NOISE).mean())
    return Clusters(labels, cosines, centroids[order], f"HDBSCAN, {k} clusters, {share:.1%} of the pictures are noise")


def silhouette(data: np.ndarray, labels: np.ndarray) -> float:  # (N,E) unit, (N,) -> -1..1
    """Mean silhouette with the distance 1 - cosine (Rousseeuw 1987); 0 for a single cluster."""
    names, labels = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        return 0.0
    counts = np.bincount(labels)
    sums = np.stack([data[labels == name].sum(0) for name in range(len(names))])
    distance = counts[None] - data @ sums.T  # (N,K) sums of the distances to each cluster's pictures
    rows = np.arange(len(data))
    own = distance[rows, labels] / np.maximum(counts[labels] - 1, 1)  # its own distance is 0
    mean = distance / counts[None]
    mean[rows, labels] = np.inf
    other = mean.min(1)
    width = np.where(counts[labels] > 1, (other - own) / np.maximum(np.maximum(own, other), 1e-12), 0)
    return float(width.mean())


def adjusted_rand_index(first: np.ndarray, second: np.ndarray) -> float:
    """Agreement of two groupings, 1 for equal ones and 0 on average for random ones (Hubert & Arabie 1985, eq. 5)."""
    _, a = np.unique(np.asarray(first), return_inverse=True)
    _, b = np.unique(np.asarray(second), return_inverse=True)
    table = np.zeros((a.max() + 1, b.max() + 1), np.int64)
    np.add.at(table, (a, b), 1)

    def couples(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    joint, rows, columns = couples(table), couples(table.sum(1)), couples(table.sum(0))
    expected = rows * columns / max(couples(np.array([len(a)])), 1)
    largest = (rows + columns) / 2
    return 1.0 if largest == expected else (joint - expected) / (largest - expected)


def _scikit_learn():
    try:
        import sklearn.cluster
    except ImportError:
        raise CurationError("clustering hdbscan: needs scikit-learn; pip install -e '.[curate]'") from None
    return sklearn
