"""Decides which pictures the prepared set has, from boxes alone: the same seed gives the same set again."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ldm.data.fod.pictures import SIDE, Crop, Paste, Picture, apart, fits
from ldm.data.fod.voc import Clip, Frame

SPLITS = ("train", "val")
LARGEST, LEAST = 0.6, 0.002  # of a picture: the largest side of a thing, and the least area of its box
LEAST_WINDOW = 0.4  # least side of a crop, as a share of the frame's shorter side
LEAST_EMPTY = 0.33  # the same of crops without things
TRIES = 40  # of finding a place, a window or a partner
SCENE_TRIES = 200  # of finding a scene with room for the four edits
CHANGED = ("add", "remove", "replace", "move")


@dataclass(frozen=True)
class PreparationOptions:
    """How many pictures of each kind to make.

    Args:
        per_clip: frames of each clip, evenly over its length.
        empty: share of the frames of which a crop without things is taken, too.
        mixes: composed pictures, as a share of the real ones.
        edits: scenes of which four edits are made, as a share of the real pictures.
        held_out: about this share of each category's clips are validation data, at least one of two or more.
        seed: of all that is drawn.
    """

    per_clip: int = 100
    empty: float = 0.06
    mixes: float = 0.55
    edits: float = 0.08
    held_out: float = 0.17
    seed: int = 0


@dataclass(frozen=True)
class Edit:
    """A picture before and after an edit.

    Args:
        kind: one of `CHANGED`.
        source, target: names of the two pictures' files.
        stays: category of what stays.
        thing: category of what is added, removed, replaced or moved.
        by: what a thing is replaced by.
    """

    kind: str
    source: str
    target: str
    stays: str
    thing: str
    by: str | None = None


@dataclass(frozen=True)
class Plan:
    """The pictures and edits of a split."""

    pictures: tuple[Picture, ...]
    edits: tuple[Edit, ...]


def make_plans(clips: Sequence[Clip], options: PreparationOptions) -> dict[str, Plan]:
    """The plan of each split; things that are blended in come from clips of the same split, ground, light and weather."""
    held_out = split_clips(clips, options)
    plans, first = {}, 0
    for split in SPLITS:
        chosen = [clip for clip in clips if (clip.number in held_out) == (split == "val")]
        plans[split] = _plan(chosen, split, options, random.Random(f"prepare/{options.seed}/{split}"), first)
        first += sum(picture.kind == "real" for picture in plans[split].pictures)
    return plans


def split_clips(clips: Sequence[Clip], options: PreparationOptions) -> set[int]:
    """Numbers of the clips that are held out: some of each category that has several."""
    rng = random.Random(f"split/{options.seed}")
    by_category: dict[str, list[int]] = defaultdict(list)
    for clip in clips:
        for name in sorted(clip.frames[0].names):
            by_category[name].append(clip.number)
    held: set[int] = set()
    for name in sorted(by_category):
        numbers = by_category[name]
        wanted = max(1, round(options.held_out * len(numbers))) if len(numbers) > 1 else 0
        free = [number for number in numbers if number not in held]
        held |= set(rng.sample(free, min(max(0, wanted - (len(numbers) - len(free))), max(0, len(free) - 1))))
    return held


def _plan(clips: Sequence[Clip], split: str, options: PreparationOptions, rng: random.Random, first: int) -> Plan:
    real, empty = [], []
    for clip in clips:
        step = max(1.0, len(clip.frames) / options.per_clip)
        for number in range(int(len(clip.frames) / step)):
            frame = clip.frames[int(number * step)]
            if crop := _crop_of_things(clip, frame, rng):
                real.append(Picture(f"real_{first + len(real):06}.jpg", "real", crop))
            if rng.random() < options.empty and (crop := _empty_crop(clip, frame, rng)):
                empty.append(Picture(f"empty_{split}_{len(empty):05}.jpg", "empty", crop))
    partners = _by_look(real)
    mixes = list(_mixes(real, partners, split, round(options.mixes * len(real)), rng))
    pictures, edits = [], []
    for number in range(round(options.edits * len(real))):
        found = _edits_of(f"edit_{split}_{number:05}", real, partners, rng)
        if found:
            pictures += found[0]
            edits += found[1]
    return Plan((*real, *empty, *mixes, *pictures), tuple(edits))


def _crop_of_things(clip: Clip, frame: Frame, rng: random.Random) -> Crop | None:
    """A window with all of a frame's things, none of them too large or too small; None where none was found."""
    if not frame.things:
        return None
    x0, y0 = (min(box[axis] for _, box in frame.things) for axis in (0, 1))
    x1, y1 = (max(box[axis] for _, box in frame.things) for axis in (2, 3))
    largest = min(frame.size)
    least = max(LEAST_WINDOW * largest, x1 - x0 + 2, y1 - y0 + 2)
    least = max(least, *(max(box[2] - box[0], box[3] - box[1]) / LARGEST for _, box in frame.things))
    if least > largest:
        return None
    for _ in range(TRIES):
        side = round(rng.uniform(least, largest))
        x = _between(max(0, x1 - side), min(x0, frame.size[0] - side), rng)
        y = _between(max(0, y1 - side), min(y0, frame.size[1] - side), rng)
        if x is None or y is None:
            continue
        areas = [(box[2] - box[0]) * (box[3] - box[1]) / side**2 for _, box in frame.things]
        if min(areas) > LEAST:
            return Crop(clip, frame, (x, y, side))
    return None


def _empty_crop(clip: Clip, frame: Frame, rng: random.Random) -> Crop | None:
    """A window without any thing."""
    largest = min(frame.size)
    for _ in range(TRIES):
        side = round(rng.uniform(LEAST_EMPTY * largest, 0.8 * largest))
        window = rng.randint(0, frame.size[0] - side), rng.randint(0, frame.size[1] - side), side
        crop = Crop(clip, frame, window)
        if not crop.things:
            return crop
    return None


def _between(low: float, high: float, rng: random.Random) -> int | None:
    first, last = int(-(-low // 1)), int(high // 1)
    return rng.randint(first, last) if first <= last else None


def _by_look(real: Sequence[Picture]) -> dict[tuple, list[Picture]]:
    """Pictures with a thing that can be blended in elsewhere, by ground, light and weather."""
    groups: dict[tuple, list[Picture]] = defaultdict(list)
    for picture in real:
        if any(fits(box) for _, box in picture.things):
            groups[picture.base.clip.look].append(picture)
    return groups


def _paste(
    partner: Picture, taken: Sequence, rng: random.Random, middle: tuple[float, float] | None = None
) -> Paste | None:
    """A thing of another picture at a free place, around `middle` if that is given; None where there is none."""
    candidates = [number for number, (_, box) in enumerate(partner.base.things) if fits(box)]
    if not candidates:
        return None
    thing = rng.choice(candidates)
    x0, y0, x1, y1 = partner.base.things[thing][1]
    for _ in range(TRIES if middle is None else 1):
        if middle is None:
            x, y = rng.uniform(0, SIDE), rng.uniform(0, SIDE)
        else:
            x, y = middle
        shift = round(x - (x0 + x1) / 2), round(y - (y0 + y1) / 2)
        paste = Paste(partner.base, thing, shift)
        box = paste.as_thing[1]
        if fits(box) and all(apart(box, other) for _, other in taken):
            return paste
    return None


def _mixes(real: Sequence[Picture], partners: dict, split: str, count: int, rng: random.Random) -> Iterator[Picture]:
    """Composed pictures: one thing in its place, and one or two blended in. There are fewer where there is no room."""
    for number in range(count if real else 0):
        composed = (_mix(rng.choice(real), partners, rng) for _ in range(TRIES))
        picture, pastes = next((found for found in composed if found[1]), (None, ()))
        if picture:
            yield Picture(f"mix_{split}_{number:05}.jpg", "mix", picture.base, tuple(pastes))


def _mix(picture: Picture, partners: dict, rng: random.Random) -> tuple[Picture, list[Paste]]:
    """A picture, and what is blended into it."""
    pastes: list[Paste] = []
    group = partners.get(picture.base.clip.look, ())
    for _ in range(rng.choice((1, 1, 2)) if group else 0):
        taken = [*picture.things, *(paste.as_thing for paste in pastes)]
        paste = _paste(rng.choice(group), taken, rng)
        pastes += [paste] if paste else []
    return picture, pastes


def _edits_of(
    name: str, real: Sequence[Picture], partners: dict, rng: random.Random
) -> tuple[list[Picture], list[Edit]] | None:
    """A picture of one thing, three composed ones beside it, and the four edits between them; None where there is no room."""
    for _ in range(SCENE_TRIES):
        picture = rng.choice(real)
        group = partners.get(picture.base.clip.look, ())
        if len(picture.things) != 1 or not group:
            continue
        taken = picture.things
        one = _paste(rng.choice(group), taken, rng)
        if one is None or one.as_thing[0] == taken[0][0]:
            continue
        box = one.as_thing[1]
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        other = _paste(rng.choice(group), taken, rng, middle)
        elsewhere = _elsewhere(one, taken, rng)
        names = taken[0][0], one.as_thing[0]
        if other is None or elsewhere is None or other.as_thing[0] in names:
            continue
        shown: tuple[tuple[Paste, ...], ...] = ((), (one,), (other,), (elsewhere,))
        pictures = [
            Picture(f"{name}_s{number}.jpg", "mix" if pastes else "real", picture.base, pastes)
            for number, pastes in enumerate(shown)
        ]
        before, after, instead, moved = (each.file for each in pictures)
        edits = [
            Edit("add", before, after, *names),
            Edit("remove", after, before, *names),
            Edit("replace", after, instead, *names, other.as_thing[0]),
            Edit("move", after, moved, *names),
        ]
        return pictures, edits
    return None


def _elsewhere(paste: Paste, taken: Sequence, rng: random.Random) -> Paste | None:
    """The same thing at another free place, apart from where it is."""
    x0, y0, x1, y1 = paste.crop.things[paste.thing][1]
    for _ in range(TRIES):
        shift = round(rng.uniform(0, SIDE) - (x0 + x1) / 2), round(rng.uniform(0, SIDE) - (y0 + y1) / 2)
        moved = Paste(paste.crop, paste.thing, shift)
        box = moved.as_thing[1]
        if fits(box) and all(apart(box, other) for _, other in [*taken, paste.as_thing]):
            return moved
    return None
