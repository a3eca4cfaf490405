"""The whole model: what is trained, what guidance adds up to, and what a checkpoint holds."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_model

from ldm.checkpoint import CheckpointError
from ldm.data.demo import VOCAB, DemoTrain
from ldm.graph import collate


@pytest.fixture(scope="module")
def batch():
    """Three scenes, the first of them without boxes."""
    dataset = DemoTrain(3, 32)
    (image, graph), *others = (dataset[i] for i in range(3))
    return collate([(image, replace(graph, boxes=())), *others], VOCAB)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def moved(model):
    """The model with its zero-initialised adapters at random, so that conditions make a difference."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    return model.eval()


def test_every_trainable_parameter_has_a_gradient_by_step_2_and_no_frozen_one_ever_has(batch):
    model = tiny_model(graph_drop=0.3, style_drop=0.3)
    torch.manual_seed(3)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    moved = set()
    for _ in range(2):
        optimizer.zero_grad()
        model.losses(batch)[0].mean().backward()
        optimizer.step()
        moved |= {name for name, p in trained.items() if p.grad.any()}
    assert set(trained) - moved == set()
    assert [name for name, p in frozen.items() if p.grad is not None] == []


def test_only_the_adapters_and_the_graph_encoder_are_trained(model):
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    for name in trained:
        assert name.startswith(("cond_stage_model.", "null_")) or any(
            part in name for part in ("film", "lora_", "context_local_mlp", "context_global_mlp")
        ), name
    assert any("film" in name for name in trained) and any("lora_A" in name for name in trained)


def test_a_step_of_training_lowers_the_loss_on_the_same_draw(batch):
    model = tiny_model()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)

    def loss():
        return model.losses(batch, torch.Generator().manual_seed(5))[0].mean()

    before = loss().item()
    for _ in range(10):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < before


def test_guidance_is_the_stated_sum_of_its_three_branches(batch):
    model = moved(tiny_model())
    cond = model.condition(batch.graph, batch.image)
    everyone = torch.ones(3, dtype=torch.bool)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 900])
    with torch.no_grad():
        neither = model.unet(x, t, cond.drop(everyone, everyone, model.null()))
        graph = model.unet(x, t, cond._replace(style=model.null_style.expand(3, -1)))
        both = model.unet(x, t, cond)
    assert not torch.allclose(neither, graph, atol=1e-3) and not torch.allclose(graph, both, atol=1e-3)
    for s, r in ((1, 1), (3, 3), (2, 5), (0, 0), (1, 4)):
        expected = neither + s * (graph - neither) + r * (both - graph)
        torch.testing.assert_close(model.denoiser(cond, s, r)(x, t), expected, rtol=1e-4, atol=1e-4)


def test_only_the_branches_that_count_are_computed(batch, monkeypatch):
    model = tiny_model()
    cond = model.condition(batch.graph, batch.image)
    rows = []
    monkeypatch.setattr(model.unet, "forward", lambda x, t, cond: rows.append(len(x)) or x)
    for scales, branches in (((1, 1), 1), ((2, 2), 2), ((1, 2), 2), ((2, 3), 3), ((0, 0), 1)):
        model.denoiser(cond, *scales)(torch.zeros(3, 4, 8, 8), torch.zeros(3).long())
        assert rows.pop() == 3 * branches


def test_dropped_rows_are_the_learned_null_for_graph_and_style_apart(batch):
    model = moved(tiny_model())
    cond = model.condition(batch.graph, batch.image)
    graph, style = torch.tensor([True, False, True]), torch.tensor([False, True, True])
    dropped = cond.drop(graph, style, model.null())
    for row in range(3):
        if graph[row]:
            assert dropped.mask[row].sum() == 1 and torch.equal(dropped.tokens[row, 0], model.null_tokens[0, 0])
        else:
            assert torch.equal(dropped.tokens[row], cond.tokens[row])
        assert torch.equal(dropped.style[row], model.null_style[0] if style[row] else cond.style[row])


def test_latents_are_scaled_by_the_scale_factor_and_back(batch):
    plain, scaled = tiny_model(), tiny_model(scale_factor=0.18215)
    z = plain.encode(batch.image)
    torch.testing.assert_close(scaled.encode(batch.image), 0.18215 * z)
    torch.testing.assert_close(scaled.decode(0.18215 * z), plain.decode(z), rtol=1e-3, atol=1e-3)


def test_frozen_random_parts_are_the_same_whenever_they_are_built():
    torch.manual_seed(1)
    one = tiny_model()
    torch.manual_seed(2)
    other = tiny_model()
    for part in ("first_stage_model", "global_stage_model"):
        for a, b in zip(getattr(one, part).parameters(), getattr(other, part).parameters()):
            assert torch.equal(a, b)
    assert not torch.equal(one.cond_stage_model.no_box, other.cond_stage_model.no_box)


def test_a_frozen_part_without_weights_is_an_error_that_names_it():
    with pytest.raises(CheckpointError, match="the U-Net is frozen and has no weights"):
        tiny_model(init=None)


def test_a_trained_unet_needs_no_weights():
    model = tiny_model(init=None, freeze_unet=False)
    assert all(p.requires_grad for p in model.unet.parameters())


def test_an_unknown_parameter_is_refused_by_name():
    with pytest.raises(ValueError, match="warmup_stepps"):
        tiny_model(warmup_stepps=3)


def test_published_keys_pass_with_their_published_values_and_no_others():
    tiny_model(first_stage_key="image", cond_stage_key="class_label", num_timesteps_cond=1, log_every_t=200)
    with pytest.raises(ValueError, match="parameterization"):
        tiny_model(parameterization="x0")


def test_a_checkpoint_holds_what_is_trained_its_average_config_and_vocabulary_and_nothing_frozen(model, tmp_path):
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    read = torch.load(tmp_path / "a.ckpt", weights_only=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    averaged = {f"model_ema.{name.replace('.', '/')}" for name in trained}
    assert set(read["state_dict"]) == trained | averaged | {"model_ema.updates", "scale_factor"}
    assert read["config"] == model.config and read["vocab"] == VOCAB.to_json()


def test_a_checkpoint_of_other_trained_parts_is_refused(model):
    checkpoint = {}
    model.on_save_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="the config that it was trained with"):
        tiny_model(freeze_unet=False).on_load_checkpoint(checkpoint)


def test_without_a_reference_the_style_is_the_learned_null(batch, model):
    cond = model.condition(batch.graph)
    assert torch.equal(cond.style, model.null_style.expand(3, -1))
