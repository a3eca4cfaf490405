"""Reads what `ldm.synthetic.rendered.shards` writes: the pictures of a folder and what they show. Needs no Blender."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.synthetic.rendered import clevr
from ldm.synthetic.rendered.relations import complete_graph
from ldm.synthetic.rendered.scenes import Scene
from ldm.synthetic.rendered.things import Thing
from ldm.synthetic.rendered.vocabulary import LOOKS, DetectorVocabulary
from ldm.util.errors import UserError

INDEX = "scenes.jsonl"
CLEVR_INDEX = "CLEVR_scenes.json"
REMEDY = "delete this file and render the shard again with scripts/render_scenes.py"


class RenderedError(UserError):
    """A folder of rendered scenes that is missing or damaged."""


class ClipPlace(NamedTuple):
    """Where a picture belongs in a clip.

    Args:
        frame: its number, from 0 on.
        things: number of each thing, the same in all frames.
        reference: name of a picture of another scene in the clip's style, in the shard's folder.
    """

    frame: int
    things: tuple[int, ...]
    reference: str


class Record(NamedTuple):
    """A rendered picture.

    Args:
        file: name of the picture in the shard's folder.
        scene: what it shows.
        boxes: of each thing in shares of the picture's sides, hidden parts included; they may reach beyond 0 and 1.
        visible_boxes: of each thing's visible part.
        visible: visible share of each thing.
        edit: how the picture came from another one of the shard (`shards.py`); None for a picture that is no edit.
        clip: where it belongs in a clip; None for a picture that is no frame.
    """

    file: str
    scene: Scene
    boxes: tuple[Box, ...]
    visible_boxes: tuple[Box, ...]
    visible: tuple[float, ...]
    edit: dict[str, Any] | None
    clip: ClipPlace | None = None

    def graph(self) -> SceneGraph:
        """The complete graph, with boxes that are cut at the picture's edges; in a clip, ids tell the things apart."""
        ids = [f"{number}" for number in self.clip.things] if self.clip else ()
        return complete_graph(self.scene, [_cut(box) for box in self.boxes], ids)


def complete_shards(root: str | Path, flags: str = "") -> list[Path]:
    """The complete shards of a folder, in the order of their names.

    Args:
        flags: of the command that renders what is wanted, for the message where there is nothing.

    Raises:
        RenderedError: there is no such folder, or no complete shard in it.
    """
    if not Path(root).is_dir():
        raise RenderedError(
            f"{root} is not a folder; render scenes there with scripts/render_scenes.py --out {root}{flags}"
        )
    shards = sorted(path.parent for path in Path(root).glob(f"shard-*/{INDEX}"))
    if not shards:
        raise RenderedError(
            f"{root} has no complete shard, which is a folder shard-* with {INDEX}; render scenes there with "
            f"scripts/render_scenes.py --out {root}{flags}"
        )
    return shards


def look_of(shard: Path) -> str:
    """The look of a shard's scenes, a key of `ldm.synthetic.rendered.vocabulary.LOOKS`."""
    return "clevr" if (shard / CLEVR_INDEX).exists() else "table"


def read_records(shard: Path, look: str = "table") -> Iterator[Record]:
    """The pictures of a shard, edits included.

    Args:
        look: that the scenes must have, a key of `ldm.synthetic.rendered.vocabulary.LOOKS`.

    Raises:
        RenderedError: the index cannot be read, a line of it is damaged, or the scenes have another look.
    """
    path = shard / INDEX
    if look_of(shard) != look:
        raise RenderedError(
            f"{shard} has scenes of things on a table where those in CLEVR's look are read"
            if look == "clevr"
            else f"{shard} has scenes in CLEVR's look; ldm.data.clevr.CLEVR reads its {CLEVR_INDEX}"
        )
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RenderedError(f"{path} cannot be read ({error.strerror}); {REMEDY}") from None
    for number, line in enumerate(lines, 1):
        try:
            record = _parse(json.loads(line), look)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            reason = " ".join(f"{type(error).__name__}: {str(error)[:150]}".split())
            raise RenderedError(f"{path}: line {number} is damaged ({reason}); {REMEDY}") from None
        yield record


def _parse(fields: dict[str, Any], look: str) -> Record:
    """Raises one of several exceptions for what `shards.py` does not write."""
    scene = (clevr.scene_from_json if look == "clevr" else Scene.from_json)(fields["scene"])
    file, edit = _file_name(fields["file"]), fields.get("edit")
    if not scene.things or not all(isinstance(value, str) for value in scene.style):
        raise ValueError("a scene without things or style")
    location, target = _numbers(scene.camera.location, 3), _numbers(scene.camera.target, 3)
    if location[:2] == target[:2]:
        raise ValueError("a camera without direction")
    for index, thing in enumerate(scene.things):
        _require_known(thing, index, len(scene.things), LOOKS[look])
    boxes, visible_boxes = (
        tuple(_numbers(box, 4) for box in _all_of(fields[name], scene)) for name in ("boxes", "visible_boxes")
    )
    if not all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in map(_cut, boxes)):
        raise ValueError("a box that is reversed or outside of the picture")
    visible = _numbers(_all_of(fields["visible"], scene), len(scene.things))
    if edit is not None and not isinstance(edit, dict):
        raise ValueError(f"an edit is {str(edit)[:80]}")
    clip = None if fields.get("clip") is None else _parse_clip(fields["clip"], len(scene.things))
    return Record(file, scene, boxes, visible_boxes, visible, edit, clip)


def _parse_clip(fields: dict[str, Any], count: int) -> ClipPlace:
    frame, things = fields["frame"], tuple(fields["things"])
    if len(things) != count or len({*things}) != count or not all(type(number) is int for number in (frame, *things)):
        raise ValueError(f"frame {str(frame)[:80]} of a clip with the things {str(things)[:80]}, of {count}")
    return ClipPlace(frame, things, _file_name(fields["reference"]))


def _file_name(name: Any) -> str:
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ValueError(f"the name of a picture is {str(name)[:80]!r}")
    return name


def _cut(box: Box) -> Box:
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in box)
    return x0, y0, x1, y1


def _require_known(thing: Thing, index: int, count: int, known: DetectorVocabulary) -> None:
    if not all(getattr(thing, field) in known.choices[field] for field in ("kind", "size", "colour", "material")):
        raise ValueError(f"unknown kind, size, colour or material {thing[:4]}")
    if (thing.relation, thing.support) != (None, None) and (
        thing.relation not in ("on", "inside") or thing.support not in range(count) or thing.support == index
    ):
        raise ValueError(f"relation {thing.relation!r} to thing {thing.support!r}")
    _numbers((thing.x, thing.y), 2)


def _all_of(values: Any, scene: Scene) -> Any:
    if len(values) != len(scene.things):
        raise ValueError(f"{len(values)} values for {len(scene.things)} things")
    return values


def _numbers(values: Any, count: int) -> Any:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{str(values)[:80]} where {count} numbers should be")
    return numbers
