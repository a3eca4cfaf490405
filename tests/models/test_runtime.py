"""A U-Net in half precision, and parts that are lent to another device."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny import tiny_model
from torch import nn

from ldm.data.demo import DemoValidation
from ldm.editing.edit import edit
from ldm.models.runtime import PRECISIONS, on_device, prepare_for_inference
from ldm.modules.conditioning import Conditioning
from ldm.synthetic.shapes import render

CPU = torch.device("cpu")


def awake():
    """A model whose adapters are not zero."""
    torch.manual_seed(0)
    model = tiny_model().eval().requires_grad_(False)
    for parameter in model.unet.parameters():
        parameter += torch.randn_like(parameter) * 0.02
    return model


@pytest.mark.parametrize("precision, error", [("fp16", 5e-3), ("bf16", 4e-2)])
def test_in_half_precision_eps_comes_near_and_leaves_in_single(precision, error):
    model = awake()
    cond = Conditioning.of(torch.randn(2, 5, 32), torch.randn(2, 16))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    exact = model.denoiser(cond)(x, t)  # guidance would add to its errors
    prepare_for_inference(model, "cpu", precision)
    assert {p.dtype for p in model.unet.parameters()} == {PRECISIONS[precision]}
    eps = model.denoiser(cond)(x, t)
    assert eps.dtype == torch.float32
    assert 0 < (eps - exact).norm() / exact.norm() < error


@pytest.mark.parametrize(
    "options", [{}, {"region": "none", "keep": True}, {"method": "null", "graph_scale": 3}, {"attention": True}]
)
def test_an_edit_in_half_precision_is_nearly_the_edit(options):
    graph, background = DemoValidation(8).scene(3)
    photograph = render(graph, background, 64)
    other = replace(graph, objects=("square" if graph.objects[0] != "square" else "circle", *graph.objects[1:]))
    model = awake()
    for parameter in model.unet.out.parameters():
        parameter *= 0.1  # a random U-Net answers a small change of x by a large one, as no trained one does
    options = {"source": graph, "steps": 3, **options}
    exact = edit(model, photograph, other, **options).image
    prepare_for_inference(model, "cpu", "bf16", low_memory=True)
    near = edit(model, photograph, other, **options).image
    difference = torch.tensor([abs(a - b) for a, b in zip(exact.tobytes(), near.tobytes())]).float()
    assert difference.mean() < 2 and near.size == photograph.size


@pytest.mark.parametrize("device, layout", [("cpu", torch.channels_last), ("meta", torch.contiguous_format)])
def test_a_settled_model_lies_as_its_device_likes_it_and_a_cpu_keeps_its_memory(device, layout, monkeypatch):
    kept = []
    monkeypatch.setattr("ldm.models.runtime.keep_freed_memory", lambda: kept.append(device))
    model = awake()
    prepare_for_inference(model, "cpu")
    prepare_for_inference(model, device)
    for part in (model.unet, model.first_stage_model):
        weights = [layer.weight for layer in part.modules() if isinstance(layer, nn.Conv2d)]
        assert weights and all(weight.is_contiguous(memory_format=layout) for weight in weights)
    assert len(kept) == (2 if device == "cpu" else 1)


class Traveller(nn.Module):
    """Says where it is, without being there."""

    def __init__(self):
        super().__init__()
        self.place, self.ways = CPU, []

    def parameters(self):
        return iter([torch.empty(0, device=self.place)])

    def to(self, place):
        self.place = torch.device(place)
        self.ways.append(self.place)
        return self


def test_a_part_is_on_the_device_for_the_time_of_a_pass_even_of_one_that_fails():
    part, there = Traveller(), torch.device("meta")
    with on_device(part, there) as own:
        assert own.place == there
    assert part.place == CPU and part.ways == [there, CPU]
    with pytest.raises(RuntimeError), on_device(part, there):
        raise RuntimeError("out of memory")
    assert part.place == CPU


def test_a_part_that_is_there_already_goes_nowhere():
    part = Traveller()
    with on_device(part, CPU):
        pass
    assert part.ways == []
    with on_device(nn.Identity(), CPU) as nothing:
        assert isinstance(nothing, nn.Identity)


def test_encoding_decoding_and_styles_borrow_their_part(monkeypatch):
    model, borrowed = tiny_model().eval(), []

    def noted(part, device):
        borrowed.append(part)
        return on_device(part, device)

    monkeypatch.setattr("ldm.models.diffusion.ddpm.on_device", noted)
    graph, _ = DemoValidation(8).scene(3)
    picture = Image.new("RGB", (32, 32), "red")
    edit(model, picture, graph, source=None, style=picture, steps=1, reconstruct=False)
    first, clip = model.first_stage_model, model.global_stage_model
    # Encode; the picture's style and the other's; between the passes decode and encode; decode.
    assert borrowed == [first, clip, clip, first, first, first]
