"""What words of places mean for boxes."""

import itertools

import numpy as np

from ldm.graph.spatial_relations import KIND, LEVELS, relation_holds, relation_margin_holds

A, B = (8 / 64, 24 / 64, 24 / 64, 40 / 64), (40 / 64, 24 / 64, 56 / 64, 40 / 64)  # left and right, 16 cells wide


def test_whatever_holds_clearly_holds_loosely():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 65, (4000, 2, 2, 2)) / 64, 2).reshape(4000, 2, 4)
    corners[:, :, 2:] += 1 / 64
    for kind in set(KIND.values()):
        true = [relation_margin_holds(kind, corners[:, 0], corners[:, 1], level) for level in LEVELS]
        for clearer, looser in itertools.pairwise(true):
            assert not (clearer & ~looser).any(), kind


def test_words_are_known_in_any_case_and_unknown_ones_are_not_judged():
    assert relation_holds(A, "To The  LEFT of", B) and relation_holds(A, "right_of", B) is False
    assert (
        relation_holds(A, "wearing", B) is None
        and relation_holds(A, "behind", A) is None
        and relation_holds(A, "behind", B) is False
    )
