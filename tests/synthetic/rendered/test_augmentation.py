"""Zoomed, shifted and mixed pictures show what their scenes say: painted scenes are painted again and compared."""

import numpy as np
import pytest
import torch
from device_waits import GPU, Waits, allow_autocast
from torch import Tensor

from ldm.synthetic.rendered.augmentation import (
    SATURATION,
    SPARE,
    like_style,
    resample,
    rotate_hues,
    transplant,
    zoom_and_shift,
)
from ldm.synthetic.rendered.detector import CELLS, STYLE, WORDS, Maps, split_fields
from ldm.synthetic.rendered.scenes import MARGIN, VISIBLE
from ldm.synthetic.rendered.targets import NOTHING, SceneTensors, detector_loss, encode
from ldm.synthetic.rendered.training import DetectorTraining, Pictures, TrainingOptions

SIDE = 128


def scenes_of(boxes: Tensor, present: Tensor) -> SceneTensors:
    """Scenes of things on the floor, all of one kind, from boxes (N,T,4) and (N,T) bool."""
    count, slots = present.shape
    words = torch.zeros(count, slots, len(WORDS), dtype=torch.long)
    words[..., WORDS.index("relation")] = NOTHING
    return SceneTensors(
        words=words,
        layers=torch.where(present, 0, -1),
        supports=torch.full((count, slots), -1),
        boxes=boxes,
        visible_boxes=boxes.clone(),
        visible=present.float(),
        positions=torch.rand(count, slots, 2),
        placed=present.clone(),
        style=torch.stack([torch.randint(len(choices), (count,)) for choices in STYLE.values()], 1),
    )


def grid_scenes(count: int, seed: int) -> SceneTensors:
    """Each with things in some of the nine fields of the picture, so that no two overlap; edges are those of pixels."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    corners = torch.cartesian_prod(torch.arange(3), torch.arange(3)) * 42 + 2
    low = corners + torch.randint(0, 12, (count, 9, 2), generator=generator)
    high = low + torch.randint(14, 28, (count, 9, 2), generator=generator)
    present = torch.rand(count, 9, generator=generator) < 0.4
    present[:, 4] = True
    return scenes_of(torch.cat([low, high], -1) / SIDE, present)


def paint(scenes: SceneTensors) -> Tensor:  # (N,1,SIDE,SIDE)
    """Every thing of all scenes in a shade of its own, on black."""
    count, slots = scenes.layers.shape
    pictures = torch.zeros(count, 1, SIDE, SIDE)
    for n in range(count):
        for t in range(slots):
            if scenes.layers[n, t] >= 0:
                x0, y0, x1, y1 = (SIDE * scenes.boxes[n, t]).round().int().tolist()
                pictures[n, 0, y0:y1, x0:x1] = shade(n, t, slots)
    return pictures


def shade(n: int, t: int, slots: int) -> float:
    return (1 + n * slots + t) / 1024


def bounds(mask: Tensor) -> Tensor:  # of the pixels (SIDE,SIDE) that are True
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / SIDE


def all_of(scenes: SceneTensors) -> Tensor:
    return torch.ones(len(scenes.layers), dtype=torch.bool)


def test_a_point_moves_to_zoom_times_itself_plus_the_offset():
    middles = (torch.arange(SIDE) + 0.5) / SIDE
    ramp = torch.stack([middles.expand(SIDE, SIDE), middles[:, None].expand(SIDE, SIDE)])[None]  # across, down
    zoom, offset = torch.tensor([[1.1, 0.9]]), torch.tensor([[-0.03, 0.07]])
    moved = resample(ramp, zoom, offset)
    for axis, plane in enumerate((moved[0, 0], moved[0, 1].T)):
        expected = (middles - offset[0, axis]) / zoom[0, axis]
        inner = (expected > 0.03) & (expected < 0.97)
        assert inner.sum() > 100
        assert torch.allclose(plane[20:100, inner], expected[inner].expand(80, -1), atol=0.1 / SIDE)


def test_a_shift_by_whole_pixels_moves_pixels_and_continues_the_edge():
    picture = torch.rand(1, 3, SIDE, SIDE)
    moved = resample(picture, torch.ones(1, 2), torch.tensor([[5 / SIDE, 0.0]]))
    assert torch.allclose(moved[..., 5:], picture[..., :-5], atol=1e-4)
    assert torch.allclose(moved[..., :5], picture[..., :1].expand(-1, -1, -1, 5), atol=1e-4)


def test_boxes_are_those_of_the_zoomed_and_shifted_things():
    scenes = grid_scenes(24, seed=0)
    largest = 0.0
    for t in range(9):
        shown = (paint(scenes._replace(layers=torch.where(torch.arange(9) == t, scenes.layers, -1))) > 0).float()
        pictures, moved = zoom_and_shift(shown, scenes, all_of(scenes))
        for n in (scenes.layers[:, t] >= 0).nonzero()[:, 0].tolist():
            assert torch.allclose(bounds(pictures[n, 0] > 0.5), moved.boxes[n, t], atol=1.01 / SIDE)
            largest = max(largest, float((moved.boxes[n, t] - scenes.boxes[n, t]).abs().max()))
    assert largest > 0.05


def test_every_thing_stays_in_the_picture_and_other_pictures_stay_as_they_are():
    scenes = grid_scenes(40, seed=2)
    pictures, where = torch.rand(40, 3, SIDE, SIDE), torch.arange(40) % 2 == 0
    changed, moved = zoom_and_shift(pictures, scenes, where)
    boxes = moved.boxes[(scenes.layers >= 0) & where[:, None]]
    assert boxes.min() >= MARGIN - 1e-5 and boxes.max() <= 1 - MARGIN + 1e-5
    assert torch.equal(changed[~where], pictures[~where])
    for before, after in zip(scenes, moved):
        assert torch.equal(before[~where], after[~where])
    assert not moved.placed[where].any() and not torch.equal(changed[where], pictures[where])


def test_a_mixed_picture_shows_the_things_of_its_scene_and_no_other():
    scenes = grid_scenes(60, seed=3)
    pictures = paint(scenes)
    partner = like_style(scenes)
    mixed, both = transplant(pictures, scenes, all_of(scenes))
    changed = (both.layers[:, 9:] >= 0).any(1)
    hidden = cut = 0
    assert changed.sum() > 5
    for n in range(60):
        for t in range(9):
            area = (pictures[n, 0] == shade(n, t, 9)).sum()
            own = mixed[n, 0] == shade(n, t, 9)
            if both.layers[n, t] >= 0:
                assert own.sum() >= (VISIBLE + SPARE) * area
                assert float(own.sum() / area) == pytest.approx(float(both.visible[n, t]), abs=1e-4)
                assert torch.allclose(bounds(own), both.visible_boxes[n, t], atol=1e-6)
                cut += int(own.sum() < area)
            else:
                assert not own.any()
                hidden += int(area > 0)
            brought, whole = mixed[n, 0] == shade(int(partner[n]), t, 9), both.layers[n, 9 + t] >= 0
            assert (
                torch.equal(brought, pictures[partner[n], 0] == shade(int(partner[n]), t, 9))
                if whole
                else not (brought.any())
            )
    assert hidden > 0 and cut > 0
    assert torch.equal(mixed[~changed], pictures[~changed])


def test_what_a_mixture_makes_uncertain_is_not_learnt():
    scenes = grid_scenes(30, seed=4)
    _, both = transplant(paint(scenes), scenes, all_of(scenes))
    changed, differ = (both.layers[:, 9:] >= 0).any(1), scenes.style != scenes.style[like_style(scenes)]
    assert torch.equal(both.style == NOTHING, changed[:, None] & differ)
    assert not both.placed[:, 9:].any() and torch.equal(both.placed[:, :9], scenes.placed)
    where = torch.zeros(30, dtype=torch.bool)
    _, same = transplant(paint(scenes), scenes, where)
    assert torch.equal(same.layers[:, :9], scenes.layers) and (same.layers[:, 9:] < 0).all()
    assert torch.equal(same.style, scenes.style)


def test_things_and_their_supports_stay_together():
    scenes = grid_scenes(60, seed=5)
    x0, y0, x1, y1 = scenes.boxes[:, 4].unbind(-1)  # a thing on the one in the middle, inside of its box
    carried = torch.stack([x0 + 0.03, y0, x1 - 0.03, (y0 + y1) / 2], -1)
    scenes.boxes[:, 3], scenes.visible_boxes[:, 3] = carried, carried
    scenes.layers[:, 3], scenes.supports[:, 3], scenes.visible[:, 3] = 1, 4, 1.0
    _, both = transplant(paint(scenes), scenes, all_of(scenes))
    together = 0
    for n, t in (both.supports >= 0).nonzero().tolist():
        if both.layers[n, t] >= 0:
            assert both.layers[n, both.supports[n, t]] >= 0
            together += int(t >= 9)
    assert together > 0


def test_pictures_are_mixed_with_others_of_the_same_style_where_there_are_any():
    scenes = grid_scenes(12, seed=6)
    style = torch.tensor([[0, 1, 2, 0], [3, 1, 2, 1], [5, 0, 0, 0]]).repeat(4, 1)
    partner = like_style(scenes._replace(style=style))
    assert sorted(partner.tolist()) == list(range(12))
    assert (style[partner] == style).all(1).sum() == 12 - 3  # the last of each style goes with the next style


def test_the_loss_leaves_out_what_is_not_known():
    scenes = grid_scenes(6, seed=7)
    exact = encode(scenes)
    other = Maps(exact.things.clone(), exact.style.flip(1))
    split_fields(other.things, 2)["position"].add_(1.0)
    unknown = scenes._replace(placed=torch.zeros_like(scenes.placed), style=torch.full_like(scenes.style, NOTHING))
    losses = detector_loss(other, unknown)
    assert all(losses[field] == 0 for field in ("position", *STYLE))
    assert losses["heat"] == detector_loss(exact, scenes)["heat"] and exact.things.shape[-1] == CELLS
    half = scenes._replace(placed=scenes.placed & (torch.arange(6) < 3)[:, None])
    first = scenes.select(torch.arange(3))
    expected = detector_loss(Maps(other.things[:3], other.style[:3]), first)["position"]
    assert float(detector_loss(other, half)["position"]) == pytest.approx(float(expected), rel=1e-5)


def test_a_step_of_training_does_not_wait_for_the_gpu(monkeypatch):
    allow_autocast(monkeypatch)
    data = Pictures.on(GPU, np.zeros((4, SIDE, SIDE, 3), np.uint8), grid_scenes(4, 0))
    training = DetectorTraining(data, TrainingOptions(batch=4, steps=100, width=0.25))
    training.step = 20  # the autoencoder is trained and used
    with Waits() as waits:
        training._train_step()
        waits.watching = True
        training._train_step()
    assert waits.found == []


# Hues ----------------------------------------------------------------------------------------------------------------


def test_turned_hues_leave_what_is_grey_and_how_light_and_how_far_from_grey_the_rest_is():
    scenes, where = grid_scenes(6, 0), torch.tensor([True] * 5 + [False])
    grey, coloured = torch.rand(6, 1, 4, 4), 0.5 + 0.1 * torch.rand(6, 3, 4, 4)
    same, _ = rotate_hues(grey.expand(-1, 3, -1, -1), scenes, where)
    assert torch.allclose(same, grey.expand(-1, 3, -1, -1), atol=1e-6)
    turned, changed = rotate_hues(coloured, scenes, where)
    assert torch.allclose(turned.mean(1), coloured.mean(1), atol=1e-6)
    before, after = ((each - each.mean(1, keepdim=True)).norm(dim=1).flatten(1) for each in (coloured, turned))
    ratio = after / before
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), atol=1e-3)  # one saturation for each picture
    assert ((ratio > SATURATION[0] - 1e-3) & (ratio < SATURATION[1] + 1e-3)).all() and ratio[0, 0] != ratio[1, 0]
    assert torch.equal(turned[5], coloured[5]) and not torch.allclose(turned[0], coloured[0], atol=1e-3)
    colour = WORDS.index("colour")
    assert (changed.words[:5, :, colour] == NOTHING).all() and torch.equal(changed.words[5], scenes.words[5])
    others = [number for number in range(len(WORDS)) if number != colour]
    assert torch.equal(changed.words[..., others], scenes.words[..., others])
