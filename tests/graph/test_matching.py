"""Matching of objects; `test_diff` tests it through the operations that follow from it."""

import itertools

import numpy as np
import pytest
from graph_examples import repeatable
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from ldm.graph.matching import _clear_pairs, assign, match_objects
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


@repeatable
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_pairs_that_are_clear_are_those_of_the_assignment_that_scipy_finds(n, m, seed):
    random = np.random.default_rng(seed)
    cost = -random.random((n, m)).round(1) * (random.random((n, m)) < random.random())
    clear = _clear_pairs(cost)
    rows, columns = linear_sum_assignment(cost)
    expected = {(row, column) for row, column in zip(rows, columns) if cost[row, column] < 0}
    assert clear is None or set(clear) == expected


def test_two_rows_that_want_one_column_and_columns_that_cost_the_same_are_not_clear():
    assert _clear_pairs(np.array([[-2.0, -1.0], [-3.0, 0.0]])) is None
    assert _clear_pairs(np.array([[-2.0, -2.0]])) is None
    assert _clear_pairs(np.array([[-2.0, -1.0], [0.0, 0.0]])) == [(0, 0)]
