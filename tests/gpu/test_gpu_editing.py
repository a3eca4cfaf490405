"""Every inversion method and sampler against the CPU; whole edits; memory at 256 and 512 px."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.checkpoints.shipped import FOLDER, ROOT
from ldm.editing import Edit, EditOptions, EditRequest, edit
from ldm.graph.graph_files import read_graph
from ldm.models.diffusion import inversion
from ldm.models.diffusion.inversion import ANY_SAMPLER, METHODS, SourceBranch
from ldm.models.diffusion.samplers import SAMPLERS, get_sampler
from ldm.models.preprocess import encode_graph, noise_generator, to_model_input
from ldm.models.runtime import prepare_for_inference
from ldm.profiling.workload import Workload
from ldm.sampling.options import SampleOptions
from ldm.sampling.sample import sample_images

# Largest distance of latents from the CPU's, as a share of their norm. Rounding (1e-6 for one call of the U-Net) is carried
# through STEPS calls up and as many down.
PATH = 1e-3
NULL_PATH = 5e-2  # Adam divides a gradient by its size, so that one close to zero makes a step of the whole rate
STEPS = 5
# Largest mean difference of pixels from the CPU's, of 255 levels: float32 rounds some up that the CPU rounds down, and a
# latent close to the border of two codes may take the other one, which changes 8 x 8 pixels.
PIXELS = {"fp32": 0.5, "fp16": 2.0, "bf16": 4.0}

WAYS = [(method, sampler) for method in METHODS for sampler in (SAMPLERS if method in ANY_SAMPLER else ("ddim",))]


@pytest.fixture(scope="module")
def request_():
    folder = ROOT / FOLDER / "flat"
    with Image.open(folder / "example.png") as image:
        photograph = image.convert("RGB")
    return EditRequest(photograph, read_graph(folder / "edited.json"), read_graph(folder / "example.json"))


def relative_distance(ours, theirs) -> float:
    ours = ours.detach().cpu()
    return float((ours - theirs).norm() / theirs.norm())


@torch.no_grad()
def invert_and_edit(model, request_, latent, method, sampler):
    """The inverted path, and the latents of the edit."""
    image = to_model_input(model, request_.photograph)
    target = model.condition(encode_graph(request_.graph, model), image)
    known = model.condition(encode_graph(request_.source_graph, model), image)
    guided = model.denoiser(known, 2.0, 2.0)
    source = SourceBranch(model.denoiser(known), guided, model.null_tokens, noise_generator(0))
    schedule = inversion.make_schedule(model.schedule, sampler, STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few steps leave a residual
        inverted = inversion.get_method(method, sampler)(source, schedule, latent.to(model.device))
    return inverted.path, inversion.resample(inverted, schedule, model.denoiser(target, 2.0, 2.0))


@pytest.mark.parametrize("method, sampler", WAYS)
def test_every_inversion_method_gives_the_cpus_latents(reference, model, request_, method, sampler):
    latent = reference.encode(to_model_input(reference, request_.photograph))
    expected = invert_and_edit(reference, request_, latent, method, sampler)
    path, edited = invert_and_edit(model, request_, latent, method, sampler)
    assert relative_distance(path, expected[0]) < PATH
    assert relative_distance(edited, expected[1]) < (NULL_PATH if method == "null" else PATH)


@pytest.mark.parametrize("sampler, eta", [*((sampler, 0.0) for sampler in SAMPLERS), ("ddim", 1.0)])
def test_every_sampler_gives_the_cpus_latents(reference, model, request_, sampler, eta):
    results = []
    for each in (reference, model):
        with torch.no_grad():
            graph = encode_graph(request_.graph, each)
            denoiser = each.denoiser(each.condition(graph), 2.0)
            noise = torch.randn(1, 4, 8, 8, generator=noise_generator(1)).to(each.device)
            schedule = inversion.make_schedule(each.schedule, sampler, 2 * STEPS)
            results.append(get_sampler(sampler).sample(denoiser, schedule, noise, eta, noise_generator(2)))
    assert relative_distance(results[1], results[0]) < PATH


def mean_difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean())


@pytest.mark.parametrize(
    "precision, low_memory, settings",
    [
        ("fp32", False, {}),
        ("bf16", False, {}),
        ("fp16", True, {}),
        ("fp32", True, {"method": "direct", "region": "none", "keep": True}),
        ("bf16", False, {"method": "direct", "region": "none", "keep": True}),
        ("bf16", False, {"method": "null", "steps": 3}),
    ],
    ids=str,
)
def test_an_edit_is_nearly_the_cpus(reference, model, request_, device, precision, low_memory, settings):
    options = EditOptions(**settings)
    expected = edit(reference, request_, options, attention=True)
    model = copy.deepcopy(model)
    prepare_for_inference(model, device, precision, low_memory)
    result = edit(model, request_, options, attention=True, reconstruction=True, previews=2)
    assert mean_difference(result.image, expected.image) < PIXELS[precision]
    assert np.isfinite(result.reconstruction.psnr_autoencoder) and len(result.previews) == 2


def test_a_style_transfer_in_two_passes_is_nearly_the_cpus(reference, model, request_):
    style = Image.new("RGB", request_.photograph.size, (40, 90, 160))
    request = EditRequest(request_.photograph, request_.source_graph, request_.source_graph, style)
    expected, result = (edit(each, request, EditOptions()) for each in (reference, model))
    assert mean_difference(result.image, expected.image) < PIXELS["fp32"]


def test_sampled_images_are_nearly_the_cpus_and_do_not_depend_on_their_neighbours(reference, model, request_):
    graphs, seeds = [request_.graph, request_.source_graph], [3, 4]
    expected, images = (sample_images(each, graphs, seeds, SampleOptions(steps=STEPS)) for each in (reference, model))
    assert max(map(mean_difference, images, expected)) < PIXELS["fp32"]
    (alone,) = sample_images(model, graphs[1:], seeds[1:], SampleOptions(steps=STEPS))
    assert np.array_equal(alone, images[1])


def test_the_program_edits_on_the_device(load_script, device, tmp_path):
    folder = ROOT / FOLDER / "flat"
    files = ["--ref", folder / "example.png", "--sg", folder / "edited.json", "--source-sg", folder / "example.json"]
    flags = [
        "--ckpt",
        folder / "adapters.safetensors",
        "--device",
        device,
        "--precision",
        "bf16",
        "--low-memory",
        "--steps",
        4,
        "--outdir",
        tmp_path / "out",
    ]
    assert load_script("ddim_invert_edit").main([*map(str, [*files, *flags])]) == 0
    assert json.loads((tmp_path / "out" / "record.json").read_text())["arguments"]["precision"] == "bf16"


# Memory at the size of configs/vg.yaml ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large_model(on_gpu, device):
    """The model of configs/vg.yaml with random weights, in bf16 on the device; small shapes in a rehearsal."""
    workload = Workload("vg" if on_gpu else "small", device)
    model = workload.make_model().eval().requires_grad_(False)
    prepare_for_inference(model, device, "bf16")
    return model, workload


def edit_and_measure(model, workload, side: int, on_gpu: bool) -> tuple[Edit, float]:
    """An edit at `side` pixels, and the peak of the GPU's memory in GB, weights included."""
    photograph, source, target = workload.edit_example()
    model.latent_size = side // model.first_stage_model.downsampling
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = 0 if not on_gpu else other_memory(model)
    result = edit(model, EditRequest(photograph.resize((side, side)), target, source), EditOptions(steps=4))
    return result, (torch.cuda.max_memory_allocated() - before) / 1e9 if on_gpu else 0.0


def other_memory(model) -> int:
    """Bytes on the GPU that are not the model's, such as those of other tests' models."""
    tensors = [*model.parameters(), *model.buffers()]
    return torch.cuda.memory_allocated() - sum(x.nbytes for x in tensors if x.device.type == "cuda")


@pytest.mark.parametrize("side", [256, 512])
def test_low_memory_gives_the_same_edit_with_less_memory(large_model, on_gpu, device, record_property, side):
    model, workload = large_model
    side = side if on_gpu else side // 8
    prepare_for_inference(model, device, "bf16")
    plain, peak = edit_and_measure(model, workload, side, on_gpu)
    prepare_for_inference(model, device, "bf16", low_memory=True)
    lean, lean_peak = edit_and_measure(model, workload, side, on_gpu)
    assert mean_difference(plain.image, lean.image) < PIXELS["bf16"]
    assert lean_peak < peak or not on_gpu
    record_property("figure", f"edit at {side} px in bf16: peak {peak:.2f} GB, with --low-memory {lean_peak:.2f} GB")
