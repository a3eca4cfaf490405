"""What one pass of a restyle leaves to the next."""

import pytest
import torch
from tiny import tiny_model

from ldm.data.demo import DemoValidation
from ldm.editing.restyle import TRUST, left_by_a_pass
from ldm.graph.batch import encode


@pytest.fixture(scope="module")
def left():
    torch.manual_seed(0)
    model = tiny_model().eval()
    graph, _ = DemoValidation(8).scene(3)
    z, target = torch.randn(1, 4, model.latent_size, model.latent_size), model.unconditional(1)
    target = target._replace(style=torch.randn_like(target.style))
    with torch.no_grad():
        return model, graph, z, target, [left_by_a_pass(model, z, graph, target, told)[::-1] for told in (True, False)]


@torch.no_grad()
def test_the_next_pass_takes_the_style_for_a_mixture_of_what_is_seen_and_what_was_asked_for(left):
    model, graph, z, target, ((shown, _), _) = left
    own = model.condition(encode([graph], model.vocab), model.decode(z).clamp(-1, 1))
    assert 0 < TRUST < 1 and torch.allclose(shown.style, (1 - TRUST) * own.style + TRUST * target.style, atol=1e-6)
    assert torch.equal(shown.tokens, own.tokens) and torch.equal(shown.mask, own.mask)


@torch.no_grad()
def test_where_no_graph_was_told_all_goes_through_the_picture_under_the_null_graph(left):
    model, _, z, _, ((_, known), (shown, latent)) = left
    assert torch.equal(latent, model.encode(model.decode(z).clamp(-1, 1))) and not torch.equal(latent, known)
    assert all(torch.equal(a, b) for a, b in zip(shown, model.unconditional(1)))
