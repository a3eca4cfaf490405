"""From the detector's maps to things: peaks, the words that go together best, and what stands on what."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.synthetic.rendered.detector import (
    BOX_UNIT,
    CELLS,
    SIDE,
    STRIDE,
    Detector,
    Maps,
    split_fields,
    split_style,
)
from ldm.synthetic.rendered.scenes import Style
from ldm.synthetic.rendered.vocabulary import TABLE, DetectorVocabulary

MIN_PEAK = 0.25  # probability from which on a peak is a thing
SAME_BOX = 0.6  # intersection over union from which on two peaks of one kind are one thing
SUPPORT_REACH = 0.5  # scene units between the floor positions of a thing and of its support, at most


class Detection(NamedTuple):
    """A thing in a picture.

    Args:
        box: of the whole thing, hidden parts included, as shares of the side; may exceed 0..1.
        position: on the floor, `ldm.synthetic.rendered.relations.floor_position`.
        relation: 'on' or 'inside', if it has a support.
        support: index of the support among the detections.
        certainty: probability of the peak.
    """

    kind: str
    size: str
    colour: str | None
    material: str | None
    box: tuple[float, float, float, float]
    position: tuple[float, float]
    relation: str | None
    support: int | None
    certainty: float

    @property
    def words(self) -> tuple[str, ...]:
        """Attributes in a complete graph."""
        return tuple(word for word in (self.size, self.colour, self.material) if word)


class Detections(NamedTuple):
    """What the detector finds in a picture.

    Args:
        things: from back to front.
        style: the most probable one.
        probabilities: of the choices of each part of the style, by part.
    """

    things: tuple[Detection, ...]
    style: Style
    probabilities: dict[str, tuple[float, ...]]


@torch.no_grad()
def detect(detector: Detector, pictures: Tensor) -> list[Detections]:
    """What pictures show, from the mean of the maps of four views: each picture and the same a cell lower, and their
    mirror images. Style and floor positions, which depend on the whole picture, are those of the views that are not lowered.

    Args:
        pictures: (B,3,SIDE,SIDE) in 0..1, on the detector's device.
    """
    lowered = F.pad(pictures, (0, 0, STRIDE, 0), mode="replicate")[:, :, :SIDE]
    views = torch.cat([pictures, lowered])
    words = detector.vocabulary
    maps = Maps(*(values.float() for values in detector(torch.cat([views, views.flip(-1)]))))
    direct, mirrored = (Maps(*values) for values in zip(*(values.chunk(2) for values in maps)))
    mean = Maps(*((a + b).cpu() / 2 for a, b in zip(direct, mirror(mirrored, words))))
    things, lower = mean.things.chunk(2)
    raised = split_fields(torch.cat([lower[..., 1:, :], lower[..., -1:, :]], -2), 2, words)
    raised["position"] = split_fields(things, 2, words)["position"]
    return decode(Maps((things + torch.cat(list(raised.values()), 2)) / 2, mean.style[: len(pictures)]), words)


def mirror(maps: Maps, vocabulary: DetectorVocabulary = TABLE) -> Maps:
    """The maps of the pictures in which left and right are exchanged."""
    fields = split_fields(maps.things.flip(-1), 2, vocabulary)
    x0, y0, x1, y1 = fields["box"].unbind(2)
    right, away = fields["position"].unbind(2)
    fields |= {"box": torch.stack([-x1, y0, -x0, y1], 2), "position": torch.stack([-right, away], 2)}
    style = split_style(maps.style, vocabulary)
    style["side"] = style["side"].flip(1)
    return Maps(torch.cat(list(fields.values()), 2), torch.cat(list(style.values()), 1))


def to_pixels(pictures: np.ndarray) -> Tensor:  # (B,SIDE,SIDE,3) 0..255 -> (B,3,SIDE,SIDE) 0..1
    assert pictures.shape[1:] == (SIDE, SIDE, 3)
    return torch.tensor(pictures).permute(0, 3, 1, 2).float() / 255


def decode(maps: Maps, vocabulary: DetectorVocabulary = TABLE) -> list[Detections]:
    """The detections of each picture; the maps are on the CPU."""
    heat = maps.things[:, :, 0]
    peaks = (heat == F.max_pool2d(heat, 3, 1, 1)) & (heat.sigmoid() >= MIN_PEAK)
    style = {part: logits.softmax(1).numpy() for part, logits in split_style(maps.style, vocabulary).items()}
    found = []
    for n in range(len(heat)):
        layers, rows, columns = peaks[n].nonzero(as_tuple=True)
        values = maps.things[n][layers, :, rows, columns]  # (P,C)
        candidates = _read_peaks(values, layers, rows, columns, vocabulary)
        probabilities = {part: tuple(shares[n].tolist()) for part, shares in style.items()}
        words = (words[int(np.argmax(probabilities[part]))] for part, words in vocabulary.parts.items())
        found.append(Detections(_arrange(candidates, vocabulary), Style(*words), probabilities))
    return found


def _read_peaks(
    values: Tensor, layers: Tensor, rows: Tensor, columns: Tensor, vocabulary: DetectorVocabulary
) -> list[Detection]:
    """One detection per peak; those with a support name none yet."""
    fields, choices = split_fields(values, 1, vocabulary), vocabulary.choices
    kind, colour, material = (
        fields[field].log_softmax(1).numpy()[:, channels] for field, channels in vocabulary.look_channels.items()
    )
    looks = [vocabulary.looks[best] for best in (kind + colour + material).argmax(1)]
    middles = (torch.stack([columns, rows], 1) + 0.5) / CELLS
    boxes = (middles.repeat(1, 2) + BOX_UNIT * fields["box"]).tolist()
    certainty, sizes = fields["heat"][:, 0].sigmoid().tolist(), fields["size"].argmax(1).tolist()
    relations, positions = fields["relation"].argmax(1).tolist(), fields["position"].tolist()
    return [
        Detection(
            looks[p][0],
            vocabulary.sizes[sizes[p]],
            *looks[p][1:],
            tuple(boxes[p]),
            (positions[p][0], positions[p][1] + vocabulary.away),
            choices["relation"][relations[p]] if layers[p] else None,
            None,
            certainty[p],
        )
        for p in range(len(values))
    ]


def _arrange(candidates: list[Detection], vocabulary: DetectorVocabulary) -> tuple[Detection, ...]:
    """Without what was found twice, from back to front, with supports; a thing that finds none stands on the floor."""
    kept: list[Detection] = []
    for thing in sorted(candidates, key=lambda thing: -thing.certainty):
        if not any(thing.kind == other.kind and _overlap(thing.box, other.box) > SAME_BOX for other in kept):
            kept.append(thing)
    kept.sort(key=lambda thing: -thing.position[1] if thing.relation is None else 0.0)
    floor = [thing for thing in kept if thing.relation is None]
    things = list(floor)
    for thing in kept:
        if thing.relation is None:
            continue
        able = vocabulary.holders if thing.relation == "inside" else vocabulary.tops
        reach = {i: _distance(thing, other) for i, other in enumerate(floor) if other.kind in able}
        support = min(reach, key=reach.__getitem__, default=None)
        if support is None or reach[support] > SUPPORT_REACH:
            things.append(thing._replace(relation=None))
        else:
            things.append(thing._replace(support=support))
    return tuple(things)


def _distance(a: Detection, b: Detection) -> float:
    return float(np.hypot(*np.subtract(a.position, b.position)))


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)]
    return width * height / (sum(areas) - width * height)
