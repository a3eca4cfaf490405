"""The text encoders of Stable Diffusion under LDM's import paths, frozen, each with what its U-Net was trained to read.

FrozenCLIPEmbedder        CLIP-L, QuickGELU; SD 1: last layer with norm; SDXL: penultimate layer without; pads with 49407
FrozenOpenCLIPEmbedder    ViT-H, GELU; SD 2: penultimate layer with the final norm; pads with 0
FrozenOpenCLIPEmbedder2   ViT-bigG, GELU; SDXL: penultimate layer without norm, and the pooled embedding; pads with 0
SDXLTextEncoder           SDXL's two side by side, with sizes and crop
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.graph.text_tokens import END, LENGTH, Texts, pad_with, tokenize
from ldm.modules.conditioning import TextTokens, cat_texts
from ldm.modules.diffusionmodules.unet_blocks import timestep_embedding
from ldm.modules.encoders.tower_weights import load_tower
from ldm.modules.learned_words import LearnedWords, refuse_unknown
from ldm.modules.text_encoder import TextTower, TowerShape
from ldm.modules.without_values import without_values
from ldm.util.constants import constant
from ldm.util.moving import mover

logger = logging.getLogger(__name__)

# Hugging Face's names, which published configs use as `version` -> open_clip's architecture.
VERSIONS = {
    "openai/clip-vit-large-patch14": "ViT-L-14-quickgelu",
    "openai/clip-vit-base-patch32": "ViT-B-32-quickgelu",
    "openai/clip-vit-base-patch16": "ViT-B-16-quickgelu",
}
SIZE_WIDTH = 256  # of the embedding of each of SDXL's six sizes
SIZES = 6  # height and width of the original, top and left of the crop, height and width of the target


class TextEncoder(nn.Module):
    """Base of the text encoders: frozen unless a model unfreezes it, always in evaluation mode.

    Attributes:
        dim: D, width of the tokens.
        vector_dim: A, width of `TextTokens.vector`; 0 for models without.
        weights_from: where the weights are from; None if it has none yet.
        zero_if_empty: whether no negative prompt means tokens of zeros, as SDXL was trained, instead of those of "".
    """

    dim: int
    vector_dim = 0
    zero_if_empty = False
    weights_from: str | None

    def __init__(self, ckpt_path: str | Path | None, init: str | None):
        super().__init__()
        if init not in (None, "random"):
            raise ValueError(f"init: {init!r} is not supported: set it to 'random' or remove it")
        self.weights_from = "random (init: random)" if init else None
        self._ckpt_path = None if init else ckpt_path

    def finish(self) -> None:
        """Loads `ckpt_path` if there is one, and freezes all; called at the end of a constructor."""
        if self._ckpt_path:
            self.load_weights(self._ckpt_path)
        self.requires_grad_(False).eval()

    def towers(self) -> list[ClipEmbedder]:
        """The towers in the order of the files of a pipeline: text_encoder, text_encoder_2."""
        raise NotImplementedError

    def load_weights(self, source: str | Path | Mapping[str, Tensor], name: str | None = None) -> None:
        """Loads a checkpoint of the whole model, a folder of diffusers, or (of one tower) its own file.

        Raises:
            CheckpointError: there is no text encoder in it, or it does not fit.
        """
        name = name or ("memory" if isinstance(source, Mapping) else str(source))
        for number, tower in enumerate(self.towers()):
            load_tower(tower, source, number, name)
        self.weights_from = name

    def forward(self, texts: Texts, size: tuple[int, int] | None = None, chunked: bool = False) -> TextTokens:
        """Encodes B texts.

        Args:
            texts: B of them, or their tokens; what does not fit is said in a warning, unless `chunked`.
            size: height and width of the images in pixels, which SDXL's U-Net reads; the others ignore it.
            chunked: whether longer texts are read in chunks of 77 tokens.
        """
        raise NotImplementedError

    def without_text(self, text: TextTokens) -> TextTokens:
        """What stands for no negative prompt, where `text` are the tokens of the empty one: the same, except in SDXL."""
        return text

    def encode(self, texts: str | Sequence[str]) -> Tensor:  # LDM's method: the tokens alone, (B,77,D)
        return self([texts] if isinstance(texts, str) else texts).tokens

    def train(self, mode: bool = True) -> TextEncoder:
        """Stays in evaluation mode."""
        return super().train(False)


class ClipEmbedder(TextEncoder):
    """One tower of CLIP.

    Args:
        tower: the transformer; its state-dict keys are open_clip's, under `model`.
        padding: id behind the end token.
        max_length: must be 77.
        ckpt_path, init: see FrozenCLIPEmbedder.
    """

    def __init__(self, tower: TextTower, padding: int, max_length: int, ckpt_path: str | Path | None, init: str | None):
        super().__init__(ckpt_path, init)
        if max_length != LENGTH:
            raise ValueError(
                f"max_length: {max_length} is not supported, since all published text towers read {LENGTH}"
            )
        self.model, self.padding = tower, padding
        self.learned: LearnedWords | None = None
        self.dim = tower.shape.width
        self.finish()

    def towers(self) -> list[ClipEmbedder]:
        return [self]

    def forward(self, texts: Texts, size: tuple[int, int] | None = None, chunked: bool = False) -> TextTokens:
        tokens, mask, _ = self.encode_with_pooled(texts, chunked)
        return TextTokens(tokens, mask)

    def encode_with_pooled(
        self, texts: Texts, chunked: bool = False, warn: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns tokens (B,M,D), their mask (B,M), and the pooled embedding of each text's first chunk (B,P) or None."""
        if isinstance(texts, Tensor):
            tokens, pooled = self.encode_ids(pad_with(texts, self.padding))
            return tokens, torch.ones_like(texts, dtype=torch.bool), pooled
        words = {} if self.learned is None else self.learned.words
        tokenized = [tokenize(text, chunked, words) for text in texts]
        for lost in [text.lost for text in tokenized if warn and text.lost]:
            what = "the prompt is longer than %d tokens; lost: %s (--long-prompt chunk reads all of it)"
            logger.warning(what, LENGTH, lost)
        ids = [text.ids(self.padding) for text in tokenized]
        tokens, pooled = self.encode_ids(mover(self.model.positional_embedding.device)(torch.cat(ids)))
        counts = [len(rows) for rows in ids]
        text = cat_texts([TextTokens.from_tokens(part.flatten(0, 1)[None]) for part in tokens.split(counts)])
        first = [sum(counts[:index]) for index in range(len(counts))]
        return text.tokens, text.mask, None if pooled is None else pooled[first]

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:  # (B,77) -> (B,77,D), (B,P)
        """The tokens and the pooled embedding of tokenized texts, learned words included."""
        if self.learned is None:
            refuse_unknown(ids)
            return self.model(self.table_rows(ids))
        ids = self.learned.shorten(ids)
        is_learned, rows = self.learned.places(ids)
        splice = partial(self.learned.splice, is_learned=is_learned, rows=rows)
        return self.model(self.table_rows(ids.masked_fill(is_learned, 0)), splice)

    def table_rows(self, ids: Tensor) -> Tensor:
        """The row of each token in the tower's table: its id in CLIP's vocabulary."""
        return ids


class FrozenCLIPEmbedder(ClipEmbedder):
    """OpenAI's CLIP text tower, as Stable Diffusion 1.x reads it (last layer), and SDXL first (penultimate layer).

    Args:
        version: Hugging Face's name of the model, open_clip's name of an architecture, or a TowerShape's attributes.
        device, max_length: ignored, and 77; published configs have these keys.
        freeze: must be true.
        layer: "last", with the final norm, or "hidden": the output of `layer_idx`, without.
        layer_idx: number of the block that "hidden" reads, counted from 1; SDXL reads 11 of 12.
        always_return_pooled: must be false.
        ckpt_path: file or folder of the weights (see ldm.checkpoints.text_layout); by default those of the whole model.
        init: 'random' for random weights.

    Raises:
        CheckpointError: the weights are missing or do not fit.
        ValueError: a value is not supported.
    """

    def __init__(
        self,
        version: str | Mapping = "openai/clip-vit-large-patch14",
        device: str | None = None,
        max_length: int = LENGTH,
        freeze: bool = True,
        layer: str = "last",
        layer_idx: int | None = None,
        always_return_pooled: bool = False,
        ckpt_path: str | Path | None = None,
        init: str | None = None,
    ):
        _refuse_unless("FrozenCLIPEmbedder", freeze=(freeze, True), always_return_pooled=(always_return_pooled, False))
        shape = TowerShape.of(VERSIONS.get(version, version) if isinstance(version, str) else version)
        if (layer == "hidden") != (layer_idx is not None) or layer not in ("last", "hidden"):
            raise ValueError(
                f"FrozenCLIPEmbedder: layer {layer!r} with layer_idx {layer_idx} is not supported: set layer to 'last', or "
                "to 'hidden' with a layer_idx"
            )
        skip = 0 if layer_idx is None else shape.layers - abs(layer_idx)
        tower = _build_tower(init, shape, skip, final_norm=layer == "last")
        super().__init__(tower, END, max_length, ckpt_path, init)


class FrozenOpenCLIPEmbedder(ClipEmbedder):
    """An OpenCLIP text tower, as Stable Diffusion 2.x reads it: the final norm is applied to the layer that is read.

    Args:
        arch: open_clip's name of an architecture, or a TowerShape's attributes.
        version: ignored; the name of weights on a server, where LDM downloads them.
        device, max_length, freeze, ckpt_path, init: see FrozenCLIPEmbedder.
        layer: "last" or "penultimate".
    """

    def __init__(
        self,
        arch: str | Mapping = "ViT-H-14",
        version: str | None = None,
        device: str | None = None,
        max_length: int = LENGTH,
        freeze: bool = True,
        layer: str = "last",
        ckpt_path: str | Path | None = None,
        init: str | None = None,
    ):
        _refuse_unless("FrozenOpenCLIPEmbedder", freeze=(freeze, True))
        tower = _build_tower(init, TowerShape.of(arch), _skip_of("FrozenOpenCLIPEmbedder", layer), final_norm=True)
        super().__init__(tower, 0, max_length, ckpt_path, init)


class FrozenOpenCLIPEmbedder2(ClipEmbedder):
    """An OpenCLIP text tower, as SDXL reads it second: without the final norm, and with the pooled embedding.

    Args:
        arch, version, device, max_length, freeze, layer, ckpt_path, init: see FrozenOpenCLIPEmbedder.
        always_return_pooled: must be true.
        legacy: must be false; true would apply the final norm.
    """

    def __init__(
        self,
        arch: str | Mapping = "ViT-bigG-14",
        version: str | None = None,
        device: str | None = None,
        max_length: int = LENGTH,
        freeze: bool = True,
        layer: str = "penultimate",
        always_return_pooled: bool = True,
        legacy: bool = False,
        ckpt_path: str | Path | None = None,
        init: str | None = None,
    ):
        name = "FrozenOpenCLIPEmbedder2"
        pooled = (always_return_pooled, True)
        _refuse_unless(name, freeze=(freeze, True), always_return_pooled=pooled, legacy=(legacy, False))
        tower = _build_tower(init, TowerShape.of(arch), _skip_of(name, layer), final_norm=False, pooled=True)
        super().__init__(tower, 0, max_length, ckpt_path, init)


class SDXLTextEncoder(TextEncoder):
    """SDXL's two text towers: their tokens side by side, and the vector of pooled text, sizes and crop (2307.01952).

    Its parts have the keys of `conditioner` in Stability's files: embedders.0 and embedders.1.

    Args:
        first: arguments of FrozenCLIPEmbedder; by default those of SDXL.
        second: arguments of FrozenOpenCLIPEmbedder2.
        ckpt_path: a file of the whole model, or the folder of a pipeline.
        init: 'random' for random weights.
    """

    zero_if_empty = True

    def __init__(
        self,
        first: Mapping[str, Any] | None = None,
        second: Mapping[str, Any] | None = None,
        ckpt_path: str | Path | None = None,
        init: str | None = None,
    ):
        super().__init__(ckpt_path, init)
        clip = FrozenCLIPEmbedder(**{"layer": "hidden", "layer_idx": 11, "init": init, **(first or {})})
        open_clip = FrozenOpenCLIPEmbedder2(**{"init": init, **(second or {})})
        self.embedders = nn.ModuleList([clip, open_clip])
        self.dim = clip.dim + open_clip.dim
        self.vector_dim = open_clip.model.shape.embed_dim + SIZES * SIZE_WIDTH
        self.finish()

    def towers(self) -> list[ClipEmbedder]:
        return [tower for tower in self.embedders if isinstance(tower, ClipEmbedder)]

    def forward(self, texts: Texts, size: tuple[int, int] | None = None, chunked: bool = False) -> TextTokens:
        first, second = self.towers()
        tokens, mask, _ = first.encode_with_pooled(texts, chunked)
        more, _, pooled = second.encode_with_pooled(texts, chunked, warn=False)  # the same words are lost
        if pooled is None:
            raise RuntimeError("SDXL's second text tower has no pooled embedding")
        vector = torch.cat([pooled, self.embed_sizes(size or (1024, 1024), len(texts), pooled)], dim=1)
        return TextTokens(torch.cat([tokens, more], dim=2), mask, vector)

    def embed_sizes(self, size: tuple[int, int], count: int, like: Tensor) -> Tensor:  # -> (B,6*256)
        """The original's size, no crop, and the target's size, in pixels, each as the embedding of a timestep."""
        sizes = constant((*size, 0, 0, *size), like.new_empty((), dtype=torch.long))
        return timestep_embedding(sizes, SIZE_WIDTH).to(like.dtype).flatten()[None].expand(count, -1)

    def without_text(self, text: TextTokens) -> TextTokens:
        """What stands for no negative prompt: zeros for tokens and pooled text, and the same sizes."""
        if text.vector is None:
            raise RuntimeError("SDXL's text tokens have no vector")
        vector = text.vector.clone()
        vector[:, : -SIZES * SIZE_WIDTH] = 0
        return TextTokens(torch.zeros_like(text.tokens), text.mask, vector)


def _build_tower(init: str | None, shape: TowerShape, skip: int, final_norm: bool, pooled: bool = False) -> TextTower:
    """A tower, on the meta device unless it is to be random: it takes the tensors of a file, which may be gigabytes, as they are."""
    with nullcontext() if init else without_values():
        return TextTower(shape, skip, final_norm, pooled)


def _skip_of(name: str, layer: str) -> int:
    if layer not in ("last", "penultimate"):
        raise ValueError(f"{name}: layer {layer!r} is not supported: set it to 'last' or 'penultimate'")
    return int(layer == "penultimate")


def _refuse_unless(name: str, **options: tuple[object, object]) -> None:
    for key, (value, only) in options.items():
        if value != only:
            raise ValueError(f"{name}: {key} {value!r} is not supported: set it to {only!r} or remove it")
