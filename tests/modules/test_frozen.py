"""Frozen layers: the same outputs and gradients with less memory saved for the backward pass."""

import copy

import pytest
import torch
from tiny import adapted_model, demo_batch, losses_and_gradients, saved_for_backward, tiny_model
from torch import nn

from ldm.modules.kernels.conv import Conv2d, skip_saving_inputs
from ldm.modules.kernels.frozen import cast_frozen_weights


@pytest.fixture(scope="module")
def batch():
    return demo_batch(3)


# Convolutions


def test_the_convolution_of_the_u_net_has_torchs_initial_weights_and_keys():
    torch.manual_seed(0)
    ours = Conv2d(4, 6, 3).state_dict()
    torch.manual_seed(0)
    theirs = nn.Conv2d(4, 6, 3).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("geometry", [{"padding": 1}, {"padding": 1, "stride": 2}, {"kernel_size": 1, "bias": False}])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_frozen_convolution_saves_no_input_and_gives_the_same_gradient(geometry, layout):
    plain = Conv2d(8, 6, **{"kernel_size": 3, **geometry}).requires_grad_(False).to(memory_format=layout)
    frozen = copy.deepcopy(plain)
    skip_saving_inputs(frozen)
    assert saved_for_backward(lambda: plain(torch.randn(2, 8, 10, 10, requires_grad=True)))[0] > 0
    assert saved_for_backward(lambda: frozen(torch.randn(2, 8, 10, 10, requires_grad=True)))[0] == 0
    x = torch.randn(2, 8, 10, 10).to(memory_format=layout)
    results = []
    for layer in (plain, frozen):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        (y**2).sum().backward()
        results.append((y.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


def test_a_convolution_that_is_trainable_after_all_still_gets_its_gradient():
    layer = Conv2d(4, 4, 3)
    skip_saving_inputs(layer)
    layer(torch.randn(1, 4, 5, 5, requires_grad=True)).sum().backward()
    assert layer.weight.grad is not None


def test_nothing_is_saved_before_the_first_trainable_layer():
    unet = tiny_model().unet.train()
    x = torch.randn(2, 4, 8, 8)
    time = unet.time_embed(torch.randn(2, 32))
    assert saved_for_backward(lambda: unet.input_blocks[1][0](unet.input_blocks[0][0](x), time))[0] == 0


def test_a_frozen_u_net_saves_less_than_one_with_plain_convolutions_and_has_the_same_gradients(batch):
    model, plain = adapted_model(), adapted_model()
    skip_saving_inputs(plain.unet, enabled=False)
    (less, ours), (more, theirs) = (
        saved_for_backward(lambda each=each: losses_and_gradients(each, batch)) for each in (model, plain)
    )
    assert less < 0.95 * more
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


# Half precision


def test_a_frozen_u_net_in_half_precision_is_bit_equal_to_autocast(batch):
    autocast, half = adapted_model(), adapted_model()
    cast_frozen_weights(torch.bfloat16, half.unet)
    ours, theirs = (losses_and_gradients(model, batch, torch.bfloat16) for model in (half, autocast))
    assert torch.equal(ours[0], theirs[0])
    assert ours[1].keys() == theirs[1].keys() and all(torch.equal(ours[1][name], theirs[1][name]) for name in ours[1])


def test_trainable_parameters_and_norms_stay_in_full_precision():
    model = tiny_model()
    cast_frozen_weights(torch.bfloat16, model.unet)
    dtypes = {name: p.dtype for name, p in model.unet.named_parameters()}
    for name, parameter in model.unet.named_parameters():
        if parameter.requires_grad or "norm" in name:
            assert dtypes[name] == torch.float32, name
    assert dtypes["input_blocks.1.1.proj_in.weight"] == dtypes["time_embed.0.bias"] == torch.bfloat16
    assert dtypes["input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight"] == torch.bfloat16
    assert sum(dtype == torch.bfloat16 for dtype in dtypes.values()) > len(dtypes) / 4
