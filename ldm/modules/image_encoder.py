"""CLIP's image encoder, frozen: the embedding of a reference image.

A plain ViT is built without open_clip, whose import takes seconds. `global_film.CLIPGlobalEncoder` is the same with a tower of
open_clip's, which can be trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.checkpoints import folders, torchscript
from ldm.checkpoints.clip_layout import (
    GELU,
    QUICK_GELU,
    TowerSettings,
    is_hugging_face,
    read_tower_settings,
    to_open_clip,
)
from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.reading import read_state_dict
from ldm.checkpoints.wrappers import unwrap_keys
from ldm.modules.clip_transformer import VisionShape, VisionTransformer, order_inputs_of_attention
from ldm.util.constants import constant

logger = logging.getLogger(__name__)

# Mean and standard deviation of red, green and blue that OpenAI's models, and most of open_clip's, standardise images with.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class OpenAIModel(NamedTuple):
    """A model of OpenAI: path of its weights, and open_clip's vision_cfg of its tower, with embed_dim."""

    path: str
    vision: dict[str, int]


OPENAI_URL = "https://openaipublic.azureedge.net/clip/models/"
OPENAI = {
    "ViT-B/32": OpenAIModel(
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        {"embed_dim": 512, "image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    ),
    "ViT-B/16": OpenAIModel(
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
        {"embed_dim": 512, "image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
    ),
    "ViT-L/14": OpenAIModel(
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
        {"embed_dim": 768, "image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
    ),
}


class CLIPGlobalEncoder(nn.Module):
    """CLIP's image encoder (Radford et al. 2021, arXiv 2103.00020), frozen and always in evaluation mode.

    Args:
        model_name: OpenAI's name of a model with OpenAI's weights ("ViT-B/32"), open_clip's name of an architecture
            ("ViT-B-32"), or an open_clip vision_cfg that also has embed_dim and, optionally, quick_gelu (default: what the
            config.json beside the weights states, otherwise false).
        normalize: Whether to scale embeddings to unit length.
        device: Ignored; published configs have this key.
        pretrained: File with the weights under `visual.*` keys, as published by OpenAI and open_clip (.pt, .bin or
            .safetensors), or a file or folder of Hugging Face's CLIPModel or CLIPVisionModelWithProjection; by default
            OpenAI's file in ~/.cache/clip.
        init: "random" for random weights, for tests.

    Attributes:
        embedding_dim: E, width of the embedding.
        image_size: S, side of CLIP's input in pixels.

    Raises:
        CheckpointError: if the weights are missing or do not fit, or the settings beside them differ from model_name.
        ValueError: for an unknown model_name or init.
    """

    embedding_dim: int
    image_size: int

    def __init__(
        self,
        model_name: str | Mapping = "ViT-B/32",
        normalize: bool = True,
        device: str | None = None,
        pretrained: str | None = None,
        init: str | None = None,
    ):
        super().__init__()
        if init not in (None, "random"):
            raise ValueError(f"CLIPGlobalEncoder: init must be 'random' or left out, not {init!r}")
        self.weights_from = "random (init: random)"
        tower_config(model_name)  # an unknown name is an error before missing weights are
        if init is None:
            self.weights_from = str(path := weights_file(model_name, pretrained))
            settings = read_tower_settings(path)
            quick_gelu = settings is not None and settings.activation == QUICK_GELU
            self.visual = self.build_tower(model_name, quick_gelu)
            load_image_tower(self.visual, path, model_name, settings)
        else:
            self.visual = self.build_tower(model_name)
        self.normalize = normalize
        self.embedding_dim = cast(int, self.visual.output_dim)
        self.image_size = cast("tuple[int, int]", self.visual.image_size)[0]
        self.requires_grad_(False).eval()

    def build_tower(self, model_name: str | Mapping, quick_gelu: bool = False) -> nn.Module:
        """Builds the tower (see `image_tower`); without open_clip if that is possible."""
        shape = VisionShape.of(described) if (described := description(model_name)) else None
        if shape is None:
            return image_tower(model_name, quick_gelu)
        return VisionTransformer(shape if shape.quick_gelu is not None else replace(shape, quick_gelu=quick_gelu))

    def train(self, mode: bool = True) -> CLIPGlobalEncoder:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:  # (B,3,H,W) in [-1,1] -> (B,E)
        """Returns the embedding of each image."""
        weight = next(self.visual.parameters())
        embedding = self.visual(self.preprocess(image.to(weight.device)).to(weight.dtype))
        return F.normalize(embedding, dim=-1) if self.normalize else embedding

    def preprocess(self, image: Tensor) -> Tensor:  # (B,3,H,W) in [-1,1] -> (B,3,S,S)
        """Applies CLIP's preprocessing: resize the shorter side to S, crop the centre, standardise the colours."""
        image = crop_centre(resize_shorter_side(image.float(), self.image_size), self.image_size)
        # Bicubic interpolation overshoots at edges; the 8-bit images that CLIP was trained on are clipped.
        image = ((image + 1) / 2).clamp(0, 1)
        mean, std = (constant(values, image)[:, None, None] for values in (MEAN, STD))
        return (image - mean) / std


def resize_shorter_side(image: Tensor, side: int) -> Tensor:  # (B,3,H,W) -> (B,3,S,S') or (B,3,S',S)
    """Resizes images by bicubic interpolation with antialiasing, as torchvision does."""
    height, width = image.shape[-2:]
    shorter, longer = min(height, width), max(height, width)
    if shorter == side:
        return image
    size = [side if length == shorter else int(side * longer / shorter) for length in (height, width)]
    return F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=True)


def crop_centre(image: Tensor, side: int) -> Tensor:  # (B,3,H,W) -> (B,3,S,S)
    """Cuts out the square in the centre; half a pixel is rounded as torchvision does it."""
    top, left = (round((length - side) / 2) for length in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def short_name(model_name: str | Mapping) -> str:
    """The name of a model in messages."""
    return f"CLIP {model_name}" if isinstance(model_name, str) else "CLIP as model_name describes it"


def image_tower(model_name: str | Mapping, quick_gelu: bool = False) -> nn.Module:
    """Builds open_clip's image tower with random weights.

    Args:
        model_name: See CLIPGlobalEncoder.
        quick_gelu: Whether the activation is QuickGELU, where model_name leaves it open.

    Raises:
        ValueError: for an unknown name.
    """
    import open_clip

    embed_dim, stated, vision = tower_config(model_name)
    # open_clip builds both towers; the text tower is built as small as possible and discarded.
    text = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
    tower = open_clip.CLIP(embed_dim, vision, text, quick_gelu=quick_gelu if stated is None else stated).visual
    order_inputs_of_attention(tower)
    return tower


def tower_config(model_name: str | Mapping) -> tuple[int, bool | None, dict]:
    """Width of the embedding, whether the activation is QuickGELU (None if it is open), and open_clip's vision_cfg."""
    if (vision := description(model_name)) is not None:
        return vision.pop("embed_dim"), vision.pop("quick_gelu", None), vision
    import open_clip

    config = open_clip.get_model_config(model_name)
    if config is None:
        raise ValueError(
            f"CLIPGlobalEncoder: neither OpenAI nor open_clip has a model {model_name!r}; try one of {', '.join(OPENAI)}"
        )
    return config["embed_dim"], config.get("quick_gelu", False), config["vision_cfg"]


def description(model_name: str | Mapping) -> dict[str, Any] | None:
    """The vision_cfg with embed_dim and quick_gelu of a model that is described by one, or OpenAI's; None for open_clip's."""
    if not isinstance(model_name, str):
        return dict(model_name)
    return {**OPENAI[model_name].vision, "quick_gelu": True} if model_name in OPENAI else None


def weights_file(model_name: str | Mapping, pretrained: str | None) -> Path:
    """Returns the file of weights that the config names, or else OpenAI's file in its cache folder.

    Of a folder of Hugging Face, that is the file in it, or the index of its shards.

    Raises:
        CheckpointError: if there is no such file.
    """
    if pretrained:
        path = Path(pretrained).expanduser()
        remedy = "name CLIP's weights (.pt, .bin or .safetensors of OpenAI, open_clip or Hugging Face) in `pretrained`"
    elif not isinstance(model_name, str) or model_name not in OPENAI:
        raise CheckpointError(
            f"{short_name(model_name)}: name its weights in `pretrained` (.pt, .bin or .safetensors of OpenAI, open_clip or "
            "Hugging Face), or set `init: random` for a test"
        )
    else:
        url = OPENAI_URL + OPENAI[model_name].path
        path = Path.home() / ".cache" / "clip" / url.rsplit("/", 1)[1]
        remedy = f"download {url} to this path, or name another file in `pretrained`"
    if path.is_dir():
        return folders.find_weights(path, ("image_encoder",))
    if not path.is_file():
        raise CheckpointError(f"{path}: the file of weights of {short_name(model_name)} does not exist; {remedy}")
    return path


def load_image_tower(
    visual: nn.Module, path: Path, model_name: str | Mapping, settings: TowerSettings | None = None
) -> None:
    """Loads an image tower from a file of OpenAI, open_clip or Hugging Face, without executing anything in it.

    Args:
        visual: the tower.
        path: the file, or the index of its shards.
        model_name: for messages.
        settings: those beside the file.

    Raises:
        CheckpointError: if the file is damaged, or the weights or the settings do not fit.
    """
    try:
        state = torchscript.read_state_dict(path) if torchscript.is_archive(path) else read_state_dict(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile archive can fail anywhere, in any way
        raise CheckpointError(
            f"{path}: a damaged TorchScript archive ({type(error).__name__}); download it again"
        ) from error
    state = unwrap_keys(state, "visual.")
    if is_hugging_face(state):
        state = to_open_clip(state, str(path))
        if settings is None:
            logger.warning(
                "%s: no config.json beside it, so its activation is taken to be that of model_name (%s)",
                path,
                activation_of(visual),
            )
    else:
        state = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    try:
        visual.load_state_dict(state)
    except RuntimeError as error:
        reason = (
            str(error).split("\n")[1].strip()[:200]
            if state
            else "it has no visual.* keys, as OpenAI's and open_clip's CLIP, and is not transformers' CLIP"
        )
        raise CheckpointError(f"{path}: not the weights of {short_name(model_name)}: {reason}") from error
    if settings is not None:
        refuse_other_settings(visual, settings)


def refuse_other_settings(visual: nn.Module, settings: TowerSettings) -> None:
    """Raises CheckpointError if the settings beside the weights are not the tower's."""
    if (ours := activation_of(visual)) != settings.activation:
        remedy = {
            QUICK_GELU: "choose a model_name with QuickGELU, such as ViT-B/32 or ViT-B-32-quickgelu",
            GELU: "choose a model_name without QuickGELU, such as ViT-B-32",
        }.get(settings.activation, "such weights are not supported")
        raise CheckpointError(
            f"{settings.source}: the activation of these weights is {settings.activation}, but {ours} by model_name; {remedy}"
        )
    heads = next(layer.num_heads for layer in visual.modules() if isinstance(layer, nn.MultiheadAttention))
    if settings.heads not in (None, heads):
        raise CheckpointError(
            f"{settings.source}: these weights have {settings.heads} attention heads, but {heads} by model_name; choose the "
            "model_name of these weights"
        )
    eps = next(layer.eps for layer in visual.modules() if isinstance(layer, nn.LayerNorm))
    if settings.eps != eps:
        raise CheckpointError(f"{settings.source}: layer_norm_eps {settings.eps!r} is not supported, only {eps}")


def activation_of(visual: nn.Module) -> str:
    """The activation of an image tower in transformers' words."""
    return GELU if any(isinstance(layer, nn.GELU) for layer in visual.modules()) else QUICK_GELU
