"""A U-Net laid out, held and compiled as it is the fastest where it is. Its numbers stay the same, within rounding."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.frozen import hold_frozen_in
from ldm.modules.winograd import use_winograd
from ldm.util import ConfigError

# Lightning's names of mixed precisions, and what autocast computes in.
HALVES = {"16": torch.float16, "16-mixed": torch.float16, "bf16": torch.bfloat16, "bf16-mixed": torch.bfloat16}


def prepare(
    unet: UNetModel, device: str, precision: str | int = "32", compiled: bool = False, lean: bool = False
) -> None:
    """In place, under the same keys; before anything reads or moves the weights. device: 'cpu' or any other. precision: of
    HALVES, in which frozen weights are then held, or a full one. Frozen convolutions on a CPU get kernels of their own
    (`ldm.modules.winograd`), unless memory matters more, as to a `lean` one among several processes or one that recomputes, or
    a compiler makes them anyway. Raises ConfigError where nothing can compile."""
    lay_out(unet, device)
    half = HALVES.get(str(precision))
    if half:
        hold_frozen_in(half, unet)
    elif torch.device(device).type == "cpu" and not (compiled or lean or unet.use_checkpoint):
        use_winograd(unet)
    if compiled:
        if not shutil.which(os.environ.get("CXX", "g++")):
            raise ConfigError("lightning.compile needs a C++ compiler, which is not here: install g++, or leave it out")
        unet.compile()  # once for whole batches, once more for any other size


def lay_out(part: nn.Module, device: str | torch.device) -> None:
    """In place: channels last for a CPU, where convolutions read and write them so, and attention wants them last too."""
    last = torch.device(device).type == "cpu"
    part.to(memory_format=torch.channels_last if last else torch.contiguous_format)
