"""Frozen layers: the same numbers and gradients, and less that is kept for the way back."""

import copy

import pytest
import torch
from tiny import tiny_model
from torch import nn

from ldm.data.demo import DemoTrain
from ldm.graph.batch import collate
from ldm.modules.kernels.frozen import FrozenConv2d, cast_frozen_weights, skip_saving_inputs
from ldm.modules.kernels.sdpa import attend, in_full_precision
from ldm.synthetic.shapes import VOCAB


@pytest.fixture(scope="module")
def batch():
    return collate([DemoTrain(3, 32)[i] for i in range(3)], VOCAB)


def trained(**params):
    """A tiny model whose adapters do something, in training mode."""
    torch.manual_seed(0)
    model, numbers = tiny_model(**params), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=numbers) * 0.1)
    return model.train()


def step(model, batch, precision=torch.float32):
    """The losses of a batch, and the gradients of all that is trained."""
    torch.manual_seed(1)
    model.zero_grad()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        losses, _ = model.losses(batch)
    losses.mean().backward()
    return losses.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def kept(function):
    """Bytes of the tensors that autograd keeps after function(), parameters apart."""
    seen = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            seen[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outcome = function()
    return sum(seen.values()), outcome


@pytest.mark.parametrize("geometry", [{"padding": 1}, {"padding": 1, "stride": 2}, {"kernel_size": 1, "bias": False}])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_frozen_convolution_gives_the_same_gradient_and_keeps_no_input(geometry, layout):
    plain = nn.Conv2d(8, 6, **{"kernel_size": 3, **geometry}).requires_grad_(False).to(memory_format=layout)
    frozen = nn.Sequential(copy.deepcopy(plain))
    skip_saving_inputs(frozen)
    assert type(frozen[0]) is FrozenConv2d
    assert kept(lambda: plain(torch.randn(2, 8, 10, 10, requires_grad=True)))[0] > 0
    assert kept(lambda: frozen(torch.randn(2, 8, 10, 10, requires_grad=True)))[0] == 0
    x = torch.randn(2, 8, 10, 10).to(memory_format=layout)
    outcomes = []
    for layer in (plain, frozen):
        own = x.clone().requires_grad_()
        y = layer(own)
        (y**2).sum().backward()
        outcomes.append((y.detach(), own.grad))
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-6, atol=1e-6)


def test_a_convolution_that_is_trained_after_all_still_gets_its_gradient():
    layer = nn.Sequential(nn.Conv2d(4, 4, 3))
    skip_saving_inputs(layer)
    layer(torch.randn(1, 4, 5, 5, requires_grad=True)).sum().backward()
    assert layer[0].weight.grad is not None


def test_before_the_first_trained_part_nothing_is_kept():
    unet = tiny_model().unet.train()
    x = torch.randn(2, 4, 8, 8)
    time = unet.time_embed(torch.randn(2, 32))
    assert kept(lambda: unet.input_blocks[1][0](unet.input_blocks[0][0](x), time))[0] == 0


def test_a_frozen_body_keeps_no_input_of_a_convolution_and_its_gradients_are_those_of_plain_layers(batch):
    model, plain = trained(), trained()
    for layer in plain.unet.modules():
        if type(layer) is FrozenConv2d:
            layer.__class__ = nn.Conv2d
    (less, ours), (more, theirs) = (kept(lambda each=each: step(each, batch)) for each in (model, plain))
    assert less < 0.95 * more
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_body_held_in_half_precision_is_to_the_bit_what_autocast_makes_of_it(batch):
    plain, held = trained(), trained()
    cast_frozen_weights(torch.bfloat16, held.unet)
    ours, theirs = (step(model, batch, torch.bfloat16) for model in (held, plain))
    assert torch.equal(ours[0], theirs[0])
    assert ours[1].keys() == theirs[1].keys() and all(torch.equal(ours[1][name], theirs[1][name]) for name in ours[1])


def test_what_is_trained_and_norms_stay_in_full_precision():
    model = tiny_model()
    cast_frozen_weights(torch.bfloat16, model.unet)
    kinds = {name: p.dtype for name, p in model.unet.named_parameters()}
    for name, parameter in model.unet.named_parameters():
        if parameter.requires_grad or "norm" in name:
            assert kinds[name] == torch.float32, name
    assert kinds["input_blocks.1.1.proj_in.weight"] == kinds["time_embed.0.bias"] == torch.bfloat16
    assert kinds["input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight"] == torch.bfloat16
    held = sum(kind == torch.bfloat16 for kind in kinds.values())
    assert held > len(kinds) / 4


@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_half_precision_with_a_gradient_is_computed_in_full(masked):
    """Within what bfloat16 rounds off at the ends, 2^-8; and under autocast as well, which would undo the cast."""
    q, k, v = (torch.randn(2, 2, n, 8, requires_grad=True) for n in (6, 5, 5))
    bias = torch.zeros(2, 1, 1, 5).masked_fill(torch.tensor([False, False, True, False, True]), float("-inf"))
    halves = [x.detach().bfloat16().requires_grad_() for x in (q, k, v)]
    assert in_full_precision(halves[0]) and not in_full_precision(q) and not in_full_precision(halves[0].detach())
    weights = q.detach() @ k.detach().mT / 8**0.5 + (bias if masked else 0)
    with torch.autocast("cpu", torch.bfloat16):
        y = attend(*halves, bias if masked else None)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and halves[0].grad.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), weights.softmax(-1) @ v.detach(), rtol=0.02, atol=0.02)
