"""The whole model: what is trained, what guidance adds up to, and what a checkpoint holds."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from tiny import MODEL, tiny_model

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


def test_guidance_outside_its_interval_is_the_condition_alone_and_costs_no_more(batch, monkeypatch):
    model = moved(tiny_model())
    cond, x = model.condition(batch.graph, batch.image), torch.randn(3, 4, 8, 8)
    alone, throughout = model.denoiser(cond), model.denoiser(cond, 3, 5)
    within, rows = model.denoiser(cond, 3, 5, interval=(0.2, 0.5)), []
    forward = model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda x, t, cond: rows.append(len(x)) or forward(x, t, cond))
    for share, expected, branches in ((0.1, alone, 1), (0.2, throughout, 3), (0.5, throughout, 3), (0.6, alone, 1)):
        t = torch.full((3,), int(1000 * share))
        rows.clear()
        eps = within(x, t)
        assert rows == [3 * branches]
        torch.testing.assert_close(eps, expected(x, t))
    t = torch.tensor([100, 400, 900])
    torch.testing.assert_close(within(x, t)[[0, 2]], alone(x, t)[[0, 2]])
    torch.testing.assert_close(within(x, t)[1], throughout(x, t)[1])
    nothing = model.denoiser(cond, 0, 0, interval=(0.2, 0.5))  # one branch too, and not the condition's
    torch.testing.assert_close(nothing(x, t)[[0, 2]], alone(x, t)[[0, 2]])
    assert not torch.allclose(nothing(x, t)[1], alone(x, t)[1], atol=1e-3)


def test_rescaled_guidance_has_the_spread_of_the_condition_alone(batch):
    model = moved(tiny_model())
    cond, x, t = model.condition(batch.graph, batch.image), torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 900])
    alone, plain = model.denoiser(cond)(x, t), model.denoiser(cond, 7, 7)(x, t)
    whole, part = (model.denoiser(cond, 7, 7, rescale=share)(x, t) for share in (1.0, 0.3))
    assert (plain.std((1, 2, 3)) > 1.1 * alone.std((1, 2, 3))).all()
    torch.testing.assert_close(whole.std((1, 2, 3)), alone.std((1, 2, 3)))
    torch.testing.assert_close(whole / whole.std((1, 2, 3), keepdim=True), plain / plain.std((1, 2, 3), keepdim=True))
    torch.testing.assert_close(part, 0.3 * whole + 0.7 * plain)
    torch.testing.assert_close(model.denoiser(cond, rescale=1.0)(x, t), alone)
    away = model.denoiser(cond, 0, 0, rescale=1.0)(x, t)  # the condition has no weight, but gives the spread
    torch.testing.assert_close(away.std((1, 2, 3)), alone.std((1, 2, 3)))


@pytest.mark.parametrize("wrong", [{"interval": (0.5, 0.2)}, {"interval": (0.0, 2.0)}, {"rescale": -0.1}])
def test_shares_outside_0_to_1_are_refused(batch, model, wrong):
    with pytest.raises(UserError, match="share between 0 and 1"):
        model.denoiser(model.condition(batch.graph, batch.image), 2.0, **wrong)


def test_guidance_can_go_away_from_other_null_tokens_and_tells_how_it_depends_on_them(batch):
    model = moved(tiny_model())
    cond, x, t = model.condition(batch.graph, batch.image), torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 900])
    for scales in ((3, 3), (2, 5), (3, 0)):
        eps = model.denoiser(cond, *scales)
        learned = model.null_tokens.detach().expand(3, -1, -1).clone()
        torch.testing.assert_close(eps(x, t, learned), eps(x, t), rtol=1e-4, atol=1e-4)
        (gradient,) = torch.autograd.grad(eps(x, t, learned.requires_grad_()).square().sum(), learned)
        along = gradient / gradient.norm()  # where there is most to see, for single precision
        with torch.no_grad():
            ahead, behind = (eps(x, t, learned + step * along).square().sum() for step in (0.1, -0.1))
        assert float(gradient.norm()) == pytest.approx(float(ahead - behind) / 0.2, rel=0.05)
    assert not eps(x, t).requires_grad and all(p.grad is None for p in model.parameters())


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


@pytest.mark.parametrize("cosine, expected", [(True, [0.25, 0.75 * 0.75, 0.5, 0.25]), (False, [0.25, 0.75, 1.0, 1.0])])
def test_the_learning_rate_warms_up_and_then_falls_along_a_cosine_or_stays(cosine, expected):
    model = tiny_model(warmup_steps=3, cosine=cosine)
    model.learning_rate, model.trainer = 2.0, SimpleNamespace(estimated_stepping_batches=6)
    factor = model.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [factor(step) for step in (0, 2, 3, 4)] == pytest.approx(expected)


def test_latents_are_scaled_by_the_scale_factor_and_back(batch):
    plain, scaled = tiny_model(), tiny_model(scale_factor=0.18215)
    z = plain.encode(batch.image)
    torch.testing.assert_close(scaled.encode(batch.image), 0.18215 * z)
    torch.testing.assert_close(scaled.decode(0.18215 * z), plain.decode(z), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def at_a_scale(tmp_path_factory):
    """A file as LDM writes it, whose U-Net learned latents at a scale of 0.98341137."""
    path = tmp_path_factory.mktemp("scaled") / "whole.ckpt"
    torch.save({"state_dict": tiny_model(scale_factor=0.98341137).state_dict()}, path)
    return path


def test_the_scale_that_a_files_unet_learned_is_taken_and_not_measured_again(at_a_scale, batch):
    model = tiny_model(ckpt_path=at_a_scale, scale_by_std=True)
    model.on_train_batch_start(batch, 0)
    assert model.scale_factor.shape == () and float(model.scale_factor) == pytest.approx(0.98341137)
    assert model.state_dict().keys() == tiny_model().state_dict().keys()
    assert float(tiny_model(ckpt_path=at_a_scale, scale_factor=0.983411).scale_factor) == pytest.approx(0.983411)


def test_a_config_with_another_scale_than_the_files_is_refused(at_a_scale):
    with pytest.raises(CheckpointError, match=r"whole.ckpt: .* 0.983411, .* says 1.0: .*params.scale_factor"):
        tiny_model(ckpt_path=at_a_scale, scale_factor=1.0)


def test_a_file_that_says_no_scale_goes_with_the_configs(at_a_scale):
    state = torch.load(at_a_scale, weights_only=True)["state_dict"]
    del state["scale_factor"]
    for told, scale in ((None, 1.0), (0.18215, 0.18215)):
        assert float(tiny_model(ckpt_path=state, scale_factor=told).scale_factor) == pytest.approx(scale)


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


# SGDiff's own model: a graph encoder that is frozen and gives the style too


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
    own = {"unet_config": unet, "cond_stage_config": graph, "global_stage_config": None, "freeze_unet": False}
    return tiny_model(**{**own, "cond_stage_trainable": False, "graph_drop": 0.0, **params})


@pytest.mark.parametrize("name", ["vg", "coco"])
def test_the_full_size_checkpoint_of_sgdiff_fills_its_model_and_its_average_is_preferred(name, manifest, caplog):
    caplog.set_level("INFO", "ldm")
    config = OmegaConf.load(Path(__file__).parents[2] / "configs" / f"sgdiff_{name}.yaml").model
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


def test_sgdiff_trains_its_unet_and_nothing_else(batch):
    model = tiny_sgdiff()
    model.losses(batch)[0].mean().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("model.")}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}


def test_a_style_that_comes_from_the_graph_is_dropped_with_it(batch, monkeypatch):
    model, seen = tiny_sgdiff(graph_drop=0.5), []
    forward = model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda x, t, cond: seen.append(cond) or forward(x, t, cond))
    for seed in range(4):
        model.losses(batch, torch.Generator().manual_seed(seed))
    own = model.condition(batch.graph).style
    dropped = [cond.mask.sum(1) == 1 for cond in seen]
    assert 0 < sum(int(rows.sum()) for rows in dropped) < 12
    for cond, rows in zip(seen, dropped):
        torch.testing.assert_close(cond.style, torch.where(rows[:, None], model.null_style, own))


def test_a_style_that_comes_from_the_graph_is_guided_with_it(batch):
    model = moved(tiny_sgdiff(graph_drop=0.5))
    cond, x, t = model.condition(batch.graph), torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 900])
    with torch.no_grad():
        without, with_ = model.unet(x, t, model.unconditional(3)), model.unet(x, t, cond)
    for style_scale in (1, 3, 7):
        torch.testing.assert_close(
            model.denoiser(cond, 3, style_scale)(x, t), without + 3 * (with_ - without), rtol=1e-4, atol=1e-4
        )


def test_guidance_away_from_what_was_never_dropped_is_refused(batch):
    sgdiff, styleless = tiny_sgdiff(), tiny_model(style_drop=0.0)
    cond = sgdiff.condition(batch.graph)
    sgdiff.denoiser(cond)
    styleless.denoiser(styleless.condition(batch.graph, batch.image))
    for refused in (lambda: sgdiff.denoiser(cond, 2.0), lambda: sgdiff.unconditional(2)):
        with pytest.raises(UserError, match="train with graph_drop"):
            refused()
    with pytest.raises(UserError, match="train with style_drop"):
        styleless.denoiser(styleless.condition(batch.graph, batch.image), 1.0, 2.0)


def test_a_frozen_graph_encoder_comes_from_the_checkpoint_of_the_unet(tmp_path):
    torch.save({"state_dict": tiny_sgdiff(cond_stage_trainable=True).state_dict()}, tmp_path / "whole.ckpt")
    config = {"target": "ldm.modules.cgip.cgip.CGIPModel", "params": CGIP}
    model = tiny_sgdiff(cond_stage_config=config, ckpt_path=tmp_path / "whole.ckpt")
    saved = torch.load(tmp_path / "whole.ckpt", weights_only=True)["state_dict"]
    for name, value in model.cond_stage_model.state_dict().items():
        assert torch.equal(value, saved["cond_stage_model." + name])


def test_a_step_under_bfloat16_gives_a_finite_loss_and_gradients(batch):
    model = tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = model.losses(batch)
        assert model.encode(batch.image).dtype == torch.float32
    losses.mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_pictures_can_be_logged_whether_or_not_guidance_was_learned(batch):
    for drop in (0.0, 0.1):
        pictures = tiny_model(graph_drop=drop).log_images(batch, n=2, steps=2)
        assert {name: tuple(images.shape) for name, images in pictures.items()} == dict.fromkeys(
            ("inputs", "reconstructions", "samples"), (2, 3, 32, 32)
        )


def test_a_misspelt_init_is_not_taken_for_random():
    with pytest.raises(ValueError, match="randm"):
        tiny_model(init="randm")
