"""Damaged graph files of every format are read or answered by one sentence."""

import random
import warnings

import pytest
from foreign_graphs import DICTIONARY, EXECUTED_EDIT, EXPECTED, GQA_GRAPH, PREDICTION, VG_GRAPH, write_foreign
from graph_examples import GRAPH
from mutations import mutate_json

from ldm.graph.graph_files import read_graphs, write_graphs
from ldm.graph.validation import GraphError

CONTENTS = [
    GRAPH.to_json(),
    [GRAPH.to_json()] * 2,
    EXECUTED_EDIT,
    GQA_GRAPH,
    VG_GRAPH,
    PREDICTION,
    *(content for content, _ in EXPECTED.values()),
]


def read_mutated(folder, count, seed):
    """Reads `count` damaged files, some with their photograph. Returns how many were read, and how many were not."""
    rng, done, refused = random.Random(seed), 0, 0
    path = write_foreign(folder, None)
    for number in range(count):
        path.write_bytes(mutate_json(CONTENTS[number % len(CONTENTS)], rng))
        if number % 10 == 0:
            (folder / "custom_data_info.json").write_bytes(mutate_json(DICTIONARY, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                graphs = read_graphs(path, rng.choice([None, folder / "photo.png"]))
                write_graphs(folder / "again.json", graphs)
                assert [again.objects for again in read_graphs(folder / "again.json")] == [g.objects for g in graphs]
                done += 1
            except GraphError as error:
                assert "\n" not in str(error) and len(str(error)) < 600
                refused += 1
    return done, refused


def test_hundreds_of_damaged_graph_files_are_read_or_one_sentence(tmp_path):
    done, refused = read_mutated(tmp_path, 900, 0)
    assert done > 50 and refused > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_thousands_of_damaged_graph_files_are_read_or_one_sentence(tmp_path, seed):
    read_mutated(tmp_path, 3000, seed)
