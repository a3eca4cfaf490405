"""Edits of CLEVR's pictures by their scenes file. There is no true result; a checker reads the edited picture.

Kinds, sizes and places of a source graph are the file's. Colours and materials are what the checker reads, where it reads kind,
size and box as the file says: pictures of CLEVR's form may have other colours than their file. Only such objects are edited.

Task number `index` of an operation is the next edit in turns: one of each scene, then a second one of each, as far as a scene has
room. New boxes are estimated by the scene's camera, as `ldm.data.clevr` estimates those of the file.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ldm.evaluation.clevr_pictures import ClevrObject, ClevrPictures, ClevrScene
from ldm.evaluation.edit_judges import Judgement
from ldm.evaluation.edit_tasks import EditTask
from ldm.evaluation.scene_changes import MIN_MOVE, SINGLE_OPERATIONS
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box
from ldm.synthetic.annotation import subsample_graph
from ldm.synthetic.checker import check, find_partners
from ldm.synthetic.rendered.clevr import CLEAR, DIAMETERS, GAP, MAX_SOLIDS, REACH
from ldm.synthetic.rendered.relations import CONVERSE
from ldm.synthetic.rendered.vocabulary import CLEVR
from ldm.synthetic.rendered.world import ClevrWorld
from ldm.util.errors import UserError
from ldm.util.files import digest

SCENES = "clevr"
PLACES = 60  # tried for an object that is added, moved or resized
COVERED = 0.1  # largest share of the smaller of two boxes that they may have in common after such an edit
INSIDE = 0.02  # least distance of a new box from the picture's edge


class Turn(NamedTuple):
    """A scene after an edit: its objects with their ids, and the id of the one that was changed, added or removed."""

    objects: list[tuple[str, ClevrObject]]
    changed: str


class KnownScene(NamedTuple):
    """A scene with the words that the checker reads, and which of its objects it reads right."""

    scene: ClevrScene
    objects: list[ClevrObject]
    right: list[bool]


@dataclass(frozen=True)
class ClevrTasks:
    """Edits of the pictures of a folder; a `TaskSource`.

    Args:
        folder: see `ldm.evaluation.clevr_pictures`.
        weights: of the checker; None if the user named none.
    """

    folder: str
    weights: str | None
    scenes: str = SCENES
    operations: tuple[str, ...] = SINGLE_OPERATIONS

    def identity(self) -> str:
        """Checksum of the scenes files and of the checker. Raises UserError without a checker."""
        files = b"".join(path.read_bytes() for path in self._pictures.files)
        return digest(files + ClevrJudge(self.weights).identity().encode())[:16]

    def count(self, operation: str | None = None) -> int:
        """How many tasks of an operation, or scenes, there are."""
        return len(self._known if operation is None else self._turns[operation])

    def task(self, operation: str, index: int) -> EditTask:
        """Task number `index` of an operation. Raises UserError if there are fewer."""
        turns = self._turns[operation]
        if index >= len(turns):
            raise UserError(f"{self.folder}: has room for {len(turns)} edits {operation!r}, none numbered {index}")
        known, turn = turns[index]
        source = known.scene.graph(known.objects, _ids(known))
        ids, objects = zip(*turn.objects)
        return EditTask(
            SCENES,
            operation,
            index,
            known.scene.picture(),
            source,
            known.scene.graph(objects, ids),
            truth=None,
            truth_graph=None,
            changed=frozenset({turn.changed}),
        )

    def graph(self, index: int, boxes: str = "all") -> SceneGraph:
        """The graph of scene `index` as training shows it; `boxes` as in `subsample_graph`."""
        graph = self._known[index].scene.graph(self._known[index].objects)
        return subsample_graph(graph, random.Random(f"graph/{index}"), boxes, converse=CONVERSE, kept=())

    def picture(self, index: int) -> Image.Image:
        """The picture of scene `index`."""
        return self._known[index].scene.picture()

    def other_picture(self, index: int, number: int) -> Image.Image:
        """The picture of the `number`-th scene after scene `index`."""
        return self.picture((index + number) % len(self._known))

    @cached_property
    def _pictures(self) -> ClevrPictures:
        return ClevrPictures(Path(self.folder))

    @cached_property
    def _known(self) -> list[KnownScene]:
        world = ClevrJudge(self.weights).world
        return [_read_words(scene, world) for scene in self._pictures.scenes]

    @cached_property
    def _turns(self) -> dict[str, list[tuple[KnownScene, Turn]]]:
        return {operation: list(self._in_turns(operation)) for operation in SINGLE_OPERATIONS}

    def _in_turns(self, operation: str) -> Iterator[tuple[KnownScene, Turn]]:
        """The edits of an operation in the order of their numbers."""
        for turn in range(MAX_SOLIDS):
            for number, known in enumerate(self._known):
                edit = _edit(operation, known, turn, random.Random(f"clevr/{operation}/{number}"))
                if edit:
                    yield known, edit


def _read_words(scene: ClevrScene, world: ClevrWorld) -> KnownScene:
    reading, target = world.read_scene(scene.picture()), scene.graph(scene.objects, sizes_only=True)
    right = list(check(target, reading, world).objects)
    objects = list(scene.objects)
    for index, partner in enumerate(find_partners(target, reading, world)):
        if right[index]:
            found = reading.evidence[partner]
            objects[index] = objects[index]._replace(colour=found.colour, material=found.material)
    return KnownScene(scene, objects, right)


def _ids(known: KnownScene) -> list[str]:
    return [f"object {index}" for index in range(len(known.objects))]


# The edits -----------------------------------------------------------------------------------------------------------


def _edit(operation: str, known: KnownScene, turn: int, rng: random.Random) -> Turn | None:
    """Edit number `turn` of a scene, each of another object; None where there is no further one, or no room."""
    items = list(zip(_ids(known), known.objects))
    if operation == "add":
        rng = random.Random(rng.random() + turn)
        solid = None if len(items) == MAX_SOLIDS else _added(known, rng)
        return Turn([*items, ("new", solid)], "new") if solid else None
    able = [index for index, right in enumerate(known.right) if right]
    if turn >= len(able) or len(items) == 1:
        return None
    index = rng.sample(able, len(able))[turn]
    id, old = items[index]
    if operation == "remove":
        return Turn(items[:index] + items[index + 1 :], id)
    new = VARIATIONS[operation](known, old, rng)
    return Turn([*items[:index], (id, new), *items[index + 1 :]], id) if new else None


def _recoloured(known: KnownScene, old: ClevrObject, rng: random.Random) -> ClevrObject:
    """Another colour or, as often, another material."""
    if rng.random() < 0.5:
        return old._replace(colour=rng.choice([word for word in CLEVR.colours if word != old.colour]))
    return old._replace(material=rng.choice([word for word in CLEVR.materials if word != old.material]))


def _replaced(known: KnownScene, old: ClevrObject, rng: random.Random) -> ClevrObject:
    return old._replace(kind=rng.choice([kind for kind in CLEVR.kinds if kind != old.kind]))


def _resized(known: KnownScene, old: ClevrObject, rng: random.Random) -> ClevrObject | None:
    (size,) = (size for size in CLEVR.sizes if size != old.size)
    new = known.scene.placed(old, old.place, DIAMETERS[size] / 2)._replace(size=size)
    return new if _has_room(known, old, new) else None


def _moved(known: KnownScene, old: ClevrObject, rng: random.Random) -> ClevrObject | None:
    for _ in range(PLACES):
        new = known.scene.placed(old, _random_place(known.scene, rng), old.half)
        if _has_room(known, old, new) and math.dist(old.pixel[:2], new.pixel[:2]) >= MIN_MOVE:
            return new
    return None


def _added(known: KnownScene, rng: random.Random) -> ClevrObject | None:
    kind, size, colour, material = (
        rng.choice(words) for words in (CLEVR.kinds, CLEVR.sizes, CLEVR.colours, CLEVR.materials)
    )
    half = DIAMETERS[size] / 2
    for _ in range(PLACES):
        place = _random_place(known.scene, rng)
        pixel = known.scene.camera.pixel(place, half)
        new = ClevrObject(kind, size, colour, material, place, half, rng.uniform(0, 2 * math.pi), pixel)
        if _has_room(known, None, new):
            return new
    return None


VARIATIONS: dict[str, Callable[[KnownScene, ClevrObject, random.Random], ClevrObject | None]] = {
    "replace": _replaced,
    "recolour": _recoloured,
    "move": _moved,
    "resize": _resized,
}


def _random_place(scene: ClevrScene, rng: random.Random) -> tuple[float, float]:
    """Where the generator may put an object, to the right and away from the camera."""
    x, y = rng.uniform(-REACH, REACH), rng.uniform(-REACH, REACH)
    (rx, ry), (ax, ay) = scene.right, scene.away
    return x * rx + y * ry, x * ax + y * ay


def _has_room(known: KnownScene, old: ClevrObject | None, new: ClevrObject) -> bool:
    """Whether an object stands apart from the others, in the scene as in the picture; one that stays need not differ in both
    directions of the floor, and its box may share with others what it did before."""
    box, before = known.scene.box(new), old and known.scene.box(old)
    if box is None or min(box) < INSIDE or max(box) > 1 - INSIDE:
        return False
    for other in known.objects:
        if other is old:
            continue
        right, away = (abs(a - b) for a, b in zip(new.place, other.place))
        stays = old is not None and old.place == new.place
        if math.hypot(right, away) - new.half - other.half < GAP or (not stays and min(right, away) < CLEAR):
            return False
        theirs = known.scene.box(other)
        allowed = max(COVERED, _common(before, theirs)) if stays else COVERED
        if _common(box, theirs) > allowed:
            return False
    return True


def _common(a: Box | None, b: Box | None) -> float:
    """Of two boxes the common share of the smaller one."""
    if a is None or b is None:
        return 0.0
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b))
    return max(width, 0.0) * max(height, 0.0) / smaller


# The verdict ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClevrJudge:
    """Judges by a checker of CLEVR's solids; a `Judge`.

    The changed object must be read right. Of the others those count that the checker reads right in the source picture; they must
    be read right still, and no more objects than there that the graph lacks.

    Args:
        weights: of the checker, which scripts/train_checker.py wrote; None if the user named none.
    """

    weights: str | None
    judges_shadows: bool = False
    shadow_reach: float = ClevrWorld.shadow_reach

    @cached_property
    def world(self) -> ClevrWorld:
        return ClevrWorld(Path(self.weights) if self.weights else None)

    def identity(self) -> str:
        """Checksum of the checker's weights. Raises UserError without weights."""
        _ = self.world.detector  # refuses what is missing or reads other words
        return digest(Path(str(self.weights)))[:16]

    def judge(self, task: EditTask, image: Image.Image) -> Judgement:
        before, after = self.world.read_scene(task.picture), self.world.read_scene(image)
        known, shown = check(task.source, before, self.world), check(task.target, after, self.world)
        known_right = {id for id, right in zip(task.source.ids, known.objects) if right}
        right = dict(zip(task.target.ids, shown.objects))
        staying = [right[id] for id in task.target.ids if id in known_right - task.changed]
        new = max(0, shown.extra - known.extra)
        held = {key for key, holds in zip(_triples(task.source), known.triples) if holds}
        relations = all(
            holds
            for (subject, predicate, object), holds in zip(_triples(task.target), shown.triples)
            if {subject, object} & task.changed or (subject, predicate, object) in held
            if {subject, object} <= known_right | task.changed
        )
        changed = all(right[id] for id in task.changed if id in right) and (task.changed <= set(right) or not new)
        row = {
            "success": changed and all(staying) and not new and relations,
            "changed": changed,
            "intact": all(staying),
        }
        complaints = [complaint for complaint in shown.complaints if complaint not in known.complaints]
        return Judgement(row | {"untouched": sum(staying), "of_untouched": len(staying)}, complaints, after.graph)


def _triples(graph: SceneGraph) -> Sequence[tuple[str | None, str, str | None]]:
    """The triples with the ids of their objects."""
    return [(graph.ids[subject], predicate, graph.ids[object]) for subject, predicate, object in graph.known_triples]
