"""Edits by text: which tokens are whose, what both captions share, and edits of a tiny model that reads text alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import MODEL, tiny_model

from ldm.editing.attention import unchanged_objects
from ldm.editing.options import METHODS, EditOptions, EditRequest
from ldm.editing.outputs import measurements, sentences
from ldm.editing.pipeline import attention_control, describe_source, edit, steered
from ldm.editing.plan import make_plan, make_schedule
from ldm.editing.text import edit_texts, shared_tokens, text_maps, touched_objects
from ldm.graph.diff import diff
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import OpenVocab
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.graph_text import GraphText, steering

FOX = SceneGraph(
    ("fox", "hat", "tree"),
    boxes=((0.1, 0.4, 0.4, 0.9), (0.2, 0.3, 0.3, 0.4), None),
    attributes=(("red",), (), ()),
    triples=((0, "wearing", 1), (0, "near", 2)),
)  # "red fox wearing hat and near tree", one token per word
BLUE = replace(FOX, attributes=(("red",), ("blue",), ()))  # "red fox wearing blue hat and near tree"
CAT = replace(FOX, objects=("cat", "hat", "tree"))
TEXT = {
    "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
    "params": {"init": "random", "version": {"width": 24, "layers": 2, "heads": 2, "embed_dim": 16}},
}


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    torch.manual_seed(0)
    params = MODEL["params"]["unet_config"]["params"]
    names = ("context_local_dim", "film_embedding_dim", "lora_rank")
    unet = {**MODEL["params"]["unet_config"], "params": {key: params[key] for key in params if key not in names}}
    parts = {"cond_stage_config": None, "global_stage_config": None, "text_stage_config": TEXT}
    model = tiny_model(unet_config=unet, **parts)
    model.vocab = OpenVocab()
    return model.eval().requires_grad_(False)


# Texts


def test_tokens_of_an_object_have_its_box():
    boxes = GraphText.of(BLUE).token_boxes()
    expected = torch.full((77, 4), -1.0)
    expected[1:3], expected[4:6] = torch.tensor(BLUE.boxes[0]), torch.tensor(BLUE.boxes[1])
    assert torch.equal(boxes, expected)


def test_unchanged_words_and_predicates_between_them_are_shared_and_so_are_start_end_and_padding():
    source, target = GraphText.of(FOX), GraphText.of(BLUE)
    tokens = shared_tokens(source, target, unchanged_objects(FOX, BLUE))
    # start red fox wearing blue hat and near tree end padding
    assert tokens[:9].tolist() == [0, 1, 2, -1, -1, -1, -1, 6, 7]
    assert tokens[9:].tolist() == [*range(8, 76)]


def test_a_text_shares_every_word_of_the_graph_with_itself():
    text = GraphText.of(FOX)
    tokens = shared_tokens(text, text, {0: 0, 1: 1, 2: 2})
    connective = 5  # "and"
    assert [i for i in range(77) if tokens[i] != i] == [connective]


def test_touched_objects_are_those_of_each_operation():
    moved = replace(FOX, boxes=((0.5, 0.4, 0.8, 0.9), *FOX.boxes[1:]), triples=((0, "wearing", 1), (0, "behind", 2)))
    assert touched_objects(diff(FOX, moved), of_source=True) == [0, 2]
    added = SceneGraph(("dog", *FOX.objects), (None, *FOX.boxes), ((), *FOX.attributes))
    assert touched_objects(diff(FOX, added), of_source=False) == [0]
    assert touched_objects(diff(FOX, added), of_source=True) == []
    assert touched_objects(diff(added, FOX), of_source=True) == [0]


def test_what_an_edit_touches_keeps_its_words_in_a_crowd():
    crowd = [f"person number {i}" for i in range(40)]
    graph = SceneGraph(("cup", *crowd), ((0.0, 0.0, 0.01, 0.01), *[(0.1, 0.1, 0.9, 0.9)] * 40), ((),) * 41, ())
    red = replace(graph, attributes=(("red",), *graph.attributes[1:]))
    (_, text), untouched = edit_texts(graph, red, diff(graph, red)), GraphText.of(red)
    assert text.caption.text.startswith("red cup") and not untouched.caption.objects[0]
    assert len(text.caption.dropped) > 10


def test_attention_to_an_object_is_the_mean_over_its_name():
    maps = torch.arange(77.0)[:, None, None].expand(77, 2, 2)
    photo = SceneGraph(("photorealistic llama", "hat"))
    text = GraphText.of(photo)
    positions = text.name_positions(0)
    assert len(positions) > 2
    expected = [sum(positions) / len(positions), text.name_positions(1)[0]]
    assert text_maps(maps, text)[:, 0, 0].tolist() == pytest.approx(expected)


def test_steering_names_the_rows_with_boxes_and_is_off_at_weight_0():
    text, nowhere = GraphText.of(FOX), GraphText.of(SceneGraph(("fox",)))
    assert [each.row for each in steering([None, text, nowhere], 0.5)] == [1]
    assert steering([text], 0.0) == ()


# Edits


def request(photograph, graph=CAT, source=FOX, **more):
    return EditRequest(photograph, graph, source, **more)


@pytest.fixture
def photograph(scene):
    return scene[0]


def test_the_photograph_is_inverted_under_its_own_caption_and_sampled_under_the_edited_one(model, photograph):
    plan = make_plan(request(photograph), EditOptions(steps=2), model)
    source = describe_source(model, plan, make_schedule(model, plan.options))
    texts = "red fox wearing hat and near tree", "red cat wearing hat and near tree"
    encoded = [model.text_stage_model([text]).tokens for text in texts]
    assert torch.equal(source.conditioning.text.tokens, encoded[0])
    assert torch.equal(source.target.text.tokens, encoded[1])
    unknown = make_plan(EditRequest(photograph, CAT), EditOptions(steps=2), model)
    source = describe_source(model, unknown, make_schedule(model, unknown.options))
    assert torch.equal(source.conditioning.text.tokens, model.text_stage_model([""]).tokens)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_edits_by_text_within_the_region(model, photograph, method):
    result = edit(model, request(photograph), EditOptions(method=method, steps=2, steer=0.5, graph_scale=3.0))
    assert result.image.size == photograph.size
    untouched = result.region == 0
    assert 0 < untouched.mean() < 1
    assert np.array_equal(np.asarray(result.image)[untouched], np.asarray(photograph.convert("RGB"))[untouched])
    assert result.plan.options.graph_scale == 3.0


def test_steering_is_off_by_default_and_changes_the_edit_when_on(model, photograph):
    images = [
        np.asarray(edit(model, request(photograph), EditOptions(steps=2, **options)).image, dtype=int)
        for options in ({}, {"steer": 0.0}, {"steer": 50.0}, {"steer": 5.0, "steer_peak": 10.0})
    ]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2]) and not np.array_equal(images[0], images[3])


def test_only_the_edits_row_is_steered(model, photograph):
    plan = make_plan(request(photograph), EditOptions(steer=0.5, keep=True, region="none"), model)
    control = steered(attention_control(model, plan), plan, row=1)
    assert [each.row for each in control.steering] == [1] and control.pairs[0].tokens is not None
    assert steered(None, replace(plan, options=plan.options.replace(steer=0.0)), row=0) is None


def test_an_edit_without_boxes_finds_its_region_by_attention_to_the_objects_words(model, photograph):
    bare = [replace(graph, boxes=(None,) * 3) for graph in (CAT, FOX)]
    result = edit(model, request(photograph, *bare), EditOptions(steps=2), attention=True)
    assert result.attention.shape == (3, 8, 8) and result.attention[0].any()


def test_keep_shares_attention_to_common_words(model, photograph):
    result = edit(model, request(photograph), EditOptions(method="ddim", steps=2, keep=True, region="none"))
    assert result.keeps_appearance


def test_it_says_that_it_goes_by_text_and_what_had_no_room(model, photograph):
    result = edit(model, request(photograph), EditOptions(steps=2))
    said = " ".join(sentences(result, result.plan.request))
    assert "goes by text; photograph: 'red fox wearing hat and near tree'" in said and "'red cat" in said
    assert measurements(result)["captions"][1] == "red cat wearing hat and near tree"
    short = edit(model, request(photograph), EditOptions(steps=2, caption="short"))
    assert measurements(short)["captions"][0] == "red fox, hat, tree"


def test_the_negative_prompt_reaches_guidance(model, photograph):
    plain, negative = (
        edit(model, request(photograph), EditOptions(steps=2, negative=negative)).image for negative in ("", "blue dog")
    )
    assert not np.array_equal(plain, negative)
