"""Placement by relations: the smallest translation, compared with exhaustive search and with the rules of synthetic scenes."""

import itertools
import math
import random

import numpy as np
import pytest

from ldm.graph.diff import diff
from ldm.graph.perspective import shows_floor, size_growth
from ldm.graph.placement import place_objects
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import FAIR, KIND, BoxPair, relation_holds, relation_margin_holds
from ldm.graph.validation import GraphError
from ldm.synthetic import shapes

A, B = (8 / 64, 24 / 64, 24 / 64, 40 / 64), (40 / 64, 24 / 64, 56 / 64, 40 / 64)  # left and right, 16 cells wide


def change_relations(boxes, before, after, objects=None, given=(), attributes=(), **options):
    objects = objects or ["circle", "square", "triangle", "star"][: len(boxes)]
    source, target = SceneGraph(objects, boxes, attributes, before), SceneGraph(objects, given, attributes, after)
    return place_objects(source, target, diff(source, target), **options)


def cells(box):
    return tuple(round(64 * edge) for edge in box)


def relation_shown(graph, subject, object):
    """The predicate that the shapes' rules give two objects; None for an object around another."""
    order = shapes.back_to_front(graph)
    front, back = sorted((subject, object), key=order.index, reverse=True)
    word = shapes.main_relation(graph.boxes[front], graph.boxes[back])
    return word if front == subject else shapes.CONVERSE.get(word)


# Known answers --------------------------------------------------------------------------------------------------------


def test_an_object_crosses_to_the_other_side_by_the_smallest_clear_translation():
    graph, message = change_relations(
        [A, (28 / 64, 24 / 64, 44 / 64, 40 / 64)], [(0, "left of", 1)], [(0, "right of", 1)]
    )
    assert cells(graph.boxes[0]) == (46, 24, 62, 40) and cells(graph.boxes[1]) == (28, 24, 44, 40)
    assert message == "move 'circle' (object 0) right by 0.59, so that 'circle' is right of 'square'"


def test_a_move_is_a_multiple_of_the_step_or_of_a_grid_cell_if_no_step_fits():
    def moved(*boxes):
        graph, _ = change_relations(boxes, [(0, "left of", 1)], [(0, "right of", 1)], step=1 / 16)
        return cells(graph.boxes[0])

    assert moved(A, (28 / 64, 24 / 64, 44 / 64, 40 / 64)) == (48, 24, 64, 40)  # 46 would be clear
    assert moved((10 / 64, 24 / 64, 26 / 64, 40 / 64), (28 / 64, 24 / 64, 46 / 64, 40 / 64)) == (
        48,
        24,
        64,
        40,
    )  # 50 leaves


def test_the_smallest_move_from_beside_to_above_is_diagonal():
    graph, _ = change_relations([A, B], [(0, "left of", 1)], [(0, "above", 1)])
    (x0, y0, *_), (u0, v0, *_) = cells(graph.boxes[0]), cells(B)
    across, up = abs(x0 - u0), v0 - y0
    assert up == max(across + 6, 18)
    candidates = [
        (math.hypot(dx, dy), dx, dy)
        for dx, dy in itertools.product(range(-8, 41), range(-24, 25))
        if -dy >= 18 and -dy >= abs(8 + dx - 40) + 6 or -dy >= abs(8 + dx - 40) + 6 and abs(8 + dx - 40) >= 18
    ]
    assert math.hypot(x0 - 8, y0 - 24) == pytest.approx(min(candidates)[0])


def test_a_moved_box_keeps_its_size_and_other_boxes_stay():
    boxes = [(0.1, 0.1, 0.3, 0.4), (0.5, 0.5, 0.9, 0.9)]
    graph, _ = change_relations(boxes, [(0, "above", 1)], [(0, "inside", 1)])
    x0, y0, x1, y1 = graph.boxes[0]
    assert (x1 - x0, y1 - y0) == pytest.approx((0.2, 0.3)) and graph.boxes[1] == boxes[1]
    assert relation_holds(graph.boxes[0], "inside", boxes[1]) and relation_holds(
        boxes[1], "surrounding", graph.boxes[0]
    )


def test_boxes_that_the_edited_graph_repeats_may_move_and_new_ones_stay():
    near = [A, (28 / 64, 24 / 64, 44 / 64, 40 / 64)]
    repeated, message = change_relations(near, [(0, "left of", 1)], [(0, "right of", 1)], given=near)
    assert cells(repeated.boxes[0]) == (46, 24, 62, 40) and message
    new = (2 / 64, 2 / 64, 18 / 64, 18 / 64)
    given, message = change_relations(near, [(0, "left of", 1)], [(0, "right of", 1)], given=[new, near[1]])
    assert given.boxes[0] == new and not message


def test_without_new_relations_boxes_are_copied_without_a_message():
    graph, message = change_relations([A, B], [(0, "left of", 1)], [(0, "left of", 1)], given=[None, B])
    assert graph.boxes == (A, B) and message == ""


def test_objects_whose_new_relation_holds_already_stay():
    overlapping = [A, (16 / 64, 26 / 64, 32 / 64, 42 / 64)]
    graph, message = change_relations(overlapping, [(0, "behind", 1)], [(0, "in front of", 1)])
    assert graph.boxes == tuple(overlapping) and "stays where it is" in message


def test_on_a_floor_objects_in_front_stand_lower_without_overlap():
    """The source shows a floor: of two objects apart, the one in front stands lower."""
    boxes = [(8 / 64, 20 / 64, 24 / 64, 36 / 64), (40 / 64, 30 / 64, 56 / 64, 46 / 64)]
    graph, message = change_relations(boxes, [(1, "in front of", 0)], [(1, "behind", 0)])
    assert cells(graph.boxes[1]) == (40, 14, 56, 30) and "is behind" in message
    boxes[1] = (16 / 64, 30 / 64, 32 / 64, 46 / 64)  # objects that overlap show no floor
    graph, _ = change_relations(boxes, [(1, "in front of", 0)], [(0, "in front of", 1)])
    assert BoxPair.of(np.array(graph.boxes[0]), np.array(graph.boxes[1])).gap < 0


def test_on_a_floor_the_size_of_a_moved_object_follows_the_perspective():
    """Spheres and cubes are twice as large at a foot of 0.9 as at 0.3."""

    def standing(side, foot, x):
        side *= (foot + 0.3) / 0.6
        return x - side / 2, foot - side, x + side / 2, foot

    boxes = [standing(*place) for place in ((0.1, 0.3, 0.1), (0.1, 0.9, 0.8), (0.2, 0.3, 0.5), (0.2, 0.9, 0.4))]
    names, before = ["sphere", "sphere", "cube", "cube"], [(3, "in front of", 0)]
    graph, _ = change_relations(boxes, [*before, (0, "left of", 2)], [*before, (0, "in front of", 2)], names)
    x0, y0, x1, y1 = graph.boxes[0]
    assert 0.3 + 6 / 64 <= y1 < 0.3 + 7 / 64
    assert (
        x1 - x0
        == pytest.approx(y1 - y0)
        == pytest.approx(0.1 * (1 + size_growth(SceneGraph(names, boxes)) * (y1 - 0.3)))
    )


def test_contents_move_along():
    hat = (10 / 64, 24 / 64, 16 / 64, 30 / 64)
    boxes = [A, hat, (28 / 64, 24 / 64, 44 / 64, 40 / 64)]
    for predicate, subject, object in (("inside", 1, 0), ("wearing", 0, 1), ("surrounding", 0, 1)):
        unchanged = (subject, predicate, object)
        graph, message = change_relations(boxes, [unchanged, (0, "left of", 2)], [unchanged, (0, "right of", 2)])
        assert cells(graph.boxes[0]) == (46, 24, 62, 40) and cells(graph.boxes[1]) == (48, 24, 54, 30), predicate
        assert message.count("move") == 2


def test_an_object_is_moved_onto_the_background_but_onto_no_other_object():
    anchor = (28 / 64, 24 / 64, 44 / 64, 40 / 64)
    obstacle = (50 / 64, 30 / 64, 62 / 64, 36 / 64)
    graph, _ = change_relations([A, anchor, obstacle], [(0, "left of", 1)], [(0, "right of", 1)])
    pair = BoxPair.of(np.array(graph.boxes[0]), np.array(obstacle))
    assert pair.gap >= 2 / 64 and relation_shown(graph, 0, 1) == "right of"
    sky = (0.0, 0.0, 1.0, 0.75)
    graph, _ = change_relations([A, anchor, sky], [(0, "left of", 1)], [(0, "right of", 1)])
    assert cells(graph.boxes[0]) == (46, 24, 62, 40)


def test_the_object_with_the_most_new_relations_moves():
    boxes = [A, (28 / 64, 10 / 64, 40 / 64, 22 / 64), (28 / 64, 42 / 64, 40 / 64, 54 / 64)]
    graph, message = change_relations(
        boxes,
        [(1, "right of", 0), (0, "left of", 2), (1, "above", 2)],
        [(1, "left of", 0), (0, "right of", 2), (1, "above", 2)],
    )
    assert graph.boxes[1:] == tuple(boxes[1:]) and graph.boxes[0] != A
    assert relation_shown(graph, 0, 1) == relation_shown(graph, 0, 2) == "right of" and message.count("move") == 1


def test_an_object_without_a_box_in_the_edited_graph_moves_first():
    for given in ([A, None], [None, B]):
        graph, _ = change_relations([A, B], [(0, "left of", 1)], [(0, "above", 1)], given=given)
        assert [box == old for box, old in zip(graph.boxes, (A, B))] == [box is not None for box in given]


def test_an_impossible_relation_is_an_error_that_names_the_object_to_place():
    wide = (0.0, 0.4, 1.0, 0.6)
    with pytest.raises(GraphError, match="'circle' is left of 'square'.*object 0"):
        change_relations([wide, wide[:1] + (0.7, 1.0, 0.9)], [(0, "above", 1)], [(0, "left of", 1)])


def test_an_object_without_room_overlaps_others_as_little_as_possible():
    mover, anchor, other = (0.05, 0.6, 0.25, 0.8), (0.3, 0.5, 0.6, 0.8), (0.1, 0.1, 0.95, 0.32)
    triples = [(2, "above", 1)]
    graph, message = change_relations(
        [mover, anchor, other], [(0, "left of", 1), *triples], [(0, "above", 1), *triples]
    )
    assert graph.boxes[1:] == (anchor, other) and relation_shown(graph, 0, 1) == "above" and "overlapping" in message
    covered = []
    for dx, dy in itertools.product(np.arange(-64, 65) / 64, repeat=2):
        x0, y0, x1, y1 = (edge + shift for edge, shift in zip(mover, (dx, dy, dx, dy)))
        aside, down = abs((x0 + x1) / 2 - 0.45), 0.65 - (y0 + y1) / 2
        if (
            min(x0, y0, 1 - x1, 1 - y1) >= 0
            and down >= aside + 6 / 64
            and (y1 <= 0.5 - 2 / 64 or aside >= 0.25 + 2 / 64)
        ):
            shared = max(0, min(x1, 0.95) - max(x0, 0.1)) * max(0, min(y1, 0.32) - max(y0, 0.1))
            covered.append(shared / 0.04)
    x0, y0, x1, y1 = graph.boxes[0]
    found = max(0, min(x1, 0.95) - max(x0, 0.1)) * max(0, min(y1, 0.32) - max(y0, 0.1)) / 0.04
    assert found == pytest.approx(min(covered)) and 0 < found < 0.36


def test_a_predicate_that_is_not_spatial_needs_a_box():
    with pytest.raises(GraphError, match="'admiring'.*'circle'"):
        change_relations([A, B], [(0, "near", 1)], [(0, "admiring", 1)])
    graph, _ = change_relations([A, B], [(0, "near", 1)], [(0, "admiring", 1)], given=[A, None])
    assert graph.boxes == (A, B)


def test_without_known_boxes_the_model_decides():
    graph, message = change_relations([None, None], [(0, "left of", 1)], [(0, "above", 1)])
    assert graph.boxes == (None, None) and "the model decides" in message


# Predicates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("predicate", sorted(KIND))
def test_every_spatial_predicate_can_be_added_and_then_holds(predicate):
    boxes = [(0.1, 0.1, 0.3, 0.3), (0.4, 0.4, 0.6, 0.6)]
    if KIND[predicate] == "inside":
        boxes[1] = (0.4, 0.4, 0.7, 0.7)
    if KIND[predicate] == "around":
        boxes[0] = (0.0, 0.0, 0.3, 0.3)
    graph, _ = change_relations(boxes, [(0, "looking at", 1)], [(0, predicate, 1)])
    assert relation_margin_holds(KIND[predicate], *map(np.array, graph.boxes), FAIR)
    assert relation_holds(graph.boxes[0], predicate, graph.boxes[1]) is not False


# Adding ---------------------------------------------------------------------------------------------------------------


def add_object(boxes, name, words, triples=(), attributes=None):
    objects, attributes = ["circle", "square"][: len(boxes)], attributes or [()] * len(boxes)
    source = SceneGraph(objects, boxes, attributes)
    target = SceneGraph([*objects, name], [*boxes, None], [*attributes, words], triples)
    return place_objects(source, target, diff(source, target))


def test_an_added_object_satisfies_its_relations():
    left, right = (0.0, 0.375, 0.1875, 0.5625), (0.8125, 0.375, 1.0, 0.5625)
    graph, message = add_object([left, right], "triangle", (), [(2, "right of", 0), (1, "right of", 2)])
    assert relation_shown(graph, 2, 0) == "right of" and relation_shown(graph, 1, 2) == "right of"
    assert message == (
        "place 'triangle' (object 2 of the edited graph), 0.30 x 0.30, at (0.49, 0.46), "
        "so that 'triangle' is right of 'circle' and 'square' is right of 'triangle'"
    )


def test_an_added_object_without_relations_is_placed_where_there_is_most_room():
    corner = (0.0, 0.0, 0.25, 0.25)
    graph, _ = add_object([corner], "square", ("small",))
    x0, y0, x1, y1 = graph.boxes[1]
    assert x1 - x0 == y1 - y0 == 0.25
    room = min(max(x0, y0) - 0.25, 1 - x1, 1 - y1)
    assert room == pytest.approx(0.25, abs=1 / 64)  # 3/4 - 1/4 is shared by both sides


def test_an_added_object_has_the_size_of_similar_ones():
    words = [("large", "red"), ("small", "blue")]
    boxes = [(0.0, 0.0, 26 / 64, 26 / 64), (0.5, 0.5, 0.75, 0.75)]
    for attributes, side in ((("small",), 16), (("large",), 26), ((), 16)):
        graph, _ = add_object(boxes, "square", attributes, attributes=words)
        assert cells(graph.boxes[2])[2] - cells(graph.boxes[2])[0] == side, attributes


def test_an_added_object_without_room_is_an_error():
    tiles = [(x / 2, y / 2, (x + 1) / 2, (y + 1) / 2) for x in range(2) for y in range(2)]
    source = SceneGraph(["square"] * 4, tiles)
    target = SceneGraph(["square"] * 4 + ["circle"], [*tiles, None])
    with pytest.raises(GraphError, match="no room"):
        place_objects(source, target, diff(source, target))


def test_an_added_object_gets_no_box_if_no_box_is_known():
    graph, message = add_object([None, None], "triangle", (), [(2, "above", 0)])
    assert graph.boxes == (None,) * 3 and message == ""


# Synthetic scenes -----------------------------------------------------------------------------------------------------


def moved_scene(seed):
    """Graphs of two scenes that differ in the position of one shape, in random order: with boxes and without."""
    rng = random.Random(seed)
    before = shapes.random_graph(rng)
    count = len(before.objects)
    order = rng.sample(range(count), count)

    def shuffle(graph, boxes):
        return SceneGraph(
            [graph.objects[i] for i in order],
            [graph.boxes[i] for i in order] if boxes else (),
            [graph.attributes[i] for i in order],
            [(order.index(s), predicate, order.index(o)) for s, predicate, o in graph.triples],
        )

    for _ in range(200):
        index = rng.randrange(count)
        side = cells(before.boxes[index])[2] - cells(before.boxes[index])[0]
        x, y = rng.randint(1, 63 - side), rng.randint(1, 63 - side)
        boxes = list(before.boxes)
        boxes[index] = (x / 64, y / 64, (x + side) / 64, (y + side) / 64)
        after = shapes.graph_from_boxes(before.objects, boxes, before.attributes)
        new = set(after.triples) - set(before.triples)
        pairs, pairs_before = ({(s, o) for s, _, o in graph.triples} for graph in (after, before))
        if shapes.find_ambiguity(after) is None and new and pairs == pairs_before:
            return shuffle(before, True), shuffle(after, False)
    return None


def test_placed_shapes_show_every_relation_of_the_graph():
    placed = legible = refused = 0
    for seed in range(150):
        scenes = moved_scene(seed)
        if scenes is None:
            continue
        source, target = scenes
        try:
            graph, message = place_objects(source, target, diff(source, target))
        except GraphError:
            refused += 1
            continue
        assert message and all(relation_shown(graph, s, o) == predicate for s, predicate, o in graph.triples), (
            seed,
            message,
        )
        placed += 1
        order = shapes.back_to_front(graph)
        fields = (graph.objects, graph.boxes, graph.attributes)
        legible += shapes.find_ambiguity(SceneGraph(*(tuple(field[i] for i in order) for field in fields))) is None
    assert placed > 100 and refused <= 0.02 * placed and legible > 0.85 * placed


# Scenes on a floor ----------------------------------------------------------------------------------------------------

NEARER, ASIDE = 5 / 128, 8 / 128  # differences of feet and of middles at which a relation is clear


def floor_relations(subject, object, least=1.0):
    """The relations of two boxes on a floor, where a lower foot is in front; `least`: 0 includes those that are not clear."""
    aside, nearer = (subject[0] + subject[2] - object[0] - object[2]) / 2, subject[3] - object[3]
    found = {"left of": -aside >= least * ASIDE, "right of": aside >= least * ASIDE}
    found |= {"in front of": nearer >= least * NEARER, "behind": -nearer >= least * NEARER}
    return {predicate for predicate, holds in found.items() if holds}


def floor_scene(rng):
    """Source and target of four cubes on a floor, which look larger the nearer they stand; one of a pair's relations changes."""
    while True:
        boxes = []
        for side in rng.choices((0.14, 0.2), k=4):
            foot, x = rng.uniform(0.45, 0.95), rng.uniform(0.15, 0.85)
            side *= 1 + 0.5 * (foot - 0.95)
            boxes.append((x - side / 2, foot - side, x + side / 2, foot))
        pairs = [BoxPair.of(np.array(a), np.array(b)) for a, b in itertools.combinations(boxes, 2)]
        relations = {pair: floor_relations(*(boxes[i] for i in pair)) for pair in ((1, 0), (2, 0), (3, 0))}
        if all(pair.gap >= 2 / 64 for pair in pairs) and all(relations.values()):
            break
    triples = [(s, rng.choice(sorted(found)), o) for (s, o), found in relations.items()]
    s, _, o = triples[0]
    absent = {"left of", "right of", "in front of", "behind"} - floor_relations(boxes[s], boxes[o], 0)
    changed = [(s, rng.choice(sorted(absent)), o), *triples[1:]]
    return SceneGraph(["cube"] * 4, boxes, (), triples), SceneGraph(["cube"] * 4, (), (), changed)


def test_on_a_floor_new_relations_hold_and_nearly_always_clearly():
    """On a floor, nearness is told by the feet alone."""
    clear, placed = 0, dict.fromkeys(("left of", "right of", "in front of", "behind"), 0)
    for seed in range(60):
        source, target = floor_scene(random.Random(seed))
        if not shows_floor(source):
            continue
        try:
            graph, _ = place_objects(source, target, diff(source, target), 1 / 16)
        except GraphError:
            continue
        s, predicate, o = graph.triples[0]
        assert predicate in floor_relations(graph.boxes[s], graph.boxes[o], 0), seed
        placed[predicate] += 1
        clear += predicate in floor_relations(graph.boxes[s], graph.boxes[o])
    assert min(placed.values()) >= 5 and clear >= 0.95 * sum(placed.values())
