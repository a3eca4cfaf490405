"""PIE-Bench's eight metrics, computed as its published program does (github.com/cure-lab/PnPInversion, evaluation/).

Background metrics compare whole pictures in which the region of the edit is black, averaged over all pixels, so they are not
the PSNR, MSE and SSIM of the background's pixels alone. Which weights each metric wants:

    pie-pixels      psnr, mse, ssim of the background         none
    pie-lpips       lpips of the background                   torchvision's SqueezeNet 1.1
    pie-structure   structure distance (Tumanyan et al. 2201.00424)   DINO ViT-B/8
    pie-clip        source, target, edited region             OpenAI's CLIP ViT-L/14
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as images

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.loading import read_state_dict
from ldm.evaluation.metric_networks import EvaluationError, Networks
from ldm.evaluation.validation.clip import Clip, percent_cosine
from ldm.evaluation.validation.lines import ValidationLine
from ldm.evaluation.validation.scores import MOST_PSNR, Measure, source_of, to_bytes
from ldm.util.errors import UserError
from ldm.util.files import digest
from ldm.util.image_similarity import psnr, ssim

DINO_FILE = "dino_vitbase8_pretrain.pth"
DINO_URL = "https://dl.fbaipublicfiles.com/dino/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth"
DINO_SIDE = 224  # pixels of its input
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

STRUCTURE = {
    "structure_distance": Measure(False, "mean squared difference of DINO's self-similarities, x 1000", 1000, ".2f")
}
PIXELS = {
    "psnr_unedit_part": Measure(True, "background PSNR, dB", 1, ".2f"),
    "mse_unedit_part": Measure(False, "background MSE of values in 0 to 1, x 10000", 10000, ".2f"),
    "ssim_unedit_part": Measure(True, "background SSIM, x 100", 100, ".2f"),
}
LPIPS = {"lpips_unedit_part": Measure(False, "background LPIPS, x 1000", 1000, ".2f")}
CLIP = {
    "clip_similarity_source_image": Measure(None, "CLIP similarity of photograph and its prompt, x 100", 1, ".2f"),
    "clip_similarity_target_image": Measure(True, "CLIP similarity of the whole picture, x 100", 1, ".2f"),
    "clip_similarity_target_image_edit_part": Measure(True, "CLIP similarity of the edited region, x 100", 1, ".2f"),
}
# In the order of the published table, which leaves out the photograph's own similarity.
PUBLISHED = (
    "structure_distance",
    "psnr_unedit_part",
    "lpips_unedit_part",
    "mse_unedit_part",
    "ssim_unedit_part",
    "clip_similarity_target_image",
    "clip_similarity_target_image_edit_part",
)


class PiePixels:
    """PSNR, MSE and SSIM of the background."""

    measures = PIXELS
    protocol: Mapping[str, Any] = {"values": "0 to 1; the region of the edit black in both; over all pixels"}

    def measure(self, picture: Image.Image, line: ValidationLine) -> dict[str, Any]:
        pair = backgrounds(picture, line)
        if pair is None:
            return {}
        first, second = (side.double() for side in pair)
        return {
            "psnr_unedit_part": min(MOST_PSNR, float(psnr(first, second))),
            "mse_unedit_part": float(((first - second) / 255).square().mean()),
            "ssim_unedit_part": float(ssim(first, second, border="reflect")),
        }


@dataclass(frozen=True)
class PieLpips:
    """LPIPS (SqueezeNet) of the background."""

    networks: Networks
    device: str = "cpu"
    measures = LPIPS

    @property
    def protocol(self) -> Mapping[str, Any]:
        return self.networks.protocol

    @torch.no_grad()
    def measure(self, picture: Image.Image, line: ValidationLine) -> dict[str, Any]:
        pair = backgrounds(picture, line)
        if pair is None:
            return {}
        return {"lpips_unedit_part": float(self.networks.distance(*(side.to(self.device) for side in pair)))}


class PieStructure:
    """Structure distance by the keys of DINO's last layer.

    Args:
        network: a ViT with `blocks`, DINO's ViT-B/8.
        protocol: its weights.
    """

    measures = STRUCTURE

    def __init__(self, network: nn.Module, protocol: Mapping[str, Any] | None = None):
        self.network, self.protocol = network, protocol or {}

    def measure(self, picture: Image.Image, line: ValidationLine) -> dict[str, Any]:
        if line.photograph is None:
            return {}
        first, second = (self.similarities(image) for image in (picture, source_of(line, picture)))
        return {"structure_distance": float((first - second).square().mean())}

    @torch.no_grad()
    def similarities(self, picture: Image.Image) -> Tensor:  # (T,T), cosines of the tokens' keys
        """Self-similarity of a picture's tokens.

        As in the published program, values of 0 to 255 are standardised as if they were 0 to 1, and resizing is bilinear
        without antialiasing, as torchvision did for tensors at that time.
        """
        device = next(self.network.parameters()).device
        image = to_bytes(picture).float().to(device)
        image = images.resize(image, [DINO_SIDE], InterpolationMode.BILINEAR, max_size=480, antialias=False)
        keys = keys_of_last_layer(self.network, images.normalize(image, *IMAGENET))
        norms = keys.norm(dim=-1, keepdim=True)
        return (keys @ keys.T) / (norms @ norms.T).clamp(min=1e-8)


@dataclass(frozen=True)
class PieClip:
    """CLIP similarities of photograph, picture and edited region with their prompts."""

    clip: Clip
    measures = CLIP

    @property
    def protocol(self) -> Mapping[str, Any]:
        return self.clip.protocol

    def measure(self, picture: Image.Image, line: ValidationLine) -> dict[str, Any]:
        if line.prompt is None:
            return {}
        target = self.clip.text(line.prompt)
        numbers = {"clip_similarity_target_image": percent_cosine(self.clip.image(picture), target)}
        if line.photograph is not None and line.source_prompt is not None:
            photograph = self.clip.image(source_of(line, picture))
            numbers["clip_similarity_source_image"] = percent_cosine(photograph, self.clip.text(line.source_prompt))
        mask = line.change_mask(picture.size)
        if mask is not None and mask.any():
            edited = Image.fromarray(np.asarray(picture) * mask[..., None].astype(np.uint8))
            numbers["clip_similarity_target_image_edit_part"] = percent_cosine(self.clip.image(edited), target)
        return numbers


def backgrounds(picture: Image.Image, line: ValidationLine) -> tuple[Tensor, Tensor] | None:
    """Picture and photograph, (1,3,H,W) uint8, black where the edit may change; None without a background."""
    mask = None if line.photograph is None else line.change_mask(picture.size)
    if mask is None or mask.all():
        return None
    keep = torch.from_numpy(~mask).to(torch.uint8)
    return to_bytes(picture) * keep, to_bytes(source_of(line, picture)) * keep


def keys_of_last_layer(network: nn.Module, image: Tensor) -> Tensor:  # (1,3,H,W) -> (T,D), heads side by side
    """The keys of all tokens, the class token included, in the last block of a ViT with `blocks[-1].attn.qkv`."""
    outputs: list[Tensor] = []
    block = network.get_submodule("blocks")[-1]  # type: ignore[index]
    hook = block.get_submodule("attn.qkv").register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        network(image)
    finally:
        hook.remove()
    return outputs[0][0].float().chunk(3, dim=-1)[1]


def load_dino(folder: Path, device: str = "cpu") -> tuple[nn.Module, dict]:
    """DINO's ViT-B/8 and its protocol.

    Raises:
        EvaluationError: the file is not in the folder, or holds other weights.
    """
    import timm

    path = folder / DINO_FILE
    if not path.is_file():
        raise EvaluationError(f"for structure_distance put {DINO_FILE} from {DINO_URL} into {folder}")
    network = timm.create_model("vit_base_patch8_224", pretrained=False, num_classes=0)
    try:
        network.load_state_dict(read_state_dict(path))
    except (CheckpointError, RuntimeError):
        raise EvaluationError(f"{path}: holds the weights of another network; download {DINO_URL}") from None
    return network.to(device).eval().requires_grad_(False), {"dino": "ViT-B/8", "sha256": digest(path)}


def row(averages: Mapping[str, float | None]) -> list[str]:
    """The cells of the published table, in its units. Raises UserError for a metric that was not measured."""
    known = STRUCTURE | PIXELS | LPIPS | CLIP
    for key in PUBLISHED:
        if averages.get(key) is None:
            raise UserError(f"{key} was not measured; the published row needs --scores pie")
    return [format(known[key].factor * float(averages[key] or 0), known[key].form) for key in PUBLISHED]
