from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType

from ldm.profiling import timing
from ldm.profiling.timing import Spread


def test_a_spread_is_the_median_and_the_quartiles():
    assert Spread.of([5, 1, 2, 4, 3]) == (3, 2, 4)


def test_each_round_runs_all_functions_and_begins_with_another_one():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = timing.time_in_turns(runs, 3, "cpu")
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_speedup_is_computed_round_by_round():
    """The machine was twice as slow in the second round, which does not change the speedup."""
    assert timing.speedup([1.0, 2.0, 1.0], baseline=[3.0, 6.0, 3.0]) == (3, 3, 3)


def test_a_multiply_add_counts_as_two_flops_also_in_compiled_functions():
    layer, x = nn.Linear(5, 7, bias=False), torch.randn(3, 5)
    assert timing.count_flops(lambda: layer(x)) == {"aten.mm": 2 * 3 * 5 * 7}
    layer.compile(backend="eager")
    assert timing.count_flops(lambda: layer(x)) == {"aten.mm": 2 * 3 * 5 * 7}


def test_the_machines_peak_is_a_plausible_rate(monkeypatch):
    monkeypatch.setattr(timing, "SATURATION_SECONDS", 0)
    assert 1e6 < timing.peak_flops(torch.float32, "cpu", 1) < 1e16


@pytest.mark.parametrize(
    "operation, kind",
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::_slow_conv2d_forward", "convolutions"),
        ("aten.convolution_backward", "convolutions, backward"),
        ("ConvolutionBackward0", "convolutions, backward"),
        ("aten._scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention, backward"),
        ("aten::addmm", "linear layers"),
        ("aten.mm", "linear layers"),
        ("aten::native_group_norm_backward", "norms"),
        ("aten::silu", "the rest"),
    ],
)
def test_operations_are_classified_by_name(operation, kind):
    assert timing.operation_kind(operation) == kind


def test_a_gpus_time_is_counted_at_the_operations_and_not_again_at_their_kernels():
    def event(name, device, time):
        return SimpleNamespace(key=name, device_type=device, self_device_time_total=time, self_cpu_time_total=1.0)

    operations = [event("aten::mm", DeviceType.CPU, 3.0), event("aten::silu", DeviceType.CPU, 2.0)]
    kernels = [event("sm90_xmma_gemm_f32", DeviceType.CUDA, 3.0), event("elementwise_kernel", DeviceType.CUDA, 2.0)]
    assert timing.time_by_kind([*operations, *kernels], on_gpu=True) == {"linear layers": 3.0, "the rest": 2.0}
    assert timing.time_by_kind(operations, on_gpu=False) == {"linear layers": 1.0, "the rest": 1.0}
