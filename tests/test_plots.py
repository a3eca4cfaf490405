"""Visualisations: outlines, nodes, arrows and pictures are at their places, and labels do not overlap."""

import numpy as np
import pytest
from PIL import Image

from ldm.graph.scene_graph import SceneGraph
from ldm.plots import MIN_SIDE, _ring, draw_boxes, draw_graph, draw_heatmap, draw_region, grid, panel

TEN = SceneGraph(
    objects=("building", "traffic light", "person", "surfboard", "skateboarder", "motorcycle", "windshield")
    + ("playing field", "giraffe", "refrigerator"),
    attributes=(("tall", "white", "brick"), ("red",), (), ("long", "yellow", "wooden"), (), (), (), ("green",), (), ()),
    triples=tuple((i, "standing on top of", (i + 3) % 10) for i in range(10)),
)
BLACK = Image.new("RGB", (200, 100))


def colours(image) -> set[tuple]:
    return {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3)}


def common_colours(image, least: int) -> list[tuple]:
    pixels, counts = np.unique(np.asarray(image).reshape(-1, 3), axis=0, return_counts=True)
    return [tuple(pixel) for pixel in pixels[counts >= least].tolist()]


def two_objects(*boxes) -> SceneGraph:
    return SceneGraph(objects=("dog", "cat"), boxes=boxes)


def test_an_outline_lies_on_the_edges_of_its_box():
    image = Image.new("RGB", (400, 400))
    pixels = np.asarray(draw_boxes(image, SceneGraph(objects=("dog",), boxes=((0.25, 0.5, 0.75, 1.0),))))
    drawn = pixels.any(-1)
    assert drawn[200:400, 100].all() and drawn[200:400, 299].all()  # left and right
    assert drawn[200, 100:300].all() and drawn[399, 100:300].all()  # top and bottom
    assert not drawn[230:370, 130:270].any()  # inside
    assert not drawn[:, :100].any() and not drawn[:, 300:].any() and not drawn[:150].any()


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (500, 40), (900, 1200)])
def test_small_images_are_enlarged_and_keep_their_aspect_ratio(size):
    picture = draw_boxes(Image.new("RGB", size), two_objects((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)))
    assert min(picture.size) >= MIN_SIDE
    assert picture.width / picture.height == pytest.approx(size[0] / size[1], rel=0.01)
    assert size != (900, 1200) or picture.size == size


def test_objects_without_a_box_are_not_drawn_on_the_image():
    assert colours(draw_boxes(BLACK, two_objects(None, None))) == {(0, 0, 0)}
    assert len(common_colours(draw_boxes(BLACK, two_objects(None, (0, 0, 1, 1))), 500)) == 2


def test_an_object_has_the_same_colour_on_the_image_and_in_the_graph():
    graph = two_objects((0.1, 0.2, 0.4, 0.9), (0.6, 0.2, 0.9, 0.9))
    on_image = set(common_colours(draw_boxes(BLACK, graph), 500)) - {(0, 0, 0), (255, 255, 255)}
    in_graph = set(common_colours(draw_graph(graph), 500)) - {(255, 255, 255)}
    assert on_image == in_graph and len(on_image) == 2


@pytest.mark.parametrize("size", [384, 640, 1000])
def test_nodes_with_long_names_neither_overlap_nor_leave_the_picture(size):
    nodes, font = _ring(TEN, size)
    for index, node in enumerate(nodes):
        for other in nodes[:index]:
            assert node[2] <= other[0] or other[2] <= node[0] or node[3] <= other[1] or other[3] <= node[1]
        assert 0 <= node[0] and 0 <= node[1] and node[2] <= size and node[3] <= size
    assert font.size >= size / 64
    assert draw_graph(TEN, size).size == (size, size)


def test_nodes_are_arranged_like_the_boxes_in_the_image():
    corners = ((0, 0, 0.1, 0.1), (0.9, 0.9, 1, 1), (0.9, 0, 1, 0.1), (0, 0.9, 0.1, 1))
    nodes, _ = _ring(SceneGraph(objects=("a", "b", "c", "d"), boxes=corners), 640)
    for (x0, y0, x1, y1), box in zip(nodes, corners):
        assert ((x0 + x1) / 2 < 320) == (box[0] < 0.5) and ((y0 + y1) / 2 < 320) == (box[1] < 0.5)


@pytest.mark.parametrize("triple", [(0, "on", 1), (1, "on", 0)])
def test_an_arrow_points_from_subject_to_object_in_the_subject_s_colour(triple):
    graph = SceneGraph(objects=("a", "b"), triples=(triple,))
    picture = np.asarray(draw_graph(graph))
    upper, lower = (Image.fromarray(picture[rows]) for rows in (slice(0, 52), slice(588, 640)))  # the two nodes
    nodes = (upper, lower) if triple[0] == 0 else (lower, upper)
    subject_colour, object_colour = (common_colours(node, 200)[0] for node in nodes)
    between = picture[52:588]
    ink = (between == subject_colour).all(-1).sum(1)
    assert ink.any() and not (between == object_colour).all(-1).any()
    head, tail = (ink[-20:], ink[:20]) if triple[0] == 0 else (ink[:20], ink[-20:])
    assert head.sum() > 1.5 * tail.sum()


def test_several_relations_of_a_pair_have_separate_arrows():
    one, three = (SceneGraph(objects=("a", "b"), triples=((0, "on", 1),) * count) for count in (1, 3))
    row = [np.asarray(draw_graph(graph))[240] for graph in (one, three)]
    crossings = [np.count_nonzero(np.diff((pixels < 250).any(-1).astype(int)) == 1) for pixels in row]
    assert crossings == [1, 3]


@pytest.mark.parametrize("count", [1, 2, 40])
def test_graphs_of_any_size_can_be_drawn(count):
    graph = SceneGraph(objects=("something with a name that goes on",) * count, attributes=(("very", "long"),) * count)
    assert len(colours(draw_graph(graph, 300))) > 2


def test_a_panel_scales_its_pictures_to_one_height_and_grows_with_its_caption():
    wide, tall = Image.new("RGB", (200, 100), (255, 0, 0)), Image.new("RGB", (50, 100), (0, 0, 255))
    bare = panel([("reference", wide), ("edit", tall)], height=200)
    counts = {colour: (np.asarray(bare) == colour).all(-1).sum() for colour in ((255, 0, 0), (0, 0, 255))}
    assert counts == {(255, 0, 0): 400 * 200, (0, 0, 255): 100 * 200}
    short = panel([("reference", wide), ("edit", tall)], ["one line"], height=200)
    long = panel([("reference", wide), ("edit", tall)], ["a line that is much too long for the panel " * 9], height=200)
    assert bare.height < short.height < long.height and bare.width == short.width == long.width


def test_a_grid_fills_its_rows_in_order():
    images = [Image.new("RGB", (20, 10), (index, 0, 0)) for index in range(5)]
    sheet = np.asarray(grid(images, 3))
    assert sheet.shape == (10 + 4 + 10, 20 * 3 + 4 * 2, 3)
    assert [tuple(sheet[5, x]) for x in (10, 34, 58)] == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    assert [tuple(sheet[19, x]) for x in (10, 34, 58)] == [(3, 0, 0), (4, 0, 0), (255, 255, 255)]
    assert grid(images[:2], 8).size == (44, 10)


def test_a_grid_centres_smaller_pictures_in_their_cells():
    sheet = np.asarray(grid([Image.new("RGB", (20, 10)), Image.new("RGB", (8, 4))], 2))
    assert sheet.shape == (10, 44, 3)
    rows, columns = np.nonzero((sheet[:, 24:] == 0).all(-1))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (6, 3, 13, 6)


def test_a_region_keeps_its_pixels_and_fades_the_others():
    photograph = Image.new("RGB", (4, 2), (100, 0, 200))
    region = np.zeros((2, 4))
    region[:, :2] = 1
    picture = np.asarray(draw_region(photograph, region))
    assert (picture[:, :2] == (100, 0, 200)).all() and (picture[:, 2:] > (200, 190, 230)).all()


def test_a_heat_map_is_blue_where_lowest_and_yellow_where_highest():
    picture = np.asarray(draw_heatmap(Image.new("RGB", (32, 32)), np.array([[0.0, 5.0], [0.0, 5.0]])))
    low, high = picture[:, 0].astype(int), picture[:, -1].astype(int)
    assert (low[:, 2] > low[:, 0]).all() and (high[:, :2].min(1) > 2 * high[:, 2]).all()
