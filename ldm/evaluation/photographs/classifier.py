"""A small classifier of crops: which category of thing is in them, or nothing. It never sees a picture that a model made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.evaluation.photographs.crops import CONTEXT, crop_around
from ldm.graph.validation import Box
from ldm.util.errors import UserError
from ldm.util.files import atomic_write

SIDE = 48  # of what the network sees, in pixels
SEEN = 1.3 / CONTEXT  # share of a crop's side that it sees
WIDTHS = (32, 64, 128, 192)  # channels at 24, 12, 6 and 3 pixels


class CropClassifier(nn.Module):
    """A residual network of four resolutions.

    Args:
        classes: names of its answers.
    """

    def __init__(self, classes: Sequence[str]):
        super().__init__()
        self.classes = tuple(classes)
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 4, 2, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.SiLU()]
        for width, following in zip(WIDTHS, (*WIDTHS[1:], None)):
            layers.append(_Block(width))
            if following:
                layers += [nn.Conv2d(width, following, 3, 2, 1, bias=False), nn.BatchNorm2d(following), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * WIDTHS[-1], len(self.classes)))

    def forward(self, crops: Tensor) -> Tensor:  # (B,3,SIDE,SIDE) in [-1,1] -> (B,K) logits
        features = self.body(crops)
        return self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1))

    @torch.no_grad()
    def probabilities(self, crops: Tensor) -> Tensor:
        """(B,K), the mean over a crop and its three turned and mirrored versions.

        Args:
            crops: (B,3,CROP,CROP) uint8, see `crop_around`.
        """
        seen = centre(crops)
        views = [seen, seen.flip(-1), seen.flip(-2), seen.flip(-1, -2)]
        return torch.stack([self(view).softmax(1) for view in views]).mean(0)

    def name(self, picture: Image.Image, box: Box) -> str:
        """The class of what is in a box."""
        return self.classes[int(self.probabilities(crop_around(picture, box)[None]).argmax())]


def centre(crops: Tensor) -> Tensor:
    """The part of crops (B,3,C,C) uint8 that the network sees, (B,3,SIDE,SIDE) in [-1,1]."""
    margin = round(crops.shape[-1] * (1 - SEEN) / 2)
    inner = crops[..., margin : crops.shape[-1] - margin, margin : crops.shape[-1] - margin].float() / 127.5 - 1
    return F.interpolate(inner, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)


def save_classifier(classifier: CropClassifier, path: Path) -> None:
    """Writes the weights in half precision, and the classes."""
    state = {name: x.half() if x.is_floating_point() else x for name, x in classifier.state_dict().items()}
    with atomic_write(path) as part:
        safetensors.torch.save_file(state, part, {"classes": json.dumps(classifier.classes)})


def load_classifier(path: str | Path) -> CropClassifier:
    """A classifier for inference. Raises UserError if the file is missing or holds none."""
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            classes = json.loads((file.metadata() or {})["classes"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        classifier = CropClassifier(classes)
        classifier.load_state_dict({name: x.float() if x.is_floating_point() else x for name, x in state.items()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path}: holds no classifier of crops ({str(error).splitlines()[0][:80]}); train one with "
            "scripts/train_crop_classifier.py"
        ) from None
    return classifier.eval().requires_grad_(False)


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B,C,h,w) -> (B,C,h,w)
        return F.silu(x + self.body(x))
