"""The prepared set of a small synthetic tree in FOD-A's form."""

import json

import numpy as np
import pytest
from fod_files import write_fod
from PIL import Image

from ldm.data.coco import COCOTrain, COCOValidation
from ldm.data.fod.pictures import MARGIN, SIDE, patch_of
from ldm.data.fod.planning import PreparationOptions, make_plans, split_clips
from ldm.data.fod.preparation import prepare
from ldm.data.fod.voc import FODError, join_clips, read_frames

OPTIONS = PreparationOptions(per_clip=6, empty=0.3, mixes=0.5, edits=0.2, held_out=0.5)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return join_clips(read_frames(write_fod(tmp_path_factory.mktemp("fod"))))


@pytest.fixture(scope="module")
def prepared(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("photographs")
    prepare(clips, out, OPTIONS)
    return out


def read(folder, kind, split):
    return json.loads((folder / f"{kind}_{split}.json").read_text())


def test_each_category_with_several_clips_is_in_both_splits_in_other_clips(clips, prepared):
    held = split_clips(clips, OPTIONS)
    names = {
        split: {name for clip in clips if (clip.number in held) == split for name in clip.frames[0].names}
        for split in (0, 1)
    }
    assert names[0] == names[1] == {"Bolt", "Hammer", "Wire"}
    used = {
        split: {image["clip"] for image in read(prepared, "instances", split)["images"]} for split in ("train", "val")
    }
    assert not used["train"] & used["val"] and used["val"] == held


def test_the_data_set_of_coco_reads_the_set(prepared):
    for kind, split in ((COCOTrain, "train"), (COCOValidation, "val")):
        paths = {f"{name}_json": prepared / f"{name}_{split}.json" for name in ("instances", "stuff")}
        options = {"image_size": SIDE, "min_objects_per_image": 1, "min_object_size": 0.002}
        dataset = kind(
            prepared / "images", **paths, **options, reference=True, style_fields=["ground", "light", "weather"]
        )
        assert list(dataset.check()) == [] and len(dataset) == len(read(prepared, "instances", split)["images"])
        assert all("concrete" in dataset.graph(index).objects for index in range(len(dataset)))


def test_pasted_things_come_from_clips_of_the_same_split_ground_light_and_weather(clips):
    for plan in make_plans(clips, OPTIONS).values():
        of_split = {picture.base.clip.number for picture in plan.pictures}
        for picture in plan.pictures:
            for paste in picture.pastes:
                assert paste.crop.clip.look == picture.base.clip.look and paste.crop.clip.number in of_split
            assert {"real": 0, "empty": 0}.get(picture.kind, len(picture.pastes)) == len(picture.pastes)
            assert (picture.kind == "empty") == (not picture.things)


def test_a_box_lies_on_its_thing(prepared):
    data = read(prepared, "instances", "train")
    files = {image["id"]: image["file_name"] for image in data["images"] if image["kind"] == "real"}
    checked = 0
    for annotation in data["annotations"]:
        if annotation["image_id"] in files:
            x, y, w, h = annotation["bbox"]
            pixels = np.asarray(Image.open(prepared / "images" / files[annotation["image_id"]]), float)
            inside = pixels[round(y) + 2 : round(y + h) - 2, round(x) + 2 : round(x + w) - 2]
            assert np.abs(inside.mean((0, 1)) - 150).max() > 30 and inside.std((0, 1)).max() < 15
            checked += 1
    assert checked > 15


def test_composed_pictures_differ_from_their_crop_at_the_pasted_things_only(clips):
    pictures = [
        picture for plan in make_plans(clips, OPTIONS).values() for picture in plan.pictures if picture.kind == "mix"
    ]
    for picture in pictures[:10]:
        before, after = picture.base.pixels(), np.asarray(picture.draw())
        outside = np.ones((SIDE, SIDE), bool)
        for _, box in picture.things[len(picture.base.things) :]:
            x0, y0, x1, y1 = patch_of(box)
            outside[y0:y1, x0:x1] = False
            assert np.abs(before[y0:y1, x0:x1].astype(int) - after[y0:y1, x0:x1]).max() > 30
        assert np.array_equal(before[outside], after[outside])
        assert min(patch_of(box)[0] for _, box in picture.things) >= -MARGIN


def test_edits_are_what_they_say(prepared):
    for split in ("train", "val"):
        data = read(prepared, "instances", split)
        names = {category["id"]: category["name"] for category in data["categories"]}
        things = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            things[annotation["image_id"]].append((names[annotation["category_id"]], tuple(annotation["bbox"])))
        edits = read(prepared, "edits", split)
        assert {edit["kind"] for edit in edits} == {"add", "remove", "replace", "move"}
        for edit in edits:
            before, after = set(things[edit["source"]]), set(things[edit["target"]])
            gone, new = ([name for name, _ in each] for each in (before - after, after - before))
            thing = [edit["thing"]]
            expected = {
                "add": ([], thing),
                "remove": (thing, []),
                "move": (thing, thing),
                "replace": (thing, [edit.get("by")]),
            }
            assert (gone, new) == expected[edit["kind"]] and [name for name, _ in before & after] == [edit["stays"]]


def test_an_interrupted_preparation_goes_on_and_gives_the_same_files(clips, prepared, tmp_path):
    class Stop(Exception):
        pass

    count = 0

    def stop_in_the_middle():
        nonlocal count
        count += 1
        if count == 9:
            raise Stop

    with pytest.raises(Stop):
        prepare(clips, tmp_path, OPTIONS, done=stop_in_the_middle)
    assert not (tmp_path / "instances_train.json").exists()
    first = sorted((tmp_path / "images").iterdir())[0]
    stamp = first.stat().st_mtime_ns
    prepare(clips, tmp_path, OPTIONS)
    assert first.stat().st_mtime_ns == stamp
    files = [path.relative_to(prepared) for path in sorted(prepared.rglob("*")) if path.is_file()]
    assert files == [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert all((prepared / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_a_set_of_other_options_is_not_overwritten(clips, prepared):
    with pytest.raises(FODError, match="made with seed 0, not 1; choose another --out"):
        prepare(clips, prepared, PreparationOptions(**{**vars(OPTIONS), "seed": 1}))
