"""The readers of rendered scenes: what a picture shows, by a detector trained on true renders.

The world 'rendered' has things on a table, the world 'clevr' CLEVR's solids on a grey floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

import ldm
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.readings import SceneReading
from ldm.synthetic.rendered.decoding import Detection, Detections, detect, to_pixels
from ldm.synthetic.rendered.detector import SIDE, STYLE, Detector, load_detector
from ldm.synthetic.rendered.pictures import to_square
from ldm.synthetic.rendered.relations import CONVERSE, holds, triples_between
from ldm.synthetic.rendered.things import COLOURS, KINDS, MATERIALS, SIZES, VOCAB
from ldm.synthetic.rendered.vocabulary import BOTH_LOOKS, CLEVR
from ldm.util.errors import UserError
from ldm.util.images import Picture

WEIGHTS = Path(ldm.__file__).resolve().parents[1] / "data" / "demo" / "checker.safetensors"
SLACK = 0.15  # error of a distance between two floor positions to allow, in scene units
LEAST_SIDE = 1e-3  # of a box in a graph


class StyleReading(NamedTuple):
    """The style of a picture.

    Args:
        probabilities: of the choices of each part, in the order of `ldm.synthetic.rendered.detector.STYLE`.
    """

    floor: str
    wall: str
    light: str
    side: str
    probabilities: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class RenderedWorld:
    """Rendered scenes as a `ldm.synthetic.worlds.WorldReader`.

    Args:
        weights: of the detector, read at the first picture.
    """

    weights: Path = field(default=WEIGHTS)

    vocab = VOCAB
    image_size = SIDE
    object_names = tuple(KINDS)
    sizes = tuple(SIZES)
    colours = COLOURS
    finishes = MATERIALS
    directions = tuple(CONVERSE)
    converse = CONVERSE
    flat = False
    shadow_reach = 0.5  # leaves 0.3 % of the pixels that an edit changes by more than 16 levels; 0.0 leaves 1.3 to 2 %
    style_parts = tuple(STYLE)

    @cached_property
    def detector(self) -> Detector:
        """Raises UserError if the weights are missing."""
        return load_detector(self.weights).eval().requires_grad_(False)

    def read_scene(self, picture: Picture) -> SceneReading:
        """Recovers things, relations and style from the pixels of a picture of any size."""
        return reading_of(detect(self.detector, to_pixels(to_square(picture, SIDE)[None]))[0])

    def triple_holds(self, reading: SceneReading, subject: int, predicate: str, object: int) -> bool:
        """Whether a triple is true of two things of a reading, by the rules of `ldm.synthetic.rendered.relations`."""
        a, b = reading.evidence[subject], reading.evidence[object]
        if predicate in ("on", "inside"):
            return a.relation == predicate and a.support == object
        on_floor = a.support is None and b.support is None
        return on_floor and holds(a.position, predicate, b.position, SLACK)

    def same_style(self, a: StyleReading, b: StyleReading) -> bool:
        """Whether floor, wall, light and the side that it comes from are the same."""
        return a[: len(STYLE)] == b[: len(STYLE)]

    def style_distance(self, a: StyleReading, b: StyleReading) -> dict[str, float]:
        """Total variation distance of the probabilities, 0 to 1, by part."""
        return {
            part: float(np.abs(np.subtract(p, q)).sum() / 2)
            for part, p, q in zip(STYLE, a.probabilities, b.probabilities)
        }

    def style_follows(self, style: StyleReading, source: StyleReading, reference: StyleReading) -> dict[str, float]:
        """How far the probabilities have moved from the source's to the reference's, by projection; NaN for equal words."""
        follows = {}
        for index, part in enumerate(STYLE):
            here, start, end = (np.array(reading.probabilities[index]) for reading in (style, source, reference))
            differ = source[index] != reference[index]
            way = end - start
            follows[part] = float(np.dot(here - start, way) / np.dot(way, way)) if differ else math.nan
        return follows


@dataclass(frozen=True)
class ClevrWorld(RenderedWorld):
    """Pictures in CLEVR's look as a `ldm.synthetic.worlds.WorldReader`; its words are those of the model for both looks.

    Args:
        weights: of a detector that scripts/train_checker.py trained on scenes of this look; none ship. Without them the world has
            its words and rules, and reads no picture.
    """

    weights: Path | None = field(default=None)  # pyright: ignore[reportIncompatibleVariableOverride]

    vocab = BOTH_LOOKS
    object_names = CLEVR.kinds
    sizes = CLEVR.sizes
    colours = CLEVR.colours
    finishes = CLEVR.materials

    @cached_property
    def detector(self) -> Detector:
        """Raises UserError without weights, or with those of other words."""
        if self.weights is None:
            raise UserError(
                "--checker: pictures in CLEVR's look are read by a checker of their own; train one with "
                "scripts/train_checker.py on scenes that scripts/render_scenes.py --look clevr rendered, and name its weights"
            )
        detector = load_detector(self.weights)
        if detector.vocabulary.kinds != CLEVR.kinds or detector.vocabulary.colours != CLEVR.colours:
            raise UserError(
                f"--checker {self.weights}: reads other things than CLEVR's; train one on scenes of its look"
            )
        return detector.eval().requires_grad_(False)


def reading_of(found: Detections) -> SceneReading:
    """The reading that detections amount to, with these as evidence for triples."""
    style = StyleReading(*found.style, tuple(found.probabilities[part] for part in STYLE))
    things = found.things
    if not things:
        return SceneReading(None, style=style)
    supports = [(thing.relation, thing.support) if thing.support is not None else None for thing in things]
    graph = SceneGraph(
        tuple(thing.kind for thing in things),
        tuple(_box_in_picture(thing) for thing in things),
        tuple(thing.words for thing in things),
        tuple(triples_between([thing.position for thing in things], supports)),
    )
    return SceneReading(graph, style=style, evidence=things)


def _box_in_picture(thing: Detection) -> tuple[float, float, float, float]:
    """The box without what lies outside the picture; no side is empty."""
    x0, y0, x1, y1 = np.clip(thing.box, 0, 1).tolist()
    x0, y0 = min(x0, 1 - LEAST_SIDE), min(y0, 1 - LEAST_SIDE)
    return x0, y0, max(x1, x0 + LEAST_SIDE), max(y1, y0 + LEAST_SIDE)
