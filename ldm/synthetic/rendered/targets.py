"""What the detector should say of a scene: scenes as tensors, the maps that show them, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.synthetic.rendered.detector import (
    BOX_UNIT,
    CELLS,
    LAYERS,
    STYLE,
    WORDS,
    Maps,
    split_fields,
    split_style,
)
from ldm.synthetic.rendered.records import Record
from ldm.synthetic.rendered.relations import floor_position
from ldm.synthetic.rendered.scenes import MAX_THINGS
from ldm.synthetic.rendered.vocabulary import TABLE, DetectorVocabulary
from ldm.util.constants import constant

NOTHING = -100  # a class that F.cross_entropy leaves out
NEAR = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))  # cells that learn properties
NEAR_WEIGHTS = (1.0, *(0.5,) * 8)  # how much they learn
LOSS_WEIGHTS = {"kind": 1.5, "size": 0.5, "relation": 0.5, "box": 2.0, "position": 2.0}  # of the others 1


class SceneTensors(NamedTuple):
    """N scenes of up to T things; slots without a thing have the layer -1.

    Args:
        words: (N,T,5) classes of the fields `WORDS`; NOTHING for the relation of a thing on the floor.
        layers: (N,T) 0 on the floor, 1 with a support.
        supports: (N,T) slot of the support, -1 without one.
        boxes: (N,T,4) full boxes as shares of the side.
        visible_boxes: (N,T,4) boxes of the visible parts.
        visible: (N,T) visible shares.
        positions: (N,T,2) floor positions.
        placed: (N,T) whether the floor position is known.
        style: (N,4) classes of the parts of `STYLE`; NOTHING for a style that is not known.
    """

    words: Tensor
    layers: Tensor
    supports: Tensor
    boxes: Tensor
    visible_boxes: Tensor
    visible: Tensor
    positions: Tensor
    placed: Tensor
    style: Tensor

    @property
    def centres(self) -> Tensor:  # (N,T,2), of the visible boxes
        return (self.visible_boxes[..., :2] + self.visible_boxes[..., 2:]) / 2

    def select(self, index: Tensor) -> SceneTensors:
        return SceneTensors(*(values[index] for values in self))

    def to(self, device: torch.device | str) -> SceneTensors:
        return SceneTensors(*(values.to(device) for values in self))

    def mirrored(self, where: Tensor, sides: int = 2) -> SceneTensors:
        """With left and right exchanged in some scenes.

        Args:
            where: (N,) bool.
            sides: number of sides that the light can come from; 1 if it is not read.
        """
        chosen = where[:, None, None]
        side = list(STYLE).index("side")
        style = self.style.clone()
        style[:, side] = torch.where(where & (style[:, side] >= 0), sides - 1 - style[:, side], style[:, side])

        def mirror(boxes: Tensor) -> Tensor:
            x0, y0, x1, y1 = boxes.unbind(-1)
            return torch.where(chosen, torch.stack([1 - x1, y0, 1 - x0, y1], -1), boxes)

        return self._replace(
            boxes=mirror(self.boxes),
            visible_boxes=mirror(self.visible_boxes),
            positions=torch.where(chosen, self.positions * constant((-1, 1), self.positions), self.positions),
            style=style,
        )


def to_tensors(records: Sequence[Record], vocabulary: DetectorVocabulary = TABLE) -> SceneTensors:
    """The scenes of records, whose words are those of the vocabulary."""
    count, slots = len(records), max(MAX_THINGS, *(len(record.scene.things) for record in records))
    words = np.full((count, slots, len(WORDS)), NOTHING, np.int64)
    layers, supports = np.full((count, slots), -1, np.int64), np.full((count, slots), -1, np.int64)
    boxes, visible_boxes = np.zeros((count, slots, 4), np.float32), np.zeros((count, slots, 4), np.float32)
    visible, positions = np.zeros((count, slots), np.float32), np.zeros((count, slots, 2), np.float32)
    style = np.zeros((count, len(STYLE)), np.int64)
    for n, record in enumerate(records):
        for t, thing in enumerate(record.scene.things):
            layers[n, t], supports[n, t] = (0, -1) if thing.support is None else (1, thing.support)
            for w, field in enumerate(WORDS):
                if field != "relation" or thing.relation:
                    words[n, t, w] = vocabulary.choices[field].index(getattr(thing, field))
            positions[n, t] = floor_position(thing, record.scene.camera)
        things = len(record.scene.things)
        boxes[n, :things] = record.boxes
        visible_boxes[n, :things], visible[n, :things] = record.visible_boxes, record.visible
        style[n] = [known.index(getattr(record.scene.style, part)) for part, known in vocabulary.style]
    arrays = words, layers, supports, boxes, visible_boxes, visible, positions, layers >= 0, style
    return SceneTensors(*map(torch.from_numpy, arrays))


def centre_cells(scenes: SceneTensors) -> Tensor:  # (N,T,2), column and row
    return (scenes.centres * CELLS).long().clamp(0, CELLS - 1)


def heat_of(scenes: SceneTensors) -> Tensor:  # (N,LAYERS,CELLS,CELLS)
    """1 in the cell of each thing's centre, less around it, by a Gaussian as wide as a fraction of the thing."""
    cells = centre_cells(scenes)
    sides = (scenes.boxes[..., 2:] - scenes.boxes[..., :2]).clamp(min=0) * CELLS
    width = (0.15 * sides.prod(-1).sqrt()).clamp(0.6, 1.5)[..., None, None]  # standard deviation
    axis = torch.arange(CELLS, device=cells.device)
    dx, dy = axis - cells[..., 0, None], axis - cells[..., 1, None]
    squared = dy.square()[..., :, None] + dx.square()[..., None, :]  # (N,T,CELLS,CELLS)
    heat = torch.exp(-squared / (2 * width.square()))
    layers = [(heat * (scenes.layers == layer)[..., None, None]).amax(1) for layer in range(LAYERS)]
    return torch.stack(layers, 1)


def encode(scenes: SceneTensors, certainty: float = 8.0, vocabulary: DetectorVocabulary = TABLE) -> Maps:
    """The maps of a detector that makes no error; properties stand in the cells of the centres alone.

    Args:
        certainty: logit of what is true.
    """
    count, slots = scenes.layers.shape
    things = scenes.boxes.new_zeros(count, LAYERS, sum(vocabulary.channels.values()), CELLS, CELLS)
    fields = split_fields(things, 2, vocabulary)
    fields["heat"][:, :, 0] = certainty * (2 * heat_of(scenes) - 1)
    cells = centre_cells(scenes)
    for n in range(count):
        for t in range(slots):
            layer, (x, y) = int(scenes.layers[n, t]), cells[n, t].tolist()
            if layer < 0:
                continue
            for w, field in enumerate(WORDS):
                if scenes.words[n, t, w] >= 0:
                    fields[field][n, layer, scenes.words[n, t, w], y, x] = certainty
            middle = (cells[n, t] + 0.5) / CELLS
            fields["box"][n, layer, :, y, x] = (scenes.boxes[n, t] - middle.repeat(2)) / BOX_UNIT
            fields["position"][n, layer, :, y, x] = scenes.positions[n, t] - constant(
                (0, vocabulary.away), scenes.positions
            )
    style = [certainty * F.one_hot(scenes.style[:, p], len(words)) for p, words in enumerate(vocabulary.parts.values())]
    return Maps(things, torch.cat(style, 1).to(things))


def detector_loss(maps: Maps, scenes: SceneTensors, vocabulary: DetectorVocabulary = TABLE) -> dict[str, Tensor]:
    """The loss by field, weighted; the sum is to be minimized."""
    things = maps.things.float()
    present = (scenes.layers >= 0).float()
    count = present.sum().clamp(min=1)
    losses = {"heat": _focal_loss(things[:, :, 0], heat_of(scenes)) / count}
    cells, weight = _learning_cells(scenes)  # (N,T,9,2), (N,T,9)
    layer = scenes.layers.clamp(min=0)[..., None].expand_as(weight)
    batch = torch.arange(len(things), device=things.device)[:, None, None].expand_as(weight)
    found = split_fields(things[batch, layer, :, cells[..., 1], cells[..., 0]], -1, vocabulary)
    weight = weight / (weight.sum(-1, keepdim=True) + 1e-6) * present[..., None]
    for w, field in enumerate(WORDS):
        classes = scenes.words[..., w, None].expand_as(weight)
        error = F.cross_entropy(found[field].flatten(0, 2), classes.flatten(), ignore_index=NOTHING, reduction="none")
        losses[field] = (error.view_as(weight) * weight).sum() / count
    box = (scenes.boxes[:, :, None] - ((cells + 0.5) / CELLS).repeat(1, 1, 1, 2)) / BOX_UNIT
    position = scenes.positions[:, :, None] - constant((0, vocabulary.away), scenes.positions)
    places = position.expand(-1, -1, weight.shape[-1], -1)
    for field, wanted, known in (("box", box, present), ("position", places, present * scenes.placed)):
        error = F.smooth_l1_loss(found[field], wanted, beta=0.1, reduction="none").mean(-1)
        losses[field] = (error * weight * known[..., None]).sum() / known.sum().clamp(min=1)
    for p, (part, logits) in enumerate(split_style(maps.style.float(), vocabulary).items()):
        error = F.cross_entropy(logits, scenes.style[:, p], ignore_index=NOTHING, reduction="sum")
        losses[part] = error / (scenes.style[:, p] >= 0).sum().clamp(min=1)
    return {field: LOSS_WEIGHTS.get(field, 0.3 if field in STYLE else 1.0) * loss for field, loss in losses.items()}


def _focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """CenterNet eq. 1, without the division by the number of things."""
    peak = heat == 1
    probability = logits.sigmoid()
    hit = -F.logsigmoid(logits) * (1 - probability).square()
    miss = -F.logsigmoid(-logits) * probability.square() * (1 - heat).pow(4)
    return torch.where(peak, hit, miss).sum()


def _learning_cells(scenes: SceneTensors) -> tuple[Tensor, Tensor]:  # (N,T,9,2), (N,T,9)
    """The cells around each centre, and how much each of them learns; a cell learns from the nearest thing of a layer."""
    cells = centre_cells(scenes)[:, :, None] + constant(NEAR, scenes.layers)
    inside = ((cells >= 0) & (cells < CELLS)).all(-1)
    distance = (((cells + 0.5) / CELLS)[:, :, :, None] - scenes.centres[:, None, None]).square().sum(-1)  # (N,T,9,T)
    other = scenes.layers[:, None, None, :] != scenes.layers[:, :, None, None]
    nearest = distance.masked_fill(other, torch.inf).argmin(-1)
    own = nearest == torch.arange(nearest.shape[1], device=nearest.device)[:, None]
    weight = constant(NEAR_WEIGHTS, scenes.boxes)
    return cells.clamp(0, CELLS - 1), weight * (inside & own)
