"""The scores of a picture: what is measured, which direction is better, and which weights it wants.

A `Score` measures one picture of one line and returns numbers by name; what does not apply to a line it leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.evaluation.metric_networks import Networks
from ldm.evaluation.truth_measures import changed_pixels, compare_with_truth
from ldm.evaluation.validation.classifier import Classifier, call
from ldm.evaluation.validation.clip import Clip, percent_cosine
from ldm.evaluation.validation.lines import ValidationLine
from ldm.synthetic import checker
from ldm.util import image_similarity
from ldm.util.errors import UserError
from ldm.util.images import read_image

MOST_PSNR = 99.0  # of equal pixels
LEAST_PIXELS = 64  # of a region, for PSNR and SSIM within it


class Measure(NamedTuple):
    """A number that a score returns.

    Args:
        higher_is_better: None if neither direction is better.
        definition: one sentence for the report.
        factor: multiplies it in tables.
        form: format of it in tables.
    """

    higher_is_better: bool | None
    definition: str
    factor: float = 1
    form: str = ".3f"


class Score(Protocol):
    """Measures pictures."""

    @property
    def measures(self) -> Mapping[str, Measure]:
        """What it returns."""
        ...

    @property
    def protocol(self) -> Mapping[str, Any]:
        """Weights and settings that its numbers depend on, as JSON values."""
        ...

    def measure(self, picture: Image.Image, line: ValidationLine) -> dict[str, Any]:
        """The numbers of a picture; those that do not apply to the line are left out. Raises UserError."""
        ...


@dataclass(frozen=True)
class PixelScore:
    """PSNR and SSIM outside of what may change, against the photograph, and to the true result where that differs from it."""

    protocol: Mapping[str, Any]
    measures = {
        "psnr_outside": Measure(True, "dB against the photograph, outside of what may change", form=".1f"),
        "ssim_outside": Measure(True, "SSIM against the photograph, outside of what may change"),
        "changed_inside": Measure(
            None, "mean absolute difference to the photograph, of 255, within what may change", form=".1f"
        ),
        "truth_psnr": Measure(True, "dB to the true result, where that differs from the photograph", form=".1f"),
        "truth_ssim": Measure(True, "SSIM to the true result, where that differs from the photograph"),
    }

    def measure(self, picture: Image.Image, line: ValidationLine) -> dict[str, Any]:
        if line.photograph is None:
            return {}
        photograph = source_of(line, picture)
        truth = None if line.truth is None else _of_same_size(line.truth, picture, line, "true result")
        inside = changing_region(line, picture.size, photograph, truth)
        numbers: dict[str, float] = {}
        if inside is not None:
            outside = ~inside
            if outside.sum() >= LEAST_PIXELS:
                numbers["psnr_outside"] = image_similarity.psnr(picture, photograph, outside)
                numbers["ssim_outside"] = image_similarity.ssim(picture, photograph, outside)
            if inside.any():
                pixels = [np.asarray(image, float)[inside] for image in (picture, photograph)]
                numbers["changed_inside"] = float(np.abs(np.subtract(*pixels)).mean())
        if truth is not None:
            numbers |= compare_with_truth(picture, truth, changed_pixels(photograph, truth))
        return {key: min(value, MOST_PSNR) if "psnr" in key else value for key, value in numbers.items()}


@dataclass(frozen=True)
class CheckerScore:
    """Whether a picture shows what its graph says, by the exact checker of a synthetic world.

    Args:
        world: its name.
    """

    world: str
    measures = {
        "passed": Measure(True, "share of pictures that show all of the graph and nothing else, %", 100, ".1f"),
        "objects": Measure(True, "share of objects that are recognised, %", 100, ".1f"),
        "triples": Measure(True, "share of relations that hold between recognised objects, %", 100, ".1f"),
    }

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {"world": self.world}

    def measure(self, picture: Image.Image, line: ValidationLine) -> dict[str, Any]:
        if line.graph is None:
            return {}
        verdict = checker.check(line.graph, picture, self.world)
        numbers = {"passed": float(verdict.passed), "objects": float(np.mean(verdict.objects))}
        return numbers | ({"triples": float(np.mean(verdict.triples))} if verdict.triples else {})


@dataclass(frozen=True)
class ClipScore:
    """CLIP's cosines, times 100 and not below 0 (Hessel et al. 2104.08718 have 2.5 in place of 100).

    Args:
        clip: its two towers.
    """

    clip: Clip
    measures = {
        "clip_text": Measure(True, "CLIP similarity to the prompt, x 100", form=".2f"),
        "clip_source": Measure(None, "CLIP similarity to the photograph, x 100", form=".2f"),
        "clip_truth": Measure(True, "CLIP similarity to the true result, x 100", form=".2f"),
        "clip_style": Measure(True, "CLIP similarity to the style's image, x 100", form=".2f"),
    }

    @property
    def protocol(self) -> Mapping[str, Any]:
        return self.clip.protocol

    def measure(self, picture: Image.Image, line: ValidationLine) -> dict[str, Any]:
        shown = self.clip.image(picture)
        others = {"clip_source": line.photograph, "clip_truth": line.truth, "clip_style": line.style}
        numbers = {
            key: percent_cosine(shown, self.clip.image(read_image(path, upright=True)))
            for key, path in others.items()
            if path is not None
        }
        if line.prompt is not None:
            numbers["clip_text"] = percent_cosine(shown, self.clip.text(line.prompt))
        return numbers


@dataclass(frozen=True)
class LpipsScore:
    """LPIPS of the whole picture (Zhang et al. 1801.03924)."""

    networks: Networks
    device: str = "cpu"
    measures = {
        "lpips_source": Measure(None, "LPIPS to the photograph"),
        "lpips_truth": Measure(False, "LPIPS to the true result"),
    }

    @property
    def protocol(self) -> Mapping[str, Any]:
        return self.networks.protocol

    @torch.no_grad()
    def measure(self, picture: Image.Image, line: ValidationLine) -> dict[str, Any]:
        numbers = {}
        for key, path in (("lpips_source", line.photograph), ("lpips_truth", line.truth)):
            if path is not None:
                other = _of_same_size(path, picture, line, key.partition("_")[2])
                pair = (to_bytes(image).to(self.device) for image in (picture, other))
                numbers[key] = float(self.networks.distance(*pair))
        return numbers


@dataclass(frozen=True)
class ClassifierScore:
    """The verdict of a classifier of the user's; its errors are corrected in the report."""

    name: str
    classifier: Classifier
    measures: Mapping[str, Measure]

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {"classifier": self.name}

    def measure(self, picture: Image.Image, line: ValidationLine) -> dict[str, Any]:
        return {} if line.label is None else {"verdict": call(self.classifier, picture)}


# What scores share ---------------------------------------------------------------------------------------------------


def source_of(line: ValidationLine, picture: Image.Image) -> Image.Image:
    """The photograph of a line. Raises UserError if the picture has another size."""
    assert line.photograph is not None
    return _of_same_size(line.photograph, picture, line, "photograph")


def changing_region(
    line: ValidationLine, size: tuple[int, int], photograph: Image.Image, truth: Image.Image | None
) -> np.ndarray | None:  # (H,W) bool
    """Where a picture may differ from its photograph: the mask, else where the true result does, else the changed boxes."""
    mask = line.change_mask(size)
    if mask is not None:
        return mask
    if truth is not None:
        return changed_pixels(photograph, truth)
    if line.source_graph is None or line.graph is None:
        return None
    sides = [set(zip(graph.ids, graph.objects, graph.boxes)) for graph in (line.source_graph, line.graph)]
    boxes = [box for _, _, box in sides[0] ^ sides[1]]
    if not boxes or any(box is None for box in boxes):
        return None
    square = image_similarity.mask_outside(boxes, max(size))  # in fractions of each side
    rows, columns = (np.arange(side) * max(size) // side for side in size[::-1])
    return ~square[np.ix_(rows, columns)]


def to_bytes(picture: Image.Image) -> Tensor:  # (1,3,H,W) uint8
    """The picture as a batch of one."""
    return torch.from_numpy(np.asarray(picture.convert("RGB")).transpose(2, 0, 1).copy())[None]


def _of_same_size(path: Path, picture: Image.Image, line: ValidationLine, what: str) -> Image.Image:
    image = read_image(path, upright=True)
    if image.size != picture.size:
        raise UserError(
            f"{line.place}: its picture is {picture.width}x{picture.height}, its {what} {image.width}x{image.height}; they "
            "are compared pixel by pixel"
        )
    return image


def finite(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Without NaN and infinities, which JSON does not have."""
    return {key: value for key, value in numbers.items() if not isinstance(value, float) or math.isfinite(value)}
