"""CLIP's two towers, for similarities of pictures with texts and with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from PIL import Image
from torch import Tensor

from ldm.util.errors import UserError, did_you_mean
from ldm.util.files import digest


class Clip(Protocol):
    """CLIP's two towers; embeddings are (E,)."""

    @property
    def protocol(self) -> Mapping[str, Any]:
        """Its weights, as JSON values."""
        ...

    def image(self, picture: Image.Image) -> Tensor: ...

    def text(self, words: str) -> Tensor: ...


class OpenClip:
    """A model of open_clip from a file; a `Clip`.

    Args:
        name: 'ARCHITECTURE:FILE', such as 'ViT-L-14-quickgelu:ViT-L-14.pt' for OpenAI's weights.
        device: where it runs.

    Raises:
        UserError: there is no such architecture or file.
    """

    def __init__(self, name: str, device: str = "cpu"):
        import open_clip

        architecture, colon, file = name.partition(":")
        if architecture not in open_clip.list_models():
            known = open_clip.list_models()
            raise UserError(
                f"--clip {name}: open_clip has no model {architecture!r}{did_you_mean(architecture, known)}"
            )
        if not colon or not Path(file).is_file():
            raise UserError(
                f"--clip {name}: there is no file {file!r}; write ARCHITECTURE:FILE, weights are not downloaded"
            )
        try:
            model, _, prepare = open_clip.create_model_and_transforms(architecture, pretrained=file, device=device)
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(
                f"--clip {name}: {file} does not hold these weights ({str(error).splitlines()[0]})"
            ) from None
        self._model, self._prepare = model.eval(), cast("Callable[[Image.Image], Tensor]", prepare)
        self._tokenize, self._device = open_clip.get_tokenizer(architecture), device
        self._texts: dict[str, Tensor] = {}
        self.protocol = {"clip": architecture, "sha256": digest(Path(file))}

    @torch.no_grad()
    def image(self, picture: Image.Image) -> Tensor:
        return self._model.encode_image(self._prepare(picture)[None].to(self._device))[0].float().cpu()

    @torch.no_grad()
    def text(self, words: str) -> Tensor:
        if words not in self._texts:
            self._texts[words] = self._model.encode_text(self._tokenize([words]).to(self._device))[0].float().cpu()
        return self._texts[words]


def percent_cosine(first: Tensor, second: Tensor) -> float:
    """The cosine of two embeddings, times 100 and not below 0, as torchmetrics' CLIPScore has it."""
    return max(0.0, 100 * float(torch.nn.functional.cosine_similarity(first, second, dim=0)))
