"""Sampling many graphs: what an image depends on, and a folder that any number of processes fill."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from PIL import Image
from tiny import adapted_model, tiny_model

from ldm.data.demo import DemoValidation
from ldm.editing.diagnostics import Previews
from ldm.graph.graph_files import write_graphs
from ldm.graph.layout import generate_layout
from ldm.graph.scene_graph import SceneGraph
from ldm.models.loading import load_model
from ldm.modules.lora import LoRALinear, lora_layers
from ldm.sampling.folder import image_path
from ldm.sampling.options import SampleOptions
from ldm.sampling.sample import (
    ROWS,
    _sample_pass,
    apply_layout,
    default_layout,
    derive_seed,
    sample_images,
    worker_pool,
)
from ldm.util.errors import UserError
from ldm.util.image_folder import save_image, write_index

SCRIPT = ROOT / "scripts" / "sample.py"
OPTIONS = SampleOptions(steps=4, eta=1.0, graph_scale=2.0, style_scale=3.0)


@pytest.fixture(scope="module")
def model():
    return adapted_model().eval()


@pytest.fixture
def sensitive_model(model, monkeypatch):
    """The model with a decoder that shows the last bits of a latent, which a first stage would round away."""
    monkeypatch.setattr(model, "decode", lambda z: (z[:, :3] * 1e5).sin())
    return model


@pytest.fixture
def run(checkpoint):
    """The log folder of a run."""
    return checkpoint.parents[1]


@pytest.fixture(scope="module")
def graphs():
    dataset = DemoValidation(5, 32)
    return [dataset[i][1] for i in range(4)] + [SceneGraph(("circle",))]


@pytest.fixture
def program(load_script):
    return load_script("sample").main


@pytest.fixture
def sample(program, run, tmp_path):
    """sample(words, outdir="out") -> the output folder of the program, with two steps."""

    def call(*words, outdir="out"):
        folder = tmp_path / outdir
        base = ["--run", str(run), "--steps", "2", "--device", "cpu", "--outdir", str(folder)]
        assert program([*base, *map(str, words)]) == 0
        return folder

    return call


def pixels(images):
    return [image.tobytes() for image in images]


def files(folder):
    """Everything in a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_image_is_the_same_alone_among_others_and_with_any_number_of_threads(sensitive_model, graphs):
    model = sensitive_model
    seeds = [derive_seed(7, index, 0) for index in range(5)]
    style = Image.new("RGB", (40, 30), "red")
    together = pixels(sample_images(model, graphs, seeds, OPTIONS, style))
    alone = [pixels(sample_images(model, [g], [s], OPTIONS, style))[0] for g, s in zip(graphs, seeds)]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    backwards = pixels(sample_images(model, graphs[::-1], seeds[::-1], OPTIONS, style))[::-1]
    torch.set_num_threads(before)
    assert together == alone == backwards
    assert len(set(together)) == 5
    assert torch.get_num_threads() == before


def test_a_variable_number_of_rows_would_change_the_images(sensitive_model, graphs):
    """Negative control of the test above: here a pass has as many rows as there are images."""
    seeds = [1, 2, 3, 4, 5]
    together = pixels(_sample_pass(sensitive_model, graphs, seeds, OPTIONS, None, 5))
    assert together != [
        pixels(_sample_pass(sensitive_model, [g], [s], OPTIONS, None, 1))[0] for g, s in zip(graphs, seeds)
    ]


def test_a_pass_on_a_gpu_always_has_the_same_number_of_rows(sensitive_model, graphs, monkeypatch):
    """Checked on the CPU: the shapes matter, and that rows which only fill up are discarded."""
    model, rows, forward = sensitive_model, [], sensitive_model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda x, t, cond: rows.append(len(x)) or forward(x, t, cond))
    options = SampleOptions(steps=2, eta=1.0)
    many = _sample_pass(model, graphs, [1, 2, 3, 4, 5], options, None, ROWS)
    one = _sample_pass(model, graphs[:1], [1], options, None, ROWS)
    assert set(rows) == {ROWS}
    assert len(many) == 5 and pixels(one) == pixels(many)[:1]


def test_merged_lora_gives_the_images_of_separate_lora(model, graphs, monkeypatch):
    """To 1e-4 of the latents' norm: four steps of sums in another order. Without LoRA the image differs by more."""
    latents, layers = [], []
    monkeypatch.setattr(model, "decode", lambda z: latents.append(z) or z[:, :3])
    forward = LoRALinear.forward
    monkeypatch.setattr(LoRALinear, "forward", lambda self, x: layers.append(self) or forward(self, x))
    with monkeypatch.context() as separate:
        separate.setattr("ldm.sampling.sample.merge_lora", lambda unet: unet)
        sample_images(model, graphs[:1], [1], OPTIONS)
    assert layers
    layers.clear()
    sample_images(model, graphs[:1], [1], OPTIONS)
    assert not layers and lora_layers(model.unet)
    with monkeypatch.context() as without:
        without.setattr("ldm.sampling.sample.merge_lora", without_adapters)
        sample_images(model, graphs[:1], [1], OPTIONS)
    separately, merged, without_lora = latents
    assert (merged - separately).norm() < 1e-4 * separately.norm() < (without_lora - separately).norm()


def without_adapters(unet):
    unet = copy.deepcopy(unet)
    for layer in lora_layers(unet).values():
        layer.lora_B.data.zero_()
    return unet


def test_seed_graph_style_and_every_option_change_an_image(sensitive_model, graphs):
    plain = dict(graphs=graphs[:1], seeds=[1], options=SampleOptions(3), style=None)
    changes = [
        {},
        {"seeds": [2]},
        {"graphs": graphs[1:2]},
        {"style": Image.new("RGB", (40, 30), "red")},
        {"options": SampleOptions(4)},
        {"options": SampleOptions(3, eta=1.0)},
        {"options": SampleOptions(3, graph_scale=2.0)},
        {"options": SampleOptions(3, style_scale=2.0), "style": Image.new("RGB", (40, 30), "red")},
        {"options": SampleOptions(3, layout="search")},
    ]
    pictures = [pixels(sample_images(sensitive_model, **{**plain, **change}))[0] for change in changes]
    assert len(set(pictures)) == len(pictures)


def test_who_watches_sampling_sees_every_step_and_may_end_it(model, graphs):
    seen, options = [], SampleOptions(steps=3)
    (plain,) = sample_images(model, graphs[:1], [5], options)
    (watched,) = sample_images(model, graphs[:1], [5], options, watch=Previews(0, seen.append).watch)
    assert len(seen) == 3 and watched.tobytes() == plain.tobytes()

    def stop(x0):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sample_images(model, graphs[:1], [5], options, watch=Previews(0, stop).watch)


def test_a_layout_depends_on_the_images_seed_and_is_what_it_is_sampled_with(sensitive_model):
    graph = SceneGraph(("circle", "square"), (), (), ((0, "left of", 1),))
    searched, free = SampleOptions(3, layout="search"), SampleOptions(3)
    complete = [generate_layout(graph, seed)[0] for seed in (1, 2)]
    assert complete[0] != complete[1]
    made = pixels(sample_images(sensitive_model, [graph, graph], [1, 2], searched))
    assert made == pixels(sample_images(sensitive_model, complete, [1, 2], free))
    assert made == pixels(sample_images(sensitive_model, complete, [1, 2], searched))
    assert apply_layout(graph, 1, searched) == (complete[0], "") and apply_layout(graph, 1, free) == (graph, "")


def test_layout_search_is_the_default_where_attention_is_biased_towards_boxes(monkeypatch):
    model = tiny_model()
    assert default_layout(model) == "none"
    monkeypatch.setattr(model.unet, "box_bias", True)
    assert default_layout(model) == "search"


def test_an_unknown_layout_or_sampler_is_refused():
    with pytest.raises(UserError, match="'search'"):
        SampleOptions(layout="serch")
    with pytest.raises(UserError, match="sampler"):
        SampleOptions(sampler="ddm")


def test_all_images_of_a_run_have_different_seeds():
    assert (
        len({derive_seed(seed, graph, repeat) for seed in range(3) for graph in range(20) for repeat in range(5)})
        == 300
    )


def test_batch_size_changes_no_file(sample):
    one = sample("--split", "validation", "--n-per-graph", 2, "--batch-size", 1, outdir="one")
    three = sample("--split", "validation", "--n-per-graph", 2, "--batch-size", 3, outdir="three")
    assert files(one) == files(three)
    assert len(list((one / "images").iterdir())) == 8 and len(list((one / "graphs").iterdir())) == 4


def test_two_processes_fill_the_same_folder_as_one(sample, run, tmp_path):
    one = sample("--split", "validation", outdir="one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--", SCRIPT]
    words = ["--run", run, "--steps", "2", "--device", "cpu", "--outdir", tmp_path / "two", "--split", "validation"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*torchrun, *words, "--n", "4"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "two") == files(one)


def test_missing_and_broken_images_are_sampled_again_and_no_others(sample):
    folder = sample("--split", "validation")
    before = files(folder)
    gone, broken, kept = (folder / "images" / f"{index:06}_00.png" for index in (0, 1, 2))
    gone.unlink()
    (folder / "index.jsonl").unlink()
    broken.write_bytes(broken.read_bytes()[:-50])
    time = kept.stat().st_mtime_ns
    assert files(sample("--split", "validation", "--batch-size", 2)) == before
    assert kept.stat().st_mtime_ns == time


def test_each_process_samples_its_share_and_the_last_one_writes_the_index(sample, monkeypatch):
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


def test_more_images_of_the_same_graphs_leave_the_first_ones(sample):
    few = files(sample("--split", "validation", "--n", 2, "--n-per-graph", 1))
    more = files(sample("--split", "validation", "--n", 3, "--n-per-graph", 2))
    assert {name: more[name] for name in few if name.startswith("images")} == {
        name: content for name, content in few.items() if name.startswith("images")
    }
    assert more["index.jsonl"].count(b"\n") == 6


def test_each_record_says_how_its_image_was_made(sample, graphs, checkpoint, tmp_path):
    model = load_model(checkpoint)
    write_graphs(tmp_path / "graphs.json", graphs)
    folder = sample("--sg", tmp_path / "graphs.json", "--eta", 0.5)
    for line, graph in zip((folder / "index.jsonl").read_text().splitlines(), graphs):
        record = json.loads(line)
        assert SceneGraph.from_json(record["graph"]) == graph
        options = SampleOptions(record["steps"], record["eta"], record["graph_scale"], record["style_scale"])
        again = sample_images(model, [graph], [record["seed"]], options)[0]
        assert again.tobytes() == Image.open(folder / record["file"]).tobytes()
    assert Image.open(folder / "sheet.png").width > 400


def test_a_searched_layout_is_recorded_and_the_same_in_one_run_in_several_and_in_processes(
    sample, graphs, tmp_path, monkeypatch, capsys
):
    circle = SceneGraph(("circle", "square"), (), (), ((0, "left of", 1), (1, "left of", 0)))
    write_graphs(tmp_path / "graphs.json", [*graphs, circle])
    words = "--sg", tmp_path / "graphs.json", "--layout", "search", "--n-per-graph", 2
    whole = files(sample(*words, outdir="whole"))
    assert "graph 5, image 1" in capsys.readouterr().err
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
        graph = SceneGraph.from_json(record["graph"])
        complete, complaint = generate_layout(graph, record["seed"])
        assert record["layout"] == "search" and record.get("complaint", "") == complaint
        assert record.get("boxes") == (None if all(graph.boxes) else [list(box) for box in complete.boxes])
    assert {record["graph_index"] for record in records if "complaint" in record} == {5}
    boxes = [record["boxes"] for record in records if record["graph_index"] == 4]
    assert boxes[0] != boxes[1]


def test_the_default_layout_is_the_models(sample, monkeypatch):
    for usual in ("none", "search"):
        monkeypatch.setattr("ldm.sampling.sample.default_layout", lambda model, usual=usual: usual)
        lines = (sample("--split", "validation", outdir=usual) / "index.jsonl").read_text().splitlines()
        assert [json.loads(line)["layout"] for line in lines] == [usual] * 4


def test_a_folder_with_images_of_other_options_is_refused(sample, program, run, capsys):
    folder = sample("--split", "validation")
    words = ["--run", str(run), "--steps", "3", "--device", "cpu", "--outdir", str(folder), "--split", "validation"]
    assert program(words) == 2
    assert "steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--split", "test"], "train, validation"),
        (["--split", "validation", "--n", "5"], "4 graphs"),
        (["--sg", "nowhere.json"], "nowhere.json"),
        (["--split", "validation", "--style", "nowhere.png"], "nowhere.png"),
        (["--split", "validation", "--device", "gpu7"], "gpu7"),
        (["--split", "validation", "--steps", "1000"], "1000"),
        (["--split", "validation", "--ckpt", "nowhere.ckpt"], "nowhere.ckpt"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(program, run, tmp_path, capsys, words, sentence):
    base = ["--device", "cpu", "--outdir", str(tmp_path / "out")]
    base += [] if "--ckpt" in words else ["--run", str(run)]
    assert program([*base, *words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sample.py")]
    assert len(errors) == 1 and sentence in errors[0]
    assert not (tmp_path / "out").exists()


def test_an_unknown_name_is_found_before_the_model_is_loaded(program, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ldm.models.loading.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    (tmp_path / "graphs.json").write_text('[{"objects": ["circle"]}, {"objects": ["cirle"]}]')
    assert program(["--run", str(run), "--sg", str(tmp_path / "graphs.json"), "--outdir", str(tmp_path / "out")]) == 2
    assert "graph 1, objects[0]: object 'cirle'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_several_processes_need_a_common_output_folder(program, run, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert program(["--run", str(run), "--split", "validation"]) == 2
    assert "--outdir" in capsys.readouterr().err


def test_help_does_not_wait_for_torch():
    done = subprocess.run([sys.executable, "-X", "importtime", SCRIPT, "--help"], capture_output=True, text=True)
    assert "--n-per-graph" in done.stdout and "| argparse" in done.stderr and "torch" not in done.stderr


def test_the_index_is_written_once_all_images_exist(tmp_path):
    image = Image.new("RGB", (8, 8))
    names = [image_path(index, 0) for index in range(3)]
    for name in names[:2]:
        save_image(tmp_path / name, image, {"file": name})
    assert not write_index(tmp_path, names, lambda: image)
    save_image(tmp_path / names[2], image, {"file": names[2]})
    assert write_index(tmp_path, names, lambda: image)
    assert [json.loads(line)["file"] for line in (tmp_path / "index.jsonl").read_text().splitlines()] == names


def test_sampling_on_a_gpu_uses_deterministic_kernels_of_cudnn():
    before = torch.backends.cudnn.allow_tf32
    with worker_pool(torch.device("cuda")):
        assert torch.backends.cudnn.enabled and torch.backends.cudnn.deterministic
        assert torch.backends.cudnn.allow_tf32 == before and not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.deterministic
