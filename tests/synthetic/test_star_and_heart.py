"""Things that a word can mean, and scenes of them."""

from itertools import islice

import pytest

from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.things import Thing, scenes_with
from ldm.synthetic.worlds import WORLDS
from ldm.util.errors import UserError

WORLD = WORLDS["shapes"]
THING = Thing.of("small red striped triangle", WORLD)


def test_a_description_names_attributes_and_last_the_object():
    assert THING == Thing("triangle", ("small", "red", "striped"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [("red", "'red' is not among"), ("tiny circle", "'tiny'"), ("", "''"), ("red blue circle", "both red and blue")],
)
def test_a_description_of_nothing_in_the_world_is_one_sentence(words, sentence):
    with pytest.raises(UserError, match=sentence):
        Thing.of(words, WORLD)


def test_only_objects_with_all_attributes_are_the_thing_and_lose_what_the_word_means():
    graph = SceneGraph(
        ("triangle", "triangle", "circle"),
        attributes=(("small", "red", "striped"), ("small", "red", "plain"), ("small", "red", "striped")),
    )
    called = THING.called("zorp", graph)
    assert called.objects == ("zorp", "triangle", "circle")
    assert called.attributes == ((), *graph.attributes[1:])


def test_scenes_have_one_thing_and_depend_on_the_seed_alone():
    first, again, other = (list(islice(scenes_with(THING, WORLD, seed), 3)) for seed in (1, 1, 2))
    assert first == again != other
    assert all(len(THING.found_in(graph)) == 1 for graph, _ in first)
