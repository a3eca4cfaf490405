"""Verdicts on pictures with a known graph."""

import itertools
import random

import numpy as np
import pytest

from ldm.data.demo import DemoValidation
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.annotation import subsample_graph
from ldm.synthetic.checker import assign, check
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.shapes import CELLS, Background, graph_from_boxes, read_scene, render
from ldm.synthetic.worlds import READERS
from ldm.util.errors import UserError

PALE = Background((205, 215, 225), (230, 220, 205), 0.7, "dots")


def box(x, y, side) -> tuple[float, ...]:
    return x / CELLS, y / CELLS, (x + side) / CELLS, (y + side) / CELLS


OBJECTS = ["square", "circle", "triangle"]
BOXES = [box(4, 4, 24), box(22, 6, 16), box(40, 28, 16)]
ATTRIBUTES = [("large", "red", "striped"), ("small", "blue", "plain"), ("small", "green", "plain")]
GRAPH = graph_from_boxes(OBJECTS, BOXES, ATTRIBUTES)
WITHOUT_BOXES = SceneGraph(GRAPH.objects, (), GRAPH.attributes, GRAPH.triples)


def changed(index, shape=None, box=None, attributes=None, remove=False) -> SceneGraph:
    """GRAPH with one object changed."""
    objects, boxes, words = OBJECTS.copy(), BOXES.copy(), ATTRIBUTES.copy()
    objects[index], boxes[index] = shape or objects[index], box or boxes[index]
    words[index] = attributes or words[index]
    if remove:
        del objects[index], boxes[index], words[index]
    return graph_from_boxes(objects, boxes, words)


def reordered(*order) -> SceneGraph:
    return graph_from_boxes(*([values[i] for i in order] for values in (OBJECTS, BOXES, ATTRIBUTES)))


def reading(graph: SceneGraph | None, stray_pixels: int = 0) -> SceneReading:
    return SceneReading(graph, stray_pixels)


# Verdicts ------------------------------------------------------------------------------------------------------------


def test_a_picture_of_the_graph_passes():
    assert [predicate for _, predicate, _ in GRAPH.triples] == ["in front of", "right of"]
    for target in (GRAPH, WITHOUT_BOXES, SceneGraph(GRAPH.objects)):
        verdict = check(target, render(GRAPH, PALE))
        assert verdict.passed and verdict.complaints == () and verdict.extra == 0
        assert all(verdict.objects) and len(verdict.objects) == 3
        assert all(verdict.triples) and len(verdict.triples) == len(target.known_triples)


EXTRA = graph_from_boxes([*OBJECTS, "circle"], [*BOXES, box(44, 8, 16)], [*ATTRIBUTES, ("small", "orange", "plain")])


@pytest.mark.parametrize(
    "shown, objects, extra, parts",
    [
        (changed(1, remove=True), (True, False, True), 0, ["object 1", "small blue plain circle", "missing"]),
        (changed(1, shape="square"), (True, False, True), 0, ["object 1", "is a square"]),
        (changed(1, attributes=("small", "green", "plain")), (True, False, True), 0, ["object 1", "is green"]),
        (changed(0, attributes=("large", "red", "plain")), (False, True, True), 0, ["object 0", "is plain"]),
        (
            changed(2, box=box(36, 24, 24), attributes=("large", "green", "plain")),
            (True, True, False),
            0,
            ["object 2", "is large"],
        ),
        (changed(2, box=box(46, 28, 16)), (True, True, False), 0, ["object 2", "9 %", "right"]),
        (EXTRA, (True, True, True), 1, ["small orange plain circle"]),
        (reordered(1, 0, 2), (True, True, True), 0, ["'in front of'", "object 1", "object 0"]),
    ],
)
def test_a_difference_is_reported_in_a_sentence(shown, objects, extra, parts):
    for verdict in (check(GRAPH, render(shown, PALE)), check(GRAPH, reading(shown))):
        assert not verdict.passed
        assert verdict.objects == objects and verdict.extra == extra
        assert any(all(part in complaint for part in parts) for complaint in verdict.complaints), verdict.complaints


def test_a_target_without_boxes_allows_every_place_where_its_triples_hold():
    moved = changed(2, box=box(40, 34, 16))
    assert not check(GRAPH, reading(moved)).passed and check(WITHOUT_BOXES, reading(moved)).passed
    below = changed(2, box=box(8, 40, 16))
    verdict = check(WITHOUT_BOXES, reading(below))
    assert verdict.objects == (True,) * 3 and not all(verdict.triples)
    assert len(verdict.complaints) == verdict.triples.count(False)


def test_attributes_that_the_target_leaves_out_may_be_anything():
    target = SceneGraph(("square", "circle", "triangle"), (), (("red",), (), ("small",)))
    assert check(target, reading(GRAPH)).passed
    assert check(target, reading(changed(0, attributes=("large", "red", "plain")))).passed
    assert not check(target, reading(changed(0, attributes=("large", "blue", "striped")))).passed


def test_the_order_of_the_target_does_not_matter():
    for number in range(10):
        graph, background = DemoValidation(10).scene(number)
        shown = read_scene(render(graph, background))
        for seed in range(4):
            assert check(subsample_graph(graph, random.Random(seed)), shown).passed


@pytest.mark.parametrize("cells, passes", [(1, True), (2, True), (4, False), (6, False)])
def test_a_box_may_be_off_by_two_cells(cells, passes):
    for dx, dy in itertools.product((-cells, 0, cells), repeat=2):
        verdict = check(GRAPH, reading(changed(2, box=box(40 + dx, 28 + dy, 16))))
        assert verdict.passed == (passes or dx == dy == 0)


def test_triples_of_a_missing_object_do_not_hold_and_cause_no_further_complaint():
    verdict = check(GRAPH, reading(changed(1, remove=True)))
    assert verdict.triples == tuple(1 not in (subject, object) for subject, _, object in GRAPH.triples)
    assert len(verdict.complaints) == 1


def test_an_empty_picture_lacks_every_object():
    verdict = check(GRAPH, reading(None))
    assert verdict.objects == (False,) * 3 and not any(verdict.triples) and verdict.extra == 0
    assert len(verdict.complaints) == 3 and not verdict.passed


@pytest.mark.parametrize("graph", [GRAPH, None])
def test_many_stray_pixels_are_a_complaint_of_their_own(graph):
    few, many = check(GRAPH, reading(graph, stray_pixels=3)), check(GRAPH, reading(graph, stray_pixels=100))
    assert few.passed == (graph is not None) and not many.passed
    assert many.objects == few.objects and many.complaints[:-1] == few.complaints
    assert "100 pixels" in many.complaints[-1]


def test_triples_decide_which_of_two_alike_objects_is_which():
    red = ("small", "red", "plain")
    shown = graph_from_boxes(["circle"] * 2 + ["square"], [box(2, 4, 16), box(46, 4, 16), box(24, 40, 16)], [red] * 3)
    for left, right in ((0, 1), (1, 0)):
        target = SceneGraph(("circle", "circle"), (), (("red",),) * 2, ((left, "left of", right),))
        verdict = check(target, reading(shown))
        assert verdict.objects == verdict.triples[:1] * 2 == (True, True) and verdict.extra == 1
    both = SceneGraph(("circle", "circle"), (), (("red",),) * 2, ((0, "left of", 1), (1, "left of", 0)))
    assert sum(check(both, reading(shown)).triples) == 1


def test_one_object_in_the_picture_matches_one_target_object():
    shown = graph_from_boxes(["circle"], [box(4, 4, 16)], [("small", "red", "plain")])
    verdict = check(SceneGraph(("circle", "circle"), (), (("red",),) * 2), reading(shown))
    assert sorted(verdict.objects) == [False, True]


def test_an_unknown_world_is_an_error_that_suggests_a_name():
    with pytest.raises(UserError, match="'shapes'"):
        check(GRAPH, reading(GRAPH), "shape")


def test_an_assignment_has_the_largest_total_similarity_of_all_assignments():
    rng = random.Random(0)
    for _ in range(200):
        rows, columns = rng.randint(1, 4), rng.randint(1, 4)
        similarity = np.array([[float(rng.choice([0, 1, 2, 5, 9])) for _ in range(columns)] for _ in range(rows)])
        candidates = itertools.permutations([*range(columns), *[None] * rows], rows)
        best = max(sum(similarity[i, j] for i, j in enumerate(c) if j is not None) for c in candidates)
        partner = assign(similarity)
        pairs = [(i, j) for i, j in enumerate(partner) if j is not None]
        assert len(partner) == rows and len({j for _, j in pairs}) == len(pairs)
        assert sum(similarity[pair] for pair in pairs) == best and all(similarity[pair] > 0 for pair in pairs)


# Another world -------------------------------------------------------------------------------------------------------


class Table:
    """A reader of things on a table, of which some have no colour and some no material; stacks are told by evidence."""

    sizes, colours, finishes = ("small", "large"), ("red", "green"), ("rubber", "wood")

    def triple_holds(self, reading, subject, predicate, object):
        return (subject, predicate, object) in reading.evidence


@pytest.fixture
def on_a_table(monkeypatch):
    """on_a_table(boxes, attributes, evidence) -> a reading of a mug and a sphere."""
    monkeypatch.setitem(READERS, "table", Table())
    return lambda boxes, words, evidence: SceneReading(
        SceneGraph(("mug", "sphere"), boxes, words), evidence=frozenset(evidence)
    )


WORDS = (("small", "red"), ("large", "wood"))
PLACES = (box(4, 4, 16), box(40, 28, 24))
ON = (0, "on", 1)


def test_a_reader_decides_about_triples_by_what_it_measured(on_a_table):
    target = SceneGraph(("sphere", "mug"), PLACES[::-1], WORDS[::-1], ((1, "on", 0),))
    assert check(target, on_a_table(PLACES, WORDS, [ON]), "table").passed
    verdict = check(target, on_a_table(PLACES, WORDS, []), "table")
    assert not verdict.passed and verdict.triples == (False,) and all(verdict.objects)


def test_an_object_without_a_colour_is_known_by_its_material(on_a_table):
    target = SceneGraph(("mug", "sphere"), PLACES, WORDS)
    verdict = check(target, on_a_table((PLACES[0], box(4, 40, 24)), WORDS, []), "table")
    assert verdict.objects == (True, False) and verdict.extra == 0
    assert "left" in verdict.complaints[0] and "large wood sphere" in verdict.complaints[0]
    verdict = check(target, on_a_table(PLACES, (WORDS[0], ("large", "red", "rubber")), []), "table")
    assert verdict.objects == (True, False) and verdict.extra == 0 and "is rubber" in verdict.complaints[0]
