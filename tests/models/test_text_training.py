"""A text encoder that is trained together with its U-Net, and the file that both are exported to."""

import copy

import pytest
import torch
from test_export import save_checkpoint
from tiny import MODEL, demo_batch, randomize_trainable, tiny_model

from ldm.graph.batch import Batch
from ldm.graph.text_tokens import token_ids
from ldm.models.export import export_part
from ldm.synthetic.shapes import VOCAB

WORDS = ["circle", "square", "triangle", "red", "blue", "small", "large", "plain", "striped", ","]
TEXT = {
    "target": "ldm.modules.encoders.small.SmallTextEncoder",
    "params": {"init": "random", "words": WORDS, "width": 24, "layers": 1, "heads": 2},
}
ADAPTERS = ("context_local_dim", "film_embedding_dim", "lora_rank")
UNET = copy.deepcopy(MODEL["params"]["unet_config"])
UNET["params"] = {key: value for key, value in UNET["params"].items() if key not in ADAPTERS} | {"context_dim": 24}


def text_model(**changes):
    parts = {"unet_config": UNET, "cond_stage_config": None, "global_stage_config": None, "text_stage_config": TEXT}
    torch.manual_seed(0)
    return tiny_model(**parts | {"freeze_unet": False, "text_stage_trainable": True} | changes)


def captioned(batch, text):
    return Batch(batch.image, batch.graph, text_ids=torch.stack([token_ids(text)] * batch.graph.num_images))


def test_every_parameter_of_a_trainable_text_encoder_gets_a_gradient_by_the_second_step():
    model, batch = text_model(), captioned(demo_batch(2), "small red circle, large blue square")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model.losses(batch, torch.Generator().manual_seed(0))[0].mean().backward()
        optimizer.step()
    missing = [name for name, p in model.text_stage_model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


def test_without_it_the_text_encoder_stays_frozen():
    model = text_model(text_stage_trainable=False)
    model.losses(captioned(demo_batch(2), "red circle"))[0].mean().backward()
    assert all(p.grad is None and not p.requires_grad for p in model.text_stage_model.parameters())
    assert not any(name.startswith("text_stage_model") for name in model.saved_state())


def test_the_empty_text_of_a_trainable_text_encoder_follows_its_training():
    model, batch = text_model(text_drop=1.0), captioned(demo_batch(2), "red circle")

    def losses():
        return model.losses(batch, torch.Generator().manual_seed(0))[0].detach()

    before = losses()
    with torch.no_grad():
        model.text_stage_model.model.positional_embedding.add_(torch.randn(77, 24))
    assert not torch.allclose(losses(), before, rtol=1e-4)


def test_tokens_in_the_batch_stand_for_the_captions_that_the_model_would_write():
    model, batch = text_model(), demo_batch(2)
    ids = torch.stack([token_ids(text) for text in model.captions(batch.graph)])
    expected = model.losses(batch, torch.Generator().manual_seed(0))[0]
    given = model.losses(Batch(batch.image, batch.graph, text_ids=ids), torch.Generator().manual_seed(0))[0]
    assert torch.equal(given, expected)
    other = model.losses(captioned(batch, "large striped triangle"), torch.Generator().manual_seed(0))[0]
    assert not torch.allclose(other, expected, rtol=1e-4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run, and the file of its U-Net and text encoder."""
    folder = tmp_path_factory.mktemp("text")
    model = text_model()
    randomize_trainable(model, std=0.05)
    model.model_ema.restart(model)
    run, path = save_checkpoint(model, folder / "run.ckpt"), folder / "text.safetensors"
    return model.eval(), export_part("unet", run, path), path


def test_a_text_encoder_is_exported_beside_its_u_net_under_the_keys_of_stable_diffusion(exported):
    model, tensors, _ = exported
    prefixes = {name.rpartition("model.")[0] if "cond_stage" in name else name.split(".")[0] for name in tensors}
    assert prefixes == {"model", "cond_stage_model.", "scale_factor"}
    count = sum(value.numel() for value in tensors.values()) - 1
    assert count == sum(p.numel() for part in (model.unet, model.text_stage_model) for p in part.parameters())


def test_a_config_without_training_loads_both_from_the_file(exported):
    model, _, path = exported
    text = {**TEXT, "params": {key: value for key, value in TEXT["params"].items() if key != "init"}}
    loaded = text_model(
        ckpt_path=str(path), init=None, text_stage_config=text, freeze_unet=True, text_stage_trainable=False
    ).eval()
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([300])
    with torch.no_grad():
        ours, theirs = (each.denoiser(each.condition(demo_batch(1).graph))(x, t) for each in (loaded, model))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)  # weights are exported in half precision
    assert loaded.vocab == VOCAB and not any(p.requires_grad for p in loaded.text_stage_model.parameters())
