"""What Blender draws and what rays find; skipped where the package bpy is missing (`pip install -e .[render]`)."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

pytest.importorskip("bpy", reason="drawing needs Blender: pip install -e .[render], with Python 3.11")

from ldm.data.clevr import CLEVR
from ldm.data.rendered_clips import RenderedClips
from ldm.graph.storyboard import moves
from ldm.synthetic.rendered.edits import OPERATIONS, edit_scene
from ldm.synthetic.rendered.records import read_records
from ldm.synthetic.rendered.scenes import Scene, Style, all_visible, with_things
from ldm.synthetic.rendered.shards import DEPTH_UNIT, Extras, write_shard
from ldm.synthetic.rendered.stage import Stage
from ldm.synthetic.rendered.things import Thing

SHIPPED = ROOT / "tests" / "data" / "rendered"
SIDE = 128
# A cube before a sphere and a cylinder, and three things that nothing hides. Rubber shows no other thing as a mirror does.
THINGS = (
    Thing("sphere", "large", "red", "rubber", 0.0, 0.6),
    Thing("cube", "small", "red", "rubber", -0.3, -0.4, turn=0.4),
    Thing("cylinder", "small", "red", "rubber", -0.5, 1.3),
    Thing("donut", "small", "red", "rubber", 1.0, -0.6),
    Thing("cylinder", "small", "red", "rubber", 1.2, 0.9),
    Thing("sphere", "small", "red", "rubber", -1.3, -0.3),
)


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage(SIDE, 4, 1)


@pytest.fixture(scope="module")
def scene(stage) -> Scene:
    return replace(stage.random_scene(0), things=THINGS, style=Style("concrete", "white", "overcast", "left"))


def pixels(stage: Stage, scene: Scene) -> np.ndarray:  # (S,S,3) int
    return np.array(stage.render(scene), int)


def box_of(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)) / len(mask)


def test_pictures_are_the_same_again_in_another_order_and_on_more_threads(stage):
    scenes = [stage.random_scene(seed) for seed in range(2)]
    first = [pixels(stage, scene) for scene in scenes]
    for threads in (2, 1):
        stage.scene.render.threads = threads
        for scene, picture in zip(reversed(scenes), reversed(first)):
            assert (pixels(stage, scene) == picture).all()
    assert not (first[0] == first[1]).all()


def test_seeds_give_the_scenes_of_the_pictures_that_ship(stage):
    lines = [json.loads(line) for path in SHIPPED.glob("*/scenes.jsonl") for line in path.read_text().splitlines()]
    fields = [line["scene"] for line in lines if "edit" not in line and line["scene"]["seed"] < 10**9]
    assert len(fields) > 1
    for each in fields:
        assert json.loads(json.dumps(stage.random_scene(each["seed"]).to_json())) == each


def test_rays_find_the_pixels_that_change_with_a_thing_s_colour(stage, scene):
    truth, red = stage.geometry.truth(scene, SIDE), pixels(stage, scene)
    for index, thing in enumerate(THINGS):
        things = [thing._replace(colour="blue") if other is thing else other for other in THINGS]
        drawn = np.abs(pixels(stage, with_things(scene, things)) - red).max(-1) > 40
        cast = truth.ids == index + 1
        assert (drawn & cast).sum() / (drawn | cast).sum() > 0.85, thing.kind
        assert truth.visible_boxes[index] == pytest.approx(box_of(drawn), abs=2.5 / SIDE), thing.kind


def test_boxes_are_of_the_whole_thing_and_visible_shares_of_its_visible_part(stage, scene):
    truth = stage.geometry.truth(scene, SIDE)
    for index, thing in enumerate(THINGS):
        alone = stage.geometry.truth(with_things(scene, [thing]), SIDE)
        assert truth.boxes[index] == pytest.approx(alone.boxes[0])
        assert truth.boxes[index] == pytest.approx(box_of(alone.ids == 1), abs=1.01 / SIDE)
        assert truth.visible[index] == pytest.approx((truth.ids == index + 1).sum() / (alone.ids == 1).sum())
    assert truth.visible[0] < 0.95 and truth.visible[1] == truth.visible[3] == 1.0


def test_depth_is_the_distance_from_the_camera(stage, scene):
    """The ray to a sphere's centre meets it a radius before."""
    sphere = THINGS[0]
    alone = with_things(scene, [sphere])
    truth = stage.geometry.truth(alone, SIDE)
    centre = np.array((sphere.x, sphere.y, 0.5 * sphere.scale))
    nearest = np.linalg.norm(centre - scene.camera.location) - 0.5 * sphere.scale
    assert truth.depth.min() == pytest.approx(nearest, abs=0.01)
    assert (np.isfinite(truth.depth) == (truth.ids == 1)).all()


@pytest.mark.parametrize(("relation", "kind", "level"), [("on", "cube", 0.84 * 0.95), ("inside", "bowl", 0.1 * 1.05)])
def test_a_carried_thing_touches_its_support_and_does_not_sink_in(stage, relation, kind, level):
    """Level: of the cube's top and of the bowl's ground inside, at size factor 1."""
    support = Thing(kind, "large", None, "marble")
    ball = Thing("sphere", "small", "red", "rubber", support=0, relation=relation)
    height = stage.geometry.resting_height(ball, support)
    assert height == pytest.approx(1.2 * level, abs=0.03)
    tree = stage.geometry._tree
    assert not tree(ball._replace(z=height))[0].overlap(tree(support)[0])
    assert tree(ball._replace(z=height - 0.05))[0].overlap(tree(support)[0])


def test_edited_scenes_are_visible(stage):
    source = stage.random_scene(11)
    edits = [edit_scene(source, operation, stage.geometry) for operation in OPERATIONS]
    assert sum(edit is not None for edit in edits) >= 7
    assert all(all_visible(edit.scene, stage.geometry) for edit in edits if edit)


def test_an_interrupted_shard_becomes_the_same_as_an_uninterrupted_one(stage, tmp_path, monkeypatch):
    extras, seeds = Extras(("move", "restyle"), masks=True, depth=True), range(1)
    write_shard(stage, seeds, tmp_path / "whole", extras)
    drawn = 0

    def draw_two(scene: Scene, render: Callable = stage.render) -> Image.Image:
        nonlocal drawn
        drawn += 1
        if drawn > 2:
            raise KeyboardInterrupt
        return render(scene)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "render", draw_two)
        with pytest.raises(KeyboardInterrupt):
            write_shard(stage, seeds, tmp_path / "parts", extras)
    assert not (tmp_path / "parts" / "scenes.jsonl").exists()
    write_shard(stage, seeds, tmp_path / "parts", extras)
    whole, parts = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "parts")
    )
    assert whole == parts and "000000_restyle_style.webp" in whole and "000000_move_ids.png" in whole

    records = [json.loads(line) for line in (tmp_path / "whole" / "scenes.jsonl").read_text().splitlines()]
    truth = stage.geometry.truth(Scene.from_json(records[0]["scene"]), SIDE)
    with (
        Image.open(tmp_path / "whole" / "000000_ids.png") as ids,
        Image.open(tmp_path / "whole" / "000000_depth.png") as z,
    ):
        assert (np.array(ids) == truth.ids).all()
        seen = truth.ids > 0
        assert (
            np.array(z)[seen] / DEPTH_UNIT == pytest.approx(truth.depth[seen], abs=0.001)
            and not np.array(z)[~seen].any()
        )


def run(*words: object) -> subprocess.CompletedProcess:
    program = [sys.executable, "scripts/render_scenes.py", *map(str, words)]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_program_draws_clevr_s_look_for_the_data_set(tmp_path):
    process = run("--out", tmp_path, "--seeds", "0:2", "--look", "clevr", "--side", 64, "--samples", 1, "--threads", 1)
    assert process.returncode == 0, process.stderr
    shard = tmp_path / "shard-00000"
    pictures = CLEVR(shard, shard / "CLEVR_scenes.json", image_size=64)
    lines = [json.loads(line) for line in Path(shard / "scenes.jsonl").read_text().splitlines()]
    assert len(pictures) == len(lines) == 2
    for (image, graph), line in zip(pictures, lines):
        assert image.shape == (3, 64, 64) and abs(float(image.mean())) < 0.2  # grey
        assert np.array(graph.boxes) == pytest.approx(np.clip(line["boxes"], 0, 1), abs=0.05)  # estimated ones


def test_machines_share_shards(tmp_path):
    words = ("--seeds", "3:7", "--shard-size", 1, "--num-shards", 2, "--side", 32, "--samples", 1, "--threads", 1)
    process = run("--out", tmp_path, *words, "--shard-index", 1)
    assert process.returncode == 0, process.stderr
    assert sorted(path.name for path in tmp_path.glob("*/*.webp")) == ["000004.webp", "000006.webp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-00001", "shard-00003"]


def test_a_clip_is_written_frame_by_frame_with_numbers_that_tell_its_things_apart(stage, tmp_path):
    write_shard(stage, range(4, 5), tmp_path / "shard-00000", Extras(frames=4))
    style, *frames = read_records(tmp_path / "shard-00000")
    assert (style.file, style.clip) == ("000004_style.webp", None)
    assert [(record.file, record.clip.frame) for record in frames] == [(f"000004_0{i}.webp", i) for i in range(4)]
    assert {record.scene.style for record in frames} == {style.scene.style} and style.scene.things != frames[
        0
    ].scene.things
    assert {record.clip.reference for record in frames} == {style.file}
    assert max(moves(RenderedClips(tmp_path, 4).storyboard(0))) > 0.05
