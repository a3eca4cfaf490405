"""The editing program: what it writes, what it says, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ldm import plots
from ldm.editing.options import DEFAULT_GUIDANCE, EditOptions, EditRequest
from ldm.editing.pipeline import edit
from ldm.graph.graph_files import write_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.models.loading import load_model
from ldm.models.runtime import PRECISIONS
from ldm.sampling.options import SampleOptions
from ldm.sampling.sample import apply_layout, sample_images
from ldm.util import cli


@pytest.fixture
def program(load_script):
    return load_script("ddim_invert_edit").main


@pytest.fixture
def run(checkpoint):
    """Options that name the tiny model."""
    return ["--ckpt", str(checkpoint), "--steps", "2", "--device", "cpu", "--outdir", "out"]


@pytest.fixture
def folder(tmp_path, monkeypatch, scene):
    """The current folder, with photo.png, source.json and edited.json in it."""
    monkeypatch.chdir(tmp_path)
    scene[0].save("photo.png")
    write_graphs("source.json", [scene[1]])
    write_graphs("edited.json", [scene[2]])
    return tmp_path


EDIT = ["--sg", "edited.json", "--source-sg", "source.json", "--ref", "photo.png"]


def test_it_writes_the_edit_a_panel_and_a_record(checkpoint, scene, program, folder, capsys):
    photograph, graph, other = scene
    run = ["--run", str(checkpoint.parents[1]), "--steps", "3", "--device", "cpu", "--outdir", "out"]
    assert program([*EDIT, *run]) == 0
    record = json.loads((folder / "out" / "record.json").read_text())
    assert record["arguments"]["steps"] == 3 and record["versions"]["torch"] == torch.__version__
    assert record["operations"] and record["operations"][0] in capsys.readouterr().out
    again = edit(
        load_model(checkpoint), EditRequest(photograph, other, graph), EditOptions(steps=3), reconstruction=True
    )
    assert np.array_equal(Image.open(folder / "out" / "edited.png"), again.image)
    assert record["psnr_autoencoder"] == pytest.approx(again.reconstruction.psnr_autoencoder, rel=1e-3)
    assert record["psnr"] is None and record["round_trip_error"] is None  # the method noise inverts nothing
    assert record["settings"] == json.loads(json.dumps(again.settings))
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["edited.png", "panel.png", "record.json"]

    more = [
        "--method",
        "ddpm",
        "--n",
        "2",
        "--sweep",
        "strength=0.5,1",
        "--previews",
        "2",
        "--attention",
        "--region",
        "none",
    ]
    assert program([*EDIT, *run, *more]) == 0
    record = json.loads((folder / "out" / "record.json").read_text())
    names = {str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*.png")}
    assert names == set(record["files"])
    assert {"reconstruction.png", "grid.png", "previews.png", "edited_strength_1.0_seed_1.png"} <= names
    assert len([name for name in names if name.startswith("attention/")]) == len(graph.objects)
    assert program([*EDIT, *run]) == 0  # removes the images of the earlier edit
    assert len(list((folder / "out").rglob("*.png"))) == 2


def test_it_deletes_nothing_but_images_of_an_earlier_edit(checkpoint, program, folder):
    run = ["--ckpt", str(checkpoint), "--steps", "2", "--device", "cpu", "--outdir", "."]
    assert program(["--sg", "edited.json", "--ref", "photo.png", *run]) == 0
    assert (folder / "reconstruction.png").exists()
    assert program(["--sg", "edited.json", *run]) == 0
    kept = {"photo.png", "source.json", "edited.json", "edited.png", "panel.png", "record.json"}
    assert {path.name for path in folder.iterdir()} == kept


def test_it_needs_no_more_than_a_graph(scene, program, folder, run, capsys):
    assert program(["--sg", "edited.json", *run]) == 0
    assert "from noise" in capsys.readouterr().out
    write_graphs("edited.json", [replace(scene[1], image="photo.png")])
    assert program(["--sg", "edited.json", *run]) == 0
    assert "null graph" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, has_effect",
    [
        (["--source-sg", "source.json"], False),
        (["--source-sg", "source.json", "--style", "photo.png", "--mask", "photo.png"], False),
        ([], False),
        (["--source-sg", "source.json", "--style", "photo.png"], True),
    ],
)
def test_it_says_where_keep_has_no_effect(scene, program, folder, run, capsys, options, has_effect):
    write_graphs("source.json", [replace(scene[1], triples=())])
    write_graphs("edited.json", [replace(scene[2], triples=())])
    assert program(["--sg", "edited.json", "--keep", "--ref", "photo.png", *run, *options]) == 0
    assert ("--keep has no effect" in capsys.readouterr().out) != has_effect


def test_the_panel_shows_the_chosen_boxes_and_says_whether_the_whole_image_may_change(
    program, folder, run, capsys, monkeypatch
):
    drawn, captions, panel = [], [], plots.panel
    monkeypatch.setattr(plots, "draw_graph", lambda graph: drawn.append(graph) or Image.new("RGB", (9, 9)))
    monkeypatch.setattr(
        plots, "panel", lambda items, text=(), **more: captions.extend(text) or panel(items, text, **more)
    )
    before = SceneGraph(
        ("circle", "square"), ((0.1, 0.4, 0.3, 0.6), (0.4, 0.4, 0.6, 0.6)), triples=((0, "left of", 1),)
    )
    write_graphs("source.json", [before])
    write_graphs("edited.json", [replace(before, boxes=(None, before.boxes[1]), triples=((0, "right of", 1),))])
    mask = Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 4, 8))
    mask.save("mask.png")
    assert program([*EDIT, *run]) == 0
    assert drawn[0] == before and drawn[1].boxes[0][0] >= 0.6
    for mask, everything in (([], True), (["--mask", "mask.png"], False)):
        captions.clear()
        capsys.readouterr()
        assert program(["--sg", "edited.json", "--ref", "photo.png", *mask, *run]) == 0
        for text in (capsys.readouterr().out, " ".join(captions)):
            assert "graph" in text and ("may change" in text) == everything


def test_keys_that_the_edited_graph_leaves_out_change_nothing(scene, program, folder, run, capsys):
    bare = SceneGraph(scene[1].objects, scene[1].boxes)
    write_graphs("edited.json", [bare])
    assert program([*EDIT, *run]) == 0
    assert "the two graphs are the same" in capsys.readouterr().out
    assert np.array_equal(Image.open("out/edited.png"), scene[0])
    write_graphs("source.json", [bare])
    write_graphs("edited.json", [scene[1]])
    assert program([*EDIT, *run]) == 0
    said = capsys.readouterr().out
    assert "attributes are unknown in the source graph" in said and "no relationships key" in said


@pytest.mark.parametrize("name", ["edited.json", "source.json"])
def test_an_unknown_name_is_found_before_the_model_is_loaded(program, folder, run, capsys, monkeypatch, name):
    monkeypatch.setattr("ldm.models.loading.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    (folder / name).write_text('{"objects": ["cirle"]}')
    assert program([*EDIT, *run]) == 2
    assert f"{name}, objects[0]: object 'cirle' is not in the vocabulary" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_graphs_of_other_projects_are_edited(scene, program, folder, run, capsys):
    names, corners = scene[1].objects, [[50 * x0, 30 * y0, 50 * x1, 30 * y1] for x0, y0, x1, y1 in scene[1].boxes]
    for name, objects in (("source.json", names), ("edited.json", scene[2].objects)):
        boxes = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in corners]
        annotations = [{"id": i, "image_id": 1, "category_id": i, "bbox": box} for i, box in enumerate(boxes)]
        categories = [{"id": i, "name": object_} for i, object_ in enumerate(objects)]
        coco = {"images": [{"id": 1}], "annotations": annotations, "categories": categories}
        (folder / name).write_text(json.dumps(coco))
    assert program([*EDIT, *run]) == 0
    said = capsys.readouterr().out
    assert "source.json: read as COCO: " in said and f"replace {names[0]!r} (object 0)" in said


def test_options_of_an_edit_are_refused_by_name_where_there_is_no_photograph(program, folder, run, capsys):
    options = [
        ["--source-sg", "source.json"], ["--mask", "photo.png"], ["--n", "2"], ["--sweep", "steps=1,2"], ["--previews"],
        ["--attention"], ["--method", "ddim"], ["--region", "none"], ["--strength", "1"], ["--interval", "0", "1"],
        ["--rescale", "0"], ["--keep"], ["--margin", "0"], ["--feather", "0"],
    ]  # fmt: skip
    for given in ([word for option in options for word in option], *options):
        assert program(["--sg", "edited.json", *run, *given]) == 2
        (error,) = capsys.readouterr().err.strip().splitlines()
        listed = error.removeprefix("ddim_invert_edit.py: ").partition(": ")[0].split(", ")
        assert sorted(listed) == sorted(word for word in given if word.startswith("--"))
        assert not (folder / "out").exists()


def test_an_image_sampled_from_noise_is_guided_like_an_edit_and_drawn_with_its_boxes(
    checkpoint, program, folder, run, capsys, monkeypatch
):
    drawn = []
    monkeypatch.setattr(plots, "draw_graph", lambda graph: drawn.append(graph) or Image.new("RGB", (9, 9)))
    monkeypatch.setattr("ldm.sampling.sample.default_layout", lambda model: "search")
    contradiction = SceneGraph(("circle", "square"), triples=((0, "left of", 1), (1, "left of", 0)))
    write_graphs("edited.json", [contradiction])
    assert program(["--sg", "edited.json", *run, "--seed", str(2**70)]) == 0
    with_boxes, complaint = apply_layout(contradiction, 2**70, SampleOptions(layout="search"))
    assert drawn == [with_boxes] and all(with_boxes.boxes)
    assert complaint and complaint in capsys.readouterr().out
    record = json.loads((folder / "out" / "record.json").read_text())
    assert record["settings"]["graph_scale"] == record["settings"]["style_scale"] == DEFAULT_GUIDANCE
    options = SampleOptions(2, graph_scale=DEFAULT_GUIDANCE, style_scale=DEFAULT_GUIDANCE, sampler="dpm++")
    (image,) = sample_images(load_model(checkpoint), [with_boxes], [2**70], options)
    assert np.array_equal(Image.open(folder / "out" / "edited.png"), image)


@pytest.mark.parametrize(
    "graph, arguments, word",
    [
        ({"objects": ["cirle"]}, [], "'circle'"),
        ({"objects": ["circle"], "relationships": [[0, "above", 3]]}, [], "relationships[0]"),
        ([{"objects": ["circle"]}] * 2, [], "2 graphs"),
        ({"objects": ["circle"] * 30}, [], "30 objects"),
        ({"objects": ["circle"]}, ["--ref", "nowhere.png"], "nowhere.png"),
        ({"objects": ["circle"]}, ["--ckpt", "nowhere"], "nowhere"),
        ({"objects": ["circle"]}, ["--steps", "0"], "steps"),
        ({"objects": ["circle"]}, ["--device", "gpu7"], "gpu7"),
        ({"objects": ["circle"]}, ["--style", "nowhere.png"], "nowhere.png"),
        ({"objects": ["circle"]}, ["--strength", "2"], "strength"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(program, folder, run, capsys, graph, arguments, word):
    (folder / "edited.json").write_text(json.dumps(graph))
    assert program(["--sg", "edited.json", *run, *arguments]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert word in error and not (folder / "out").exists()


@pytest.mark.parametrize(
    "words", [["--sweep", "margn=1"], ["--sweep", "steps=a"], ["--sweep", "strength=2"], ["--n", "0"]]
)
def test_a_mistake_in_a_sweep_is_a_usage_error(program, folder, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        program([*EDIT, *words])
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "script, words",
    [
        ("ddim_invert_edit", ["--sg", "a.json"]),
        ("sample", ["--sg", "a.json"]),
        ("evaluate", ["edits"]),
        ("evaluate", ["scenes"]),
    ],
)
def test_a_run_and_a_checkpoint_exclude_each_other(load_script, script, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        load_script(script).main([*words, "--run", "logs/one", "--ckpt", "other.ckpt"])
    assert "--run" in capsys.readouterr().err


def test_it_knows_every_precision(load_script):
    assert cli.PRECISIONS == tuple(PRECISIONS)
