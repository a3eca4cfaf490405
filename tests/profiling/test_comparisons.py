import gc

import pytest
import torch
from taming.modules.diffusionmodules.model import AttnBlock
from torch import nn

from ldm.models.autoencoder import VQModelInterface
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.fused_attention import FusedAttnBlock
from ldm.profiling import diffusers_peer, edit, real_step, timing, train_step, unet
from ldm.profiling.workload import SIZES, Workload
from ldm.util.errors import UserError
from ldm.util.images import read_image, resize_square, to_tensor
from ldm.util.processes import available_cores

UNET_PARAMS = {
    "image_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [2, 1],
    "num_res_blocks": 1,
    "channel_mult": [1, 2, 2],
    "context_dim": 24,
}
BOTH = ("fp32", "bf16")


@pytest.fixture
def needs_diffusers():
    pytest.importorskip("diffusers")


# --- workload ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_each_size_has_the_shapes_of_its_config_and_random_weights(size):
    params = Workload(size).params
    assert params["init"] == params["first_stage_config"]["params"]["init"] == "random"
    assert (
        params["unet_config"]["params"]["model_channels"]
        == {"small": 32, "vg": 256, "sd1": 320, "sd2": 320, "sdxl": 320}[size]
    )


def test_models_for_a_gpu_are_copies_with_the_weights_of_those_for_a_cpu():
    """The device 'cpu:0' takes the path of a GPU's."""
    first, second = (Workload("small", "cpu:0").make_model() for _ in range(2))
    expected = Workload("small").make_model().state_dict()
    for model in (first, second):
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert first.unet.out[0].weight.data_ptr() != second.unet.out[0].weight.data_ptr()


# --- diffusers' U-Net -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [{"num_head_channels": 16}, {"num_heads": 2, "legacy": False}])
def test_diffusers_unet_with_our_weights_has_our_outputs(needs_diffusers, heads):
    """To 1e-5, with padded tokens, on levels with and without attention."""
    params = {**UNET_PARAMS, **heads}
    ours = UNetModel(**params).requires_grad_(False)
    theirs = diffusers_peer.DiffusersUNet(diffusers_peer.to_diffusers_unet(ours, params))
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    cond = Conditioning.from_tokens(torch.randn(2, 5, 24))._replace(mask=mask)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 500])
    torch.testing.assert_close(theirs(x, t, cond), ours(x, t, cond), rtol=1e-5, atol=1e-5)


def test_a_unet_that_diffusers_does_not_have_is_refused():
    with pytest.raises(UserError, match="coordinates"):
        diffusers_peer.diffusers_config({**UNET_PARAMS, "num_heads": 2, "coordinates": 4})


# --- U-Net ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compare", [unet.compare_forward, unet.compare_backward])
def test_winograd_convolutions_are_measured_on_a_cpu_only(compare):
    cpu, other = (set(compare(Workload(device=device, precisions=BOTH)).variants) for device in ("cpu", "meta"))
    assert cpu - other == {"Winograd", "Winograd, bf16"} and other < cpu


@pytest.mark.parametrize("compare", [unet.compare_forward, unet.compare_backward])
def test_the_plain_unet_has_no_optimizations(compare, monkeypatch):
    calls = []
    monkeypatch.setattr(unet, "skip_saving_inputs", lambda module: calls.append("skip saving"))
    monkeypatch.setattr(unet, "cast_frozen_weights", lambda dtype, module: calls.append(dtype))
    variants = compare(Workload(precisions=BOTH)).variants
    plain = {name: variant for name, variant in variants.items() if "plain" in name}
    for variant in plain.values():
        variant.build()
    assert list(plain) == ["plain"] and not calls
    assert "contiguous, bf16" in variants


@pytest.mark.parametrize("precisions", [("fp32",), BOTH])
def test_fused_attention_in_fp32_is_measured_on_a_cpu_only(precisions):
    cpu, gpu = (
        set(unet.compare_attention(Workload(device=device, precisions=precisions)).variants)
        for device in ("cpu", "cuda")
    )
    assert cpu - gpu == {"fp32 fused", "bf16, fused in fp32"} & cpu
    assert {f"{precision} in full" for precision in precisions} <= gpu


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_is_compared_with_diffusers_unet_on_the_same_cache(needs_diffusers):
    """The first peer counts; the one that encodes images in each step comes later."""
    variants = train_step.compare_steps(Workload(precisions=BOTH)).variants
    first = {variant.precision: name for name, variant in reversed(variants.items()) if variant.peer}
    assert first == {"fp32": "diffusers, cached", "bf16": "diffusers, cached, bf16"} and "diffusers" in variants
    assert torch.isfinite(train_step.compare_steps(Workload(batch=1)).variants["diffusers, cached"].build()())


@pytest.mark.parametrize("variant", ["plain", "fast, cached", "fast, cached, recompute"])
def test_a_training_step_changes_the_trainable_parameters_only(variant, monkeypatch):
    models = []
    make_model = Workload.make_model
    monkeypatch.setattr(Workload, "make_model", lambda *arguments: models.append(make_model(*arguments)) or models[-1])
    step = train_step.compare_steps(Workload(batch=1)).variants[variant].build()
    (model,) = models
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(2):
        assert torch.isfinite(step())
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed and changed <= {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_steps_without_a_cache_read_files_and_train_on_what_they_hold(monkeypatch, tmp_path):
    """The model gets the pixels of the files, in their order, and the files are gone after the run."""
    folders, seen = [], []
    write = real_step.write_photographs
    monkeypatch.setattr(real_step, "write_photographs", lambda folder: folders.append(folder) or write(folder, 3))
    workload = Workload(batch=2)
    run = real_step.compare_real_steps(workload).variants["as run"].build()
    monkeypatch.setattr("ldm.models.first_stage.VQModelInterface.encode", encode_and_note(seen))
    losses = [run() for _ in range(2)]
    (folder,) = folders
    first = workload.batch * min(
        real_step.WORKERS, available_cores()
    )  # the first batch of each worker is not trained on
    names = [f"{(first + number) % 3}.jpg" for number in range(4)]
    images = [to_tensor(resize_square(read_image(folder / name), workload.image_side)) for name in names]
    assert torch.equal(torch.cat(seen), torch.stack(images)) and all(map(torch.isfinite, losses))
    del run
    gc.collect()
    assert not folder.exists()


def encode_and_note(seen):
    encode = VQModelInterface.encode

    def noting(self, image):
        seen.append(image)
        return encode(self, image)

    return noting


def test_the_peer_without_a_cache_runs_the_published_attention_on_the_same_weights_with_the_same_result():
    model = Workload().make_model()
    first_stage, image = model.first_stage_model, torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fused = [layer for layer in first_stage.modules() if isinstance(layer, FusedAttnBlock)]
    keys, expected = list(first_stage.state_dict()), model.encode(image)
    heads = [layer for layer in model.global_stage_model.modules() if isinstance(layer, nn.MultiheadAttention)]
    assert all(layer._forward_pre_hooks for layer in heads)
    real_step.use_published_code(model)
    assert heads and not any(layer._forward_pre_hooks for layer in heads)
    kinds = [type(layer) for layer in first_stage.modules()]
    assert fused and FusedAttnBlock not in kinds and kinds.count(AttnBlock) == len(fused)
    assert list(first_stage.state_dict()) == keys
    torch.testing.assert_close(model.encode(image), expected, rtol=1e-4, atol=1e-5)


def test_steps_without_a_cache_have_a_peer_in_each_precision(needs_diffusers):
    variants = real_step.compare_real_steps(Workload(precisions=BOTH)).variants
    peers = {variant.precision: name for name, variant in variants.items() if variant.peer}
    assert peers == {"fp32": "diffusers", "bf16": "diffusers, bf16"} and {"as run", "as run, bf16"} < set(variants)


@pytest.mark.parametrize("synchronized", [True, False])
def test_processes_start_at_the_same_time_whether_they_are_synchronized_or_not(tmp_path, monkeypatch, synchronized):
    order = []
    monkeypatch.setattr(train_step.dist, "barrier", lambda: order.append("barrier"))
    monkeypatch.setattr(train_step.torch, "set_num_threads", lambda count: None)

    def time_in_turns(runs, repeats, device):
        order.append("timed")
        runs["step"]()
        return {"step": [0.5, 0.5]}

    monkeypatch.setattr(train_step, "time_in_turns", time_in_turns)
    rate = train_step._images_per_second(Workload(batch=1), 0, 1, f"file://{tmp_path}/rendezvous", synchronized)
    assert rate == 2 and order == ["barrier", "timed"]


# --- editing ----------------------------------------------------------------------------------------------------------


def test_an_edit_is_compared_with_the_plain_loop_on_diffusers_unet(needs_diffusers):
    """Both do the same U-Net calls: FLOPs differ by our adapters and one addition, 2 %."""
    variants = edit.compare_edits(Workload(steps=1, precisions=BOTH)).variants
    assert [name for name, variant in variants.items() if variant.peer] == ["diffusers", "diffusers, bf16"]
    plain, peer = (sum(timing.count_flops(variants[name].build()).values()) for name in ("plain", "diffusers"))
    assert peer == pytest.approx(plain, rel=0.02)


def test_an_edit_with_low_memory_has_the_same_image():
    options = edit.EditOptions(steps=1)
    ordinary, low_memory = (edit._edit(Workload(), "fp32", low, options)() for low in (False, True))
    difference = torch.tensor([a - b for a, b in zip(ordinary.image.tobytes(), low_memory.image.tobytes())])
    assert difference.abs().max() <= 2
