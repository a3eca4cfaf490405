"""Prepares models for a device: memory format, precision, kernels, offloading, and the allocator of the C library.

Latents, schedules and guidance are computed in float32, whatever the precision of the U-Net.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from ldm.modules.kernels.conv import use_winograd
from ldm.modules.kernels.cuda_graphs import replay_training
from ldm.modules.kernels.frozen import cast_frozen_weights
from ldm.util.errors import ConfigError

if TYPE_CHECKING:
    from ldm.models.diffusion.latent_diffusion import LatentDiffusion
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

# Precisions of the U-Net for inference.
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# Lightning's names of half precisions for training, and the type that autocast computes in.
HALF_PRECISIONS = {
    "16": torch.float16,
    "16-mixed": torch.float16,
    "bf16": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
}

# Parameters of glibc's mallopt (malloc.h), the largest threshold it accepts, and the variables that set them.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 << 20
MALLOC_VARIABLES = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"}


# Inference ----------------------------------------------------------------------------------------------------------


def prepare_for_inference(
    model: LatentDiffusion, device: str | torch.device, precision: str = "fp32", low_memory: bool = False
) -> None:
    """Moves a model to a device, in place. It cannot be trained afterwards.

    Args:
        model: the diffusion model.
        device: where to compute.
        precision: of the U-Net's weights, a key of PRECISIONS.
        low_memory: keeps the first stage and the encoders of images and texts on the CPU and moves them to the device only while they
            run (`on_device`); the U-Net leaves the device while the first stage runs, whose activations are the largest. On a
            CPU, convolutions then do not use the Winograd kernels, which need more memory.
    """
    is_cpu = torch.device(device).type == "cpu"
    if is_cpu:
        keep_freed_memory()
    use_winograd(model.unet, is_cpu and not low_memory)
    for part in (model.unet, model.first_stage_model):
        set_memory_format(part, device)
    model.unet.to(PRECISIONS[precision])  # before the move, so that the device never holds float32 weights
    model.to(device)
    model.unet_waits = low_memory
    if low_memory:
        offload_encoders(model)


# Training -----------------------------------------------------------------------------------------------------------


def prepare_for_training(
    unet: UNetModel,
    device: str,
    precision: str | int = "32",
    compiled: bool = False,
    lean: bool = False,
    graphs: bool = False,
) -> None:
    """Prepares a U-Net for training, in place and with the same state-dict keys. Call it before the weights are moved.

    Frozen convolutions on a CPU use Winograd kernels, except where those need too much memory (`lean`, activation
    checkpointing) or the compiler replaces them.

    Args:
        unet: the U-Net.
        device: 'cpu' or any other.
        precision: Lightning's name; in half precision, frozen weights are stored in that type.
        compiled: whether to compile the U-Net.
        lean: whether to save memory, as for one of several processes.
        graphs: whether to record and replay CUDA graphs, the compiler's if it is compiled. Gradients are then overwritten
            by the next step, so they cannot be accumulated.

    Raises:
        ConfigError: there is no C++ compiler, or no GPU that could replay graphs, or activations are recomputed.
    """
    if graphs:
        _refuse_graphs(unet, device)
    set_memory_format(unet, device)
    half = HALF_PRECISIONS.get(str(precision))
    if half:
        cast_frozen_weights(half, unet)
    if torch.device(device).type == "cpu" and not (compiled or lean or unet.use_checkpoint):
        use_winograd(unet)
    if compiled:
        if not shutil.which(os.environ.get("CXX", "g++")):
            raise ConfigError(
                "lightning.compile needs a C++ compiler, and none was found: install g++, or remove the key"
            )
        # once for full batches and once for dynamic sizes
        unet.compile(mode="reduce-overhead") if graphs else unet.compile()
    elif graphs:
        replay_training(unet)


def prepare_encoders_for_training(model: nn.Module, device: str) -> None:
    """Prepares the frozen first stage of a model for training on images, in place and with the same state-dict keys."""
    first_stage = getattr(model, "first_stage_model", None)
    if isinstance(first_stage, nn.Module):
        set_memory_format(first_stage, device)


def _refuse_graphs(unet: UNetModel, device: str) -> None:
    if torch.device(device).type != "cuda":
        raise ConfigError("lightning.cuda_graphs: only an NVIDIA GPU replays them; leave it out")
    if unet.use_checkpoint:
        raise ConfigError(
            "lightning.cuda_graphs: activations that are recomputed (unet_config.params.use_checkpoint) cannot be recorded; "
            "choose one of the two"
        )


def set_memory_format(module: nn.Module, device: str | torch.device) -> None:
    """Stores weights channels-last for a CPU, where convolutions and attention prefer it, otherwise contiguously."""
    is_cpu = torch.device(device).type == "cpu"
    module.to(memory_format=torch.channels_last if is_cpu else torch.contiguous_format)


# Offloading ---------------------------------------------------------------------------------------------------------


def offload_encoders(model: LatentDiffusion, texts: bool = True) -> None:
    """Moves the first stage and the encoders to the CPU; `on_device` moves them back while they run.

    Args:
        texts: whether the text encoder moves too.
    """
    text_encoder = model.text_stage_model if texts else None
    for part in (model.first_stage_model, model.global_stage_model, text_encoder, model.preview_model):
        if part is not None:
            part.to("cpu")
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def on_device(module: nn.Module, device: torch.device, instead_of: nn.Module | None = None) -> Iterator[nn.Module]:
    """Moves a module to the device for the duration of the context, unless it is there already.

    Args:
        instead_of: a module that is moved away from the device meanwhile, to make room.
    """
    home = next((parameter.device for parameter in module.parameters()), device)
    if home == device:
        yield module
        return
    try:
        if instead_of is not None:
            instead_of.to(home)
        yield module.to(device)
    finally:
        module.to(home)
        if instead_of is not None:
            instead_of.to(device)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # otherwise the memory would stay reserved


# Speed of half precision --------------------------------------------------------------------------------------------


def warn_of_slow_half_precision(precision: str, device: str | torch.device) -> None:
    """Warns on a CPU that computes in a half precision more slowly than in float32, as those without units for it do.

    Args:
        precision: a key of PRECISIONS or of HALF_PRECISIONS; others are never slow.
        device: where to compute; only a CPU is measured, for a tenth of a second.
    """
    half = HALF_PRECISIONS.get(precision) or PRECISIONS.get(precision, torch.float32)
    if half == torch.float32 or torch.device(device).type != "cpu":
        return
    slower = seconds_of_product(half) / seconds_of_product(torch.float32)
    if slower > 2:
        warnings.warn(
            f"precision {precision}: this processor takes {slower:.0f} times as long for a product of matrices as in float32; "
            "leave --precision out, unless memory is what is missing",
            stacklevel=2,
        )


def seconds_of_product(dtype: torch.dtype) -> float:
    """Seconds for a product of two matrices of 192 x 192 on the CPU, the best of three."""
    matrix = torch.ones(192, 192, dtype=dtype)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return min(seconds)


# Memory of the process ----------------------------------------------------------------------------------------------


def keep_freed_memory() -> bool:
    """Keeps freed blocks of up to 32 MB in the process instead of returning them to the kernel.

    The kernel fills every page with zeros when it hands it out again; without that, a training step on a CPU has 14
    times fewer page faults.

    Returns:
        Whether the setting was made. That requires glibc, and none of MALLOC_VARIABLES in the environment.
    """
    if not sys.platform.startswith("linux") or MALLOC_VARIABLES & os.environ.keys():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD) and mallopt(TRIM_THRESHOLD, 2**31 - 1))
