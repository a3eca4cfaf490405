"""A U-Net laid out, held and compiled as it is the fastest where it is to be trained. Its numbers stay the same, within
rounding."""

from __future__ import annotations

import os
import shutil

import torch

from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.frozen import hold_frozen_in
from ldm.util import ConfigError

# Lightning's names of mixed precisions, and what autocast computes in.
HALVES = {"16": torch.float16, "16-mixed": torch.float16, "bf16": torch.bfloat16, "bf16-mixed": torch.bfloat16}


def prepare(unet: UNetModel, device: str, precision: str | int = "32", compiled: bool = False) -> None:
    """In place, under the same keys; before anything reads or moves the weights. device: 'cpu' or any other. precision: of
    HALVES, in which frozen weights are then held, or a full one. Raises ConfigError where nothing can compile."""
    if device == "cpu":  # where convolutions read and write channels last, and attention wants them last too
        unet.to(memory_format=torch.channels_last)
    if half := HALVES.get(str(precision)):
        hold_frozen_in(half, unet)
    if compiled:
        if not shutil.which(os.environ.get("CXX", "g++")):
            raise ConfigError("lightning.compile needs a C++ compiler, which is not here: install g++, or leave it out")
        unet.compile()  # once for whole batches, once more for any other size
