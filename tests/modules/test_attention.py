"""Attention: its formula, the padding mask and the box bias; box coverage against counted sub-pixels."""

import math

import pytest
import torch

from ldm.modules.attention import Context, CrossAttention
from ldm.modules.boxes import box_coverage, box_preference


def counted_coverage(box, h, w, n=16):
    """Returns the share of each cell's n x n sub-pixels whose centre is inside the box."""
    x0, y0, x1, y1 = box
    counts = torch.zeros(h, w)
    for y in range(h * n):
        for x in range(w * n):
            inside = x0 <= (x + 0.5) / (w * n) < x1 and y0 <= (y + 0.5) / (h * n) < y1
            counts[y // n, x // n] += inside
    return (counts / n**2).flatten()


# Counting is exact for boxes on the sub-pixel grid of 4 x 2 cells: multiples of 1/64 in x and of 1/32 in y.
@pytest.mark.parametrize(
    "box",
    [(0, 0, 1, 1), (5 / 64, 3 / 32, 50 / 64, 29 / 32), (17 / 64, 17 / 32, 20 / 64, 18 / 32), (0.5, 0.5, 0.5, 0.5)],
)
def test_box_coverage_equals_the_counted_share_of_each_cell(box):
    assert torch.equal(box_coverage(torch.tensor([[box]]), 2, 4)[0, 0], counted_coverage(box, 2, 4))


def test_box_coverage_sums_to_the_area_of_the_box():
    corners = torch.rand(3, 7, 2, 2, generator=torch.Generator().manual_seed(0)).sort(dim=2).values
    boxes = corners.flatten(2)  # x0 y0 x1 y1
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    torch.testing.assert_close(box_coverage(boxes, 8, 4).mean(dim=-1), area)


def test_a_token_without_a_box_has_preference_zero():
    boxes = torch.tensor([[[-1.0, -1, -1, -1], [0, 0, 1, 1], [0, 0, 0.5, 1]]])
    preference = box_preference(boxes, 1, 2)
    assert preference[0, 0].T.tolist() == [[0, 0], [1, 1], [1, -1]]


def test_cross_attention_computes_softmax_of_scaled_products_times_values():
    torch.manual_seed(0)
    attention = CrossAttention(6, 5, heads=2, dim_head=3)
    x, tokens = torch.randn(2, 7, 6), torch.randn(2, 4, 5)
    q, k, v = attention.to_q(x), attention.to_k(tokens), attention.to_v(tokens)
    heads = [
        torch.softmax(q[..., s] @ k[..., s].mT / math.sqrt(3), dim=-1) @ v[..., s] for s in (slice(0, 3), slice(3, 6))
    ]
    context = Context.from_tokens(tokens, torch.ones(2, 4).bool())
    torch.testing.assert_close(attention(x, context), attention.to_out(torch.cat(heads, dim=-1)))


def test_box_bias_adds_to_the_log_odds_inside_the_box_and_subtracts_outside():
    # Queries are zero: without a bias both tokens have weight 1/2. Values are the tokens themselves.
    attention = CrossAttention(2, 2, heads=1, dim_head=2, box_bias=True)
    with torch.no_grad():
        attention.to_q.weight.zero_()
        for linear in (attention.to_v, attention.to_out[0]):
            linear.weight.copy_(torch.eye(2))
        attention.to_out[0].bias.zero_()
        attention.box_bias.fill_(2.0)
    boxes = torch.tensor([[[0.0, 0, 0.5, 1], [-1, -1, -1, -1]]])  # the left half; no box
    context = Context.from_tokens(torch.eye(2)[None], torch.ones(1, 2).bool(), boxes, [(1, 2)])
    y = attention(torch.zeros(1, 2, 2), context, context.preference[1, 2])
    odds = y[0, :, 0] / y[0, :, 1]  # left and right location
    torch.testing.assert_close(odds, torch.tensor([math.exp(2), math.exp(-2)]))


def test_a_new_box_bias_leaves_the_output_bit_equal():
    torch.manual_seed(0)
    plain, biased = CrossAttention(8, 8, 2, 4), CrossAttention(8, 8, 2, 4, box_bias=True)
    biased.load_state_dict(plain.state_dict(), strict=False)
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.6]]).repeat(2, 5, 1)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    context = Context.from_tokens(torch.randn(2, 5, 8), mask, boxes, [(3, 3)])
    x = torch.randn(2, 9, 8)
    with torch.no_grad():
        assert torch.equal(biased(x, context, context.preference[3, 3]), plain(x, context))


@pytest.mark.parametrize("box_bias", [False, True])
def test_a_row_of_only_padding_attends_to_zero(box_bias):
    torch.manual_seed(0)
    attention = CrossAttention(8, 5, 2, 4, box_bias=box_bias)
    tokens = torch.full((2, 3, 5), float("nan"))  # the content of the padding must not matter
    tokens[1, 0] = 1
    boxes = torch.full((2, 3, 4), -1.0)
    context = Context.from_tokens(tokens, torch.tensor([[False] * 3, [True, False, False]]), boxes, [(2, 2)])
    y = attention(torch.randn(2, 4, 8), context, context.preference[2, 2])
    assert torch.equal(y[0], attention.to_out[0].bias.expand(4, 8))
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in attention.parameters())
