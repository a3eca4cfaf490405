"""Where an edit may change the picture: exact in cells and pixels, and nothing of the photograph lost outside."""

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.editing.region import Region, from_attention, grown, in_cells, in_pixels, object_maps, paste, shrunk, touched
from ldm.graph.diff import diff
from ldm.graph.scene_graph import SceneGraph
from ldm.plots import draw_heatmap
from ldm.util.errors import UserError

A, B, C = (0.125, 0.125, 0.375, 0.375), (0.625, 0.625, 0.875, 0.875), (0.25, 0.25, 0.5, 0.5)
CELLS, SIZE = (8, 8), (96, 64)  # h w; width height


def graph(*boxes, triples=(), objects=("cat", "dog"), attributes=()):
    return SceneGraph(objects, boxes, attributes, triples)


def noise(size):
    return Image.fromarray(np.random.default_rng(size[0]).integers(0, 256, (*size[::-1], 3), np.uint8))


def test_a_box_on_the_grid_is_grown_by_one_cell_and_fades_over_the_next():
    region = in_cells((2 / 8, 3 / 8, 4 / 8, 5 / 8), CELLS)[0, 0]
    across = torch.tensor([0.5, 1, 1, 1, 1, 0.5, 0, 0])
    torch.testing.assert_close(region[4], across)
    torch.testing.assert_close(region[:, 3], torch.tensor([0, 0.5, 1, 1, 1, 1, 0.5, 0]))
    assert torch.equal(in_cells((2 / 8, 3 / 8, 4 / 8, 5 / 8), CELLS, 1, 0)[0, 0, 4], (across == 1).float())
    assert float(in_cells((2 / 8, 3 / 8, 4 / 8, 5 / 8), CELLS, 0, 0).sum()) == 4


def test_every_cell_that_a_box_reaches_is_wholly_in_the_region_and_none_beyond_margin_and_feather():
    rng = np.random.default_rng(0)
    for _ in range(50):
        x0, x1 = np.sort(rng.uniform(0, 1, 2))
        region = in_cells((x0, 0.0, x1, 1.0), (4, 16))[0, 0, 2].numpy()
        start = np.arange(16)
        gap = np.maximum(np.maximum(16 * x0 - start - 1, start - 16 * x1), 0)
        assert (region[gap == 0] > 1 - 1e-6).all() and (region[gap > 2] < 1e-6).all()


def test_the_region_moves_smoothly_with_its_box():
    steps = torch.cat([in_cells((0.3 + s / 1000, 0.3, 0.6 + s / 1000, 0.6), CELLS) for s in range(200)])
    assert steps.diff(dim=0).abs().max() < 0.02


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (37, 101)])
def test_in_pixels_the_region_is_whole_in_the_box_and_nothing_a_cell_away(size):
    mask = in_pixels(C, size, CELLS)
    assert mask.shape == size[::-1]
    for axis, length in ((1, size[0]), (0, size[1])):
        edges = np.arange(length) / length
        line = mask.max(1 - axis)
        inside = (edges + 1 / length > 0.25) & (edges < 0.5)
        beyond = (edges + 1 / length <= 0.125 + 1e-12) | (edges >= 0.625 - 1e-12)
        assert (line[inside] == 1).all() and (line[beyond] == 0).all()
        assert ((line > 0) & (line < 1)).any() and (np.diff(line[: length // 3]) >= 0).all()


def test_outside_of_the_region_the_photograph_is_untouched_to_the_bit():
    photograph, edited = noise(SIZE), noise((SIZE[0], SIZE[1]))
    edited = Image.fromarray(255 - np.asarray(edited))
    region = Region.of(diff(graph(A, B), graph(A, B, objects=("cat", "cow"))), CELLS, SIZE)
    pasted, old = np.asarray(paste(edited, photograph, region.pixels)), np.asarray(photograph)
    assert (pasted[region.pixels == 0] == old[region.pixels == 0]).all()
    assert (pasted[region.pixels == 1] == np.asarray(edited)[region.pixels == 1]).all()
    assert (region.pixels == 0).mean() > 0.5 and (region.pixels == 1).any()
    rows, columns = np.nonzero(region.pixels)
    assert columns.min() >= 96 * 4 / 8 and rows.min() >= 64 * 4 / 8  # one cell above and left of B


def test_no_edit_has_no_region_and_leaves_the_photograph():
    region = Region.of(diff(graph(A, B), graph(A, B)), CELLS, SIZE)
    assert not region.latent.any() and not region.pixels.any()
    assert np.array_equal(paste(noise(SIZE), noise((96, 64)), region.pixels), noise((96, 64)))


def test_a_move_touches_the_old_place_and_the_new_one():
    operations = diff(graph(A, None), graph(B, None))
    both = torch.maximum(in_cells(A, CELLS), in_cells(B, CELLS))
    assert torch.equal(Region.of(operations, CELLS, SIZE).latent, both)


def test_several_operations_touch_the_union():
    operations = diff(
        graph(A, B, objects=("cat", "dog")), graph(A, B, objects=("cow", "dog"), attributes=((), ("red",)))
    )
    assert len(operations) == 2
    region = Region.of(operations, CELLS, SIZE)
    assert torch.equal(region.latent, torch.maximum(in_cells(A, CELLS), in_cells(B, CELLS)))
    assert np.array_equal(region.pixels, np.maximum(*(in_pixels(box, SIZE, CELLS) for box in (A, B))))


def changed(a, before, b, after):
    operations = diff(graph(*a, triples=before), graph(*b, triples=after))
    return [list(touched(operation, operations)) for operation in operations]


def test_a_relation_touches_what_moves_for_it():
    assert changed((A, B), [(0, "left of", 1)], (B, A), [(0, "right of", 1)]) == [[A, B], [B, A], []]


def test_who_is_in_front_is_changed_where_the_two_overlap():
    (only,) = changed((A, C), [(0, "behind", 1)], (A, C), [(0, "in front of", 1)])
    assert only == [(0.25, 0.25, 0.375, 0.375)]


def test_a_relation_that_boxes_do_not_show_touches_both():
    assert changed((A, B), [(0, "chasing", 1)], (A, B), [(0, "watching", 1)]) == [[A, B]]


def test_saying_more_or_less_of_what_is_there_touches_nothing():
    assert changed((A, B), [], (A, B), [(0, "left of", 1)]) == [[]]
    assert changed((A, B), [(0, "left of", 1)], (A, B), []) == [[]]


def test_what_has_no_box_is_where_the_unet_looked_for_it():
    attention = torch.zeros(2, 8, 8)
    attention[0, 1:3, 1:3] = 1
    operations = diff(graph(None, None), graph(None, None, objects=("cow", "dog")))
    region = Region.of(operations, CELLS, SIZE, attention)
    assert (region.latent[0, 0, 1:3, 1:3] == 1).all() and not region.latent[0, 0, 5:].any()
    assert region.pixels.shape == (64, 96) and not region.pixels[48:].any() and region.pixels[12:20, 20:30].min() > 0.9
    everywhere = Region.of(operations, CELLS, SIZE)
    assert everywhere.latent.min() == 1 and everywhere.pixels.min() == 1


def test_attention_that_is_alike_everywhere_hides_its_object_anywhere():
    assert (from_attention(torch.full((4, 4), 0.3), CELLS) == 1).all()


def test_an_objects_map_is_its_tokens():
    attention = torch.rand(5, 4, 4)
    maps = object_maps(attention, torch.tensor([3, 0, -1]))
    assert torch.equal(maps[:2], attention[[3, 0]]) and not maps[2].any()


def test_a_users_mask_of_any_size_is_the_region():
    mask = Image.new("L", (32, 16), 0)
    mask.paste(255, (0, 0, 16, 16))
    region = Region.of_mask(mask, CELLS, SIZE)
    assert torch.equal(region.latent[0, 0], torch.tensor([[1.0] * 4 + [0.0] * 4] * 8))
    assert (region.pixels[:, :45] == 1).all() and (region.pixels[:, 51:] == 0).all()
    with pytest.raises(UserError, match="black"):
        Region.of_mask(Image.new("RGB", (5, 5)), CELLS, SIZE)


def test_a_heat_map_is_hottest_where_attention_is_highest():
    attention = torch.zeros(4, 4)
    attention[3, 0] = 2
    picture = np.asarray(draw_heatmap(Image.new("RGB", SIZE, (90, 90, 90)), attention)).astype(int)
    assert picture.shape == (64, 96, 3)
    warmth = picture[..., 0] - picture[..., 2]
    assert np.unravel_index(warmth.argmax(), warmth.shape)[0] > 48 and warmth[56, 12] > 100
    assert warmth[8, 90] < 0
    assert np.asarray(draw_heatmap(Image.new("RGB", SIZE), torch.zeros(2, 2))).std() > 0  # a colour, not an error


# --- shadows and reflections ----------------------------------------------------------------------------------------------


def test_a_box_grows_by_shares_of_its_longer_side():
    assert grown((0.25, 0.5, 0.5, 1.0), (1, 0.25, 0.5, 0)) == (-0.25, 0.375, 0.75, 1.0)


def test_the_region_reaches_as_far_as_shadows_of_what_is_gone():
    region = Region.of(diff(graph(C, B), SceneGraph(("dog",), (B,))), CELLS, SIZE)
    wide = region.with_reach(diff(graph(C, B), SceneGraph(("dog",), (B,))), (0, 0, 1, 0.5), feather=0)
    rows, columns = np.nonzero(wide.latent[0, 0].numpy() == 1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 4, 1, 5)  # C is cells 2 to 3, and the margin 1
    assert (wide.pixels >= region.pixels).all() and (wide.latent >= region.latent).all()
    assert wide.pixels[int(0.6 * 64), int(0.7 * 96)] == 1 and wide.pixels[int(0.7 * 64), int(0.3 * 96)] == 0


def test_shadows_spare_the_boxes_of_other_objects_but_not_what_the_region_covers_already():
    operations = diff(graph(A, C), SceneGraph(("dog",), (C,)))
    region = Region.of(operations, CELLS, SIZE)
    wide = region.with_reach(operations, (2, 2, 2, 2), spared=[C])
    inside = np.zeros(SIZE[::-1], bool)
    inside[int(C[1] * 64) : int(C[3] * 64), int(C[0] * 96) : int(C[2] * 96)] = True
    assert np.array_equal(wide.pixels[inside], region.pixels[inside])
    assert wide.pixels[int(0.6 * 64), int(0.6 * 96)] == 1 and region.pixels[int(0.6 * 64), int(0.6 * 96)] == 0
    assert torch.equal(wide.latent[0, 0, 2:4, 2:4], region.latent[0, 0, 2:4, 2:4])


def test_a_box_shrinks_about_its_middle():
    assert shrunk((0.25, 0.5, 0.5, 1.0), 0.5) == (0.3125, 0.625, 0.4375, 0.875)


def test_another_colour_casts_no_other_shadow():
    operations = diff(graph(A, B, attributes=(("red",), ())), graph(A, B, attributes=(("blue",), ())))
    region = Region.of(operations, CELLS, SIZE)
    assert torch.equal(region.with_reach(operations, (1, 1, 1, 1)).latent, region.latent)
