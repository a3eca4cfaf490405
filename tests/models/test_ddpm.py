"""The diffusion model: trainable parameters, guidance, conditioning, loading of weights, and checkpoints."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from tiny import MODEL, randomize_trainable, tiny_model

from ldm.checkpoints.loading import CheckpointError
from ldm.data.demo import DemoTrain
from ldm.graph.batch import collate
from ldm.synthetic.shapes import VOCAB
from ldm.util.config import instantiate_from_config
from ldm.util.errors import UserError


@pytest.fixture(scope="module")
def batch():
    """Three scenes, the first of them without boxes."""
    dataset = DemoTrain(3, 32)
    (image, graph), *others = (dataset[i] for i in range(3))
    return collate([(image, replace(graph, boxes=())), *others], VOCAB)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def with_active_adapters(model):
    """The model in evaluation mode with random adapters, so that conditionings have an effect."""
    randomize_trainable(model)
    return model.eval()


def test_every_trainable_parameter_has_a_gradient_by_step_2_and_no_frozen_one_ever_has(batch):
    model = tiny_model(graph_drop=0.3, style_drop=0.3)
    torch.manual_seed(3)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    with_gradient = set()
    for _ in range(2):
        optimizer.zero_grad()
        model.losses(batch)[0].mean().backward()
        optimizer.step()
        with_gradient |= {name for name, p in trained.items() if p.grad.any()}
    assert set(trained) - with_gradient == set()
    assert [name for name, p in frozen.items() if p.grad is not None] == []


def test_only_adapters_null_conditioning_and_graph_encoder_are_trainable(model):
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    for name in trained:
        assert name.startswith(("cond_stage_model.", "null_")) or any(
            part in name for part in ("film", "lora_", "context_local_mlp", "context_global_mlp")
        ), name
    assert any("film" in name for name in trained) and any("lora_A" in name for name in trained)


def test_training_lowers_the_loss_for_the_same_noise_and_timesteps(batch):
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


def test_guidance_is_the_weighted_sum_of_three_branches(batch):
    model = with_active_adapters(tiny_model())
    cond = model.condition(batch.graph, batch.image)
    everyone = torch.ones(3, dtype=torch.bool)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 900])
    with torch.no_grad():
        neither = model.unet(x, t, cond.drop(everyone, everyone, model.null()))
        graph = model.unet(x, t, cond._replace(style=model.null_style.expand(3, -1)))
        both = model.unet(x, t, cond)
    assert not torch.allclose(neither, graph, atol=1e-3) and not torch.allclose(graph, both, atol=1e-3)
    for graph_scale, style_scale in ((1, 1), (3, 3), (2, 5), (0, 0), (1, 4)):
        expected = neither + graph_scale * (graph - neither) + style_scale * (both - graph)
        eps = model.denoiser(cond, graph_scale, style_scale)(x, t)
        torch.testing.assert_close(eps, expected, rtol=1e-4, atol=1e-4)


def test_outside_the_guidance_interval_only_the_conditional_branch_is_computed(batch, monkeypatch):
    model = with_active_adapters(tiny_model())
    cond, x = model.condition(batch.graph, batch.image), torch.randn(3, 4, 8, 8)
    conditional, guided = model.denoiser(cond), model.denoiser(cond, 3, 5)
    in_interval, rows = model.denoiser(cond, 3, 5, interval=(0.2, 0.5)), []
    forward = model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda x, t, cond: rows.append(len(x)) or forward(x, t, cond))
    for share, expected, branches in ((0.1, conditional, 1), (0.2, guided, 3), (0.5, guided, 3), (0.6, conditional, 1)):
        t = torch.full((3,), int(1000 * share))
        rows.clear()
        eps = in_interval(x, t)
        assert rows == [3 * branches]
        torch.testing.assert_close(eps, expected(x, t))
    t = torch.tensor([100, 400, 900])
    torch.testing.assert_close(in_interval(x, t)[[0, 2]], conditional(x, t)[[0, 2]])
    torch.testing.assert_close(in_interval(x, t)[1], guided(x, t)[1])
    null_only = model.denoiser(cond, 0, 0, interval=(0.2, 0.5))  # a single branch too, but not the conditional one
    torch.testing.assert_close(null_only(x, t)[[0, 2]], conditional(x, t)[[0, 2]])
    assert not torch.allclose(null_only(x, t)[1], conditional(x, t)[1], atol=1e-3)


def test_rescaled_guidance_has_the_standard_deviation_of_the_conditional_prediction(batch):
    model = with_active_adapters(tiny_model())
    cond, x, t = model.condition(batch.graph, batch.image), torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 900])
    conditional, guided = model.denoiser(cond)(x, t), model.denoiser(cond, 7, 7)(x, t)
    rescaled, partly = (model.denoiser(cond, 7, 7, rescale=share)(x, t) for share in (1.0, 0.3))
    assert (guided.std((1, 2, 3)) > 1.1 * conditional.std((1, 2, 3))).all()
    torch.testing.assert_close(rescaled.std((1, 2, 3)), conditional.std((1, 2, 3)))
    normalized, expected = (out / out.std((1, 2, 3), keepdim=True) for out in (rescaled, guided))
    torch.testing.assert_close(normalized, expected)
    torch.testing.assert_close(partly, 0.3 * rescaled + 0.7 * guided)
    torch.testing.assert_close(model.denoiser(cond, rescale=1.0)(x, t), conditional)
    null_only = model.denoiser(cond, 0, 0, rescale=1.0)(x, t)  # the conditional branch has weight 0, but sets the scale
    torch.testing.assert_close(null_only.std((1, 2, 3)), conditional.std((1, 2, 3)))


@pytest.mark.parametrize("wrong", [{"interval": (0.5, 0.2)}, {"interval": (0.0, 2.0)}, {"rescale": -0.1}])
def test_a_guidance_interval_or_rescale_out_of_range_is_an_error(batch, model, wrong):
    with pytest.raises(UserError, match="between 0 and 1"):
        model.denoiser(model.condition(batch.graph, batch.image), 2.0, **wrong)


def test_guidance_accepts_other_null_tokens_and_is_differentiable_with_respect_to_them(batch):
    model = with_active_adapters(tiny_model())
    cond, x, t = model.condition(batch.graph, batch.image), torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 900])
    for scales in ((3, 3), (2, 5), (3, 0)):
        eps = model.denoiser(cond, *scales)
        learned = model.null_tokens.detach().expand(3, -1, -1).clone()
        torch.testing.assert_close(eps(x, t, learned), eps(x, t), rtol=1e-4, atol=1e-4)
        (gradient,) = torch.autograd.grad(eps(x, t, learned.requires_grad_()).square().sum(), learned)
        direction = gradient / gradient.norm()  # the largest difference, for single precision
        with torch.no_grad():
            ahead, behind = (eps(x, t, learned + step * direction).square().sum() for step in (0.1, -0.1))
        assert float(gradient.norm()) == pytest.approx(float(ahead - behind) / 0.2, rel=0.05)
    assert not eps(x, t).requires_grad and all(p.grad is None for p in model.parameters())


def test_only_branches_with_a_non_zero_weight_are_computed(batch, monkeypatch):
    model = tiny_model()
    cond = model.condition(batch.graph, batch.image)
    rows = []
    monkeypatch.setattr(model.unet, "forward", lambda x, t, cond: rows.append(len(x)) or x)
    for scales, branches in (((1, 1), 1), ((2, 2), 2), ((1, 2), 2), ((2, 3), 3), ((0, 0), 1)):
        model.denoiser(cond, *scales)(torch.zeros(3, 4, 8, 8), torch.zeros(3).long())
        assert rows.pop() == 3 * branches


def test_dropped_rows_are_the_learned_null_for_graph_and_style_independently(batch):
    model = with_active_adapters(tiny_model())
    cond = model.condition(batch.graph, batch.image)
    graph, style = torch.tensor([True, False, True]), torch.tensor([False, True, True])
    dropped = cond.drop(graph, style, model.null())
    for row in range(3):
        if graph[row]:
            assert dropped.mask[row].sum() == 1 and torch.equal(dropped.tokens[row, 0], model.null_tokens[0, 0])
        else:
            assert torch.equal(dropped.tokens[row], cond.tokens[row])
        assert torch.equal(dropped.style[row], model.null_style[0] if style[row] else cond.style[row])


@pytest.mark.parametrize("cosine, expected", [(True, [0.25, 0.75 * 0.75, 0.5, 0.25]), (False, [0.25, 0.75, 1.0, 1.0])])
def test_the_learning_rate_warms_up_and_decays_by_a_cosine_if_configured(cosine, expected):
    model = tiny_model(warmup_steps=3, cosine=cosine)
    model.learning_rate, model.trainer = 2.0, SimpleNamespace(estimated_stepping_batches=6)
    factor = model.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [factor(step) for step in (0, 2, 3, 4)] == pytest.approx(expected)


def test_latents_are_multiplied_by_the_scale_factor_and_divided_before_decoding(batch):
    plain, scaled = tiny_model(), tiny_model(scale_factor=0.18215)
    z = plain.encode(batch.image)
    torch.testing.assert_close(scaled.encode(batch.image), 0.18215 * z)
    torch.testing.assert_close(scaled.decode(0.18215 * z), plain.decode(z), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def scaled_checkpoint(tmp_path_factory):
    """A checkpoint in LDM's form whose U-Net was trained with a scale factor of 0.98341137."""
    path = tmp_path_factory.mktemp("scaled") / "whole.ckpt"
    torch.save({"state_dict": tiny_model(scale_factor=0.98341137).state_dict()}, path)
    return path


def test_the_scale_factor_of_a_checkpoint_is_adopted_and_not_measured_again(scaled_checkpoint, batch):
    model = tiny_model(ckpt_path=scaled_checkpoint, scale_by_std=True)
    model.on_train_batch_start(batch, 0)
    assert model.scale_factor.shape == () and float(model.scale_factor) == pytest.approx(0.98341137)
    assert model.state_dict().keys() == tiny_model().state_dict().keys()
    assert float(tiny_model(ckpt_path=scaled_checkpoint, scale_factor=0.983411).scale_factor) == pytest.approx(0.983411)


def test_a_scale_factor_that_differs_from_the_checkpoints_is_an_error(scaled_checkpoint):
    with pytest.raises(CheckpointError, match="0.983411"):
        tiny_model(ckpt_path=scaled_checkpoint, scale_factor=1.0)


def test_without_a_scale_factor_in_the_checkpoint_the_configured_one_is_used(scaled_checkpoint):
    state = torch.load(scaled_checkpoint, weights_only=True)["state_dict"]
    del state["scale_factor"]
    for configured, expected in ((None, 1.0), (0.18215, 0.18215)):
        assert float(tiny_model(ckpt_path=state, scale_factor=configured).scale_factor) == pytest.approx(expected)


def test_frozen_random_parts_do_not_depend_on_the_seed():
    torch.manual_seed(1)
    one = tiny_model()
    torch.manual_seed(2)
    other = tiny_model()
    for part in ("first_stage_model", "global_stage_model"):
        for a, b in zip(getattr(one, part).parameters(), getattr(other, part).parameters()):
            assert torch.equal(a, b)
    assert not torch.equal(one.cond_stage_model.no_box, other.cond_stage_model.no_box)


def test_a_frozen_part_without_weights_is_an_error_that_names_it():
    with pytest.raises(CheckpointError, match="U-Net"):
        tiny_model(init=None)


def test_a_trainable_unet_needs_no_checkpoint():
    model = tiny_model(init=None, freeze_unet=False)
    assert all(p.requires_grad for p in model.unet.parameters())


def test_an_unknown_parameter_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="warmup_stepps"):
        tiny_model(warmup_stepps=3)


def test_published_keys_are_accepted_with_their_published_values_only():
    tiny_model(first_stage_key="image", cond_stage_key="class_label", num_timesteps_cond=1, log_every_t=200)
    with pytest.raises(ValueError, match="parameterization"):
        tiny_model(parameterization="x0")


def test_a_checkpoint_holds_trainable_parameters_averages_config_and_vocabulary_and_nothing_frozen(model, tmp_path):
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    read = torch.load(tmp_path / "a.ckpt", weights_only=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    averaged = {f"model_ema.{name.replace('.', '/')}" for name in trained}
    assert set(read["state_dict"]) == trained | averaged | {"model_ema.updates", "scale_factor"}
    assert read["config"] == model.config and read["vocab"] == VOCAB.to_json()


def test_a_checkpoint_with_other_trainable_parameters_is_an_error(model):
    checkpoint = {}
    model.on_save_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="config"):
        tiny_model(freeze_unet=False).on_load_checkpoint(checkpoint)


def test_without_a_reference_the_style_is_the_learned_null_style(batch, model):
    cond = model.condition(batch.graph)
    assert torch.equal(cond.style, model.null_style.expand(3, -1))


# SGDiff's model, whose frozen graph encoder also computes the style


CGIP = {
    "num_objs": len(VOCAB.objects),
    "num_preds": len(VOCAB.predicates),
    "width": 24,
    "layers": 1,
    "embed_dim": 24,
}


def tiny_sgdiff(**params):
    unet = copy.deepcopy(MODEL["params"]["unet_config"])
    unet["params"] |= {"film_embedding_dim": None, "lora_rank": None, "context_local_dim": 72}
    graph = {"target": "ldm.modules.cgip.cgip.CGIPModel", "params": {**CGIP, "init": "random"}}
    parts = {"unet_config": unet, "cond_stage_config": graph, "global_stage_config": None, "freeze_unet": False}
    return tiny_model(**{**parts, "cond_stage_trainable": False, "graph_drop": 0.0, **params})


@pytest.mark.parametrize("name", ["vg", "coco"])
def test_sgdiffs_full_size_checkpoint_has_all_keys_of_its_model_and_its_averages_are_loaded(name, manifest, caplog):
    caplog.set_level("INFO", "ldm")
    folder = Path(__file__).parents[2] / "configs"
    config = OmegaConf.merge(
        *(OmegaConf.load(folder / f"sgdiff_{part}.yaml") for part in dict.fromkeys(("vg", name)))
    ).model
    shapes = manifest("sgdiff_vg")
    if name == "coco":  # the same but for the sizes of the vocabulary, a row more for objects in SGDiff's table
        shapes["cond_stage_model.obj_embeddings.weight"][0] = 185
        shapes["cond_stage_model.pred_embeddings.weight"][0] = 7
    for part in ("first_stage_config", "cond_stage_config"):
        config.params[part].params.ckpt_path = None
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        model = instantiate_from_config(config, ckpt_path=state)
    prefixes = ("model.", "first_stage_model.", "cond_stage_model.")
    ours = {key for key in model.state_dict() if key.startswith(prefixes)}
    assert ours == {key for key in shapes if key.startswith(prefixes)}
    (unet,) = [message for message in caplog.messages if message.startswith("unet:")]
    assert unet.startswith("unet: 628 tensors from memory (LDM layout, EMA weights)") and "not loaded" not in unet


def test_sgdiffs_model_trains_only_its_unet(batch):
    model = tiny_sgdiff()
    model.losses(batch)[0].mean().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("model.")}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}


def test_a_style_computed_from_the_graph_is_dropped_with_the_graph(batch, monkeypatch):
    model, conds = tiny_sgdiff(graph_drop=0.5), []
    forward = model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda x, t, cond: conds.append(cond) or forward(x, t, cond))
    for seed in range(4):
        model.losses(batch, torch.Generator().manual_seed(seed))
    style = model.condition(batch.graph).style
    dropped = [cond.mask.sum(1) == 1 for cond in conds]
    assert 0 < sum(int(rows.sum()) for rows in dropped) < 12
    for cond, rows in zip(conds, dropped):
        torch.testing.assert_close(cond.style, torch.where(rows[:, None], model.null_style, style))


def test_a_style_computed_from_the_graph_is_guided_by_the_graph_scale(batch):
    model = with_active_adapters(tiny_sgdiff(graph_drop=0.5))
    cond, x, t = model.condition(batch.graph), torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 900])
    with torch.no_grad():
        without, with_ = model.unet(x, t, model.unconditional(3)), model.unet(x, t, cond)
    for style_scale in (1, 3, 7):
        torch.testing.assert_close(
            model.denoiser(cond, 3, style_scale)(x, t), without + 3 * (with_ - without), rtol=1e-4, atol=1e-4
        )


def test_guidance_without_a_trained_null_conditioning_is_an_error(batch):
    sgdiff, styleless = tiny_sgdiff(), tiny_model(style_drop=0.0)
    cond = sgdiff.condition(batch.graph)
    sgdiff.denoiser(cond)
    styleless.denoiser(styleless.condition(batch.graph, batch.image))
    for refused in (lambda: sgdiff.denoiser(cond, 2.0), lambda: sgdiff.unconditional(2)):
        with pytest.raises(UserError, match="graph_drop"):
            refused()
    with pytest.raises(UserError, match="style_drop"):
        styleless.denoiser(styleless.condition(batch.graph, batch.image), 1.0, 2.0)


def test_a_frozen_graph_encoder_is_loaded_from_the_checkpoint_of_the_unet(tmp_path):
    torch.save({"state_dict": tiny_sgdiff(cond_stage_trainable=True).state_dict()}, tmp_path / "whole.ckpt")
    config = {"target": "ldm.modules.cgip.cgip.CGIPModel", "params": CGIP}
    model = tiny_sgdiff(cond_stage_config=config, ckpt_path=tmp_path / "whole.ckpt")
    saved = torch.load(tmp_path / "whole.ckpt", weights_only=True)["state_dict"]
    for name, value in model.cond_stage_model.state_dict().items():
        assert torch.equal(value, saved["cond_stage_model." + name])


def test_with_v_loss_each_image_counts_by_its_timestep(batch):
    plain, weighted = (tiny_model(v_loss=v_loss) for v_loss in (False, True))
    weighted.load_state_dict(plain.state_dict())
    losses, t = plain.losses(batch, torch.Generator().manual_seed(5))
    v_losses, _ = weighted.losses(batch, torch.Generator().manual_seed(5))
    torch.testing.assert_close(v_losses, losses / plain.schedule.alphas_cumprod[t].float())


def test_a_step_under_bfloat16_gives_a_finite_loss_and_gradients(batch):
    model = tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = model.losses(batch)
        assert model.encode(batch.image).dtype == torch.float32
    losses.mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_images_are_logged_with_and_without_a_trained_null_conditioning(batch):
    for drop in (0.0, 0.1):
        logged = tiny_model(graph_drop=drop).log_images(batch, n=2, steps=2)
        assert {name: tuple(images.shape) for name, images in logged.items()} == dict.fromkeys(
            ("inputs", "reconstructions", "samples"), (2, 3, 32, 32)
        )


def test_an_unknown_init_is_an_error():
    with pytest.raises(ValueError, match="randm"):
        tiny_model(init="randm")
