"""Validation: an invalid field is a GraphError that names the place, and never another exception."""

import pytest
import torch
from graph_examples import any_json, repeatable, result_or_none
from hypothesis import given
from hypothesis import strategies as st

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError


@pytest.mark.parametrize(
    "change, place, word",
    [
        ({"objects": None}, "objects", "list"),
        ({"objects": []}, "objects", "empty"),
        ({"objects": ["__image__"]}, "objects", "empty"),
        ({"objects": "sheep"}, "objects", "list"),
        ({"objects": ["sheep", 7]}, "objects[1]", "not 7"),
        ({"objects": ["sheep", " "]}, "objects[1]", "not ' '"),
        ({"objects": ["sheep", "\ud800"]}, "objects[1]", "not '\\ud800'"),
        ({"relationships": [[0, "on"]]}, "relationships[0]", "predicate"),
        ({"relationships": ["0 on 1"]}, "relationships[0]", "not '0 on 1'"),
        ({"relationships": [[0, "on", 1], [0, "on", 2]]}, "relationships[1]", "no object 2"),
        ({"relationships": [[-1, "on", 0]]}, "relationships[0]", "no object -1"),
        ({"relationships": [[False, "on", True]]}, "relationships[0]", "integer"),
        ({"relationships": [[0, "on", 1.0]]}, "relationships[0]", "integer"),
        ({"relationships": [[0, 1, 1]]}, "relationships[0]", "text"),
        ({"boxes": [None]}, "boxes", "1 entries for 2"),
        ({"boxes": [[0, 0, 1], None]}, "boxes[0]", "four"),
        ({"boxes": [[0, 0, 1, True], None]}, "boxes[0]", "not True"),
        ({"boxes": [[0, 0, 1, "1"], None]}, "boxes[0]", "not '1'"),
        ({"boxes": [None, [0, 0, 200, 100]]}, "boxes[1]", "200 is outside"),
        ({"boxes": [None, [0, 0, 1, float("nan")]]}, "boxes[1]", "nan is outside"),
        ({"boxes": [None, [float("-inf"), 0, 1, 1]]}, "boxes[1]", "-inf is outside"),
        ({"boxes": [[0.5, 0, 0.25, 1], None]}, "boxes[0]", "reversed"),
        ({"boxes": [[0.5, 0, 0.5, 1], None]}, "boxes[0]", "area"),
        ({"attributes": ["white", None]}, "attributes[0]", "list"),
        ({"attributes": [["white", 3], None]}, "attributes[0]", "not 3"),
        ({"ids": ["a", "a"]}, "ids[1]", "unique"),
        ({"ids": [1, 2]}, "ids[0]", "not 1"),
        ({"image": 3}, "image", "not 3"),
    ],
)
def test_an_invalid_field_is_an_error_that_names_file_graph_and_place(change, place, word):
    with pytest.raises(GraphError) as error:
        SceneGraph.from_json({"objects": ["sheep", "grass"], **change}, "x.json: graph 3")
    start = f"x.json: graph 3, {place}: "
    assert str(error.value).startswith(start) and word in str(error.value)[len(start) :]


def test_a_number_too_large_to_print_is_an_error_of_one_sentence():
    huge = 10**5000
    with pytest.raises(GraphError, match="too large"):
        SceneGraph(("sheep",), triples=((0, "on", huge),))
    with pytest.raises(GraphError, match="outside"):
        SceneGraph(("sheep",), ((0, 0, huge, 1),))


def test_a_box_is_clipped_to_the_image_by_a_rounding_error_and_no_more():
    assert SceneGraph(("sheep",), ((-1e-9, 0, 1 + 1e-9, 1),)).boxes == ((0.0, 0.0, 1.0, 1.0),)
    with pytest.raises(GraphError, match="outside"):
        SceneGraph(("sheep",), ((0, 0, 1.001, 1),))


@repeatable
@given(st.lists(any_json, min_size=6, max_size=6))
def test_any_python_value_gives_a_graph_or_a_graph_error(values):
    result_or_none(SceneGraph, *values)
    result_or_none(SceneGraph, ("sheep", "sky"), *values[1:])
    result_or_none(SceneGraph, ("sheep",), torch.rand(40, 4))
