"""A small detector of the things in a rendered scene: each a peak on a map, with its properties read at the peak.

CenterNet (Zhou et al., "Objects as Points", arXiv:1904.07850) with one change: things that stand on the floor and things
that stand on or lie in another one have maps of their own (`LAYERS`), since an apple and its bowl may have one centre.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.synthetic.rendered.vocabulary import TABLE, DetectorVocabulary
from ldm.util.errors import UserError
from ldm.util.files import atomic_write

SIDE = 128  # of a picture, in pixels
STRIDE = 4  # pixels per cell of the maps
CELLS = SIDE // STRIDE
LAYERS = 2  # things on the floor, and things that have a support
STYLE = TABLE.parts
FIELDS = TABLE.channels
WORDS = ("kind", "colour", "material", "size", "relation")  # the fields with a choice
BOX_UNIT = 8 / SIDE  # of the box channels
PRIOR = 0.01  # of a peak, before training


class Maps(NamedTuple):
    """What the detector says of B pictures.

    Args:
        things: (B,LAYERS,C,CELLS,CELLS), the channels of the vocabulary; see `split_fields`.
        style: (B,S), logits of all choices of the style, one part after another.
    """

    things: Tensor
    style: Tensor


def split_fields(values: Tensor, dim: int, vocabulary: DetectorVocabulary = TABLE) -> dict[str, Tensor]:
    """The channels of the dimension `dim` by field."""
    return dict(zip(vocabulary.channels, values.split(list(vocabulary.channels.values()), dim)))


def split_style(logits: Tensor, vocabulary: DetectorVocabulary = TABLE) -> dict[str, Tensor]:
    """(B,S) -> (B,choices) by part."""
    return dict(zip(vocabulary.parts, logits.split([len(words) for words in vocabulary.parts.values()], 1)))


class Detector(nn.Module):
    """A residual network down to a sixteenth of the picture's side and up to a quarter.

    Args:
        width: factor of all channel counts.
        vocabulary: the words that it tells apart.
    """

    def __init__(self, width: float = 1.0, vocabulary: DetectorVocabulary = TABLE):
        super().__init__()
        self.width, self.vocabulary = width, vocabulary
        a, b, c, d, e = (int(width * channels) for channels in (32, 64, 128, 144, 96))
        self.stem = nn.Sequential(_Convolution(3, a, stride=2), _Block(a))  # 64 x 64
        self.quarter = nn.Sequential(_Convolution(a, b, stride=2), _Block(b), _Block(b))
        self.eighth = nn.Sequential(_Convolution(b, c, stride=2), _Block(c), _Block(c))
        self.sixteenth = nn.Sequential(_Convolution(c, d, stride=2), _Block(d))
        self.whole = nn.Sequential(nn.Linear(d, d), nn.SiLU(), nn.Linear(d, d))
        self.up_eighth, self.side_eighth, self.mix_eighth = nn.Conv2d(d, e, 1), nn.Conv2d(c, e, 1), _Block(e)
        self.up_quarter, self.side_quarter, self.mix_quarter = nn.Conv2d(e, b, 1), nn.Conv2d(b, b, 1), _Block(b)
        self.head = nn.Sequential(_Convolution(b, c), nn.Conv2d(c, LAYERS * sum(vocabulary.channels.values()), 1))
        choices = sum(map(len, vocabulary.parts.values()))
        self.style = nn.Sequential(nn.Linear(6 * d, d), nn.SiLU(), nn.Linear(d, choices))
        with torch.no_grad():
            heat = self.head[1].bias.view(LAYERS, -1)[:, 0]
            heat.fill_(-torch.log(torch.tensor((1 - PRIOR) / PRIOR)))

    def forward(self, pictures: Tensor) -> Maps:
        """Args: pictures (B,3,SIDE,SIDE) in 0..1."""
        quarter = self.quarter(self.stem(2 * pictures - 1))
        eighth = self.eighth(quarter)
        deep = self.sixteenth(eighth)
        style = self.style(F.adaptive_avg_pool2d(deep, (3, 2)).flatten(1))
        deep = deep + self.whole(deep.mean((2, 3)))[:, :, None, None]
        eighth = self.mix_eighth(F.interpolate(self.up_eighth(deep), scale_factor=2.0) + self.side_eighth(eighth))
        quarter = self.mix_quarter(
            F.interpolate(self.up_quarter(eighth), scale_factor=2.0) + self.side_quarter(quarter)
        )
        return Maps(self.head(quarter).unflatten(1, (LAYERS, -1)), style)


def save_detector(detector: Detector, path: Path) -> None:
    """Writes the weights in half precision."""
    weights = {
        name: value.half().cpu().contiguous()
        for name, value in detector.state_dict().items()
        if value.is_floating_point()
    }
    with atomic_write(path) as part:
        metadata = {"width": str(detector.width), "vocabulary": detector.vocabulary.to_json()}
        safetensors.torch.save_file(weights, part, metadata)


def load_detector(path: Path) -> Detector:
    """A detector on the CPU, in single precision. A file that names no vocabulary is of things on a table.

    Raises:
        UserError: the file is missing or holds no detector.
    """
    if not path.is_file():
        raise UserError(f"{path}: the weights of the checker are missing; train them with scripts/train_checker.py")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = file.metadata() or {}
            words = DetectorVocabulary.from_json(about["vocabulary"]) if "vocabulary" in about else TABLE
            detector = Detector(float(about["width"]), words)
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no mapping
        expected = {name for name, value in detector.state_dict().items() if value.is_floating_point()}
        if weights.keys() != expected:
            raise ValueError(f"unexpected or missing keys, such as {min(weights.keys() ^ expected)}")
        detector.load_state_dict(weights, strict=False)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not the weights of the checker ({error})") from None
    return detector


@torch.no_grad()
def take_over(detector: Detector, other: Detector) -> tuple[int, int]:
    """Copies weights of another detector, of any vocabulary: layers of equal shape, and of the last layer the channels of
    words that both have.

    Returns:
        How many tensors and how many words were taken over.

    Raises:
        UserError: the detectors have other widths.
    """
    if detector.width != other.width:
        raise UserError(f"a detector of width {other.width:g} has no weights for one of width {detector.width:g}")
    own, theirs = detector.state_dict(), other.state_dict()
    last = {"head.1.weight", "head.1.bias"}
    equal = [name for name in own if name not in last and own[name].shape == theirs[name].shape]
    for name in equal:
        own[name].copy_(theirs[name])
    channels, known = _named_channels(detector.vocabulary), _named_channels(other.vocabulary)
    pairs = [(channels[name], known[name]) for name in channels if name in known]
    here, there = (torch.tensor(numbers) for numbers in zip(*pairs))
    for name in last:
        new, old = (values[name].unflatten(0, (LAYERS, -1)) for values in (own, theirs))
        new[:, here] = old[:, there]
    words = sum(len(name) > 1 and isinstance(name[1], str) for name in channels if name in known)
    return len(equal), words


def _named_channels(vocabulary: DetectorVocabulary) -> dict[tuple[str, str | int | None], int]:
    """Of each channel of a layer its field and its word, or its number in a field without words."""
    names = [
        (field, word)
        for field, count in vocabulary.channels.items()
        for word in (vocabulary.choices[field] if field in vocabulary.choices else range(count))
    ]
    return {name: channel for channel, name in enumerate(names)}


class _Convolution(nn.Sequential):
    def __init__(self, channels: int, out: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.SiLU(inplace=True)
        )


class _Block(nn.Module):
    """Two convolutions and a residual connection; the identity at first."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = _Convolution(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.norm(self.second(self.first(x))))
