"""Pictures that share a style, of which one can show the style of another."""

from __future__ import annotations

import random

import numpy as np


class StyleGroups:
    """Which pictures have the same style.

    Args:
        styles: (N,) number of each picture's style; numbers may be any.
    """

    def __init__(self, styles: np.ndarray):
        _, self._style = np.unique(np.asarray(styles), return_inverse=True)
        self._by_style = np.argsort(self._style, kind="stable")
        count = int(self._style.max(initial=-1)) + 1
        self._start = np.searchsorted(self._style[self._by_style], np.arange(count + 1))

    def __len__(self) -> int:
        """The number of styles."""
        return len(self._start) - 1

    def another(self, index: int, rng: random.Random) -> int:
        """The index of a random other picture in the style of picture `index`; itself where it has no partner."""
        index = range(len(self._style))[index]
        style = self._style[index]
        same = self._by_style[self._start[style] : self._start[style + 1]]
        if len(same) == 1:
            return index
        chosen = rng.randrange(len(same) - 1)
        return int(same[chosen + (chosen >= np.searchsorted(same, index))])
