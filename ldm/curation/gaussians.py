"""How far apart groups of pictures are: the Wasserstein distance of Gaussians with diagonal covariances."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def diagonal_w2(first: np.ndarray, second: np.ndarray) -> float:  # (A,E), (B,E)
    """W2 of Gaussians fitted to two groups, sqrt(|m1 - m2|^2 + |s1 - s2|^2) (Dowson & Landau 1982, eq. 16)."""
    means = [np.asarray(group, np.float64).mean(0) for group in (first, second)]
    deviations = [np.asarray(group, np.float64).std(0) for group in (first, second)]
    return float(np.sqrt(((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()))


def distances_between(vectors: np.ndarray, groups: Mapping[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
    """W2 between all groups of at least two pictures.

    Args:
        vectors: (N,E).
        groups: name -> rows.

    Returns:
        Names, and (G,G) distances.
    """
    names = [name for name, rows in groups.items() if len(rows) > 1]
    table = np.zeros((len(names), len(names)))
    for i, first in enumerate(names):
        for j in range(i):
            table[i, j] = table[j, i] = diagonal_w2(vectors[groups[first]], vectors[groups[names[j]]])
    return names, table
