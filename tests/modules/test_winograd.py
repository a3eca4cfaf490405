"""Winograd convolutions: torch's results with fewer multiplications, only where weights are frozen."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny import MODEL, adapted_model, assert_same_training_step, demo_batch, losses_and_gradients, saved_for_backward
from torch.utils.flop_counter import FlopCounterMode

from ldm.models import runtime
from ldm.modules.kernels.conv import Conv2d, use_winograd
from ldm.modules.kernels.winograd import WinogradConvolution, transform_weight
from ldm.training.run import prepare_model


def random_tensor(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def frozen_convolution(inputs=96, outputs=128, **options):
    torch.manual_seed(0)
    layer = Conv2d(inputs, outputs, **{"kernel_size": 3, "padding": 1, **options}).requires_grad_(False)
    use_winograd(layer)
    return layer


def wide_model():
    """A model with convolutions that are wide enough for Winograd's algorithm."""
    unet = copy.deepcopy(MODEL["params"]["unet_config"])
    unet["params"] |= {"channel_mult": [1, 2], "attention_resolutions": [2], "model_channels": 96}
    return adapted_model(unet_config=unet)


def winograd_layers(unet):
    return [layer for layer in unet.modules() if isinstance(layer, Conv2d) and layer.winograd]


def count_flops(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 3), (13, 6)])
@pytest.mark.parametrize("biased", [True, False])
def test_output_and_gradient_are_those_of_torchs_convolution_in_float64(m, size, biased):
    x = random_tensor(2, 5, *size, dtype=torch.float64).requires_grad_()
    weight = random_tensor(7, 5, 3, 3, dtype=torch.float64)
    bias = random_tensor(7, dtype=torch.float64) if biased else None
    ours = WinogradConvolution.apply(x, transform_weight(weight, m), bias, m)
    theirs = F.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    cotangent = random_tensor(*theirs.shape, dtype=torch.float64)
    our_gradient, their_gradient = (torch.autograd.grad(y, x, cotangent)[0] for y in (ours, theirs))
    torch.testing.assert_close(our_gradient, their_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side, error", [(32, 2e-5), (8, 2e-6)])
def test_the_rounding_error_in_float32_is_within_its_bound(side, error):
    """As a share of the largest value: in tiles of 4 x 4, and of 2 x 2 for a small map with a large weight."""
    conv, x = frozen_convolution(384, 384), random_tensor(2, 384, side, side)
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    assert (conv(x) - exact).abs().max() < error * exact.abs().max()


@pytest.mark.parametrize("side, share", [(32, 1 / 4), (8, 4 / 9)])
def test_the_number_of_multiplications_is_that_of_the_algorithm(side, share):
    """A quarter (4 x 4) or four ninths (2 x 2) of a direct convolution's, and less than a tenth for the transforms."""
    conv, x = frozen_convolution(384, 384), random_tensor(1, 384, side, side)
    conv(x)  # transforms the weight
    ours, theirs = (count_flops(run) for run in (lambda: conv(x), lambda: F.conv2d(x, conv.weight, padding=1)))
    n, m = (6, 4) if side == 32 else (4, 2)
    transforms = 384 * side**2 * (2 * n**4 / m**2 + 2 * n**2)
    assert ours == theirs * share + transforms and transforms < 0.1 * theirs


def test_only_the_transformed_weight_is_saved_for_the_backward_pass():
    conv, x = frozen_convolution(), random_tensor(2, 96, 16, 16).requires_grad_()
    saved, _ = saved_for_backward(lambda: conv(x))
    assert saved == conv.transformed_weight(4).nbytes


def test_a_weight_transformed_in_inference_mode_can_be_used_in_training():
    conv, x = frozen_convolution(), random_tensor(2, 96, 16, 16)
    with torch.inference_mode():
        conv(x)
    conv(x.requires_grad_()).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("change", [lambda p, new: p.copy_(new), lambda p, new: setattr(p, "data", new)])
def test_a_changed_weight_is_transformed_again(change):
    conv, x = frozen_convolution(), random_tensor(2, 96, 16, 16)
    conv(x)
    new = random_tensor(*conv.weight.shape)
    change(conv.weight, new)
    torch.testing.assert_close(conv(x), F.conv2d(x, new, conv.bias, padding=1), rtol=1e-4, atol=1e-3)


def test_a_trainable_convolution_is_bit_equal_to_torchs():
    conv, x = frozen_convolution().requires_grad_(), random_tensor(2, 96, 16, 16)
    y = conv(x)
    assert torch.equal(y, F.conv2d(x, conv.weight, conv.bias, padding=1))
    y.sum().backward()
    assert conv.weight.grad is not None


def test_autocast_still_computes_in_bfloat16():
    conv, x = frozen_convolution(), random_tensor(2, 96, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16


@pytest.mark.parametrize("autocast", [False, True])
def test_the_rounding_error_in_bfloat16_is_at_most_three_times_that_of_torchs_convolution(autocast):
    """Of the output and of the input's gradient, beside float64; on average it is twice as large."""
    conv = frozen_convolution(192, 192).bfloat16()
    x = random_tensor(2, 192, 16, 16).bfloat16().requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = conv(x.float() if autocast else x)
    theirs = F.conv2d(x, conv.weight, conv.bias, padding=1)
    exact = F.conv2d(exact_x, conv.weight.double(), conv.bias.double(), padding=1)
    cotangent = random_tensor(*exact.shape).bfloat16()
    gradients = [torch.autograd.grad(y, x, cotangent)[0] for y in (ours, theirs)]
    gradients.append(torch.autograd.grad(exact, exact_x, cotangent.double())[0])
    assert ours.dtype == torch.bfloat16 and not torch.equal(ours, theirs)
    for our, their, precise in ((ours, theirs, exact), gradients):
        errors = [(each.double() - precise).abs().max() for each in (our, their)]
        assert errors[0] < 3 * errors[1] and errors[1] < 0.01 * precise.abs().max()


def test_a_narrow_convolution_in_bfloat16_is_bit_equal_to_torchs():
    conv, x = frozen_convolution(191, 256).bfloat16(), random_tensor(2, 191, 16, 16).bfloat16()
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))


@pytest.mark.parametrize(
    "geometry",
    [{"stride": 2}, {"padding": 0}, {"kernel_size": 1}, {"groups": 2}, {"inputs": 64}, {"padding_mode": "circular"}],
)
def test_other_convolutions_do_not_use_it(geometry):
    assert not frozen_convolution(**geometry).winograd and frozen_convolution().winograd


def test_losses_and_gradients_of_a_model_that_uses_it_are_those_of_the_plain_model():
    """To 1e-4 of the largest gradient, since sums are in another order; state-dict keys are the same."""
    plain, fast = wide_model(), wide_model()
    runtime.prepare_for_training(fast.unet, "cpu")
    assert len(winograd_layers(fast.unet)) >= 8
    ours, theirs = (losses_and_gradients(model, demo_batch(3)) for model in (fast, plain))
    assert_same_training_step(ours, theirs, 1e-4)
    assert fast.unet.state_dict().keys() == plain.unet.state_dict().keys()


def test_losses_and_gradients_in_bfloat16_are_those_of_autocast_within_rounding():
    plain, fast = wide_model(), wide_model()
    runtime.prepare_for_training(fast.unet, "cpu", "bf16-mixed")
    (loss, ours), (expected, theirs) = (
        losses_and_gradients(model, demo_batch(3), torch.bfloat16) for model in (fast, plain)
    )
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)
    ours, theirs = (torch.cat([each.flatten() for each in gradients.values()]) for gradients in (ours, theirs))
    assert (ours - theirs).norm() < 0.05 * theirs.norm()


@pytest.mark.parametrize("case", [{"device": "cuda"}, {"lean": True}, {"use_checkpoint": True}])
def test_training_does_not_use_it_on_a_gpu_or_when_saving_memory(case):
    unet, case = wide_model().unet, dict(case)
    unet.use_checkpoint = case.pop("use_checkpoint", False)
    runtime.prepare_for_training(unet, **{"device": "cpu", **case})
    assert not winograd_layers(unet)


@pytest.mark.parametrize("processes", [1, 2])
def test_training_uses_it_only_in_a_single_process(processes):
    model, cpu = wide_model(), SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(strategy=cpu, precision="32-true", world_size=processes)
    prepare_model(model, trainer, SimpleNamespace(lightning=SimpleNamespace(compile=False, cuda_graphs=False)))
    assert bool(winograd_layers(model.unet)) == (processes == 1)


def test_inference_uses_it_unless_memory_is_to_be_saved():
    model = wide_model().eval().requires_grad_(False)
    runtime.prepare_for_inference(model, "cpu")
    assert winograd_layers(model.unet)
    runtime.prepare_for_inference(model, "cpu", low_memory=True)
    assert not winograd_layers(model.unet)
