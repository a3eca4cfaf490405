"""Memory that is calculated on the meta device: closed forms, the same count on a CPU, and what the documentation states."""

import re
from functools import partial

import pytest
import torch
from paths import ROOT
from torch import nn
from torch.nn import functional

from ldm.profiling.estimate import CONFIGS, HEADER, Estimate, PeakMemory, estimate, fused_attention, peak_of, table

N = 1000  # numbers of 4 bytes


def peak(run, device="meta", known=()):
    with PeakMemory(*known) as counter:
        run(torch.empty(N, device=device))
    return counter.peak


def test_a_tensor_counts_until_nothing_refers_to_it():
    def chain(x):
        for _ in range(5):
            x = x + 1  # the old one is free once the new one is there
        return x.view(10, 100).T  # a view takes nothing

    with PeakMemory() as counter:
        x = torch.empty(N, device="meta")
        y = chain(x)
        assert (counter.live, counter.peak) == (8 * N, 12 * N)
        del y
        assert counter.live == 4 * N
        x.add_(1)
        assert counter.live == 4 * N


def test_what_the_backward_pass_needs_counts_until_then():
    layers = nn.Sequential(*(nn.Sigmoid() for _ in range(7))).to("meta")  # each saves its output
    x = torch.empty(N, device="meta", requires_grad=True)
    with PeakMemory() as counter:
        y = layers(x)
        assert counter.live == 7 * 4 * N
        y.sum().backward()
        del y
        assert counter.live == 4 * N and counter.peak <= (7 + 3) * 4 * N  # the gradient of x remains
    with torch.no_grad(), PeakMemory() as counter:
        layers(x)
    assert counter.peak == 2 * 4 * N


def test_the_meta_device_holds_what_a_cpu_holds():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 3))
    found = []
    for device in ("cpu", "meta"):
        image = torch.ones(2, 3, 32, 32, device=device)
        found.append(peak_of(partial(network.to(device), image), network))
    assert found[0] == found[1] > 2 * 8 * 30 * 30 * 4


def test_fused_attention_takes_no_logits_and_keeps_what_its_backward_pass_needs():
    size, width = 512, 8
    q, k, v = (torch.empty(1, 1, size, width, device="meta", requires_grad=True) for _ in range(3))
    original = functional.scaled_dot_product_attention
    with fused_attention(), PeakMemory() as counter:
        output = functional.scaled_dot_product_attention(q, k, v)
    assert counter.live == size * width * 4 + size * 4 < size * size * 4
    output.sum().backward()
    assert q.grad.shape == q.shape and functional.scaled_dot_product_attention is original


def test_the_peak_of_an_edit_is_that_of_its_largest_part():
    parts = {"U-Net": 100, "text encoder": 50, "image encoder": 3, "first stage": 10}
    made = Estimate("a", "fp16", parts, unet_step=7, text=1, encode=20, decode=30, training=40)
    assert (made.edit, made.low_memory_edit, made.training_step) == (163 + 30, 100 + 50 + 1, 140)
    small_text = Estimate("a", "fp16", {**parts, "text encoder": 5}, 7, 1, 20, 30, 40)
    assert small_text.low_memory_edit == 100 + 7
    large_image = Estimate("a", "fp16", parts, unet_step=7, text=1, encode=200, decode=30, training=40)
    assert large_image.low_memory_edit == 10 + 200  # the U-Net waits on the CPU


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_documentation_states_what_is_calculated_and_sdxl_edits_within_12_gb(name):
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for precision in ("fp32", "fp16"):
        made = estimate(name, precision)
        (row,) = table([made]).splitlines()[2:]
        assert re.sub(r"\s+", " ", row) in re.sub(r"[ \t]+", " ", page)
        if precision == "fp16":
            assert made.low_memory_edit < 12e9
    assert all(header in page for header in HEADER)
