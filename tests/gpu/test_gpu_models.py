"""Loading in each precision, and each part of the shipped model against the CPU."""

import copy

import pytest
import torch

from ldm.data.demo import DemoValidation
from ldm.graph.batch import collate
from ldm.models.loading import choose_device
from ldm.models.runtime import PRECISIONS, on_device, prepare_for_inference

# Largest distance from the CPU's float32, as a share of its norm.
ROUNDING = {
    "fp32": 1e-4,  # sums in another order: 6e-8 for each of some hundred operations in a row, amplified by norms
    "fp16": 1e-2,  # 5e-4 for each operation
    "bf16": 6e-2,  # 4e-3 for each operation
}
TOKENS = 1e-5  # of the graph encoder in float32: 1e-7 from float64 on a CPU; GELU's tanh approximation is 1.1e-4 off
TF32 = 1e-2  # torch's default for a GPU's convolutions: ten bits, as fp16


def distance(ours, theirs) -> float:
    """Norm of the difference, relative to the norm of `theirs`."""
    return float((ours.cpu().double() - theirs.double()).norm() / theirs.double().norm())


@pytest.fixture(scope="module")
def batch():
    data = DemoValidation(4)
    return collate([data[i] for i in range(4)], data.vocab)


@pytest.mark.parametrize("precision", ROUNDING)
def test_the_predicted_noise_is_the_cpus(reference, model, batch, device, precision):
    with torch.no_grad():
        x, t = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 300, 600, 999])
        expected = reference.denoiser(reference.condition(batch.graph, batch.image), 2.0, 2.0)(x, t)
        model = copy.deepcopy(model)
        prepare_for_inference(model, device, precision)
        assert {p.dtype for p in model.unet.parameters()} == {PRECISIONS[precision]}
        assert {str(p.device) for p in model.parameters()} == {device}
        cond = model.condition(batch.graph.to(device), batch.image.to(device))
        eps = model.denoiser(cond, 2.0, 2.0)(x.to(device), t.to(device))
    assert eps.dtype == torch.float32 and distance(eps, expected) < 3 * ROUNDING[precision]  # guided: 2 a - b


def test_the_predicted_noise_with_tf32_convolutions_is_nearly_the_cpus(reference, model, batch, device):
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        x, t = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 300, 600, 999])
        expected = reference.denoiser(reference.condition(batch.graph, batch.image))(x, t)
        cond = model.condition(batch.graph.to(device), batch.image.to(device))
        assert distance(model.denoiser(cond)(x.to(device), t.to(device)), expected) < TF32


def test_the_encoders_give_the_cpus_latents_tokens_and_styles(reference, model, batch, device):
    with torch.no_grad():
        ours = model.condition(batch.graph.to(device), batch.image.to(device))
        theirs = reference.condition(batch.graph, batch.image)
        latents, expected = model.encode(batch.image.to(device)), reference.encode(batch.image)
        assert distance(model.decode(expected.to(device)), reference.decode(expected)) < ROUNDING["fp32"]
    assert distance(latents, expected) < ROUNDING["fp32"]
    assert distance(ours.tokens, theirs.tokens) < TOKENS
    assert distance(ours.style, theirs.style) < ROUNDING["fp32"]
    assert torch.equal(ours.mask.cpu(), theirs.mask)


def test_an_offloaded_encoder_is_on_the_device_only_while_it_runs(model, batch, device, on_gpu):
    model = copy.deepcopy(model)
    expected = model.encode(batch.image.to(device))
    prepare_for_inference(model, device, low_memory=True)
    with on_device(model.first_stage_model, model.device) as first_stage:
        assert {str(p.device) for p in first_stage.parameters()} == {device}
    assert {str(p.device) for p in model.first_stage_model.parameters()} == {"cpu"}
    assert torch.equal(model.encode(batch.image.to(device)), expected) or not on_gpu


def test_a_gpu_is_chosen_where_there_is_one(device, on_gpu):
    assert choose_device() == device or not on_gpu
