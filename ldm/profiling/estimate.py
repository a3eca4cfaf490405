"""Memory of Stable Diffusion at full size, calculated on torch's meta device, which has shapes and no numbers.

Every operation runs on tensors without storage; a tensor's bytes count from the operation that makes it until nothing refers to it.
That is what PyTorch's allocator on a GPU holds, except for its rounding and the workspaces of cuDNN and cuBLAS. Attention counts as
the fused kernels that GPUs have: the output and a logarithm per row, and no logits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ldm.graph.text_tokens import LENGTH
from ldm.models.autoencoder import AutoencoderKL
from ldm.models.runtime import PRECISIONS
from ldm.modules.conditioning import Conditioning, TextTokens
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.encoders.modules import TextEncoder
from ldm.profiling.workload import ROOT, with_defaults
from ldm.util.config import instantiate_from_config, plain, read_config
from ldm.util.tables import markdown_table

CONFIGS = {"Stable Diffusion 1": "sd1_vg", "Stable Diffusion 2": "sd2_vg", "Stable Diffusion XL": "sdxl_vg"}
GRAPH_TOKENS, STYLE = 65, 512  # of the configs' graph and image encoders
OPTIMIZER = 2 * 4  # bytes per trained parameter: AdamW's two averages
AVERAGE = 4  # bytes per trained parameter of the model's exponential moving average
HEADER = (
    "GB",
    "precision",
    "U-Net",
    "text",
    "image",
    "first stage",
    "U-Net step",
    "encode, decode",
    "edit",
    "edit, --low-memory",
    "training step",
)


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make within the context, beyond those of `known`.

    Attributes:
        live: bytes now.
        peak: their maximum.
    """

    def __init__(self, *known: nn.Module):
        super().__init__()
        self.live = self.peak = 0
        self._seen = WeakIdKeyDictionary()
        for module in known:
            for tensor in (*module.parameters(), *module.buffers()):
                self._seen[tensor.untyped_storage()] = 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:
            self._seen[storage] = size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


@contextmanager
def fused_attention() -> Iterator[None]:
    """Replaces attention by a function with the memory of the fused kernels. (A TorchFunctionMode is off in backward passes.)"""
    original = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = lambda q, k, v, *args, **kwargs: _Fused.apply(q, k, v)
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, output, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])


@dataclass(frozen=True)
class Estimate:
    """Bytes that a backbone takes in one precision.

    Attributes:
        name: of the backbone.
        precision: of the U-Net; the other parts compute in float32.
        parameters: of the U-Net (with adapters), the encoders of texts and reference images, and the first stage.
        unet_step: activations of one step of an edit with guidance: two rows, for the null and for the caption.
        text: activations of encoding both captions.
        encode, decode: activations of the first stage.
        training: activations, gradients, averages and optimizer of a training step at batch 1, with cached latents and captions.
    """

    name: str
    precision: str
    parameters: dict[str, int]
    unet_step: int
    text: int
    encode: int
    decode: int
    training: int

    @property
    def edit(self) -> int:
        """Peak of an edit with all parts on the device."""
        return sum(self.parameters.values()) + max(self.unet_step, self.text, self.encode, self.decode)

    @property
    def low_memory_edit(self) -> int:
        """Peak of an edit with --low-memory: the first stage is alone on the device, the encoders are beside the U-Net."""
        unet, text, first_stage = (self.parameters[part] for part in ("U-Net", "text encoder", "first stage"))
        return max(unet + max(self.unet_step, text + self.text), first_stage + max(self.encode, self.decode))

    @property
    def training_step(self) -> int:
        """Peak of a training step; the encoders are on the CPU, as with a latent cache."""
        return self.parameters["U-Net"] + self.training


@dataclass
class Backbone:
    """The parts of a config on the meta device."""

    config: DictConfig
    params: dict = field(init=False)

    def __post_init__(self) -> None:
        self.params = with_defaults(plain(self.config.model.params))

    def build(self, part: str, **params: Any) -> nn.Module:
        config = self.params[f"{part}_config"]
        with torch.device("meta"):
            return instantiate_from_config({**config, "params": {**config["params"], **params}})

    @property
    def side(self) -> int:
        """Of the latents."""
        return self.params["image_size"]

    def conditioning(self, unet: UNetModel, rows: int, kind: torch.dtype) -> Conditioning:
        """A text, a full graph and a style for each row."""
        make = {"device": "meta", "dtype": kind}
        vector = torch.empty(rows, unet.vector_dim, **make) if unet.vector_dim else None
        text = TextTokens.from_tokens(torch.empty(rows, LENGTH, unet.context_dim, **make), vector)
        width = self.params["unet_config"]["params"]["context_local_dim"]
        return Conditioning.from_tokens(
            torch.empty(rows, GRAPH_TOKENS, width, **make), torch.empty(rows, STYLE, **make), text
        )


def estimate(name: str, precision: str) -> Estimate:
    """Calculates what a backbone takes.

    Args:
        name: a key of CONFIGS.
        precision: a key of PRECISIONS.
    """
    backbone = Backbone(read_config(ROOT / "configs" / f"{CONFIGS[name]}.yaml"))
    unet = cast(UNetModel, backbone.build("unet"))
    unet.freeze_body()
    unet.to(PRECISIONS[precision])
    first_stage, image_encoder = backbone.build("first_stage"), backbone.build("global_stage", init="random")
    text = cast(TextEncoder, backbone.build("text_stage"))
    cast(
        AutoencoderKL, first_stage
    ).force_upcast = False  # it is in float32 anyway; autocast does not know the meta device
    pixels = backbone.side * 8
    image = torch.empty(1, 3, pixels, pixels, device="meta")
    latent = torch.empty(1, 4, backbone.side, backbone.side, device="meta")
    parts = {"U-Net": unet, "text encoder": text, "image encoder": image_encoder, "first stage": first_stage}
    return Estimate(
        name,
        precision,
        {part: size_of(module) for part, module in parts.items()},
        peak_of(lambda: run_unet(backbone, unet, 2), unet),
        peak_of(
            lambda: [tower.model(torch.zeros(2, LENGTH, dtype=torch.long, device="meta")) for tower in text.towers()],
            text,
        ),
        peak_of(lambda: first_stage.encode(image), first_stage),
        peak_of(lambda: first_stage.decode(latent), first_stage),
        peak_of(lambda: train(backbone, unet), unet, with_gradient=True) + trained_size(unet),
    )


def peak_of(run: Callable[[], Any], module: nn.Module, with_gradient: bool = False) -> int:
    """The largest number of bytes that a computation holds beside the module's parameters."""
    counter = PeakMemory(module)
    with nullcontext() if with_gradient else torch.no_grad(), fused_attention(), counter:
        run()
    return counter.peak


def run_unet(backbone: Backbone, unet: UNetModel, rows: int) -> Tensor:
    kind = next(unet.parameters()).dtype
    x = torch.empty(rows, 4, backbone.side, backbone.side, device="meta")
    t = torch.zeros(rows, dtype=torch.long, device="meta")
    return unet(x, t, backbone.conditioning(unet, rows, kind))


def train(backbone: Backbone, unet: UNetModel) -> None:
    run_unet(backbone, unet, 1).float().square().mean().backward()


def trained_size(unet: nn.Module) -> int:
    """Bytes of AdamW's averages and of the model's own."""
    return sum(p.numel() for p in unet.parameters() if p.requires_grad) * (OPTIMIZER + AVERAGE)


def size_of(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def table(estimates: list[Estimate]) -> str:
    """One row for each backbone and precision, in GB (10^9 bytes): parameters, activations, and the peaks of both together."""
    rows = []
    for each in estimates:
        steps = each.unet_step, max(each.encode, each.decode), each.edit, each.low_memory_edit, each.training_step
        rows.append((each.name, each.precision, *(f"{size / 1e9:.1f}" for size in (*each.parameters.values(), *steps))))
    return markdown_table(HEADER, rows, text_columns=2)
