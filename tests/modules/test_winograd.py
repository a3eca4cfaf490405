"""Winograd's convolutions: those of torch in fewer multiplications, and gone where a weight is not for good."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from test_frozen import kept, step, trained
from test_speed import batch_of, same
from tiny import MODEL
from torch import nn

from ldm.models import runtime
from ldm.models.runtime import prepare_for_inference
from ldm.modules.kernels.frozen import FrozenConv2d
from ldm.modules.kernels.winograd import Convolution, WinogradConv2d, spread, use_winograd
from ldm.profiling.timing import flops
from ldm.training.run import make_fast


def numbers(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def layer(inputs=96, outputs=128, **more):
    torch.manual_seed(0)
    frozen = nn.Conv2d(inputs, outputs, **{"kernel_size": 3, "padding": 1, **more}).requires_grad_(False)
    holder = nn.Sequential(frozen)
    use_winograd(holder)
    return holder[0]


def wide():
    unet = copy.deepcopy(MODEL["params"]["unet_config"])
    unet["params"] |= {"channel_mult": [1, 2], "attention_resolutions": [2], "model_channels": 96}
    return trained(unet_config=unet)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 3), (13, 6)])
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_torchs_convolution_and_its_gradient_to_the_rounding_of_float64(m, size, biased):
    x = numbers(2, 5, *size, dtype=torch.float64).requires_grad_()
    weight, bias = numbers(7, 5, 3, 3, dtype=torch.float64), numbers(7, dtype=torch.float64) if biased else None
    ours, theirs = Convolution.apply(x, spread(weight, m), bias, m), F.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    cotangent = numbers(*theirs.shape, dtype=torch.float64)
    mine, its = (torch.autograd.grad(y, x, cotangent)[0] for y in (ours, theirs))
    torch.testing.assert_close(mine, its, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side, error", [(32, 2e-5), (8, 2e-6)])
def test_in_float32_it_errs_as_little_as_it_says(side, error):
    """As a share of the largest number, in 4 x 4 and, where maps are small and weights many, in 2 x 2."""
    conv, x = layer(384, 384), numbers(2, 384, side, side)
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    assert (conv(x) - exact).abs().max() < error * exact.abs().max()


@pytest.mark.parametrize("side, share", [(32, 1 / 4), (8, 4 / 9)])
def test_it_multiplies_as_little_as_it_says(side, share):
    """36 products for 16 results of 9 each, and 16 for 4; the transforms' are 2 n⁴/m² and 2 n² for each number in and out."""
    conv, x = layer(384, 384), numbers(1, 384, side, side)
    conv(x)  # makes the kernels
    ours, theirs = (sum(flops(run).values()) for run in (lambda: conv(x), lambda: F.conv2d(x, conv.weight, padding=1)))
    n, m = (6, 4) if side == 32 else (4, 2)
    transforms = 384 * side**2 * (2 * n**4 / m**2 + 2 * n**2)
    assert ours == theirs * share + transforms and transforms < 0.1 * theirs


def test_it_keeps_nothing_of_its_input():
    conv, x = layer(), numbers(2, 96, 16, 16).requires_grad_()
    (held, _), size = kept(lambda: conv(x)), conv._kernels(4).nbytes
    assert held == size


def test_what_validation_computed_first_serves_training():
    conv, x = layer(), numbers(2, 96, 16, 16)
    with torch.inference_mode():
        conv(x)
    conv(x.requires_grad_()).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("change", [lambda p, new: p.copy_(new), lambda p, new: setattr(p, "data", new)])
def test_new_weights_count_at_once(change):
    conv, x = layer(), numbers(2, 96, 16, 16)
    conv(x)
    new = numbers(*conv.weight.shape)
    change(conv.weight, new)
    torch.testing.assert_close(conv(x), F.conv2d(x, new, conv.bias, padding=1), rtol=1e-4, atol=1e-3)


def test_what_is_trained_is_convolved_as_ever():
    conv, x = layer().requires_grad_(), numbers(2, 96, 16, 16)
    y = conv(x)
    assert torch.equal(y, F.conv2d(x, conv.weight, conv.bias, padding=1))
    y.sum().backward()
    assert conv.weight.grad is not None


def test_what_autocast_computes_in_bfloat16_stays_so():
    conv, x = layer(), numbers(2, 96, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "geometry", [{"stride": 2}, {"padding": 0}, {"kernel_size": 1}, {"groups": 2}, {"inputs": 64}, {"padding_mode": "circular"}]
)
def test_other_convolutions_are_left_alone(geometry):
    assert type(layer(**geometry)) is nn.Conv2d


def test_losses_and_gradients_of_a_prepared_model_are_those_of_the_plain_one():
    """To 1e-4 of the largest gradient, on maps of either side of the border; and under the same keys."""
    plain, fast = wide(), wide()
    runtime.prepare_for_training(fast.unet, "cpu")
    assert sum(type(part) is WinogradConv2d for part in fast.unet.modules()) >= 8
    same(step(fast, batch_of(3)), step(plain, batch_of(3)), 1e-4)
    assert fast.unet.state_dict().keys() == plain.unet.state_dict().keys()


@pytest.mark.parametrize("case", [{"device": "cuda"}, {"precision": "bf16-mixed"}, {"lean": True}, {"use_checkpoint": True}])
def test_where_memory_matters_more_or_nothing_is_won_it_is_not_used(case):
    unet = wide().unet
    unet.use_checkpoint = case.pop("use_checkpoint", False)
    runtime.prepare_for_training(unet, **{"device": "cpu", **case})
    assert not any(type(part) is WinogradConv2d for part in unet.modules())


@pytest.mark.parametrize("processes", [1, 2])
def test_training_uses_it_in_a_process_alone(processes):
    model, cpu = wide(), SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(strategy=cpu, precision="32-true", world_size=processes)
    make_fast(model, trainer, SimpleNamespace(lightning=SimpleNamespace(compile=False)))
    assert any(type(part) is WinogradConv2d for part in model.unet.modules()) == (processes == 1)


def test_an_edit_uses_it_unless_memory_is_to_be_saved():
    model = wide().eval().requires_grad_(False)
    prepare_for_inference(model, "cpu")
    assert any(type(part) is WinogradConv2d for part in model.unet.modules())
    prepare_for_inference(model, "cpu", low_memory=True)
    assert {type(part) for part in model.unet.modules() if isinstance(part, nn.Conv2d)} == {FrozenConv2d}
