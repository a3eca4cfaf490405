"""Sampling many graphs: what a picture depends on, and a folder that any number of processes fill."""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import tiny_model

from ldm.data.demo import DemoValidation
from ldm.graph.layout import generate_layout
from ldm.graph.scene_graph import SceneGraph, write_graphs
from ldm.models.loading import checkpoint_of, load_model
from ldm.modules.lora import LoRALinear, lora_layers
from ldm.sampling.sample import (
    ROWS,
    SampleOptions,
    _sample_pass,
    apply_layout,
    default_layout,
    derive_seed,
    sample_images,
)
from ldm.util import gallery
from ldm.util.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "sample.py"
SETTINGS = SampleOptions(steps=4, eta=1.0, graph_scale=2.0, style_scale=3.0)


def moved(model):
    """The model with everything that is trained at random, so that conditions make a difference."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return moved(tiny_model())


@pytest.fixture
def glass(model, monkeypatch):
    """The model with a decoder that shows the last bits of a latent, which a first stage would round away."""
    monkeypatch.setattr(model, "decode", lambda z: (z[:, :3] * 1e5).sin())
    return model


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """A run's log folder with a checkpoint in it."""
    for name in model.model_ema.names:
        model.model_ema.average(name).copy_(model.get_parameter(name).detach())
    saved = {}
    model.on_save_checkpoint(saved)
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    torch.save(saved, folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.fixture(scope="module")
def graphs():
    dataset = DemoValidation(5, 32)
    return [dataset[i][1] for i in range(4)] + [SceneGraph(("circle",))]


@pytest.fixture(scope="module")
def door():
    spec = importlib.util.spec_from_file_location("sample", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sample(door, run, tmp_path):
    """sample(words, outdir="out") -> the folder, after a run of the script with the fewest steps."""

    def call(*words, outdir="out"):
        folder = tmp_path / outdir
        base = ["--run", str(run), "--steps", "2", "--device", "cpu", "--outdir", str(folder)]
        assert door.main([*base, *map(str, words)]) == 0
        return folder

    return call


def pixels(images):
    return [image.tobytes() for image in images]


def files(folder):
    """Everything in a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_picture_is_the_same_alone_among_others_and_whatever_the_threads(glass, graphs):
    model = glass
    seeds = [derive_seed(7, index, 0) for index in range(5)]
    style = Image.new("RGB", (40, 30), "red")
    together = pixels(sample_images(model, graphs, seeds, SETTINGS, style))
    alone = [pixels(sample_images(model, [g], [s], SETTINGS, style))[0] for g, s in zip(graphs, seeds)]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    backwards = pixels(sample_images(model, graphs[::-1], seeds[::-1], SETTINGS, style))[::-1]
    torch.set_num_threads(before)
    assert together == alone == backwards
    assert len(set(together)) == 5
    assert torch.get_num_threads() == before


def test_without_that_care_the_batch_size_would_show(glass, graphs):
    """Else the test above proves nothing: here the rows of a pass are as many as the pictures."""
    seeds = [1, 2, 3, 4, 5]
    together = pixels(_sample_pass(glass, graphs, seeds, SETTINGS, None, 5))
    assert together != [pixels(_sample_pass(glass, [g], [s], SETTINGS, None, 1))[0] for g, s in zip(graphs, seeds)]


def test_a_pass_of_a_gpu_has_as_many_rows_as_ever(glass, graphs, monkeypatch):
    """Run on the CPU: it is the shapes that count, and that rows which only fill up are thrown away."""
    model, rows, forward = glass, [], glass.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda x, t, cond: rows.append(len(x)) or forward(x, t, cond))
    settings = SampleOptions(steps=2, eta=1.0)
    many = _sample_pass(model, graphs, [1, 2, 3, 4, 5], settings, None, ROWS)
    one = _sample_pass(model, graphs[:1], [1], settings, None, ROWS)
    assert set(rows) == {ROWS}
    assert len(many) == 5 and pixels(one) == pixels(many)[:1]


def test_adapters_are_folded_in_and_the_picture_is_the_one_that_they_make(model, graphs, monkeypatch):
    """Within 1e-4 of the latents' norm: four steps of sums in another order. Without the adapters it is another picture."""
    latents, layers = [], []
    monkeypatch.setattr(model, "decode", lambda z: latents.append(z) or z[:, :3])
    forward = LoRALinear.forward
    monkeypatch.setattr(LoRALinear, "forward", lambda self, x: layers.append(self) or forward(self, x))
    with monkeypatch.context() as unfolded:
        unfolded.setattr("ldm.sampling.sample.merged", lambda unet: unet)
        sample_images(model, graphs[:1], [1], SETTINGS)
    assert layers
    layers.clear()
    sample_images(model, graphs[:1], [1], SETTINGS)
    assert not layers and lora_layers(model.unet)
    with monkeypatch.context() as without:
        without.setattr("ldm.sampling.sample.merged", adapters_left_out)
        sample_images(model, graphs[:1], [1], SETTINGS)
    made, folded, bare = latents
    assert (folded - made).norm() < 1e-4 * made.norm() < (bare - made).norm()


def adapters_left_out(unet):
    unet = copy.deepcopy(unet)
    for layer in lora_layers(unet).values():
        layer.lora_B.data.zero_()
    return unet


def test_seed_graph_style_and_every_setting_change_a_picture(glass, graphs):
    plain = dict(graphs=graphs[:1], seeds=[1], settings=SampleOptions(3), style=None)
    changes = [
        {},
        {"seeds": [2]},
        {"graphs": graphs[1:2]},
        {"style": Image.new("RGB", (40, 30), "red")},
        {"settings": SampleOptions(4)},
        {"settings": SampleOptions(3, eta=1.0)},
        {"settings": SampleOptions(3, graph_scale=2.0)},
        {"settings": SampleOptions(3, style_scale=2.0), "style": Image.new("RGB", (40, 30), "red")},
        {"settings": SampleOptions(3, layout="search")},
    ]
    pictures = [pixels(sample_images(glass, **{**plain, **change}))[0] for change in changes]
    assert len(set(pictures)) == len(pictures)


def test_a_layout_is_the_pictures_own_and_what_it_is_made_with(glass):
    graph = SceneGraph(("circle", "square"), (), (), ((0, "left of", 1),))
    searched, free = SampleOptions(3, layout="search"), SampleOptions(3)
    complete = [generate_layout(graph, seed)[0] for seed in (1, 2)]
    assert complete[0] != complete[1]
    made = pixels(sample_images(glass, [graph, graph], [1, 2], searched))
    assert made == pixels(sample_images(glass, complete, [1, 2], free))
    assert made == pixels(sample_images(glass, complete, [1, 2], searched))
    assert apply_layout(graph, 1, searched) == (complete[0], "") and apply_layout(graph, 1, free) == (graph, "")


def test_the_search_is_usual_where_attention_leans_towards_boxes(monkeypatch):
    model = tiny_model()
    assert default_layout(model) == "none"
    monkeypatch.setattr(model.unet, "box_bias", True)
    assert default_layout(model) == "search"


def test_an_unknown_layout_or_sampler_is_refused():
    with pytest.raises(UserError, match="no layout 'serch', only search and none; did you mean 'search'"):
        SampleOptions(layout="serch")
    with pytest.raises(UserError, match="no sampler 'ddm'"):
        SampleOptions(sampler="ddm")


def test_pictures_of_one_run_have_seeds_of_their_own():
    assert len({derive_seed(seed, graph, repeat) for seed in range(3) for graph in range(20) for repeat in range(5)}) == 300


def test_batch_size_changes_no_file(sample):
    one = sample("--split", "validation", "--n-per-graph", 2, "--batch-size", 1, outdir="one")
    three = sample("--split", "validation", "--n-per-graph", 2, "--batch-size", 3, outdir="three")
    assert files(one) == files(three)
    assert len(list((one / "images").iterdir())) == 8 and len(list((one / "graphs").iterdir())) == 4


def test_two_processes_fill_the_same_folder_as_one(sample, run, tmp_path):
    one = sample("--split", "validation", outdir="one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--", SCRIPT]
    words = ["--run", run, "--steps", "2", "--device", "cpu", "--outdir", tmp_path / "two", "--split", "validation"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run([*torchrun, *words, "--n", "4"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "two") == files(one)


def test_what_is_missing_or_broken_is_made_again_and_nothing_else(sample):
    folder = sample("--split", "validation")
    before = files(folder)
    gone, broken, kept = (folder / "images" / f"{index:06}_00.png" for index in (0, 1, 2))
    gone.unlink()
    (folder / "index.jsonl").unlink()
    broken.write_bytes(broken.read_bytes()[:-50])
    time = kept.stat().st_mtime_ns
    assert files(sample("--split", "validation", "--batch-size", 2)) == before
    assert kept.stat().st_mtime_ns == time


def test_a_process_alone_makes_its_share_and_the_last_one_writes_the_index(sample, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    folder = sample("--split", "validation")
    assert sorted(p.name for p in (folder / "images").iterdir()) == ["000001_00.png", "000003_00.png"]
    assert not (folder / "index.jsonl").exists()
    monkeypatch.setenv("RANK", "0")
    sample("--split", "validation")
    lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    assert [line["graph_index"] for line in lines] == [0, 1, 2, 3]
    assert all((folder / line["file"]).is_file() for line in lines)


def test_more_pictures_of_the_same_graphs_leave_the_first_ones(sample):
    few = files(sample("--split", "validation", "--n", 2, "--n-per-graph", 1))
    more = files(sample("--split", "validation", "--n", 3, "--n-per-graph", 2))
    assert {name: more[name] for name in few if name.startswith("images")} == {
        name: content for name, content in few.items() if name.startswith("images")
    }
    assert more["index.jsonl"].count(b"\n") == 6


def test_each_record_says_how_its_picture_was_made(sample, graphs, run, tmp_path):
    model = load_model(checkpoint_of(run))
    write_graphs(tmp_path / "graphs.json", graphs)
    folder = sample("--sg", tmp_path / "graphs.json", "--eta", 0.5)
    for line, graph in zip((folder / "index.jsonl").read_text().splitlines(), graphs):
        record = json.loads(line)
        assert SceneGraph.from_json(record["graph"]) == graph
        settings = SampleOptions(record["steps"], record["eta"], record["graph_scale"], record["style_scale"])
        again = sample_images(model, [graph], [record["seed"]], settings)[0]
        assert again.tobytes() == Image.open(folder / record["file"]).tobytes()
    assert Image.open(folder / "sheet.png").width > 400


def test_a_searched_layout_is_in_the_record_and_the_folder_the_same_in_one_go_in_pieces_and_in_shares(
    sample, graphs, tmp_path, monkeypatch, capsys
):
    circle = SceneGraph(("circle", "square"), (), (), ((0, "left of", 1), (1, "left of", 0)))
    write_graphs(tmp_path / "graphs.json", [*graphs, circle])
    words = "--sg", tmp_path / "graphs.json", "--layout", "search", "--n-per-graph", 2
    whole = files(sample(*words, outdir="whole"))
    assert "graph 5, picture 1: no boxes were found with which" in capsys.readouterr().err
    sample(*words[:-2], "--n", 2, outdir="pieces")
    (tmp_path / "pieces" / "images" / "000000_00.png").unlink()
    assert files(sample(*words, "--batch-size", 3, outdir="pieces")) == whole
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        shares = sample(*words, outdir="shares")
    assert files(shares) == whole

    records = [json.loads(line) for line in whole["index.jsonl"].splitlines()]
    for record in records:
        told = SceneGraph.from_json(record["graph"])
        complete, complaint = generate_layout(told, record["seed"])
        assert record["layout"] == "search" and record.get("complaint", "") == complaint
        assert record.get("boxes") == (None if all(told.boxes) else [list(box) for box in complete.boxes])
    assert {record["graph_index"] for record in records if "complaint" in record} == {5}
    boxes = [record["boxes"] for record in records if record["graph_index"] == 4]
    assert boxes[0] != boxes[1]


def test_the_layout_is_the_usual_one_where_none_is_asked_for(sample, monkeypatch):
    for usual in ("none", "search"):
        monkeypatch.setattr("ldm.sampling.sample.default_layout", lambda model, usual=usual: usual)
        lines = (sample("--split", "validation", outdir=usual) / "index.jsonl").read_text().splitlines()
        assert [json.loads(line)["layout"] for line in lines] == [usual] * 4


def test_a_folder_of_other_settings_is_refused(sample, door, run, capsys):
    folder = sample("--split", "validation")
    words = ["--run", str(run), "--steps", "3", "--device", "cpu", "--outdir", str(folder), "--split", "validation"]
    assert door.main(words) == 2
    assert "steps 2, not 3: choose another --outdir" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--split", "test"], "it has train, validation"),
        (["--split", "validation", "--n", "5"], "there are 4 graphs"),
        (["--sg", "nowhere.json"], "nowhere.json"),
        (["--split", "validation", "--style", "nowhere.png"], "nowhere.png"),
        (["--split", "validation", "--device", "gpu7"], "gpu7"),
        (["--split", "validation", "--steps", "1000"], "1000 DDIM steps"),
        (["--split", "validation", "--ckpt", "nowhere.ckpt"], "nowhere.ckpt"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(door, run, tmp_path, capsys, words, sentence):
    base = ["--device", "cpu", "--outdir", str(tmp_path / "out")]
    base += [] if "--ckpt" in words else ["--run", str(run)]
    assert door.main([*base, *words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sample.py")]
    assert len(errors) == 1 and sentence in errors[0]
    assert not (tmp_path / "out").exists()


def test_processes_that_do_not_know_where_to_are_refused(door, run, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert door.main(["--run", str(run), "--split", "validation"]) == 2
    assert "--outdir" in capsys.readouterr().err


def test_help_does_not_wait_for_torch():
    done = subprocess.run([sys.executable, "-X", "importtime", SCRIPT, "--help"], capture_output=True, text=True)
    assert "--n-per-graph" in done.stdout and "| argparse" in done.stderr and "torch" not in done.stderr


def test_the_index_is_written_by_whoever_finds_all_pictures_there(tmp_path):
    image = Image.new("RGB", (8, 8))
    names = [gallery.image_path(index, 0) for index in range(3)]
    for name in names[:2]:
        gallery.save(tmp_path / name, image, {"file": name})
    assert not gallery.finish(tmp_path, names, lambda: image)
    gallery.save(tmp_path / names[2], image, {"file": names[2]})
    assert gallery.finish(tmp_path, names, lambda: image)
    assert [json.loads(line)["file"] for line in (tmp_path / "index.jsonl").read_text().splitlines()] == names
