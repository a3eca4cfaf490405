"""Poisson blending (Perez, Gangnet and Blake 2003): a part of one picture in another, without a seam."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu

NEIGHBOURS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def blend(target: np.ndarray, patch: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """The target with a patch in it: inside, the gradients are the patch's; at its rim, the values are the target's.

    Args:
        target: (H,W,3) uint8.
        patch: (h,w,3) uint8; its outermost pixels only give gradients and take the target's values.
        corner: x, y of the patch's left top pixel in the target; the patch lies within the target.

    Returns:
        (H,W,3) uint8, equal to the target outside of the patch's inner pixels.

    Raises:
        ValueError: the patch does not lie within the target, or has no inner pixels.
    """
    (x, y), (height, width) = corner, patch.shape[:2]
    if min(x, y) < 0 or y + height > target.shape[0] or x + width > target.shape[1] or min(height, width) < 3:
        raise ValueError(f"a patch of {width} x {height} pixels does not fit at {x}, {y}")
    result, values = target.copy(), patch.astype(np.float64)
    solution = target[y : y + height, x : x + width].astype(np.float64)
    inner = solution[1:-1, 1:-1]
    right = np.zeros_like(inner)
    for dy, dx in NEIGHBOURS:
        rows, columns = slice(1 + dy, height - 1 + dy), slice(1 + dx, width - 1 + dx)
        right += values[1:-1, 1:-1] - values[rows, columns]  # the guidance field's divergence
        rim = np.zeros_like(solution)
        rim[[0, -1]], rim[:, [0, -1]] = solution[[0, -1]], solution[:, [0, -1]]
        right += rim[rows, columns]  # known values, 0 at inner pixels
    solved = splu(_laplacian(height - 2, width - 2)).solve(right.reshape(-1, 3))
    result[y + 1 : y + height - 1, x + 1 : x + width - 1] = (
        solved.reshape(inner.shape).round().clip(0, 255).astype(np.uint8)
    )
    return result


def _laplacian(height: int, width: int):
    """(N,N) sparse: four times a pixel's value minus its neighbours', which are 0 outside."""
    number = np.arange(height * width).reshape(height, width)
    pairs = [(number[:, 1:], number[:, :-1]), (number[1:], number[:-1])]
    one = np.concatenate([a.ravel() for a, _ in pairs])
    two = np.concatenate([b.ravel() for _, b in pairs])
    rows = np.concatenate([number.ravel(), one, two])
    columns = np.concatenate([number.ravel(), two, one])
    values = np.concatenate([np.full(number.size, 4.0), np.full(2 * len(one), -1.0)])
    return coo_matrix((values, (rows, columns)), shape=(number.size, number.size)).tocsc()
