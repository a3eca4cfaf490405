"""Training with several processes: plain data parallelism (DDP), or with the frozen U-Net weights sharded (FSDP)."""

from __future__ import annotations

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from ldm.modules.attention import SpatialTransformer
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.diffusionmodules.unet_blocks import TimestepEmbedSequential
from ldm.util.errors import ConfigError


class Sharded(DDPStrategy):
    """DDP for the trained parameters; the frozen U-Net weights are sharded over the processes (FSDP, 2304.11277).

    Weight averages, optimizer states and checkpoints are therefore those of DDP.
    """

    def model_to_device(self) -> None:
        unet = self.lightning_module.unet
        if not isinstance(unet, FSDPModule):
            shard_frozen(unet, init_device_mesh(self.root_device.type, (self.world_size,)))
        super().model_to_device()


def strategy(name: str | None, processes: int) -> str | DDPStrategy:
    """Lightning's `strategy` argument for a name in a config.

    Args:
        name: ddp, fsdp, auto or None; the last two mean ddp.
        processes: number of training processes.

    Raises:
        ConfigError: any other name.
    """
    if name not in (None, "auto", "ddp", "fsdp"):
        raise ConfigError(f"strategy {name}: not supported; choose ddp or fsdp, or leave it out, which is ddp")
    if processes == 1:
        return "auto"
    # No model here has buffers that differ between processes, so a step synchronises gradients only.
    kind = Sharded if name == "fsdp" else DDPStrategy
    return kind(broadcast_buffers=False, gradient_as_bucket_view=True)


def refuse_to_shard(model: nn.Module, compiled: bool, graphs: bool = False) -> None:
    """Raises ConfigError if the model has no frozen U-Net, or if the U-Net is to be compiled or recorded."""
    unet = getattr(model, "unet", None)
    if not isinstance(unet, UNetModel) or all(p.requires_grad for p in unet.parameters()):
        raise ConfigError(f"strategy fsdp: shards a frozen U-Net, and {type(model).__name__} has none; choose ddp")
    if compiled:
        raise ConfigError(
            "strategy fsdp: a sharded U-Net cannot be compiled; choose ddp, or leave lightning.compile out"
        )
    if graphs:
        raise ConfigError(
            "strategy fsdp: the passes of a sharded U-Net cannot be recorded; choose ddp, or leave lightning.cuda_graphs out"
        )


def shard_frozen(unet: UNetModel, mesh: DeviceMesh) -> None:
    """Moves a U-Net to the mesh's device, where each process keeps its share of the frozen weights, under the same keys.

    A layer is gathered for each of its passes, that is, for calls of `forward`, `prepare` and `keys`.
    """
    unet.to(memory_format=torch.contiguous_format)  # shards consist of contiguous rows
    trained = {p for p in unet.parameters() if p.requires_grad}
    blocks = [block for block in unet.modules() if isinstance(block, TimestepEmbedSequential)]
    for layer in (*(layer for block in blocks for layer in block), unet):
        fully_shard(layer, mesh=mesh, ignored_params=trained)
        if isinstance(layer, SpatialTransformer):
            register_fsdp_forward_method(layer, "keys")
    register_fsdp_forward_method(unet, "prepare")
