"""Inference in half precision, memory formats, and parts that are moved to a device only while they run."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny import tiny_model
from torch import nn

from ldm.data.demo import DemoValidation
from ldm.editing.options import EditOptions, EditRequest
from ldm.editing.pipeline import edit
from ldm.models.runtime import (
    HALF_PRECISIONS,
    PRECISIONS,
    on_device,
    prepare_for_inference,
    warn_of_slow_half_precision,
)
from ldm.modules.conditioning import Conditioning
from ldm.synthetic.shapes import render

CPU = torch.device("cpu")


def model_with_adapters():
    """A frozen model in evaluation mode whose adapters have an effect."""
    torch.manual_seed(0)
    model = tiny_model().eval().requires_grad_(False)
    for parameter in model.unet.parameters():
        parameter += torch.randn_like(parameter) * 0.02
    return model


@pytest.mark.parametrize("precision, tolerance", [("fp16", 5e-3), ("bf16", 4e-2)])
def test_a_unet_in_half_precision_predicts_nearly_the_same_noise_in_float32(precision, tolerance):
    model = model_with_adapters()
    cond = Conditioning.from_tokens(torch.randn(2, 5, 32), torch.randn(2, 16))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    exact = model.denoiser(cond)(x, t)  # without guidance, which would amplify the error
    prepare_for_inference(model, "cpu", precision)
    assert {p.dtype for p in model.unet.parameters()} == {PRECISIONS[precision]}
    eps = model.denoiser(cond)(x, t)
    assert eps.dtype == torch.float32
    assert 0 < (eps - exact).norm() / exact.norm() < tolerance


@pytest.fixture(scope="module")
def models():
    """A model in float32, and the same one in bfloat16 with low memory."""
    pair = model_with_adapters(), model_with_adapters()
    for model in pair:
        for parameter in model.unet.out.parameters():
            parameter *= 0.1  # random U-Nets are less smooth in x than trained ones
    prepare_for_inference(pair[1], "cpu", "bf16", low_memory=True)
    return pair


@pytest.mark.parametrize(
    "options, attention",
    [
        ({}, False),
        ({"region": "none", "keep": True}, False),
        ({"method": "null", "graph_scale": 3, "steps": 2}, False),
        ({}, True),
    ],
    ids=["default", "keep", "null", "attention"],
)
def test_an_edit_in_half_precision_is_nearly_the_same(models, options, attention):
    graph, background = DemoValidation(8).scene(3)
    photograph = render(graph, background, 64)
    name = "square" if graph.objects[0] != "square" else "circle"
    request = EditRequest(photograph, replace(graph, objects=(name, *graph.objects[1:])), graph)
    exact, half = (
        edit(model, request, EditOptions(**{"steps": 3, **options}), attention=attention) for model in models
    )
    difference = torch.tensor([abs(a - b) for a, b in zip(exact.image.tobytes(), half.image.tobytes())]).float()
    assert difference.mean() < 2 and half.image.size == photograph.size
    if attention:
        torch.testing.assert_close(half.attention, exact.attention, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("device, layout", [("cpu", torch.channels_last), ("meta", torch.contiguous_format)])
def test_inference_uses_the_memory_format_of_its_device_and_a_cpu_keeps_freed_memory(device, layout, monkeypatch):
    calls = []
    monkeypatch.setattr("ldm.models.runtime.keep_freed_memory", lambda: calls.append(device))
    model = model_with_adapters()
    prepare_for_inference(model, "cpu")
    prepare_for_inference(model, device)
    for part in (model.unet, model.first_stage_model):
        weights = [layer.weight for layer in part.modules() if isinstance(layer, nn.Conv2d)]
        assert weights and all(weight.is_contiguous(memory_format=layout) for weight in weights)
    assert len(calls) == (2 if device == "cpu" else 1)


class MockModule(nn.Module):
    """Records the devices that it is moved to, without being moved."""

    def __init__(self):
        super().__init__()
        self.device, self.moves = CPU, []

    def parameters(self):
        return iter([torch.empty(0, device=self.device)])

    def to(self, device):
        self.device = torch.device(device)
        self.moves.append(self.device)
        return self


def test_a_module_is_on_the_device_during_the_context_even_if_it_raises():
    module, device = MockModule(), torch.device("meta")
    with on_device(module, device) as moved:
        assert moved.device == device
    assert module.device == CPU and module.moves == [device, CPU]
    with pytest.raises(RuntimeError), on_device(module, device):
        raise RuntimeError("out of memory")
    assert module.device == CPU


def test_a_module_that_makes_room_is_off_the_device_during_the_context_even_if_it_raises():
    module, other, device = MockModule(), MockModule(), torch.device("meta")
    other.device = device
    with on_device(module, device, instead_of=other):
        assert (module.device, other.device) == (device, CPU)
    assert (module.device, other.device) == (CPU, device)
    with pytest.raises(RuntimeError), on_device(module, device, instead_of=other):
        raise RuntimeError("out of memory")
    assert (module.device, other.device) == (CPU, device)


@pytest.fixture
def moves(monkeypatch):
    """What a model asks `on_device` for: pairs of the part to move there, and the part that makes room for it."""
    asked = []

    def recorded(part, device, instead_of=None):
        asked.append((part, instead_of))
        return on_device(part, device, instead_of)

    monkeypatch.setattr("ldm.models.diffusion.latent_diffusion.on_device", recorded)
    return asked


@pytest.mark.parametrize("low_memory", [False, True])
def test_the_unet_makes_room_for_the_first_stage_where_memory_is_low(moves, low_memory):
    model = tiny_model().eval()
    prepare_for_inference(model, "cpu", low_memory=low_memory)
    model.decode(model.encode(torch.zeros(1, 3, 32, 32)))
    assert moves == 2 * [(model.first_stage_model, model.unet if low_memory else None)]


def test_a_module_that_is_on_the_device_is_not_moved():
    module = MockModule()
    with on_device(module, CPU):
        pass
    assert module.moves == []
    with on_device(nn.Identity(), CPU) as identity:
        assert isinstance(identity, nn.Identity)


def test_encoding_decoding_and_styles_use_their_part_on_the_device(moves):
    model = tiny_model().eval()
    graph, _ = DemoValidation(8).scene(3)
    image = Image.new("RGB", (32, 32), "red")
    edit(model, EditRequest(image, graph, style=image), EditOptions(steps=1))
    first_stage, image_encoder = model.first_stage_model, model.global_stage_model
    used = [part for part, _ in moves]
    # The styles of photograph and reference; encode, decode and encode between the two passes, decode.
    assert (used.count(image_encoder), used.count(first_stage), len(used)) == (2, 4, 6)


@pytest.mark.parametrize("precision", [*HALF_PRECISIONS, "fp16"])
def test_a_processor_without_units_for_half_precision_is_named(precision, monkeypatch):
    seconds = {torch.float32: 0.001, torch.float16: 0.05, torch.bfloat16: 0.05}
    monkeypatch.setattr("ldm.models.runtime.seconds_of_product", seconds.__getitem__)
    with pytest.warns(UserWarning, match=f"precision {precision}: .* 50 times as long"):
        warn_of_slow_half_precision(precision, "cpu")


@pytest.mark.parametrize("precision", ["32", "32-true", "fp32"])
def test_float32_and_other_devices_are_not_measured(precision, recwarn, monkeypatch):
    monkeypatch.delattr("ldm.models.runtime.seconds_of_product")
    warn_of_slow_half_precision(precision, "cpu")
    warn_of_slow_half_precision("bf16-mixed", "cuda")
    assert not recwarn


def test_a_processor_that_is_as_fast_in_half_precision_is_not_named(recwarn, monkeypatch):
    monkeypatch.setattr("ldm.models.runtime.seconds_of_product", lambda dtype: 0.001)
    warn_of_slow_half_precision("bf16-mixed", "cpu")
    assert not recwarn
