"""Pictures of shapes: the pixels are where the graph says, in the colours that it says."""

import dataclasses

import numpy as np
import pytest

from ldm.data.demo import DemoValidation
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError
from ldm.synthetic.shapes import (
    CELLS,
    COLOURS,
    FILLS,
    MIN_VISIBLE,
    SHAPES,
    SIDES,
    STRIPE_BRIGHTNESS,
    STRIPE_HEIGHT,
    TEXTURE_CONTRAST,
    TEXTURES,
    Background,
    graph_from_boxes,
    render,
)

GREY = Background((128, 128, 128), (128, 128, 128), 0.0)
SCENES = [DemoValidation(200).scene(index) for index in range(200)]


def box(x, y, side) -> tuple[float, ...]:
    return x / CELLS, y / CELLS, (x + side) / CELLS, (y + side) / CELLS


DOT = SceneGraph(("square",), (box(40, 40, 1),), (("red",),))


def pixels(graph, background=GREY, size=64) -> np.ndarray:
    return np.asarray(render(graph, background, size)).astype(float)


def colour_of(graph: SceneGraph, index: int) -> str:
    return next(word for word in graph.attributes[index] if word in COLOURS)


@pytest.mark.parametrize("image_size", [64, 128])
@pytest.mark.parametrize("fill", FILLS)
def test_a_shape_extends_exactly_over_its_box(image_size, fill):
    for shape in SHAPES:
        for side in SIDES["small"] + SIDES["large"]:
            graph = SceneGraph((shape,), (box(9, 13, side),), (("blue", fill),))
            rows, columns = np.nonzero((pixels(graph, size=image_size) != 128).any(-1))
            extent = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert np.array(extent) / image_size == pytest.approx(box(9, 13, side), abs=1e-9)


@pytest.mark.parametrize("shape, share", [("circle", np.pi / 4), ("square", 1.0), ("triangle", 0.5)])
def test_a_shape_covers_its_share_of_its_box(shape, share):
    picture = pixels(SceneGraph((shape,), ((0.25, 0.25, 0.75, 0.75),), (("blue",),)), size=256)
    covered = ((picture - 128) / (np.array(COLOURS["blue"]) - 128)).mean()  # anti-aliased edges count in part
    assert covered == pytest.approx(share / 4, rel=0.01)


def test_edges_are_anti_aliased():
    picture = pixels(SceneGraph(("circle",), ((0.2, 0.2, 0.8, 0.8),), (("red",),)))
    assert len({tuple(pixel) for row in picture for pixel in row}) > 8


@pytest.mark.parametrize("image_size", [64, 128])
def test_stripes_begin_bright_at_the_top_and_alternate(image_size):
    for colour in COLOURS:
        picture = pixels(SceneGraph(("square",), (box(10, 21, 24),), ((colour, "striped"),)), size=image_size)
        scale = image_size // CELLS
        for cell in range(24):
            brightness = picture[(21 + cell) * scale, 20 * scale] / np.array(COLOURS[colour])
            assert brightness == pytest.approx(STRIPE_BRIGHTNESS if cell // STRIPE_HEIGHT % 2 else 1, abs=0.03)


def test_a_background_is_a_gradient_from_one_colour_to_the_other():
    picture = pixels(DOT, Background((0, 0, 0), (255, 255, 255), 0.0))
    assert tuple(picture[0, 0]) == (0, 0, 0) and tuple(picture[63, 63]) == (255, 255, 255)
    assert (np.diff(picture[0, :, 0]) > 0).all() and (picture[0] == picture[63]).all()


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_texture_darkens_by_its_contrast_and_repeats_with_its_period(texture):
    picture = pixels(DOT, Background((200, 200, 200), (200, 200, 200), 0.0, texture), 256)[:128]
    assert picture.max() == 200
    assert picture.min() == pytest.approx(200 if texture == "smooth" else 200 * (1 - TEXTURE_CONTRAST), abs=1)
    assert (picture[:32, :32] == picture[32:64, 96:128]).all()  # a period of 8 cells is 32 pixels here


def test_every_background_is_paler_than_every_shape():
    saturation = min(np.ptp(colour) / max(colour) for colour in COLOURS.values())
    for _, background in SCENES:
        ends = [np.ptp(end) / max(end) for end in (background.start, background.end)]
        assert max(ends) < 0.36 and saturation > 0.7
        assert min(max(end) for end in (background.start, background.end)) * (1 - TEXTURE_CONTRAST) > 128


def test_the_front_object_is_visible_where_two_overlap():
    predicates = set()
    for graph, _ in SCENES:
        picture = pixels(graph)
        for subject, predicate, object in graph.triples:
            if predicate not in ("inside", "in front of"):
                continue
            x0, y0, x1, y1 = (round(CELLS * edge) for edge in graph.boxes[subject])
            row, column = (y0 + y1) // 2, (x0 + x1) // 2
            u0, v0, u1, v1 = (CELLS * edge for edge in graph.boxes[object])
            uncovered = all(
                not (box[0] < column / CELLS < box[2] and box[1] < row / CELLS < box[3])
                for box in graph.boxes[subject + 1 :]
            )
            if u0 < column < u1 and v0 < row < v1 and uncovered:
                brightness = picture[row, column] / np.array(COLOURS[colour_of(graph, subject)])
                assert np.ptp(brightness) < 0.05 or brightness.max() < STRIPE_BRIGHTNESS + 0.05
                predicates.add(predicate)
    assert predicates == {"inside", "in front of"}


def test_most_of_every_shape_is_visible():
    for graph, _ in SCENES[:60]:
        for index in range(len(graph.objects)):
            attributes = list(graph.attributes)
            alone = graph_from_boxes([graph.objects[index]], [graph.boxes[index]], [attributes[index]])
            other = next(colour for colour in COLOURS if colour not in attributes[index])
            attributes[index] = tuple(other if word in COLOURS else word for word in attributes[index])
            recoloured = dataclasses.replace(graph, attributes=tuple(attributes))
            visible = (pixels(graph) != pixels(recoloured)).any(-1).sum()
            assert visible >= 0.95 * MIN_VISIBLE * (pixels(alone) != 128).any(-1).sum()


def test_an_edited_graph_changes_the_picture_within_the_object_s_box_only():
    graph, background = next(scene for scene in SCENES if len(scene[0].objects) == 3)
    objects = ("square" if graph.objects[0] == "circle" else "circle", *graph.objects[1:])
    changed = (pixels(graph, background) != pixels(dataclasses.replace(graph, objects=objects), background)).any(-1)
    x0, y0, x1, y1 = (round(64 * edge) for edge in graph.boxes[0])
    assert changed[y0:y1, x0:x1].any()
    changed[y0:y1, x0:x1] = False
    assert not changed.any()


@pytest.mark.parametrize(
    "graph",
    [
        SceneGraph(objects=("dog",), boxes=((0, 0, 1, 1),), attributes=(("red",),)),
        SceneGraph(objects=("circle",), attributes=(("red",),)),
        SceneGraph(objects=("circle",), boxes=((0, 0, 1, 1),), attributes=(("large",),)),
    ],
)
def test_an_object_that_cannot_be_drawn_is_an_error(graph):
    with pytest.raises(GraphError, match="object 0"):
        render(graph, GREY)
