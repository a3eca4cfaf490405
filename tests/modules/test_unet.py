"""UNetModel: published outputs and keys, and adapters that are the identity at initialisation."""

import math

import pytest
import torch
from parity import assert_close_to_published
from published_unets import SD1, SGDIFF_VG

from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import FIXED_OPTIONS, UNetModel
from ldm.modules.diffusionmodules.unet_blocks import coordinate_features, timestep_embedding


def test_sgdiffs_u_net_reproduces_the_published_output(parity):
    published = parity("sgdiff_unet")
    unet = UNetModel(**published.params).eval()
    unet.load_state_dict(published.weights_for(unet))
    inputs = published.inputs
    cond = Conditioning.from_tokens(inputs["c_local"], style=inputs["c_global"][:, 0])
    with torch.no_grad():
        assert_close_to_published(unet(inputs["x"], inputs["t"], cond), published.outputs["eps"])


def test_stable_diffusions_u_net_reproduces_the_published_output(parity):
    published = parity("ldm_unet")
    unet = UNetModel(**published.params).eval()
    unet.load_state_dict(published.weights_for(unet))
    inputs = published.inputs
    with torch.no_grad():
        eps = unet(inputs["x"], inputs["t"], Conditioning.from_tokens(inputs["context"]))
    assert_close_to_published(eps, published.outputs["eps"])


@pytest.mark.parametrize("name, config", [("sgdiff_vg", SGDIFF_VG), ("sd1_ldm", SD1)])
def test_a_published_checkpoint_has_exactly_the_keys_and_shapes_of_the_u_net(manifest, name, config):
    prefix = "model.diffusion_model."
    published = {key.removeprefix(prefix): shape for key, shape in manifest(name).items() if key.startswith(prefix)}
    with torch.device("meta"):
        unet = UNetModel(**config)
    assert {key: list(value.shape) for key, value in unet.state_dict().items()} == published


SMALL = {
    "image_size": 8,
    "in_channels": 4,
    "model_channels": 32,
    "out_channels": 4,
    "num_res_blocks": 1,
    "attention_resolutions": [2, 1],
    "channel_mult": [1, 2],
    "num_heads": 2,
    "context_dim": 24,
}
ADAPTED = {"film_embedding_dim": 24, "lora_rank": 2, "box_bias": True}


def adapted_like(plain: UNetModel, **options) -> UNetModel:
    """A U-Net with the same weights and newly initialised adapters."""
    unet = UNetModel(**SMALL, **ADAPTED, **options).eval()
    missing, unexpected = unet.load_state_dict(plain.state_dict(), strict=False)
    assert missing and not unexpected
    return unet


def randomize_zeros(unet: UNetModel) -> UNetModel:
    """Gives random values to all parameters that are initialised with zeros."""
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return unet


@pytest.fixture
def plain() -> UNetModel:
    torch.manual_seed(0)
    return UNetModel(**SMALL).eval()


@pytest.fixture
def x_t_cond():
    generator = torch.Generator().manual_seed(1)
    cond = Conditioning.from_tokens(torch.randn(2, 5, 24, generator=generator), torch.randn(2, 24, generator=generator))
    boxes = torch.tensor([0.1, 0.2, 0.7, 0.5]).repeat(2, 5, 1)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([3, 700]), cond._replace(boxes=boxes)


def test_new_adapters_leave_the_output_bit_equal(plain, x_t_cond):
    with torch.no_grad():
        assert torch.equal(adapted_like(plain)(*x_t_cond), plain(*x_t_cond))


def test_each_adapter_changes_the_output_once_it_is_not_zero(plain, x_t_cond):
    reference = plain(*x_t_cond)
    for part in ("film", "lora_B", "box_bias"):
        unet = adapted_like(plain)
        for name, parameter in unet.named_parameters():
            if part in name and not parameter.any():
                torch.nn.init.normal_(parameter)
        assert not torch.allclose(unet(*x_t_cond), reference, atol=1e-3), part


def test_adapters_only_add_keys(plain):
    unet = UNetModel(**SMALL, film_embedding_dim=10, lora_rank=2, box_bias=True)
    base, keys = set(plain.state_dict()), set(unet.state_dict())
    assert base < keys
    new = ("film", "context_global_mlp", "lora_A", "lora_B", "box_bias")
    assert all(any(part in new for part in key.split(".")) for key in keys - base)


@pytest.mark.parametrize("padded", [1, 60])
def test_padding_does_not_change_the_output(plain, x_t_cond, padded):
    x, t, cond = x_t_cond
    unet = randomize_zeros(adapted_like(plain))
    more = cond.pad(5 + padded)
    more.tokens[:, 5:] = float("nan")
    with torch.no_grad():
        assert_close_to_published(unet(x, t, more), unet(x, t, cond), tolerance=2e-6)


def test_only_padding_equals_no_conditioning(plain, x_t_cond):
    x, t, cond = x_t_cond
    padding = Conditioning.from_tokens(cond.tokens)._replace(mask=torch.zeros(2, 5).bool())
    with torch.no_grad():
        assert plain(x, t, padding).isfinite().all()
        torch.testing.assert_close(plain(x, t, padding), plain(x, t), rtol=0, atol=1e-6)
        assert not torch.allclose(plain(x, t), plain(x, t, cond), atol=1e-3)


def test_without_film_the_style_is_one_more_token(plain, x_t_cond):
    x, t, cond = x_t_cond
    joined = Conditioning.from_tokens(torch.cat([cond.tokens, cond.style[:, None]], dim=1))
    with torch.no_grad():
        torch.testing.assert_close(plain(x, t, cond), plain(x, t, joined))


def test_a_style_of_another_width_is_projected_to_the_context(x_t_cond):
    x, t, cond = x_t_cond
    unet = UNetModel(**SMALL, film_embedding_dim=10)
    assert unet.context_global_mlp.weight.shape == (24, 10)
    assert unet(x, t, cond._replace(style=torch.randn(2, 10))).shape == x.shape


def test_only_adapters_are_trained_and_each_has_a_gradient_by_step_2(plain, x_t_cond):
    x, t, cond = x_t_cond
    unet = adapted_like(plain, context_local_dim=24)
    unet.freeze_body()
    trainable = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trainable, lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        unet(x, t, cond).square().mean().backward()
        optimiser.step()
    without_gradient = [name for name, p in unet.named_parameters() if p.requires_grad and not p.grad.any()]
    assert not without_gradient
    assert all(p.grad is None for p in unet.parameters() if not p.requires_grad)
    body = {name for name, p in unet.named_parameters() if not p.requires_grad}
    assert body == set(plain.state_dict())


def test_gradient_checkpointing_does_not_change_the_adapters_gradients(plain, x_t_cond):
    gradients = []
    for use_checkpoint in (False, True):
        torch.manual_seed(3)
        unet = randomize_zeros(adapted_like(plain, use_checkpoint=use_checkpoint, dropout=0.5)).train()
        unet.freeze_body()
        unet(*x_t_cond).square().mean().backward()
        gradients.append({name: p.grad for name, p in unet.named_parameters() if p.requires_grad})
    stored, recomputed = gradients
    assert all(stored[name].any() for name in stored)
    for name in stored:
        torch.testing.assert_close(recomputed[name], stored[name], rtol=1e-5, atol=1e-8)


def test_gradient_checkpointing_stores_fewer_activations(plain, x_t_cond):
    def saved(use_checkpoint):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda y: sizes.append(y.numel()) or y, lambda y: y):
            unet = adapted_like(plain, use_checkpoint=use_checkpoint)
            unet.freeze_body()
            unet(*x_t_cond)
        return sum(sizes)

    assert saved(True) < saved(False) / 2


def test_a_latent_may_have_any_size_that_can_be_downsampled(plain, x_t_cond):
    x, t, cond = x_t_cond
    unet = adapted_like(plain)
    assert unet(x[..., :6], t, cond).shape == (2, 4, 8, 6)
    with pytest.raises(ValueError, match="multiples of 2"):
        unet(x[..., :5], t, cond)


def test_without_conv_resample_up_and_downsampling_have_no_weights(x_t_cond):
    unet = UNetModel(**SMALL, conv_resample=False)
    assert not [key for key in unet.state_dict() if ".op." in key or key.endswith("conv.weight")]
    assert unet(*x_t_cond).shape == (2, 4, 8, 8)


def test_a_half_precision_u_net_returns_the_inputs_precision(plain, x_t_cond):
    x, t, cond = x_t_cond
    with torch.no_grad():
        expected = plain(x, t, cond)
        eps = adapted_like(plain).bfloat16()(x, t, cond)
    assert eps.dtype == x.dtype
    torch.testing.assert_close(eps, expected, rtol=0, atol=0.05)


def test_the_timestep_embedding_is_cosines_then_sines_of_decreasing_frequency():
    fast, slow = 5.0, 5.0 / 10000**0.5
    expected = [[1, 1, 0, 0], [math.cos(fast), math.cos(slow), math.sin(fast), math.sin(slow)]]
    torch.testing.assert_close(timestep_embedding(torch.tensor([0, 5]), 4), torch.tensor(expected))


@pytest.mark.parametrize("name", sorted(FIXED_OPTIONS))
def test_an_option_that_no_published_model_uses_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        UNetModel(**SMALL, **{name: "something else"})
    UNetModel(**SMALL, **{name: FIXED_OPTIONS[name]})


def test_an_unknown_option_is_refused_with_the_closest_name():
    with pytest.raises(ValueError, match="lora_rank"):
        UNetModel(**SMALL, lora_rnk=4)


@pytest.mark.parametrize("missing, named", [("context_dim", "context_dim"), ("num_heads", "num_head_channels")])
def test_a_missing_required_option_is_named(missing, named):
    with pytest.raises(ValueError, match=named):
        UNetModel(**{key: value for key, value in SMALL.items() if key != missing})


def test_coordinate_features_distinguish_all_locations():
    features = coordinate_features(torch.zeros(2, 4, 8, 8), 3)
    assert features.shape == (2, 12, 8, 8)
    assert len(features[0].flatten(1).T.unique(dim=0)) == 64
    assert torch.allclose(
        features[0, 0, :, 0], torch.sin(torch.pi * (torch.arange(8) + 0.5) / 8)
    )  # half a period along y
    assert coordinate_features(torch.zeros(2, 4, 8, 8), 0).shape == (2, 0, 8, 8)
