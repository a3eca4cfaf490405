"""Matching of objects; `test_diff` tests it through the operations that follow from it."""

import itertools

import numpy as np
import pytest
from graph_examples import repeatable
from hypothesis import given
from hypothesis import strategies as st

from ldm.graph.matching import assign, match_objects
from ldm.graph.scene_graph import SceneGraph


@repeatable
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31))
def test_assign_returns_the_cheapest_of_all_assignments(n, m, seed):
    random = np.random.default_rng(seed)
    cost = -random.random((n, m)) * (random.random((n, m)) < 0.7)
    pairs = assign(cost)
    assert len(set(pairs.values())) == len(pairs) and all(cost[pair] < 0 for pair in pairs.items())
    few, many = sorted(cost.shape)
    wide = cost if n == few else cost.T
    best = min(sum(wide[range(few), list(p)]) for p in itertools.permutations(range(many), few))
    assert sum(cost[pair] for pair in pairs.items()) == pytest.approx(best)


def test_equal_objects_match_in_their_order():
    assert match_objects(SceneGraph(("sheep",) * 3), SceneGraph(("sheep",) * 3)) == {0: 0, 1: 1, 2: 2}
    assert match_objects(SceneGraph(("sheep",) * 3), SceneGraph(("sheep",) * 2)) == {0: 0, 1: 1}
    assert match_objects(SceneGraph(("sheep",) * 2), SceneGraph(("sheep",) * 3)) == {0: 0, 1: 1}
