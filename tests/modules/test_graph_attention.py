"""Attention to the graph's tokens beside the text's (decoupled cross-attention): closed form, identity at start, guidance."""

import math

import pytest
import torch

from ldm.models.diffusion.guidance import guided_denoiser
from ldm.modules.attention import Context, CrossAttention
from ldm.modules.conditioning import Conditioning, TextTokens
from ldm.modules.diffusionmodules.openaimodel import UNetModel

SMALL = {
    "image_size": 8,
    "in_channels": 4,
    "model_channels": 32,
    "out_channels": 4,
    "num_res_blocks": 1,
    "attention_resolutions": [2, 1],
    "channel_mult": [1, 1],
    "num_heads": 2,
    "context_dim": 24,
    "context_local_dim": 16,
    "film_embedding_dim": 12,
}
T = torch.tensor([400, 400])


def build(**options) -> UNetModel:
    torch.manual_seed(0)
    return UNetModel(**SMALL, **options).eval()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def unet():
    return build(graph_attention=True)


@pytest.fixture
def cond():
    """Two rows of a graph of three tokens (row 1 has two), a style, and a text of five tokens."""
    graph = Conditioning.from_tokens(random(2, 3, 16), random(2, 12, seed=1))
    graph.mask[1, 2] = False
    return graph._replace(text=TextTokens.from_tokens(random(2, 5, 24, seed=2)))


@pytest.fixture
def x():
    return random(2, 4, 8, 8, seed=3)


def train(unet):
    """Gives every adapter an effect."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if any(part in name for part in ("_graph", "context_", "film")):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return unet


def published(unet):
    """The same weights without anything that is added."""
    plain = UNetModel(**{key: SMALL[key] for key in SMALL if key not in ("context_local_dim", "film_embedding_dim")})
    plain.load_state_dict({key: value for key, value in unet.state_dict().items() if key in plain.state_dict()})
    return plain.eval()


def test_the_output_is_the_texts_attention_plus_the_graphs():
    torch.manual_seed(0)
    attention = CrossAttention(8, 6, heads=2, dim_head=4, graph_attention=True)
    torch.nn.init.normal_(attention.to_v_graph.weight)
    x, text, graph = random(1, 5, 8), random(1, 4, 6, seed=1), random(1, 3, 6, seed=2)
    context = Context.from_tokens(text, torch.ones(1, 4).bool())
    mask = torch.tensor([[True, True, False]])

    def heads(y):
        return y[0].unflatten(-1, (2, 4)).transpose(0, 1)

    with torch.no_grad():
        y = attention(x, context._replace(graph=Context.from_tokens(graph, mask)))
        q, expected = heads(attention.to_q(x)), 0
        parts = (attention.to_k, attention.to_v, text), (attention.to_k_graph, attention.to_v_graph, graph[:, :2])
        for to_k, to_v, tokens in parts:
            expected = expected + (q @ heads(to_k(tokens)).mT / math.sqrt(4)).softmax(-1) @ heads(to_v(tokens))
        torch.testing.assert_close(y[0], attention.to_out(expected.transpose(0, 1).flatten(1)))


def test_untrained_it_is_bit_equal_to_the_published_unet_on_the_text(unet, cond, x):
    with torch.no_grad():
        assert torch.equal(unet(x, T, cond), published(unet)(x, T, Conditioning.from_text(cond.text)))


def test_trained_it_depends_on_graph_and_style_and_not_on_padding(unet, cond, x):
    train(unet)
    other = cond.tokens.clone()
    other[1, 2] = 9.0  # padded
    with torch.no_grad():
        y = unet(x, T, cond)
        assert torch.equal(unet(x, T, cond._replace(tokens=other)), y)
        torch.testing.assert_close(unet(x, T, cond.pad(9)), y, rtol=0, atol=1e-5)
        for changed in (cond._replace(tokens=other + 1), cond._replace(style=cond.style + 1)):
            assert not torch.allclose(unet(x, T, changed), y, atol=1e-3)
        no_graph = cond._replace(tokens=cond.tokens[:, :0], mask=cond.mask[:, :0], boxes=cond.boxes[:, :0], style=None)
        assert torch.equal(unet(x, T, no_graph), published(unet)(x, T, Conditioning.from_text(cond.text)))


def test_prepared_conditionings_give_the_same_output(unet, cond, x):
    train(unet)
    with torch.no_grad():
        assert torch.equal(unet(x, T, unet.prepare(x, cond)), unet(x, T, cond))


def test_every_adapter_has_a_gradient_by_step_2_and_nothing_else_has(cond, x):
    unet = build(graph_attention=True, box_bias=True, lora_rank=2)
    unet.freeze_body()
    boxed = cond._replace(boxes=torch.tensor([0.1, 0.1, 0.6, 0.6]).expand(2, 3, 4).clone())
    optimizer = torch.optim.SGD([p for p in unet.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (unet(x, T, boxed) * random(2, 4, 8, 8, seed=7)).sum().backward()
        gradients = {name: p.grad is not None and bool(p.grad.any()) for name, p in unet.named_parameters()}
        optimizer.step()
    assert {name for name, p in unet.named_parameters() if p.requires_grad} == {
        n for n, has in gradients.items() if has
    }
    assert any("to_k_graph" in name for name in gradients)


def test_text_graph_and_style_are_guided_apart(unet, cond, x):
    train(unet)
    null = Conditioning.from_tokens(random(1, 1, 16, seed=8), random(1, 12, seed=9), TextTokens.from_tokens(random(1, 5, 24, seed=10)))  # fmt: skip
    every, none = torch.ones(2).bool(), torch.zeros(2).bool()
    with torch.no_grad():
        nothing = unet(x, T, cond.drop(every, every, null))
        text = unet(x, T, cond.drop(every, every, null, text=none))
        graph, full = unet(x, T, cond.drop(none, every, null)), unet(x, T, cond)
        for scales in ((7.0, 3.0, 2.0), (7.0, 1.0, 1.0), (1.0, 3.0, 3.0), (2.0, 2.0, 2.0)):
            expected = nothing + scales[0] * (text - nothing) + scales[1] * (graph - text) + scales[2] * (full - graph)
            eps = guided_denoiser(unet, 1000, cond, null, scales[1], scales[2], text_scale=scales[0])(x, T)
            torch.testing.assert_close(eps, expected, rtol=0, atol=1e-4)
        together = guided_denoiser(unet, 1000, cond, null, 3.0, 2.0)(x, T)
        torch.testing.assert_close(
            together, nothing + 3 * (graph - nothing) + 2 * (full - graph), rtol=0, atol=1e-4
        )  # fmt: skip
