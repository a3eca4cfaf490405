"""Images of graphs by a model that reads them as text: guidance, and words that are drawn to their boxes."""

import numpy as np
import pytest
import torch
from tiny import MODEL, adapted_model, tiny_model

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import OpenVocab
from ldm.modules.attention_control import BoxSteering, Control
from ldm.modules.graph_text import GraphText
from ldm.sampling.options import SampleOptions
from ldm.sampling.sample import default_options, sample_images
from ldm.util.errors import UserError

FOX = SceneGraph(("fox", "hat"), boxes=((0.1, 0.4, 0.4, 0.9), None), triples=((0, "wearing", 1),))
TEXT = {
    "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
    "params": {"init": "random", "version": {"width": 24, "layers": 2, "heads": 2, "embed_dim": 16}},
}
STEPS = SampleOptions(2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    params = MODEL["params"]["unet_config"]["params"]
    names = ("context_local_dim", "film_embedding_dim", "lora_rank")
    unet = {**MODEL["params"]["unet_config"], "params": {key: params[key] for key in params if key not in names}}
    model = tiny_model(unet_config=unet, cond_stage_config=None, global_stage_config=None, text_stage_config=TEXT)
    model.vocab = OpenVocab()
    model.unet.out[-1].weight.data.normal_(std=0.1)  # zero in a new U-Net
    return model.eval().requires_grad_(False)


def test_models_of_text_alone_are_guided_by_default_and_others_are_not(model):
    assert default_options(model)["graph_scale"] == default_options(model)["style_scale"] == 7.5
    assert default_options(adapted_model()).keys() == {"layout"}


def test_steering_passes_the_boxes_of_words_to_each_row_and_noise_level(model, monkeypatch):
    seen = []
    forward = type(model.unet).forward
    monkeypatch.setattr(
        type(model.unet),
        "forward",
        lambda self, x, t, cond, control=None: seen.append(control) or forward(self, x, t, cond, control),
    )
    sample_images(model, [FOX], [1], SampleOptions(2, steer=0.5, steer_peak=3.0))
    assert len(seen) == 2 and all(isinstance(control, Control) for control in seen)
    for control in seen:
        (steering,) = control.steering
        assert isinstance(steering, BoxSteering) and (steering.row, steering.weight, steering.peak) == (0, 0.5, 3.0)
        assert torch.equal(steering.boxes, GraphText.of(FOX).token_boxes())
    first, last = (control.steering[0].sigma for control in seen)
    assert first > last > 0


def test_steering_changes_the_image_and_weight_0_does_not(model):
    plain, off, steered = (
        np.array(sample_images(model, [FOX], [1], options)[0])
        for options in (STEPS, SampleOptions(2, steer=0.0), SampleOptions(2, steer=5.0))
    )
    assert np.array_equal(plain, off) and not np.array_equal(plain, steered)


def test_steering_of_a_model_without_text_is_refused():
    with pytest.raises(UserError, match=r"^steer 0\.5: this model reads no text; leave the option out$"):
        sample_images(adapted_model(), [FOX], [1], SampleOptions(2, steer=0.5))
