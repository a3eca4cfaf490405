"""What a benchmark runs on: shapes, device and precisions, and random models and batches of these shapes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from ldm.checkpoints.shipped import FOLDER, ROOT
from ldm.graph.batch import Batch, GraphBatch, Latents, encode
from ldm.graph.graph_files import read_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.text_tokens import LENGTH
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.kernels.conv import skip_saving_inputs, use_winograd
from ldm.synthetic.shapes import VOCAB
from ldm.util.config import instantiate_from_config, plain, read_config

SIZES = {  # configs of configs/
    "small": ("vg.yaml", "tiny.yaml"),
    "vg": ("vg.yaml",),
    "sd1": ("sd1_vg.yaml",),
    "sd2": ("sd2_vg.yaml",),
    "sdxl": ("sdxl_vg.yaml",),
}
RANDOM_WEIGHTS = {
    "ckpt_path": None,
    "init": "random",
    "unet_config": {"params": {"use_checkpoint": False}},
    "first_stage_config": {"params": {"ckpt_path": None, "init": "random"}},
    "global_stage_config": {"params": {"init": "random"}},
}
RANDOM_TEXT_ENCODER = {"text_stage_config": {"params": {"init": "random"}}}  # of a model that has one
ADAPTER_PARAMS = {"film_embedding_dim", "lora_rank", "context_local_dim", "box_bias"}  # unknown to diffusers' U-Net
EXAMPLE = ROOT / FOLDER / "flat"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Workload:
    """The shapes of a benchmark and how it is run.

    Args:
        size: shapes, a key of `SIZES`.
        device: 'cpu', 'cuda:0', ...
        threads: of the CPU.
        batch: images per forward pass or training step.
        steps: of an edit, for inversion and for sampling each.
        precisions: keys of `PRECISIONS`.
        compiled: whether compiled U-Nets are measured as well.
        repeats: rounds of measurements.
    """

    size: str = "small"
    device: str = "cpu"
    threads: int = 1
    batch: int = 2
    steps: int = 50
    precisions: tuple[str, ...] = ("fp32",)
    compiled: bool = False
    repeats: int = 5

    @cached_property
    def params(self) -> dict:
        """Parameters of LatentDiffusion, with random weights."""
        configs = [read_config(ROOT / "configs" / name) for name in SIZES[self.size]]
        merged = OmegaConf.merge(*configs, {"model": {"params": RANDOM_WEIGHTS}})
        if "text_stage_config" in merged.model.params:
            merged = OmegaConf.merge(merged, {"model": {"params": RANDOM_TEXT_ENCODER}})
        params = plain(merged.model.params)
        params["unet_config"]["params"] = with_defaults(params["unet_config"]["params"])
        return with_defaults(params)

    @property
    def unet_params(self) -> dict:
        """Parameters of the U-Net without adapters."""
        params = self.params["unet_config"]["params"]
        return {key: value for key, value in params.items() if key not in ADAPTER_PARAMS}

    @property
    def image_side(self) -> int:
        """Pixels."""
        return 8 * self.params["image_size"]

    def make_unet(self) -> UNetModel:
        """A frozen U-Net without adapters; the same weights in each call."""
        if self.device != "cpu":
            return copy.deepcopy(_unet_on_gpu(self.size, self.device))
        torch.manual_seed(0)
        return UNetModel(**self.unet_params).requires_grad_(False)

    def make_model(self) -> LatentDiffusion:
        """The whole model; the same weights in each call."""
        if self.device != "cpu":
            return copy.deepcopy(_model_on_gpu(self.size, self.device))
        torch.manual_seed(0)
        model = instantiate_from_config({"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": self.params})
        model.vocab, model.learning_rate = VOCAB, 1e-4
        return model

    def unet_inputs(self) -> tuple[Tensor, Tensor, Conditioning]:
        """Latents (B,4,h,w), timesteps (B,) and as many tokens (B,N,D) as a text, or a full graph and its style, have."""
        rng = torch.Generator().manual_seed(0)
        side, width = self.params["image_size"], self.unet_params["context_dim"]
        graphs = self.params.get("cond_stage_config")
        count = graphs["params"]["max_tokens"] + 1 if graphs else LENGTH
        x, tokens = (torch.randn(self.batch, *shape, generator=rng) for shape in ((4, side, side), (count, width)))
        t = torch.randint(0, self.params["timesteps"], (self.batch,), generator=rng)
        return x.to(self.device), t.to(self.device), Conditioning.from_tokens(tokens.to(self.device))

    def batch_of_images(self) -> Batch:
        """A training batch of images."""
        shape = (self.batch, 3, self.image_side, self.image_side)
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return Batch(image.clamp(-1, 1), self.graphs()).to(self.device)

    def batch_of_latents(self, model: LatentDiffusion) -> Batch:
        """The same batch as a latent cache provides it."""
        batch = self.batch_of_images()
        assert model.global_stage_model is not None
        with torch.no_grad():
            z, style = model.first_stage_model.encode(batch.image), model.global_stage_model(batch.reference)
        return Batch(None, batch.graph, latents=Latents(z.half(), style.half()))

    def graphs(self) -> GraphBatch:
        """A scene graph for each image of the batch."""
        _, source, _ = self.edit_example()
        return encode([source] * self.batch, VOCAB)

    def edit_example(self) -> tuple[Image.Image, SceneGraph, SceneGraph]:
        """A photograph, its graph and the edited graph."""
        with Image.open(EXAMPLE / "example.png") as image:
            photograph = image.convert("RGB").resize((self.image_side, self.image_side))
        (source,), (target,) = (read_graphs(EXAMPLE / name) for name in ("example.json", "edited.json"))
        return photograph, source, target


@cache
def _model_on_gpu(size: str, device: str) -> LatentDiffusion:
    """Weights are drawn on the CPU, which takes seconds; copies of them on a GPU take none."""
    return Workload(size).make_model().to(device)


@cache
def _unet_on_gpu(size: str, device: str) -> UNetModel:
    return Workload(size).make_unet().to(device)


def with_defaults(params: dict) -> dict:
    """The parameters with those under `defaults`, which hold where weights state nothing else."""
    return {**params.get("defaults", {}), **{key: value for key, value in params.items() if key != "defaults"}}


def use_plain_convolutions(module: nn.Module) -> nn.Module:
    """Switches off the faster paths of frozen convolutions. Returns the module."""
    skip_saving_inputs(module, enabled=False)
    use_winograd(module, enabled=False)
    return module
