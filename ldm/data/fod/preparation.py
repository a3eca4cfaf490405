"""Writes the prepared set: pictures one by one, so that an interrupted command goes on, and annotations at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ldm.data.fod.pictures import SIDE, Crop, Picture
from ldm.data.fod.planning import Edit, Plan, PreparationOptions, make_plans
from ldm.data.fod.voc import Clip, FODError
from ldm.util.files import atomic_write, read_json, remove_leftovers

QUALITY = 90  # of JPEG
STUFF = {92: "concrete", 93: "sand", 94: "plaster", 95: "floor"}  # COCO's ids of stuff begin there
FIRST_STUFF_ANNOTATION = 10_000_000
SETTINGS = "settings.json"
INFO = {
    "description": "FOD-A, cropped, and composed scenes",
    "url": "https://github.com/FOD-UNOmaha/FOD-data",
    "license": "MIT, Copyright (c) 2020 FOD-UNOmaha",
}


def prepare(
    clips: Sequence[Clip],
    out: Path,
    options: PreparationOptions,
    started: Callable[[int], None] = lambda total: None,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Plan]:
    """Makes and writes the set; what is there already is kept.

    Args:
        out: the folder of the set.
        started: called with the number of pictures.
        done: called for each picture that is there.

    Raises:
        FODError: the folder holds a set that was made with other options or of other frames, or a category has the name of a
            ground.
    """
    names = sorted({name for clip in clips for frame in clip.frames for name in frame.names})
    if len(names) >= min(STUFF) or set(names) & set(STUFF.values()):
        raise FODError(f"{len(names)} categories: they need ids below {min(STUFF)} and names other than the grounds'")
    _require_same_settings(out / SETTINGS, options, clips)
    plans = make_plans(clips, options)
    remove_leftovers(out / "images")
    started(sum(len(plan.pictures) for plan in plans.values()))
    for plan in plans.values():
        for picture in plan.pictures:
            path = out / "images" / picture.file
            if not path.is_file():
                with atomic_write(path) as temporary:
                    picture.draw().save(temporary, "JPEG", quality=QUALITY)
            done()
    first = 1
    for split, plan in plans.items():
        ids = {picture.file: first + number for number, picture in enumerate(plan.pictures)}
        first += len(ids)
        for kind, content in (
            ("instances", _instances(plan.pictures, ids, names)),
            ("stuff", _stuff(plan.pictures, ids)),
            ("edits", [_edit(edit, ids) for edit in plan.edits]),
        ):
            with atomic_write(out / f"{kind}_{split}.json") as temporary:
                temporary.write_text(json.dumps(content), encoding="utf-8")
    return plans


def _require_same_settings(path: Path, options: PreparationOptions, clips: Sequence[Clip]) -> None:
    """Writes what the set depends on, or checks that it was made of the same."""
    settings = {**asdict(options), "frames": sum(len(clip.frames) for clip in clips), "clips": len(clips)}
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(settings) + "\n", encoding="utf-8")
        return
    stored = read_json(path, FODError, if_broken="delete the folder to begin anew")
    for key, value in settings.items():
        if not isinstance(stored, dict) or stored.get(key) != value:
            raise FODError(
                f"{path}: this set was made with {key} {stored.get(key) if isinstance(stored, dict) else 'unknown'}, not {value}; "
                "choose another --out, or the same options"
            )


def _image(picture: Picture, id: int) -> dict:
    base: Crop = picture.base
    ground, light, weather = base.clip.look
    fields = {"id": id, "file_name": picture.file, "width": SIDE, "height": SIDE, "kind": picture.kind}
    fields |= {"source_frame": base.frame.path.stem, "clip": base.clip.number, "crop": list(base.window)}
    return fields | {"ground": ground, "light": light, "weather": weather}


def _instances(pictures: Sequence[Picture], ids: Mapping[str, int], names: Sequence[str]) -> dict:
    numbers = {name: number for number, name in enumerate(names, 1)}
    annotations = []
    for picture in pictures:
        real = len(picture.base.things)
        for index, (name, box) in enumerate(picture.things):
            frame = picture.base.frame if index < real else picture.pastes[index - real].crop.frame
            fields = {"category_id": numbers[name], "pasted": index >= real, "source_frame": frame.path.stem}
            annotations.append(_annotation(len(annotations) + 1, ids[picture.file], box) | fields)
    categories = [{"id": number, "name": name, "supercategory": "thing"} for name, number in numbers.items()]
    images = [_image(picture, ids[picture.file]) for picture in pictures]
    return {"info": INFO, "images": images, "annotations": annotations, "categories": categories}


def _stuff(pictures: Sequence[Picture], ids: Mapping[str, int]) -> dict:
    numbers = {name: number for number, name in STUFF.items()}
    annotations = [
        _annotation(FIRST_STUFF_ANNOTATION + ids[picture.file], ids[picture.file], (0, 0, SIDE, SIDE))
        | {"category_id": numbers[picture.base.clip.ground]}
        for picture in pictures
    ]
    categories = [{"id": id, "name": name, "supercategory": "stuff"} for id, name in STUFF.items()]
    images = [_image(picture, ids[picture.file]) for picture in pictures]
    return {"info": INFO, "images": images, "annotations": annotations, "categories": categories}


def _annotation(id: int, image: int, box: tuple[float, float, float, float]) -> dict:
    """A box cut at the picture's edges, as the mask, too."""
    x0, y0, x1, y1 = (round(min(max(edge, 0.0), SIDE), 1) for edge in box)
    polygon = [x0, y0, x1, y0, x1, y1, x0, y1]
    width, height = round(x1 - x0, 1), round(y1 - y0, 1)
    fields = {"id": id, "image_id": image, "bbox": [x0, y0, width, height], "area": round(width * height, 1)}
    return fields | {"iscrowd": 0, "segmentation": [polygon]}


def _edit(edit: Edit, ids: Mapping[str, int]) -> dict:
    fields = {"kind": edit.kind, "source": ids[edit.source], "target": ids[edit.target]}
    fields |= {"stays": edit.stays, "thing": edit.thing}
    return fields | ({"by": edit.by} if edit.by else {})
