"""The source of the next pass of a style transfer, made from the result of the previous one."""

import pytest
import torch
from tiny import tiny_model

from ldm.data.demo import DemoValidation
from ldm.editing.restyle import STYLE_MIX, next_source
from ldm.graph.batch import encode


@pytest.fixture(scope="module")
def passes():
    """Model, graph, latent and target of a pass; and the next source with the graph known, and with the null graph."""
    torch.manual_seed(0)
    model = tiny_model().eval()
    graph, _ = DemoValidation(8).scene(3)
    latent, target = torch.randn(1, 4, model.latent_size, model.latent_size), model.unconditional(1)
    target = target._replace(style=torch.randn_like(target.style))
    with torch.no_grad():
        following = [next_source(model, latent, graph, target, knows_graph) for knows_graph in (True, False)]
    return model, graph, latent, target, following


@torch.no_grad()
def test_the_source_style_is_a_mixture_of_the_results_style_and_the_requested_one(passes):
    model, graph, latent, target, ((_, source), _) = passes
    result = model.condition(encode([graph], model.vocab), model.decode(latent).clamp(-1, 1))
    expected = (1 - STYLE_MIX) * result.style + STYLE_MIX * target.style
    assert 0 < STYLE_MIX < 1 and torch.allclose(source.style, expected, atol=1e-6)
    assert torch.equal(source.tokens, result.tokens) and torch.equal(source.mask, result.mask)


@torch.no_grad()
def test_without_a_known_graph_the_whole_result_is_encoded_again_under_the_null_graph(passes):
    model, _, latent, _, ((with_graph, _), (without, source)) = passes
    assert torch.equal(without, model.encode(model.decode(latent).clamp(-1, 1)))
    assert not torch.equal(without, with_graph)
    null = model.unconditional(1)
    assert source.text is None and all(torch.equal(a, b) for a, b in zip(source[:4], null[:4]))
