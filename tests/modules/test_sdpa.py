"""Attention in half precision with a gradient on a CPU: its results are those in float64, by any kernel."""

import pytest
import torch
from tiny import saved_for_backward
from torch.utils.checkpoint import checkpoint

from ldm.modules.kernels import sdpa
from ldm.modules.kernels.sdpa import attend

BIAS = torch.tensor([0.0, 1.0, float("-inf"), -1.0, float("-inf")])[None, None, None]


def random_inputs(dtype, queries=6, tokens=5, heads=3):
    torch.manual_seed(0)
    shapes = [(2, heads, count, 8) for count in (queries, tokens, tokens)]
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def differentiate(function, inputs):
    y = function(*inputs)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad(y, inputs, cotangent)]


def in_float64(inputs, bias=None):
    """The formula of attention, differentiated by torch."""

    def attention(q, k, v):
        logits = q @ k.mT / q.shape[-1] ** 0.5
        return (logits if bias is None else logits + bias).softmax(-1) @ v

    return differentiate(attention, [x.detach().double().requires_grad_() for x in inputs])


def assert_within_rounding(ours, exact, bits=8):
    """As a share of the largest value; logits, weights and results are each rounded to as many bits."""
    for each, expected in zip(ours, exact, strict=True):
        assert (each.double() - expected).abs().max() < 3 * 2**-bits * expected.abs().max()


@pytest.mark.parametrize("dtype, bits", [(torch.bfloat16, 8), (torch.float16, 11)])
@pytest.mark.parametrize("bias", [None, BIAS])
@pytest.mark.parametrize("autocast", [False, True])
def test_output_and_gradients_are_those_of_the_formula(dtype, bits, bias, autocast):
    inputs = random_inputs(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = differentiate(lambda *each: attend(*each, bias), inputs)
    assert all(each.dtype == dtype for each in ours)
    assert_within_rounding(ours, in_float64(inputs, bias), bits)


@pytest.mark.parametrize("chunk", [1, 60, 10**6])
def test_heads_in_chunks_give_what_all_at_once_give(monkeypatch, chunk):
    """One head, two heads, or all of them at a time; six heads of 30 logits."""
    inputs = random_inputs(torch.bfloat16)
    exact = in_float64(inputs)
    monkeypatch.setattr(sdpa, "CHUNK", chunk)
    assert_within_rounding(differentiate(attend, inputs), exact)


def test_a_head_of_many_logits_is_computed_in_float32(monkeypatch):
    inputs = random_inputs(torch.bfloat16)
    monkeypatch.setattr(sdpa, "LARGEST_HEAD", 29)
    monkeypatch.setattr(sdpa.ProductAttention, "apply", None)
    ours = differentiate(attend, inputs)
    exact = in_float64(inputs)
    assert (ours[0].double() - exact[0]).abs().max() <= 2**-8 * exact[0].abs().max()  # one rounding, of the result


def test_nothing_but_the_inputs_is_saved_for_the_backward_pass():
    inputs = random_inputs(torch.bfloat16, queries=64, tokens=64)
    saved, _ = saved_for_backward(lambda: attend(*inputs))
    assert saved == sum(x.nbytes for x in inputs)


def test_recomputed_activations_give_the_same_gradients():
    inputs = random_inputs(torch.bfloat16)
    recomputed = differentiate(lambda *each: checkpoint(attend, *each, use_reentrant=False), inputs)
    for ours, theirs in zip(recomputed, differentiate(attend, inputs), strict=True):
        assert torch.equal(ours, theirs)


def test_the_gradient_of_a_bias_is_that_of_the_formula():
    inputs, bias = random_inputs(torch.bfloat16), torch.randn(3, 6, 5, requires_grad=True)
    attend(*inputs, bias).float().square().sum().backward()
    ours, bias.grad = bias.grad, None
    q, k, v = (x.detach().double() for x in inputs)
    ((q @ k.mT / 8**0.5 + bias.double()).softmax(-1) @ v).square().sum().backward()
    assert (ours - bias.grad).abs().max() < 5 * 2**-8 * bias.grad.abs().max()
