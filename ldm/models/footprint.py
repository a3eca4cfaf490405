"""What a model takes of a device's memory when it edits, and how it lies there: its U-Net's precision, and parts that are
there only while they work.

Latents, schedules and the sums of guidance stay in float32 whatever the U-Net computes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ldm.memory import keep_freed_memory
from ldm.modules.winograd import use_winograd
from ldm.speed import lay_out

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def settle(model: nn.Module, device: str | torch.device, precision: str = "fp32", low_memory: bool = False) -> None:
    """A LatentDiffusion to `device`, its U-Net's weights in one of PRECISIONS, for good: it is not to be trained any more.
    It is laid out, and the process keeps its memory, as the benchmark's (`ldm.speed`, `ldm.memory`).

    low_memory: the first stage and the image encoder stay on the CPU, and go to the device for each of their passes
    (`lent`); where all is on a CPU, its convolutions do without kernels of their own (`ldm.modules.winograd`)."""
    cpu = torch.device(device).type == "cpu"
    if cpu:
        keep_freed_memory()
    use_winograd(model.unet, cpu and not low_memory)
    for part in (model.unet, model.first_stage_model):
        lay_out(part, device)
    model.unet.to(PRECISIONS[precision])  # before it goes, so that the device never holds more
    model.to(device)
    if low_memory:
        send_encoders_home(model)


def send_encoders_home(model: nn.Module) -> None:
    """Its first stage and image encoder to the CPU, from where they are `lent`."""
    for part in (model.first_stage_model, model.global_stage_model):
        if part is not None:
            part.to("cpu")
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def lent(part: nn.Module, device: torch.device) -> Iterator[nn.Module]:
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
