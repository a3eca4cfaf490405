"""Conditioning: dropping graph or style, padding, concatenating."""

import pytest
import torch

from ldm.modules.conditioning import Conditioning, TextTokens, cat


def make(rows, tokens, style=True, seed=0, dim=5):
    """Random tokens, the last of them padding."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    mask[:, -1] = False
    return Conditioning(
        torch.randn(rows, tokens, dim, generator=random),
        mask,
        torch.rand(rows, tokens, 4, generator=random),
        torch.randn(rows, 3, generator=random) if style else None,
    )


def rows_equal(a, i, b, j):
    return all(x is y is None or torch.equal(x[i], y[j]) for x, y in zip(a, b, strict=True))


def test_from_tokens_makes_tokens_without_padding_or_boxes():
    cond = Conditioning.from_tokens(torch.randn(2, 3, 4))
    assert cond.mask.all() and (cond.boxes == -1).all() and cond.style is None
    assert cond.boxes.shape == (2, 3, 4)


def test_pad_appends_masked_tokens_without_boxes():
    cond = make(2, 3)
    padded = cond.pad(6)
    assert torch.equal(padded.tokens[:, :3], cond.tokens) and torch.equal(padded.mask[:, :3], cond.mask)
    assert torch.equal(padded.boxes[:, :3], cond.boxes) and torch.equal(padded.style, cond.style)
    assert padded.tokens.shape == (2, 6, 5)
    assert not padded.tokens[:, 3:].any() and not padded.mask[:, 3:].any() and (padded.boxes[:, 3:] == -1).all()
    assert cond.pad(3) is cond


def test_pad_refuses_to_truncate_tokens():
    with pytest.raises(ValueError, match="tokens"):
        make(1, 3).pad(2)


def test_drop_replaces_graph_and_style_independently():
    cond, null = make(4, 3), make(1, 2, seed=1)
    graph, style = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    dropped = cond.drop(graph, style, null)
    null = null.pad(3)
    assert rows_equal(dropped, 0, null, 0)
    assert rows_equal(dropped, 1, null._replace(style=cond.style[1:2]), 0)
    assert rows_equal(dropped, 2, cond._replace(style=null.style.expand(4, -1)), 2)
    assert rows_equal(dropped, 3, cond, 3)


def test_drop_without_a_style_returns_no_style():
    none = torch.zeros(2, dtype=torch.bool)
    assert make(2, 3, style=False).drop(none, none, make(1, 1)).style is None


@pytest.mark.parametrize("dropped", [False, True])
def test_both_null_and_conditioning_have_a_gradient_whether_dropped_or_not(dropped):
    cond, null = make(2, 3), make(1, 1, seed=1)
    inputs = [cond.tokens, cond.style, null.tokens, null.style]
    for tensor in inputs:
        tensor.requires_grad_()
    rows = torch.full((2,), dropped)
    out = cond.drop(rows, rows, null)
    (out.tokens.sum() + out.style.sum()).backward()
    assert all(tensor.grad is not None for tensor in inputs)
    assert bool(null.tokens.grad.any()) == bool(null.style.grad.any()) == dropped
    assert bool(cond.tokens.grad.any()) == bool(cond.style.grad.any()) != dropped


def test_drop_keeps_the_dtype_of_the_tokens():
    cond, rows = make(2, 3), torch.tensor([True, False])
    cond = cond._replace(tokens=cond.tokens.bfloat16(), style=cond.style.bfloat16())
    out = cond.drop(rows, rows, make(1, 1))
    assert out.tokens.dtype == out.style.dtype == torch.bfloat16


def test_cat_pads_to_the_longest_and_keeps_the_order():
    a, b = make(2, 3), make(1, 5, seed=1)
    joined = cat(a, b)
    assert joined.tokens.shape == (3, 5, 5)
    assert rows_equal(joined, 1, a.pad(5), 1) and rows_equal(joined, 2, b, 0)


@pytest.mark.parametrize("styles", [(True, False), (False, True)])
def test_cat_refuses_to_lose_a_style(styles):
    assert cat(make(1, 2, style=False), make(1, 2, style=False)).style is None
    with pytest.raises(ValueError, match="style"):
        cat(*(make(1, 2, style=style) for style in styles))


def text_tokens(rows: int, length: int, seed: int, vector: bool = True) -> TextTokens:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows, length, 5, generator=generator)
    return TextTokens.from_tokens(tokens, torch.randn(rows, 3, generator=generator) if vector else None)


def test_a_text_is_dropped_with_the_graph_or_apart_from_it():
    cond = make(2, 3)._replace(text=text_tokens(2, 4, 0))
    null = make(1, 3, seed=1)._replace(text=text_tokens(1, 4, 1))
    first, none = torch.tensor([True, False]), torch.tensor([False, False])
    with_graph, apart = cond.drop(first, none, null), cond.drop(none, none, null, text=first)
    for dropped in (with_graph, apart):
        assert torch.equal(dropped.text.tokens[0], null.text.tokens[0])
        assert torch.equal(dropped.text.vector[0], null.text.vector[0])
        assert torch.equal(dropped.text.tokens[1], cond.text.tokens[1])
    assert torch.equal(apart.tokens, cond.tokens) and not torch.equal(with_graph.tokens, cond.tokens)


def test_a_shorter_null_text_hides_the_tokens_that_it_lacks():
    cond, null = text_tokens(2, 6, 0), text_tokens(1, 4, 1)
    replaced = cond.where(torch.tensor([True, False]), null)
    assert replaced.mask.tolist() == [[True] * 4 + [False] * 2, [True] * 6]
    assert torch.equal(replaced.tokens[0, :4], null.tokens[0])


def test_texts_of_different_length_are_concatenated_with_a_mask():
    both = cat(*(make(1, 3)._replace(text=text_tokens(1, length, length)) for length in (2, 5)))
    assert both.text.tokens.shape == (2, 5, 5) and both.text.mask.sum(1).tolist() == [2, 5]
    assert both.text.vector.shape == (2, 3) and both.rows(slice(1)).text.tokens.shape == (1, 5, 5)


def test_a_text_without_counterpart_is_refused():
    with_text = make(1, 3)._replace(text=text_tokens(1, 2, 0))
    row = torch.tensor([True])
    with pytest.raises(ValueError, match="with and without a text"):
        cat(with_text, make(1, 3))
    with pytest.raises(ValueError, match="has no text to replace"):
        with_text.drop(row, row, make(1, 3))
    with pytest.raises(ValueError, match="have no vector to replace"):
        text_tokens(1, 2, 0).where(row, text_tokens(1, 2, 1, vector=False))
