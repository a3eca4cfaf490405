"""What a model takes of a device's memory when it edits, and how it lies there: its U-Net's precision, and parts that are
there only while they work.

Latents, schedules and the sums of guidance stay in float32 whatever the U-Net computes in.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.kernels.frozen import cast_frozen_weights
from ldm.modules.kernels.winograd import use_winograd
from ldm.util.errors import ConfigError

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def prepare_for_inference(model: nn.Module, device: str | torch.device, precision: str = "fp32", low_memory: bool = False) -> None:
    """A LatentDiffusion to `device`, its U-Net's weights in one of PRECISIONS, for good: it is not to be trained any more.
    It is laid out, and the process keeps its memory, as the benchmark's (`ldm.speed`, `ldm.memory`).

    low_memory: the first stage and the image encoder stay on the CPU, and go to the device for each of their passes
    (`on_device`); where all is on a CPU, its convolutions do without kernels of their own (`ldm.modules.winograd`)."""
    cpu = torch.device(device).type == "cpu"
    if cpu:
        keep_freed_memory()
    use_winograd(model.unet, cpu and not low_memory)
    for part in (model.unet, model.first_stage_model):
        set_memory_format(part, device)
    model.unet.to(PRECISIONS[precision])  # before it goes, so that the device never holds more
    model.to(device)
    if low_memory:
        offload_encoders(model)


def offload_encoders(model: nn.Module) -> None:
    """Its first stage and image encoder to the CPU, from where they are `on_device`."""
    for part in (model.first_stage_model, model.global_stage_model):
        if part is not None:
            part.to("cpu")
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def on_device(part: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The part on the device: for the time of a pass, if it is at home elsewhere."""
    home = next((parameter.device for parameter in part.parameters()), device)
    if home == device:
        yield part
        return
    try:
        yield part.to(device)
    finally:
        part.to(home)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # or what it took would stay taken
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # glibc's malloc.h
LARGEST = 32 << 20  # the highest threshold that glibc takes
VARIABLES = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"}


def keep_freed_memory() -> bool:
    """Keep what is freed for the next step, up to 32 MB a piece, instead of handing it back to the kernel, which fills each
    page with zeros before it gives it out again: fourteen times fewer page faults in a step on a CPU. Whether it was done:
    only glibc can be told, and whoever has told it by environment variables knows better."""
    if not sys.platform.startswith("linux") or VARIABLES & os.environ.keys():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, 2**31 - 1))
# Lightning's names of mixed precisions, and what autocast computes in.
HALVES = {"16": torch.float16, "16-mixed": torch.float16, "bf16": torch.bfloat16, "bf16-mixed": torch.bfloat16}


def prepare_for_training(
    unet: UNetModel, device: str, precision: str | int = "32", compiled: bool = False, lean: bool = False
) -> None:
    """In place, under the same keys; before anything reads or moves the weights. device: 'cpu' or any other. precision: of
    HALVES, in which frozen weights are then held, or a full one. Frozen convolutions on a CPU get kernels of their own
    (`ldm.modules.winograd`), unless memory matters more, as to a `lean` one among several processes or one that recomputes, or
    a compiler makes them anyway. Raises ConfigError where nothing can compile."""
    set_memory_format(unet, device)
    half = HALVES.get(str(precision))
    if half:
        cast_frozen_weights(half, unet)
    elif torch.device(device).type == "cpu" and not (compiled or lean or unet.use_checkpoint):
        use_winograd(unet)
    if compiled:
        if not shutil.which(os.environ.get("CXX", "g++")):
            raise ConfigError("lightning.compile needs a C++ compiler, which is not here: install g++, or leave it out")
        unet.compile()  # once for whole batches, once more for any other size


def set_memory_format(part: nn.Module, device: str | torch.device) -> None:
    """In place: channels last for a CPU, where convolutions read and write them so, and attention wants them last too."""
    last = torch.device(device).type == "cpu"
    part.to(memory_format=torch.channels_last if last else torch.contiguous_format)
