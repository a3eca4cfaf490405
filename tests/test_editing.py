"""Editing, in the library and through the script, with a tiny model whose adapters were moved away from zero."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import tiny_model

from ldm.data.demo import DemoValidation
from ldm.data.shapes import render
from ldm.editing import edit, psnr
from ldm.graph import write_graphs
from ldm.run import load_model

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run's log folder with a checkpoint in it."""
    torch.manual_seed(0)
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.model_ema.update(model)
    saved = {}
    model.on_save_checkpoint(saved)
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    torch.save(saved, folder / "checkpoints" / "last.ckpt")
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)


@pytest.fixture
def scene():
    """A photograph 50 wide and 30 high, its graph, and the graph with the first object replaced."""
    graph, background = DemoValidation(8).scene(3)
    photograph = render(graph, background, 64).resize((50, 30))
    other = "square" if graph.objects[0] != "square" else "circle"
    return photograph, graph, replace(graph, objects=(other, *graph.objects[1:]))


def load_script(name):
    """main() of a script."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def door():
    return load_script("ddim_invert_edit")


@pytest.mark.filterwarnings("ignore:fixed-point inversion")
@pytest.mark.parametrize("method", ["ddim", "fixed-point"])
def test_an_edit_to_the_same_graph_at_scale_1_is_the_reconstruction(model, scene, method):
    photograph, graph, _ = scene
    result = edit(model, photograph, graph, source=graph, method=method, steps=3)
    assert result.image.tobytes() == result.reconstruction.tobytes()
    assert result.operations == []


def test_the_fixed_point_round_trip_is_within_a_thousandth(checkpoint, scene):
    photograph, graph, other = scene
    model = load_model(checkpoint)
    for parameter in model.unet.out.parameters():
        parameter *= 0.1  # a random U-Net answers a small change of x by a large one, as no trained one does
    result = edit(model, photograph, other, source=graph, method="fixed-point", steps=20)
    assert result.round_trip_error < 1e-3
    assert abs(result.psnr - result.psnr_autoencoder) < 0.1


def test_an_edit_has_the_size_of_its_photograph_whatever_that_is(model, scene):
    photograph, graph, other = scene
    for size in ((50, 30), (31, 97), (64, 64), (7, 5)):
        result = edit(model, photograph.resize(size), other, source=graph, steps=2)
        assert result.image.size == result.reconstruction.size == size


def test_the_graph_and_the_style_both_change_the_edit(model, scene):
    photograph, graph, other = scene
    plain = edit(model, photograph, graph, source=graph, steps=5)
    replaced = edit(model, photograph, other, source=graph, steps=5)
    restyled = edit(model, photograph, graph, source=graph, style=Image.new("RGB", (40, 60), "red"), steps=5)
    assert len({r.image.tobytes() for r in (plain, replaced, restyled)}) == 3
    assert [str(operation) for operation in replaced.operations]


def test_without_a_source_graph_the_inversion_knows_nothing_of_the_graph(model, scene):
    photograph, graph, other = scene
    one, two = (edit(model, photograph, g, steps=5) for g in (graph, other))
    assert one.reconstruction.tobytes() == two.reconstruction.tobytes()
    assert one.image.tobytes() != two.image.tobytes()


def test_psnr_of_a_known_error():
    image = torch.zeros(1, 3, 8, 8)
    assert psnr(image, image + 0.2) == pytest.approx(20.0, abs=1e-3)  # 10 log10(2^2 / 0.2^2)
    assert psnr(image, image) == float("inf")


def test_a_model_comes_back_from_its_checkpoint_with_its_averages(checkpoint, model):
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, parameter in model.named_parameters():
        if name in saved:
            torch.testing.assert_close(parameter, saved["model_ema." + name.replace(".", "/")])


def test_the_script_writes_the_edit_a_panel_and_a_record(checkpoint, scene, door, tmp_path, capsys):
    photograph, graph, other = scene
    photograph.save(tmp_path / "photo.png")
    write_graphs(tmp_path / "source.json", [graph])
    write_graphs(tmp_path / "edited.json", [other])
    arguments = ["--sg", "edited.json", "--source-sg", "source.json", "--ref", "photo.png"]
    paths = [str(tmp_path / a) if "." in a else a for a in arguments]
    run = ["--run", str(checkpoint.parents[1]), "--steps", "3", "--device", "cpu", "--outdir", str(tmp_path / "out")]
    assert door([*paths, *run]) == 0
    assert Image.open(tmp_path / "out" / "edited.png").size == photograph.size
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["arguments"]["steps"] == 3 and record["versions"]["torch"] == torch.__version__
    assert record["operations"] and record["operations"][0] in capsys.readouterr().out
    again = edit(load_model(checkpoint), photograph, other, source=graph, steps=3)
    for number in ("round_trip_error", "psnr", "psnr_autoencoder"):
        assert record[number] == pytest.approx(getattr(again, number), rel=1e-3)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "edited.png", "panel.png", "reconstruction.png", "record.json",
    ]  # fmt: skip


def test_the_script_needs_no_more_than_a_graph(checkpoint, scene, door, tmp_path, capsys):
    write_graphs(tmp_path / "edited.json", [scene[1]])
    run = ["--ckpt", str(checkpoint), "--steps", "2", "--device", "cpu", "--outdir", str(tmp_path / "out")]
    assert door(["--sg", str(tmp_path / "edited.json"), *run]) == 0
    assert "from noise" in capsys.readouterr().out
    scene[0].save(tmp_path / "photo.png")
    write_graphs(tmp_path / "edited.json", [replace(scene[1], image="photo.png")])
    assert door(["--sg", str(tmp_path / "edited.json"), *run]) == 0
    assert "null graph" in capsys.readouterr().out


@pytest.mark.parametrize(
    "graph, arguments, sentence",
    [
        ({"objects": ["cirle"]}, [], "'circle'"),
        ({"objects": ["circle"], "relationships": [[0, "above", 3]]}, [], "relationships[0]"),
        ([{"objects": ["circle"]}] * 2, [], "2 graphs"),
        ({"objects": ["circle"] * 30}, [], "30 objects"),
        ({"objects": ["circle"]}, ["--ref", "nowhere.png"], "nowhere.png"),
        ({"objects": ["circle"]}, ["--ckpt", "", "--run", "nowhere"], "nowhere"),
        ({"objects": ["circle"]}, ["--steps", "0"], "0 DDIM steps"),
        ({"objects": ["circle"]}, ["--device", "gpu7"], "gpu7"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(checkpoint, door, tmp_path, capsys, graph, arguments, sentence):
    (tmp_path / "edited.json").write_text(json.dumps(graph))
    run = ["--ckpt", str(checkpoint), "--steps", "2", "--device", "cpu", "--outdir", str(tmp_path / "out")]
    assert door(["--sg", str(tmp_path / "edited.json"), *run, *arguments]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and sentence in errors[0]
    assert not (tmp_path / "out").exists()


def test_an_edit_deletes_nothing_but_an_earlier_edits_reconstruction(checkpoint, scene, door, tmp_path):
    scene[0].save(tmp_path / "photo.png")
    write_graphs(tmp_path / "edited.json", [scene[1]])
    run = ["--ckpt", str(checkpoint), "--steps", "2", "--device", "cpu", "--outdir", str(tmp_path)]
    assert door(["--sg", str(tmp_path / "edited.json"), "--ref", str(tmp_path / "photo.png"), *run]) == 0
    assert (tmp_path / "reconstruction.png").exists()
    assert door(["--sg", str(tmp_path / "edited.json"), *run]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "photo.png", "edited.json", "edited.png", "panel.png", "record.json",
    }  # fmt: skip
