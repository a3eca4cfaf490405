"""Readings of solid pictures with a known graph, and of pictures that differ from it."""

import random

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ldm.data.demo import DemoValidation
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic import solids
from ldm.synthetic.solids import CELLS, COLOURS, MATERIALS, SHAPES, Background, box_at, relation_holds, render
from ldm.synthetic.solids_vision import read_scene

HELD_OUT = DemoValidation(10**6, scenes="hard")


def kinds(graph: SceneGraph) -> dict:
    """For each object, by shape and colour, which are unique: its index, its attributes, and its box in cells."""
    boxes = (np.array(box) * CELLS for box in graph.boxes)
    triples = zip(graph.objects, graph.attributes, boxes)
    return {(shape, words[1]): (i, words, box) for i, (shape, words, box) in enumerate(triples)}


def agrees(graph: SceneGraph, image: Image.Image, tolerance: float = 2.0) -> bool:
    """Whether the reading of a picture equals the graph."""
    reading = read_scene(image)
    if reading.graph is None or reading.stray_pixels > 8:
        return False
    expected, shown = kinds(graph), kinds(reading.graph)
    if expected.keys() != shown.keys() or len(reading.graph.objects) != len(graph.objects):
        return False
    for kind, (_, words, box) in expected.items():
        if shown[kind][1] != words or np.abs(shown[kind][2] - box).max() > tolerance:
            return False
    partner = {expected[kind][0]: shown[kind][0] for kind in expected}
    boxes = reading.graph.boxes
    return all(
        relation_holds(boxes[partner[s]], predicate, boxes[partner[o]], partner[s] > partner[o])
        for s, predicate, o in graph.triples
    )


def changed(graph: SceneGraph, how: str, rng: random.Random) -> SceneGraph | None:
    """The graph with one object changed, or None if the picture would be ambiguous."""
    objects, boxes, words = list(graph.objects), list(graph.boxes), list(graph.attributes)
    index = rng.randrange(len(objects))
    size, colour, material = words[index]
    if how == "removed":
        del objects[index], boxes[index], words[index]
    elif how == "recoloured":
        words[index] = (size, rng.choice([other for other in COLOURS if other != colour]), material)
    elif how == "material":
        words[index] = (size, colour, next(other for other in MATERIALS if other != material))
    elif how == "swapped":
        objects[index] = rng.choice([shape for shape in SHAPES if shape != objects[index]])
    else:
        x0, _, x1, y1 = (CELLS * edge for edge in boxes[index])
        dx, dy = rng.choice([(-10, 0), (10, 0), (0, -10), (0, 10), (16, 8), (-16, 8)])
        if not (16 < (x0 + x1) / 2 + dx < 112 and solids.FLOOR[0] <= y1 + dy <= solids.FLOOR[1]):
            return None
        boxes[index] = box_at(size, (x0 + x1) / 2 + dx, y1 + dy)
        if not 0 <= boxes[index][0] < boxes[index][2] <= 1:
            return None
    edited = solids.graph_from_boxes(objects, boxes, words)
    return edited if solids.find_ambiguity(edited) is None else None


CHANGES = ("removed", "recoloured", "material", "swapped", "moved")


def rates(first: int, count: int, blur: float) -> tuple[float, float]:
    """Shares of scenes that are read correctly, and of changed scenes whose change is noticed."""
    correct, noticed, changes = 0, 0, 0
    for index in range(first, first + count):
        graph, background = HELD_OUT.scene(index)
        rng = random.Random(f"change/{index}")
        correct += agrees(graph, blurred(render(graph, background), blur))
        edited = changed(graph, CHANGES[index % len(CHANGES)], rng)
        if edited is not None:
            changes += 1
            noticed += not agrees(graph, blurred(render(edited, background), blur))
    assert changes > count / 3
    return correct / count, noticed / changes


def blurred(image: Image.Image, sigma: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(sigma)) if sigma else image


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_scenes_are_read_correctly_and_changes_are_noticed(blur):
    assert rates(1000, 10, blur) == (1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_nearly_all_scenes_are_read_correctly_and_nearly_all_changes_noticed(blur):
    correct, noticed = rates(2000, 400, blur)
    assert correct >= 0.995 and noticed >= 0.99


def test_boxes_are_read_to_one_cell():
    for index in range(1100, 1105):
        graph, background = HELD_OUT.scene(index)
        reading = kinds(read_scene(render(graph, background)).graph)
        for kind, (_, _, box) in kinds(graph).items():
            assert np.abs(reading[kind][2] - box).max() <= 1


@pytest.mark.parametrize("size", [192, 256])
def test_the_reading_does_not_depend_on_the_picture_s_size(size):
    graph, background = HELD_OUT.scene(1200)
    assert agrees(graph, render(graph, background, size))


def test_an_array_reads_as_the_picture_does():
    graph, background = HELD_OUT.scene(1201)
    picture = render(graph, background)
    assert read_scene(np.asarray(picture)) == read_scene(picture)


@pytest.mark.parametrize("colour", [(0, 0, 0), (127, 127, 127), (255, 255, 255), (200, 210, 190)])
def test_a_plain_picture_has_no_objects(colour):
    reading = read_scene(Image.new("RGB", (CELLS, CELLS), colour))
    assert reading.graph is None and reading.stray_pixels == 0


def test_a_stripe_of_an_object_s_colour_is_stray_and_noise_does_not_fail():
    noise = np.random.default_rng(0).integers(0, 256, (CELLS, CELLS, 3), np.uint8)
    read_scene(noise)
    stripe = np.full((CELLS, CELLS, 3), 200, np.uint8)
    stripe[60:68, 10:118] = COLOURS["red"]
    reading = read_scene(stripe)
    assert reading.graph is None and reading.stray_pixels > 100


def test_the_style_is_measured_on_the_background():
    dot = SceneGraph(("sphere",), (box_at("small", 30, 100),), (("small", "red", "rubber"),))
    pale = Background((180, 190, 200), (200, 205, 200), (190, 180, 170), 0.0)
    for lamp, side in ((-1.0, "from the left"), (0.0, "from above"), (0.5, "from the right")):
        style = read_scene(render(dot, pale._replace(lamp=lamp))).style
        assert style.texture == side
        assert style.strength[0] == pytest.approx(lamp * solids.GLOW, abs=0.01)
        away = SceneGraph(("sphere",), (box_at("small", 90, 70),), (("small", "blue", "rubber"),))
        elsewhere = read_scene(render(away, pale._replace(lamp=lamp))).style
        assert np.allclose(style.mean, elsewhere.mean, atol=1.5) and np.allclose(style.ramp, elsewhere.ramp, atol=3)
    ground = np.asarray(render(dot, pale), float)[:, 64:].mean((0, 1))
    assert np.allclose(read_scene(render(dot, pale)).style.mean, ground, atol=1.5)
