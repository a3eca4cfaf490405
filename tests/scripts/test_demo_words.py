"""The demo of a taught word: the pictures that it ships, and the edit that it makes."""

import random

import numpy as np
from paths import ROOT

from ldm.graph.graph_files import read_graph
from ldm.synthetic.worlds import find_world
from ldm.util.images import read_image


def test_the_shipped_pictures_are_those_that_the_program_draws(load_script, tmp_path, capsys):
    assert load_script("demo_words").main(["--draw", str(tmp_path / "new")]) == 0, capsys.readouterr().err
    shipped = ROOT / "data/flat/words"
    for number in range(1, 5):
        drawn, stored = (np.asarray(read_image(folder / f"{number}.png")) for folder in (tmp_path / "new", shipped))
        assert np.array_equal(drawn, stored)
        assert read_graph(tmp_path / f"new/{number}.json") == read_graph(shipped / f"{number}.json")


def test_the_edited_object_overlaps_no_other_and_is_nothing_like_the_word(load_script):
    demo, state = load_script("demo_words"), random.getstate()
    graph, picture, index = demo.scene_to_edit(find_world("shapes"))
    assert graph.objects[index] != "triangle" and picture.size == (64, 64) and random.getstate() == state
    assert not [t for t in graph.known_triples if index in (t[0], t[2]) and t[1] in demo.OVERLAPS]
