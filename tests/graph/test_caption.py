"""Captions of scene graphs: their words, the characters of each part, and what a short budget leaves out."""

import pytest
from graph_examples import graphs, names, repeatable
from hypothesis import given
from hypothesis import strategies as st

from ldm.graph.caption import Element, Span, caption, drop_order
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError

RIDER = SceneGraph(
    ("man", "hat", "horse", "tree"),
    boxes=((0.3, 0.2, 0.6, 0.8), (0.4, 0.2, 0.5, 0.3), (0.2, 0.4, 0.8, 1.0), None),
    attributes=(("old",), ("red", "tall"), (), None),
    triples=((0, "wearing", 1), (0, "riding", 2), (2, "near", 3)),
)
LONG = "old man wearing red tall hat and riding horse, horse near tree"


def count_words(text):
    """Words, with one token each at the start and at the end."""
    return len(text.split()) + 2


def words(result, spans):
    return [result.text[span.start : span.end] for span in spans]


def test_the_long_form_names_each_relation_and_the_short_form_each_object_once():
    assert caption(RIDER).text == LONG
    assert caption(RIDER, "short").text == "old man, red tall hat, horse, tree"


def test_spans_are_the_characters_of_names_attributes_and_predicates():
    result = caption(RIDER)
    assert result.objects[0] == (Span(4, 7),)
    assert [words(result, spans) for spans in result.objects] == [["man"], ["hat"], ["horse", "horse"], ["tree"]]
    assert [[words(result, spans) for spans in each] for each in result.attributes] == [
        [["old"]], [["red"], ["tall"]], [], []
    ]  # fmt: skip
    assert words(result, result.relations) == ["wearing", "riding", "near"]
    assert words(result, result.words_of(1)) == ["red", "tall", "hat"]
    assert caption(RIDER, "short").relations == (None, None, None)


def test_attributes_are_repeated_only_where_two_objects_have_the_same_name():
    sheep = SceneGraph(
        ("sheep", "sheep", "dog"), attributes=(("white",), ("black",), ("wet",)), triples=((0, "near", 1), (2, "near", 0), (2, "near", 1))
    )  # fmt: skip
    result = caption(sheep)
    assert result.text == "white sheep near black sheep, wet dog near white sheep and near black sheep"
    assert [words(result, spans) for (spans,) in result.attributes] == [["white"] * 2, ["black"] * 2, ["wet"]]


def test_repeated_triples_are_said_once_and_clevr_predicates_as_phrases():
    cubes = SceneGraph(("cube", "ball"), triples=((0, "left", 1), (0, "left", 1), (1, "in_front_of", 0)))
    result = caption(cubes)
    assert result.text == "cube left of ball, ball in front of cube"
    assert words(result, result.relations) == ["left of", "left of", "in front of"]


def test_what_is_unknown_is_said_like_what_is_not_there():
    assert caption(SceneGraph(("cat",))).text == caption(SceneGraph(("cat",), attributes=((),), triples=())).text


def test_a_short_budget_drops_relations_of_place_then_other_relations_then_attributes_then_objects():
    # sizes: hat 0.01, man 0.18, horse 0.36, tree 1 (it has no box)
    expected = [
        Element("relation", 1), Element("relation", 2), Element("relation", 0),
        Element("attribute", 1, 1), Element("attribute", 1, 0), Element("attribute", 0, 0),
        Element("object", 1), Element("object", 0), Element("object", 2), Element("object", 3),
    ]  # fmt: skip
    assert drop_order(RIDER) == expected
    assert caption(RIDER, count_tokens=count_words, budget=14).text == LONG
    shorter = caption(RIDER, count_tokens=count_words, budget=13)
    assert shorter.text == "old man wearing red tall hat, horse near tree"
    assert shorter.dropped == ("man riding horse",) and shorter.relations[1] is None
    shortest = caption(RIDER, count_tokens=count_words, budget=5)
    assert shortest.text == "man, horse, tree" and shortest.dropped[-2:] == ("old (man)", "hat")
    assert shortest.objects[1] == () and shortest.attributes[1] == ((), ())
    assert caption(RIDER, count_tokens=count_words, budget=3).text == "tree"


def test_objects_to_keep_lose_nothing_as_long_as_there_is_anything_about_others():
    assert caption(RIDER, count_tokens=count_words, budget=8, keep={0, 1}).text == "old man wearing red tall hat"
    order = drop_order(RIDER, keep={0, 1})
    others = [Element("relation", 1), Element("relation", 2), Element("object", 2), Element("object", 3)]
    assert order[:4] == others


def test_a_name_that_does_not_fit_is_one_sentence():
    with pytest.raises(GraphError, match="shorten the name") as error:
        caption(SceneGraph(("a very long name",)), count_tokens=count_words, budget=5)
    assert "\n" not in str(error.value) and "6 tokens" in str(error.value)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="no form 'medium'"):
        caption(RIDER, "medium")


@repeatable
@given(graphs(), st.sampled_from(["long", "short"]), st.integers(3, 30), st.sets(st.integers(0, 5)))
def test_spans_hold_the_words_of_any_graph_at_any_budget(graph, form, budget, keep):
    result = caption(graph, form, count_words, budget, keep)
    assert count_words(result.text) <= budget
    for name, spans in zip(graph.objects, result.objects):
        assert set(words(result, spans)) <= {name}
    for attributes, spans_of_each in zip(graph.known_attributes, result.attributes):
        for attribute, spans in zip(attributes, spans_of_each, strict=True):
            assert set(words(result, spans)) <= {attribute}
    said = [(a, span) for a, span in zip(graph.known_triples, result.relations) if span]
    for (subject, predicate, object_), span in said:
        assert words(result, [span]) == [predicate.replace("_", " ")] or predicate in ("left", "right", "front")
        assert result.objects[subject] and result.objects[object_]
    assert any(result.objects)


@repeatable
@given(st.lists(names, min_size=1, max_size=4))
def test_without_relations_a_caption_is_the_list_of_names(objects):
    graph = SceneGraph(tuple(objects))
    assert caption(graph).text == ", ".join(graph.objects)
