"""The words that a detector tells apart: those of things on a table (`TABLE`), or of CLEVR's solids (`CLEVR`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from ldm.synthetic.rendered import clevr
from ldm.synthetic.rendered.scenes import FLOORS, LIGHTS, SIDES, WALLS
from ldm.synthetic.rendered.things import COLOURS, HOLDERS, KINDS, MATERIALS, SIZES, VOCAB, looks

RELATIONS = ("on", "inside")  # of a thing to its support


@dataclass(frozen=True)
class DetectorVocabulary:
    """What the channels of a detector mean.

    Attributes:
        kinds, sizes, colours, materials: of things, in the order of the channels.
        looks: the (kind, colour, material) that go together; None for a colour or material that a kind has no choice of.
        style: the parts of a style, floor, wall, light and side, with the choices of each.
        tops: kinds that other things can stand on.
        holders: kinds that other things can lie in.
        away: usual distance of a thing from the camera along the floor, in scene units.
    """

    kinds: tuple[str, ...]
    sizes: tuple[str, ...]
    colours: tuple[str, ...]
    materials: tuple[str, ...]
    looks: tuple[tuple[str, str | None, str | None], ...]
    style: tuple[tuple[str, tuple[str, ...]], ...]
    tops: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    away: float = 5.0

    @cached_property
    def choices(self) -> dict[str, tuple[str | None, ...]]:
        """The words of each field with a choice, in the order of its channels."""
        return {
            "kind": self.kinds,
            "colour": (None, *self.colours),
            "material": (None, *self.materials),
            "size": self.sizes,
            "relation": RELATIONS,
        }

    @cached_property
    def channels(self) -> dict[str, int]:
        """Numbers of channels of a layer, by field: `box` are edges relative to the middle of the cell, `position` is on the floor."""
        counts = {field: len(words) for field, words in self.choices.items()}
        return {"heat": 1, **counts, "box": 4, "position": 2}

    @cached_property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The choices of each part of the style."""
        return dict(self.style)

    @cached_property
    def look_channels(self) -> dict[str, np.ndarray]:
        """Of each entry of `looks` the channels of its kind, colour and material, by field."""
        fields = ("kind", "colour", "material")
        return {
            field: np.array([self.choices[field].index(look[number]) for look in self.looks])
            for number, field in enumerate(fields)
        }

    def to_json(self) -> str:
        """The vocabulary as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DetectorVocabulary:
        """The vocabulary that `to_json` wrote. Raises ValueError for anything else."""
        try:
            data: Mapping[str, Any] = json.loads(text)
            vocabulary = cls(**{field.name: _frozen(data[field.name]) for field in fields(cls)})
            assert all(vocabulary.parts) and len(vocabulary.look_channels["kind"])
        except (KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:
            raise ValueError(f"no vocabulary of a detector: {str(error)[:100]}") from None
        return vocabulary


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


TABLE = DetectorVocabulary(
    tuple(KINDS),
    tuple(SIZES),
    COLOURS,
    MATERIALS,
    tuple((kind, *look) for kind in KINDS for look in looks(kind)),
    (("floor", FLOORS), ("wall", WALLS), ("light", LIGHTS), ("side", SIDES)),
    tops=tuple(kind for kind, about in KINDS.items() if about.top is not None),
    holders=HOLDERS,
)
CLEVR = DetectorVocabulary(
    tuple(clevr.EXTENTS),
    tuple(clevr.DIAMETERS),
    tuple(clevr.COLOURS),
    clevr.MATERIALS,
    tuple(
        (kind, colour, material) for kind in clevr.EXTENTS for colour in clevr.COLOURS for material in clevr.MATERIALS
    ),
    tuple((part, (word,)) for part, word in clevr.STYLE._asdict().items()),
    away=10.0,
)
LOOKS = {"table": TABLE, "clevr": CLEVR}  # of the shards that scripts/render_scenes.py writes

# Names of graphs for both looks: those of things on a table, which keep their ids, and the colours that CLEVR has besides.
BOTH_LOOKS = VOCAB.extended({"attribute": ("gray", "cyan", "brown")})
