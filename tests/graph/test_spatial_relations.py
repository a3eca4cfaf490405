"""Spatial relations between boxes."""

import itertools

import numpy as np
import pytest

from ldm.graph.spatial_relations import KIND, LEVELS, relation_holds, relation_margin_holds

A, B = (8 / 64, 24 / 64, 24 / 64, 40 / 64), (40 / 64, 24 / 64, 56 / 64, 40 / 64)  # left and right, 16 cells wide


@pytest.mark.parametrize("kind", [*sorted(set(KIND.values())), "nearer", "farther"])
def test_a_relation_that_holds_at_one_level_holds_at_all_later_ones(kind):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 65, (4000, 2, 2, 2)) / 64, 2).reshape(4000, 2, 4)
    corners[:, :, 2:] += 1 / 64
    holds = [relation_margin_holds(kind, corners[:, 0], corners[:, 1], level) for level in LEVELS]
    assert holds[0].any() and not holds[-1].all()
    for stricter, looser in itertools.pairwise(holds):
        assert not (stricter & ~looser).any()


def test_predicates_are_recognised_in_any_case_and_spacing():
    assert relation_holds(A, "To The  LEFT of", B) is True
    assert relation_holds(A, "right_of", B) is False


def test_boxes_decide_neither_relations_that_are_not_spatial_nor_true_ones_of_depth_order():
    assert relation_holds(A, "wearing", B) is None
    assert relation_holds(A, "behind", A) is None
    assert relation_holds(A, "behind", B) is False  # they do not overlap
