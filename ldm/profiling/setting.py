"""What a benchmark runs on: shapes, device, precisions; and the models and batches in those shapes, all at random."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from ldm.checkpoints.shipped import ROOT
from ldm.graph.batch import Batch, GraphBatch, Latents, encode
from ldm.graph.scene_graph import SceneGraph, read_graphs
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.kernels.conv import skip_saving_inputs, use_winograd
from ldm.synthetic.shapes import VOCAB
from ldm.util.config import instantiate_from_config, plain, read_config

# Configs of configs/ that have the shapes.
SIZES = {"small": ("vg.yaml", "tiny.yaml"), "vg": ("vg.yaml",), "sd1": ("sd1_vg.yaml",)}
RANDOM = {
    "ckpt_path": None,
    "init": "random",
    "unet_config": {"params": {"use_checkpoint": False}},
    "first_stage_config": {"params": {"ckpt_path": None, "init": "random"}},
    "global_stage_config": {"params": {"init": "random"}},
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    size: str = "small"
    device: str = "cpu"
    threads: int = 1  # of a CPU
    batch: int = 2  # images to a forward pass, or to a step of training
    steps: int = 50  # of an edit, up and down each
    precisions: tuple[str, ...] = ("fp32",)
    compiled: bool = False
    repeats: int = 5

    @cached_property
    def params(self) -> dict:
        """Of LatentDiffusion."""
        configs = [read_config(ROOT / "configs" / name) for name in SIZES[self.size]]
        return plain(OmegaConf.merge(*configs, {"model": {"params": RANDOM}}).model.params)

    @property
    def body(self) -> dict:
        """Of the U-Net without anything that is trained: what diffusers has too."""
        new = {"film_embedding_dim", "lora_rank", "context_local_dim", "box_bias"}
        return {key: value for key, value in self.params["unet_config"]["params"].items() if key not in new}

    def unet(self) -> UNetModel:
        torch.manual_seed(0)
        return UNetModel(**self.body).requires_grad_(False).to(self.device)

    def model(self, encoders: LatentDiffusion | None = None) -> LatentDiffusion:
        """encoders: a model whose first stage and image encoder are taken over, so that they are in memory once."""
        torch.manual_seed(0)
        model = instantiate_from_config({"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": self.params})
        if encoders is not None:
            model.first_stage_model, model.global_stage_model = encoders.first_stage_model, encoders.global_stage_model
        model.vocab, model.learning_rate = VOCAB, 1e-4
        return model.to(self.device)

    def x_t_cond(self) -> tuple[Tensor, Tensor, Conditioning]:
        """Latents (B,4,h,w), timesteps (B,) and as many tokens as graph and style have (B,N+1,D)."""
        numbers = torch.Generator().manual_seed(0)
        side, width = self.params["image_size"], self.body["context_dim"]
        count = self.params["cond_stage_config"]["params"]["max_tokens"] + 1
        x, tokens = (torch.randn(self.batch, *shape, generator=numbers) for shape in ((4, side, side), (count, width)))
        t = torch.randint(0, self.params["timesteps"], (self.batch,), generator=numbers)
        return x.to(self.device), t.to(self.device), Conditioning.from_tokens(tokens.to(self.device))

    @property
    def pixels(self) -> int:
        return 8 * self.params["image_size"]

    def batch_of_images(self) -> Batch:
        image = torch.randn(self.batch, 3, self.pixels, self.pixels, generator=torch.Generator().manual_seed(0))
        return Batch(image.clamp(-1, 1), self.graphs()).to(self.device)

    def batch_of_latents(self, model: LatentDiffusion) -> Batch:
        """What a cache gives of the same images."""
        batch = self.batch_of_images()
        with torch.no_grad():
            z, style = model.first_stage_model.encode(batch.image), model.global_stage_model(batch.reference)
        return Batch(None, batch.graph, latents=Latents(z.half(), style.half()))

    def graphs(self) -> GraphBatch:
        return encode([self.edited()[1]] * self.batch, VOCAB)

    def edited(self) -> tuple[Image.Image, SceneGraph, SceneGraph]:
        """A photograph, its graph and the graph to be."""
        photograph = Image.open(ROOT / "data/demo/example.png").convert("RGB").resize((self.pixels, self.pixels))
        (source,), (target,) = (read_graphs(ROOT / "data/demo" / name) for name in ("example.json", "edited.json"))
        return photograph, source, target


def without_forgetting(module: nn.Module) -> nn.Module:
    """Plain convolutions again, as any other code has them."""
    skip_saving_inputs(module, enabled=False)
    use_winograd(module, enabled=False)
    return module
