"""SceneGraph: conversion from and to JSON, and checks against a vocabulary."""

import json
import pickle
import warnings

import pytest
from graph_examples import GRAPH, VOCAB, any_json, graphs, repeatable, result_or_none
from hypothesis import given
from hypothesis import strategies as st

from ldm.graph.batch import encode
from ldm.graph.graph_files import read_graph, write_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError
from ldm.graph.vocab import Vocab


@repeatable
@given(graphs())
def test_from_json_inverts_to_json(graph):
    assert SceneGraph.from_json(graph.to_json()) == graph
    assert SceneGraph.from_json(json.loads(json.dumps(graph.to_json()))) == graph


def test_null_and_a_missing_key_both_mean_unknown():
    bare = SceneGraph(("sheep",))
    assert bare == SceneGraph(("sheep",), (None,), (None,), None, (None,), None)
    unknown = dict.fromkeys(("relationships", "boxes", "attributes", "ids", "image"))
    assert SceneGraph.from_json({"objects": ["sheep"], **unknown}) == bare
    assert SceneGraph.from_json({"objects": ["sheep"], "attributes": [None], "boxes": [None], "ids": [None]}) == bare


def test_what_is_unknown_is_told_apart_from_what_is_empty_and_written_so(tmp_path):
    """A missing key, null, an empty list, and both within one list, from the file to the graph and back."""
    cases = [
        ({}, (None, None), None),
        ({"attributes": None, "relationships": None}, (None, None), None),
        ({"attributes": [], "relationships": []}, ((), ()), ()),
        ({"attributes": [None, []]}, (None, ()), None),
        ({"attributes": [["white"], None], "relationships": [[0, "on", 1]]}, (("white",), None), ((0, "on", 1),)),
    ]
    for keys, attributes, triples in cases:
        graph = SceneGraph.from_json({"objects": ["sheep", "grass"], **keys})
        assert (graph.attributes, graph.triples) == (attributes, triples)
        assert graph.known_attributes == tuple(names or () for names in attributes)
        assert graph.known_triples == (triples or ())
        write_graphs(tmp_path / "graph.json", [graph])
        assert read_graph(tmp_path / "graph.json") == graph
    assert SceneGraph(("sheep", "grass"), None, None, None, None) == SceneGraph(("sheep", "grass"))
    assert SceneGraph(("sheep",), (), (), ()) == SceneGraph(("sheep",), attributes=((),), triples=())


def test_what_is_unknown_is_encoded_as_what_is_not_there():
    unknown, empty = SceneGraph(("sheep", "sky")), SceneGraph(("sheep", "sky"), (), (), ())
    for one, other in zip(encode([unknown], VOCAB), encode([empty], VOCAB), strict=True):
        assert one.tolist() == other.tolist()
    unknown.validate(VOCAB)
    assert unknown.describe(0) == "sheep"


def test_names_match_in_every_unicode_form():
    composed, split = "caf\u00e9", "cafe\u0301"
    vocab = Vocab(("__image__", split), ("__in_image__", composed), (split,))
    for name in (composed, split):
        graph = SceneGraph((name,) * 2, (), ((name,), ()), ((0, name, 1),), (f"{name} 1", f"{name} 2"))
        graph.validate(vocab)
        assert encode([graph], vocab).objs.tolist() == [1, 1, 0] and vocab.object_id(name) == 1
        assert graph.objects == (composed,) * 2 and graph.ids[0] == f"{composed} 1"
    assert Vocab(("__image__", split), ("__in_image__",)) == Vocab(("__image__", composed), ("__in_image__",))


def test_a_graph_can_be_pickled_and_hashed():
    assert {pickle.loads(pickle.dumps(GRAPH)): 1}[GRAPH] == 1


# The image object and self-relations ----------------------------------------------------------------------------------


def test_the_image_object_of_published_graphs_is_dropped_without_a_warning():
    data = {
        "objects": ["sheep", "__image__", "grass"],
        "relationships": [[0, "__in_image__", 1], [0, "on", 2], [2, "__in_image__", 1]],
        "boxes": [[0, 0, 0.5, 0.5], [0, 0, 1, 1], None],
        "attributes": [["white"], [], []],
        "ids": ["a", "image", "b"],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = SceneGraph.from_json(data)
    assert graph == SceneGraph(
        ("sheep", "grass"), ((0, 0, 0.5, 0.5), None), (("white",), ()), ((0, "on", 1),), ("a", "b")
    )


def test_another_relation_with_the_image_object_is_dropped_with_a_warning():
    data = {"objects": ["sheep", "__image__", "sky"], "relationships": [[0, "on", 1], [0, "__in_image__", 2]]}
    with pytest.warns(UserWarning, match=r"^here, relationships\[0, 1\]: dropped"):
        assert SceneGraph.from_json(data, "here").triples == ()


def test_the_constructor_rejects_self_relations_and_the_image_object():
    for objects, triple, word in (
        (("sheep", "grass"), (1, "on", 1), "itself"),
        (("sheep", "grass"), (0, "__in_image__", 1), "__in_image__"),
        (("sheep", "__image__"), (0, "on", 1), "__image__"),
    ):
        with pytest.raises(GraphError, match=word):
            SceneGraph(objects, triples=(triple,))


# Errors ---------------------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_an_error_that_suggests_a_similar_one():
    for data, word in (
        ({"objects": ["sheep"], "boxs": []}, "did you mean 'boxes'"),
        ({"objects": ["sheep"], "zzz": []}, "choose from objects, boxes, attributes"),
        ({"relationships": []}, "objects.*missing"),
        (3, "not 3"),
    ):
        with pytest.raises(GraphError, match=f"^here: .*{word}"):
            SceneGraph.from_json(data, "here")


@pytest.mark.parametrize(
    "graph, place, word",
    [
        (SceneGraph(("sky", "sheap")), "objects[1]", "did you mean 'sheep'?"),
        (SceneGraph(("sky", "sheep"), triples=((0, "abov", 1),)), "relationships[0]", "did you mean 'above'?"),
        (SceneGraph(("sky",), attributes=(("White",),)), "attributes[0]", "did you mean 'white'?"),
        (SceneGraph(("zzz",)), "objects[0]", "choose from sheep, grass, sky, horse"),
    ],
)
def test_a_name_outside_the_vocabulary_is_an_error_that_suggests_known_names(graph, place, word):
    with pytest.raises(GraphError) as error:
        graph.validate(VOCAB, "x.json: graph")
    assert str(error.value).startswith(f"x.json: graph, {place}: ") and str(error.value).endswith(word)
    with pytest.raises(GraphError) as error:
        encode([GRAPH, graph], VOCAB)
    assert str(error.value).startswith(f"graph 1, {place}: ") and str(error.value).endswith(word)


def test_more_objects_than_a_model_encodes_are_an_error():
    GRAPH.validate(VOCAB, max_objects=3)
    with pytest.raises(GraphError, match="^here: .* at most 2"):
        GRAPH.validate(VOCAB, "here", max_objects=2)


@repeatable
@given(st.fixed_dictionaries({}, optional={key: any_json for key in GRAPH.to_json()}) | any_json)
def test_any_json_gives_a_graph_or_a_graph_error(data):
    graph = result_or_none(SceneGraph.from_json, data)
    assert graph is None or isinstance(graph, SceneGraph)


@repeatable
@given(st.sampled_from(sorted(GRAPH.to_json())), st.integers(0, 2), st.integers(0, 3), any_json)
def test_a_valid_graph_with_any_value_in_one_place_gives_a_graph_or_a_graph_error(key, outer, inner, value):
    data = GRAPH.to_json()
    if isinstance(data[key], list) and outer < len(data[key]):
        if isinstance(data[key][outer], list) and inner < len(data[key][outer]):
            data[key][outer][inner] = value
        else:
            data[key][outer] = value
    else:
        data[key] = value
    graph = result_or_none(SceneGraph.from_json, data)
    assert graph is None or SceneGraph.from_json(graph.to_json()) == graph
