import copy
import hashlib
import json
import math
import pickle
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from image_files import save_image
from PIL import Image
from tiny import MODEL, tiny_model

from ldm.evaluation import benchmark, metric_networks, runner
from ldm.evaluation.editors import parse_editor
from ldm.evaluation.image_quality import METRICS
from ldm.evaluation.metric_networks import INCEPTION, LPIPS


@pytest.fixture
def script(load_script):
    return load_script("evaluate")


@pytest.fixture
def main(script, monkeypatch):
    """main(argv) -> exit code; the code's digest is fixed, since the code may be edited while the tests run."""
    monkeypatch.setattr(benchmark, "source_digest", lambda: "digest")
    return script.main


@pytest.fixture
def run(checkpoint):
    """The log folder of a training run, for --run."""
    return checkpoint.parents[1]


def last_line(text):
    return text.strip().splitlines()[-1]


def test_methods_are_separated_at_commas_outside_of_brackets(script):
    text = "edit:interval=[0,0.5],sdedit:strength=0.7:steps=20,edit:interval=[0, 0.5]:keep=true"
    methods = script.parse(["edits", "--methods", text]).methods
    assert methods == ["edit:interval=[0,0.5]", "sdedit:strength=0.7:steps=20", "edit:interval=[0, 0.5]:keep=true"]
    assert parse_editor(methods[0])[1] == {"interval": [0, 0.5]}


def test_edits_are_reported_resumed_and_not_mixed_with_other_settings(run, main, tmp_path, capsys):
    arguments = ["edits", "--run", str(run), "--outdir", str(tmp_path / "out"), "--device", "cpu", "--steps", "2"]
    arguments += ["--operations", "remove,relation", "--methods", "autoencoder,plain"]
    assert main([*arguments, "--n", "1"]) == 0
    assert main([*arguments, "--n", "2"]) == 0
    table = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {(entry["method"], entry["operation"], entry["edits"]) for entry in result["results"]} == {
        (method, operation, count)
        for method in ("autoencoder", "plain")
        for operation, count in (("remove", 2), ("relation", 2), ("all", 4))
    }
    assert result["protocol"]["edit"] in table
    assert result["protocol"]["steps"] == 2 and result["protocol"]["measures"]["intact"]
    assert result["versions"]["torch"] == version("torch") and result["arguments"]["n"] == 2
    assert (tmp_path / "out" / "table.md").read_text() in table
    assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 1 + 8
    assert Image.open(tmp_path / "out" / "sheet_plain.png").width > 600
    assert main([*arguments, "--n", "2", "--graph-scale", "3"]) == 2
    assert "graph_scale 2.0, not 3.0" in last_line(capsys.readouterr().err)


def test_rows_of_other_code_are_refused(run, main, tmp_path, capsys, monkeypatch):
    arguments = ["edits", "--run", str(run), "--outdir", str(tmp_path), "--device", "cpu", "--n", "1"]
    arguments += ["--operations", "remove", "--methods", "autoencoder"]
    assert main(arguments) == 0
    monkeypatch.setattr(benchmark, "source_digest", lambda: "other")
    assert main(arguments) == 2
    error = last_line(capsys.readouterr().err)
    assert "code of ldm/ digest, not other" in error and "--outdir" in error


OTHER_EDITORS = """
from ldm.evaluation.editors import EditResult

def truth(model, task, share=0.5, seed=None):
    assert share == 1 and seed == 5 and model.vocab
    return EditResult(task.truth, 0)
"""


def test_an_editor_in_the_current_folder_is_measured_and_again_when_its_file_changes(run, main, tmp_path, monkeypatch):
    """What the workers get is pickled here, and unpickled; that they find modules of this process is tested elsewhere."""

    def run_jobs_with_pickled_prepare(folder, settings, jobs, prepare, workers, *others):
        assert workers == 2
        return runner.run_jobs(folder, settings, jobs, pickle.loads(pickle.dumps(prepare)), 1, *others)

    monkeypatch.setattr(benchmark, "run_jobs", run_jobs_with_pickled_prepare)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])  # the script adds the current folder itself
    module = tmp_path / "editors_of_the_current_folder.py"
    module.write_text(OTHER_EDITORS)
    arguments = ["edits", "--run", str(run), "--outdir", "out", "--device", "cpu", "--workers", "2", "--seed", "5"]
    arguments += ["--operations", "remove", "--n", "2", "--methods", f"autoencoder,{module.stem}.truth:share=1"]
    stored = []
    for _ in range(3):
        assert main(arguments) == 0
        results = json.loads(Path("out/report.json").read_text())["results"]
        assert results[-1]["method"] == f"{module.stem}.truth:share=1" and results[-1]["success"] == 1
        stored.append(len(Path("out/rows.jsonl").read_text().splitlines()) - 1)
        if len(stored) == 2:
            module.write_text(OTHER_EDITORS + "\n")
    assert stored == [4, 4, 6]
    sys.modules.pop(module.stem)


def test_samples_are_reported_for_each_kind_of_graph(run, main, tmp_path, capsys):
    arguments = ["scenes", "--run", str(run), "--outdir", str(tmp_path), "--device", "cpu", "--steps", "2", "--n", "2"]
    assert main([*arguments, "--references", "same,none", "--boxes", "all,none"]) == 0
    results = json.loads((tmp_path / "report.json").read_text())["results"]
    assert [(entry["boxes"], entry["layout"], entry["reference"], entry["scenes"]) for entry in results] == [
        ("autoencoder", "none", "same", 2),
        ("all", "none", "same", 2),
        ("all", "none", "none", 2),
        ("none", "none", "same", 2),
        ("none", "none", "none", 2),
        ("none", "search", "same", 2),
        ("none", "search", "none", 2),
    ]
    table = capsys.readouterr().out
    assert "| autoencoder | none | same | 2 |" in table and "| none | search | same | 2 |" in table
    assert Image.open(tmp_path / "sheet.png").width > 400


def test_a_model_without_image_encoder_is_measured_without_references(main, tmp_path, capsys):
    unet = copy.deepcopy(MODEL["params"]["unet_config"])
    del unet["params"]["film_embedding_dim"]
    saved = {}
    tiny_model(global_stage_config=None, unet_config=unet).on_save_checkpoint(saved)
    torch.save(saved, tmp_path / "last.ckpt")
    arguments = ["scenes", "--ckpt", str(tmp_path / "last.ckpt"), "--device", "cpu", "--steps", "2", "--n", "1"]
    arguments += ["--boxes", "all"]
    assert main([*arguments, "--references", "same,none", "--outdir", str(tmp_path / "refused")]) == 2
    assert "--references same,none" in last_line(capsys.readouterr().err)
    assert not (tmp_path / "refused").exists()
    assert main([*arguments, "--outdir", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "report.json").read_text())["results"]
    assert [entry["reference"] for entry in results] == ["same", "none"]  # of the autoencoder, and of the samples


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["edits", "--methods", "magic"], "'magic'"),
        (["edits", "--operations", "remov"], "'remove'"),
        (["scenes", "--boxes", "many"], "many"),
        (["scenes", "--layout", "serch"], "'search'"),
        (["scenes", "--references", "sane"], "'same'"),
        (["scenes", "--scenes", "shape"], "'shape'"),
        (["scenes", "--words", "embed"], "--renamed"),
    ],
)
def test_a_mistake_exits_with_2_and_one_line_before_anything_is_written(run, main, tmp_path, capsys, arguments, word):
    assert main([*arguments, "--run", str(run), "--device", "cpu", "--outdir", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and word in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command, resumable", [("edits", True), ("scenes", True), ("images", False)])
def test_ctrl_c_exits_with_130_and_tells_whether_the_command_can_be_resumed(
    script, monkeypatch, capsys, command, resumable
):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, f"report_on_{command}", interrupt)
    assert script.main([command, *(["--samples", "."] if command == "images" else [])]) == 130
    errors = capsys.readouterr().err
    assert errors.startswith("evaluate.py: stopped") and errors.count("\n") == 1
    assert ("continues" in errors) == resumable


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def samples(tmp_path):
    """A folder of twelve images."""
    for number in range(12):
        save_image(tmp_path / f"samples/{number:02}.png", (20 * number, 100, 200 - number))
    return tmp_path / "samples"


def mean_colour(images):
    return images.double().mean((2, 3)), images.double().mean((2, 3))


def test_images_are_reported_with_the_protocol_of_every_number(main, samples, tmp_path, monkeypatch, capsys):
    """A colour average takes the place of Inception; AlexNet is real."""
    monkeypatch.setattr(metric_networks, "load_inception", lambda path: SimpleNamespace(to=lambda device: mean_colour))
    (tmp_path / INCEPTION.file).write_bytes(b"weights")
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), tmp_path / LPIPS["alex"].file)
    command = f"images --samples {samples} --reference {samples} --paired --size 32 --workers 0 --device cpu"
    assert main([*command.split(), "--weights", str(tmp_path)]) == 0

    report = json.loads((samples / "report.json").read_text())
    assert list(report["metrics"]) == ["fid", "is", "psnr", "ssim", "lpips"]
    assert all(report["metrics"][name]["protocol"] == METRICS[name] for name in report["metrics"])
    assert report["metrics"]["fid"]["value"] == pytest.approx(0, abs=1e-2)
    assert report["metrics"]["lpips"]["mean"] == pytest.approx(0, abs=1e-6)
    assert report["networks"]["inception"]["package"].startswith("torch-fidelity ")
    assert report["networks"]["inception"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert report["samples"]["images"] == report["reference"]["images"] == 12
    assert "32x32" in report["resizing"] and "bilinear" in report["resizing"]
    assert report["arguments"]["size"] == 32 and "torch" in report["versions"]
    assert "fid" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--reference", "other"], INCEPTION.url),
        (["--metrics", "psnr,sim"], "'ssim'"),
        (["--metrics", "psnr"], "--reference"),
        (["--metrics", "psnr", "--reference", "other"], "other"),
        (["--metrics", "psnr", "--device", "cuda:77"], "cuda:77"),
        (["--metrics", "psnr", "--out", "samples"], "--out samples"),
    ],
)
def test_a_mistake_about_images_exits_with_2_and_one_line(main, samples, monkeypatch, capsys, arguments, word):
    monkeypatch.chdir(samples.parent)
    assert main(["images", "--samples", "samples", "--weights", ".", *arguments]) == 2
    errors = capsys.readouterr().err
    assert word in errors and errors.count("\n") == 1


def test_psnr_and_ssim_need_no_weights(main, tmp_path):
    for number in range(4):
        save_image(tmp_path / f"samples/{number}.png", (100, 120, 90 + number))
        save_image(tmp_path / f"reference/{number}.png", (90, 110, 80 + number))
    command = f"images --samples {tmp_path}/samples --reference {tmp_path}/reference --metrics psnr,ssim --workers 0"
    assert main([*command.split(), "--weights", str(tmp_path), "--out", str(tmp_path / "new/out.json")]) == 0
    report = json.loads((tmp_path / "new/out.json").read_text())
    assert report["metrics"]["psnr"]["mean"] == pytest.approx(20 * math.log10(255 / 10), rel=1e-5)
    assert report["networks"] == {}
