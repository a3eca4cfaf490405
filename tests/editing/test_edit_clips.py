"""Edits of clips: what stays the source's own, what moves along, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model

from ldm.editing.clip_outputs import panel, write
from ldm.editing.clips import ClipEditRequest, complete, edit_clip
from ldm.editing.options import EditOptions
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.spatial_relations import relation_holds
from ldm.graph.storyboard import Keyframe, Storyboard
from ldm.models.diffusion.video import VideoDiffusion
from ldm.synthetic.shapes import Background, render
from ldm.util.errors import UserError

FRAMES = 4
FAST = EditOptions(steps=2)
GREY = Background((220, 220, 220), (220, 220, 220), 0.0)


def graph(x, colour="red", boxes=True):
    places = ((x, 0.1, x + 0.3, 0.4), (0.1, 0.6, 0.5, 1.0)) if boxes else ()
    return SceneGraph(("circle", "square"), places, ((colour,), ("blue",)), (), ("a", "b"))


def board(colour="red", frames=FRAMES, boxes=True):
    return Storyboard(frames, (Keyframe(0, graph(0.0, colour, boxes)), Keyframe(frames - 1, graph(0.6, colour, boxes))))


def clip(frames=FRAMES):
    return [render(each, GREY, 48) for each in board(frames=frames).graphs()]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    image, saved = tiny_model(), {}
    image.on_save_checkpoint(saved)
    path = tmp_path_factory.mktemp("image") / "last.ckpt"
    torch.save(saved, path)
    return VideoDiffusion(f"{path}", frames=FRAMES, head_channels=16).eval().requires_grad_(False)


def test_outside_of_the_region_each_pixel_is_the_sources_and_inside_it_changes(model):
    edit = edit_clip(model, ClipEditRequest(clip(), board("green"), board()), FAST)
    assert len(edit.frames) == FRAMES and edit.regions.shape == (FRAMES, 48, 48)
    for before, after, region in zip(clip(), edit.frames, edit.regions):
        before, after = np.asarray(before), np.asarray(after)
        assert np.array_equal(before[region == 0], after[region == 0]) and (region == 0).any()
        assert not np.array_equal(before[region == 1], after[region == 1])


def test_the_region_moves_along_with_the_object(model):
    regions = edit_clip(model, ClipEditRequest(clip(), board("green"), board()), FAST).regions
    centres = [np.nonzero(region == 1)[1].mean() for region in regions]
    assert centres == sorted(centres) and centres[-1] - centres[0] > 10


def test_equal_storyboards_return_the_clip(model):
    edit = edit_clip(model, ClipEditRequest(clip(), board(), board()), FAST)
    assert edit.operations == [] and not edit.regions.any()
    assert all(np.array_equal(a, b) for a, b in zip(edit.frames, clip()))


def test_a_seed_gives_the_same_edit_twice(model):
    request = ClipEditRequest(clip(), board("green"), board())
    a, b, c = (edit_clip(model, request, FAST.replace(seed=seed)).frames for seed in (1, 1, 2))
    assert all(map(np.array_equal, a, b)) and not all(map(np.array_equal, a, c))


@pytest.mark.parametrize("method", ["ddim", "direct"])
def test_other_inversions_take_clips(model, method):
    edit = edit_clip(model, ClipEditRequest(clip(), board("green"), board()), FAST.replace(method=method, graph_scale=1.0, style_scale=1.0))  # fmt: skip
    assert edit.options.method == method and len(edit.frames) == FRAMES


def test_a_style_changes_everything_without_a_region(model):
    style = Image.new("RGB", (32, 32), "purple")
    edit = edit_clip(model, ClipEditRequest(clip(), board(), board(), style), FAST)
    assert edit.regions.all()


def test_longer_clips_are_edited_by_windows(model):
    edit = edit_clip(model, ClipEditRequest(clip(7), board("green", 7), board(frames=7)), FAST, overlap=1)
    assert len(edit.frames) == 7


def test_attention_across_frames_is_on_where_no_temporal_layers_are_trained(model):
    request = ClipEditRequest(clip(), board("green"), board())
    by_default, off = edit_clip(model, request, FAST), edit_clip(model, request, FAST, frame_attention=False)
    assert by_default.frame_attention and not off.frame_attention
    assert not all(map(np.array_equal, by_default.frames, off.frames))


def test_what_the_edited_storyboard_does_not_say_is_as_in_the_source():
    silent = Storyboard(FRAMES, (Keyframe(0, graph(0, "green", boxes=False)),))
    whole = complete(board(), silent)
    assert [each.boxes for each in whole.graphs()] == [each.boxes for each in board().graphs()]
    assert all(each.attributes[0] == ("green",) for each in whole.graphs())


def test_a_new_relation_moves_an_object_at_each_keyframe():
    def beside(x):
        return replace(graph(x), boxes=((x, 0.1, x + 0.3, 0.4), (0.4, 0.1, 0.6, 0.3)))

    source = Storyboard(FRAMES, (Keyframe(0, beside(0.0)), Keyframe(FRAMES - 1, beside(0.6))))
    below = [Keyframe(k.at, replace(k.graph, boxes=(None, None), triples=((1, "below", 0),))) for k in source.keyframes]
    graphs = complete(source, replace(source, keyframes=tuple(below))).graphs()
    assert all(relation_holds(each.boxes[1], "below", each.boxes[0]) for each in graphs)
    assert [each.boxes[0] for each in graphs] == [each.boxes[0] for each in source.graphs()]


def test_curved_motion_of_the_source_is_no_move_of_the_edit():
    eased = replace(board(), easing="ease")
    whole = complete(eased, replace(board("green"), easing="ease"))
    assert np.allclose([g.boxes for g in whole.graphs()], [g.boxes for g in eased.graphs()])


def test_outputs_are_a_clip_a_film_strip_and_a_record(model, tmp_path):
    request = ClipEditRequest(clip(), board("green"), board())
    edit = edit_clip(model, request, FAST)
    write(tmp_path, tmp_path / "edited.webp", edit, request, 8, {})
    assert {path.name for path in tmp_path.iterdir()} == {"edited.webp", "panel.png", "record.json"}
    assert panel(edit, request).width > 4 * 128
    assert any("green" in operation for operation in edit.operations)


@pytest.mark.parametrize(
    "request_, options, words",
    [
        (lambda: ClipEditRequest(clip(), board("green", 5), board()), FAST, "edited storyboard 5"),
        (lambda: ClipEditRequest(clip(), board("green"), board()), FAST.replace(keep=True), "keep"),
        (lambda: ClipEditRequest(clip(), board("green"), board()), FAST.replace(method="ddpm"), "ddpm"),
        (lambda: ClipEditRequest(clip(), board("green", boxes=False), board(boxes=False)), FAST, "give the object a box"),
    ],
)  # fmt: skip
def test_what_clips_do_not_have_is_refused(model, request_, options, words):
    with pytest.raises(UserError, match=words):
        edit_clip(model, request_(), options)
