"""Guidance equals the weighted sum of its branches, and cached conditionings and merged adapters change nothing."""

import copy

import pytest
import torch
from tiny import MODEL, tiny_model

from ldm.models.diffusion.guidance import guided_denoiser
from ldm.modules import conditioning
from ldm.modules.attention_control import AttentionStore, Control, MutualSelfAttention, RowPair, TokenInjection
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.lora import LoRALinear, merge_lora

TOKENS, WIDTH = 6, 32


def relative_error(result, expected):
    return float((result - expected).detach().abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def shared_unet():
    """A U-Net with FiLM, LoRA, context projections and box bias, all with random weights."""
    torch.manual_seed(0)
    params = {
        **MODEL["params"]["unet_config"]["params"],
        "box_bias": True,
        "channel_mult": [1, 2],
        "transformer_depth": 2,
    }
    unet = UNetModel(**params).eval().requires_grad_(False)
    for parameter in unet.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return unet


@pytest.fixture
def unet(shared_unet):
    return copy.deepcopy(shared_unet)


@pytest.fixture
def cond():
    """Two rows with padding, boxes for some tokens, and a style."""
    generator = torch.Generator().manual_seed(1)
    tokens, style = (torch.randn(shape, generator=generator) for shape in ((2, TOKENS, WIDTH), (2, 16)))
    mask = torch.arange(TOKENS) < torch.tensor([[3], [TOKENS]])
    boxes = torch.full((2, TOKENS, 4), -1.0)
    boxes[:, 1:3] = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.5, 0.0, 1.0, 0.4]])
    return Conditioning(tokens, mask, boxes, style)


def null(seed=2):
    generator = torch.Generator().manual_seed(seed)
    return Conditioning.from_tokens(
        torch.randn(1, 1, WIDTH, generator=generator), torch.randn(1, 16, generator=generator)
    )


def latents(h=8, w=8):
    return torch.randn(2, 4, h, w, generator=torch.Generator().manual_seed(3))


CONTROLS = {
    "none": None,
    "attention": Control(
        (
            RowPair(
                0,
                1,
                MutualSelfAttention((((0.0, 0.0, 0.5, 0.5), (0.5, 0.25, 1.0, 0.75)),)),
                TokenInjection(torch.tensor([0, -1, 2, 1])),
            ),
        )
    ),
}


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("size", [(8, 8), (16, 4)])
def test_a_prepared_conditioning_gives_the_same_output(unet, cond, size, control):
    x, control = latents(*size), CONTROLS[control]
    prepared = unet.prepare(x, cond)
    for t in (torch.tensor([3, 3]), torch.tensor([500, 900])):
        assert relative_error(unet(x + 1, t, prepared, control), unet(x + 1, t, cond, control)) < 1e-5
    assert relative_error(unet(x, t, unet.prepare(x, None)), unet(x, t, None)) < 1e-5
    styleless = cond._replace(style=None)
    assert relative_error(unet(x, t, unet.prepare(x, styleless)), unet(x, t, styleless)) < 1e-5


def test_a_prepared_conditioning_gives_the_same_attention_maps(unet, cond):
    x, t, maps = latents(), torch.tensor([3, 700]), (AttentionStore(), AttentionStore())
    for conditioning_or_prepared, store in zip((cond, unet.prepare(x, cond)), maps):
        unet(x, t, conditioning_or_prepared, Control(maps=store))
    torch.testing.assert_close(maps[0].mean(), maps[1].mean())


SCALES = {
    "no guidance": (1, 1),
    "equal scales": (3, 3),
    "different scales": (2, 5),
    "in an interval": (2, 5, (0.2, 0.6)),
    "rescaled": (4, 4, (0, 1), 0.7),
}


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("scales", SCALES)
def test_guidance_is_the_weighted_sum_of_separately_computed_branches_at_every_step(unet, cond, scales, control):
    graph_scale, style_scale, (low, high), rescale = (*SCALES[scales], *((0, 1), 0.0)[len(SCALES[scales]) - 2 :])
    x, control, none, all_ = latents(), CONTROLS[control], torch.zeros(2).bool(), torch.ones(2).bool()
    eps = guided_denoiser(unet, 1000, cond, null(), *SCALES[scales])
    for step in (900, 500, 100):
        t = torch.full((2,), step)

        def branch(drop_graph, drop_style, has_graph, t=t):
            controls = () if control is None else (control.repeat([has_graph], 2),)
            return unet(x, t, cond.drop(drop_graph, drop_style, null()), *controls)

        neither, graph, both = branch(all_, all_, False), branch(none, all_, True), branch(none, none, True)
        expected = neither + graph_scale * (graph - neither) + style_scale * (both - graph)
        if not low <= step / 1000 <= high:
            expected = both
        elif rescale:
            ratio = both.std((1, 2, 3), keepdim=True) / expected.std((1, 2, 3), keepdim=True)
            expected = rescale * expected * ratio + (1 - rescale) * expected
        assert relative_error(eps(x, t, control=control), expected) < 1e-5


def test_projections_of_the_conditioning_are_computed_once_per_latent_size(unet, cond):
    counts = dict.fromkeys(("film", "context_local_mlp", "context_global_mlp", "to_k"), 0)

    def count(name):
        def hook(*_):
            counts[name] += 1

        return hook

    for name, module in unet.named_modules():
        last = name.rpartition(".")[2]
        if last in counts and "attn1" not in name:
            module.register_forward_hook(count(last))
    layers = sum(name.endswith("attn2.to_k") for name, _ in unet.named_modules())
    eps = guided_denoiser(unet, 1000, cond, null(), 2, 5)
    for t in (900, 500, 100):
        eps(latents(), torch.full((2,), t))
    assert counts == {"film": 1, "context_local_mlp": 1, "context_global_mlp": 1, "to_k": layers}
    eps(latents(16, 8), torch.full((2,), 100))
    eps(latents(), torch.full((2,), 100))
    assert counts["to_k"] == 2 * layers


def test_replaced_null_tokens_are_not_cached_but_the_other_branches_are(unet, cond):
    x, t, calls = latents(), torch.tensor([500, 500]), []
    eps = guided_denoiser(unet, 1000, cond, null(), 3, 3)
    unet.film.register_forward_hook(lambda module, given, out: calls.append(len(given[0])))
    for seed in (5, 6):
        other = null(seed).tokens.expand(2, -1, -1)
        null_eps = unet(x, t, Conditioning.from_tokens(other, null().style.expand(2, -1)))
        expected = null_eps + 3 * (unet(x, t, cond) - null_eps)
        calls.clear()
        assert relative_error(eps(x, t, other), expected) < 1e-5
        assert calls == ([2, 2] if seed == 5 else [2])


def test_cached_conditionings_hold_no_autograd_graph(unet, cond):
    unet.requires_grad_(True)
    x, t = latents(), torch.tensor([500, 500])
    tokens = null().tokens.expand(2, -1, -1).clone().requires_grad_()
    eps = guided_denoiser(unet, 1000, cond._replace(tokens=cond.tokens.requires_grad_()), null(), 3, 3, (0.4, 0.6))
    for _ in range(2):  # a second backward pass through a cached graph would fail
        (gradient,) = torch.autograd.grad(eps(x, t, tokens).sum(), tokens)
        assert gradient.any()


# Merged adapters


def test_a_merged_unet_gives_the_same_output_and_leaves_the_original_unchanged(unet, cond):
    x, t = latents(), torch.tensor([3, 700])
    before, expected = {name: value.clone() for name, value in unet.state_dict().items()}, unet(x, t, cond)
    plain = merge_lora(unet)
    assert relative_error(plain(x, t, cond), expected) < 1e-5
    assert relative_error(plain(x, t, plain.prepare(x, cond)), expected) < 1e-5
    assert not any(isinstance(layer, LoRALinear) for layer in plain.modules())
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert torch.equal(unet(x, t, cond), expected)


def test_a_merged_unet_shares_all_weights_but_the_adapted_ones(unet):
    merged, original = dict(merge_lora(unet).named_parameters()), dict(unet.named_parameters())
    adapted = {name for name in merged if merged[name] is not original[name]}
    assert adapted == {f"{name}.weight" for name, layer in unet.named_modules() if isinstance(layer, LoRALinear)}


def test_adapters_can_be_trained_after_a_merged_unet_was_used(cond):
    model = tiny_model()
    plain = model.with_unet(merge_lora(model.unet)).eval()
    x, t = latents(), torch.tensor([3, 700])
    with torch.no_grad():
        first = plain.unet(x, t, cond)
        for layer in model.unet.modules():
            if isinstance(layer, LoRALinear):
                layer.lora_B += 0.5
    assert torch.equal(plain.unet(x, t, cond), first) and relative_error(model.unet(x, t, cond), first) > 1e-3
    model.unet(x, t, cond).sum().backward()
    assert any(p.grad is not None and p.grad.any() for name, p in model.unet.named_parameters() if "lora_B" in name)
    assert set(plain.unet.state_dict()) < set(model.unet.state_dict())


def test_branches_with_different_numbers_of_tokens_share_a_batch(unet, cond):
    x, t, rows = latents()[:1], torch.tensor([500]), []
    short = Conditioning(*(None if value is None else value[:1] for value in cond))
    unet.register_forward_hook(lambda module, given, out: rows.append(len(out)))
    guided_denoiser(unet, 1000, short, null(), 2, 5)(x, t)
    guided_denoiser(unet, 1000, short, null())(x, t)
    guided_denoiser(unet, 1000, conditioning.cat(short, null()), null(), 2, 2)(x.repeat(2, 1, 1, 1), t.repeat(2))
    assert rows == [3, 1, 4]
