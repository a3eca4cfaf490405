"""Programs that are killed at random moments: nothing is lost, and the finished result is that of an undisturbed run.

KILLS (default 4) is the number of kills for each program; `make fuzz` makes more.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from noise_vg import training_config, write_noise_vg
from omegaconf import OmegaConf
from paths import ROOT
from PIL import Image

from ldm.data.demo import DemoValidation
from ldm.graph import write_graphs
from ldm.synthetic.shapes import render
from ldm.util.files import LEFTOVER

KILLS = int(os.environ.get("KILLS", "4"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

pytestmark = pytest.mark.slow


def start(command: list) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(command: list) -> float:
    """Runs a program to its end; returns the seconds that it took."""
    begin = time.monotonic()
    program = start(command)
    _, errors = program.communicate()
    assert program.returncode == 0, errors.decode()
    return time.monotonic() - begin


def kill_at_random(command: list, seconds: float, rng: random.Random) -> None:
    """Kills the program after up to `seconds`, mostly in its last half, when it writes."""
    program = start(command)
    try:
        program.wait(seconds * rng.triangular(0.2, 1.0, 0.8))
    except subprocess.TimeoutExpired:
        program.kill()
    program.communicate()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def check_no_partial_files(folder: Path) -> None:
    """Whatever has a final name after a kill is complete."""
    for path in folder.rglob("*"):
        if path.suffix == ".png" and not LEFTOVER.fullmatch(path.name):
            with Image.open(path) as image:
                image.load()
        if path.name == "index.jsonl":
            [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def graphs(tmp_path):
    scenes = [DemoValidation(8, 32).scene(i) for i in range(6)]
    write_graphs(tmp_path / "graphs.json", [graph for graph, _ in scenes])
    lines = []
    for index, (graph, background) in enumerate(scenes):
        render(graph, background, 64).save(tmp_path / f"{index}.png")
        other = SIDES[graph.objects[0]]
        edited = graph.to_json() | {"objects": [other, *graph.objects[1:]]}
        lines.append(json.dumps({"ref": f"{index}.png", "source_sg": graph.to_json(), "sg": edited}) + "\n")
    (tmp_path / "edits.jsonl").write_text("".join(lines))
    return tmp_path


SIDES = {"circle": "square", "square": "triangle", "triangle": "circle"}


@pytest.mark.parametrize("name", ["sample", "edit"])
def test_killed_sampling_and_editing_end_with_the_files_of_an_undisturbed_run(graphs, checkpoint, name):
    def command(folder):
        model = ["--ckpt", checkpoint, "--device", "cpu", "--steps", 20, "--outdir", folder]
        if name == "sample":
            return ["scripts/sample.py", "--sg", graphs / "graphs.json", "--n-per-graph", 2, "--batch-size", 1, *model]
        return ["scripts/ddim_invert_edit.py", "--batch", graphs / "edits.jsonl", "--sampler", "ddim", *model]

    seconds, rng = finish(command(graphs / "undisturbed")), random.Random(0)
    for _ in range(KILLS):
        kill_at_random(command(graphs / "killed"), seconds, rng)
        if (graphs / "killed").exists():
            check_no_partial_files(graphs / "killed")
    finish(command(graphs / "killed"))
    assert files_of(graphs / "killed") == files_of(graphs / "undisturbed")


def test_a_killed_cache_ends_with_the_files_of_an_undisturbed_run(tmp_path):
    config = tmp_path / "made.yaml"
    OmegaConf.save(OmegaConf.create(training_config(write_noise_vg(tmp_path / "vg"))), config)

    def command(folder):
        sizes = ["--batch-size", 1, "--num-workers", 0, "--shard-size", 2]
        return ["scripts/cache_latents.py", "--config", config, "--out", folder, "--device", "cpu", *sizes]

    seconds, rng = finish(command(tmp_path / "undisturbed")), random.Random(2)
    for _ in range(KILLS):
        kill_at_random(command(tmp_path / "killed"), seconds, rng)
    finish(command(tmp_path / "killed"))
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "undisturbed")


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_training_resumes_from_a_whole_checkpoint_and_ends_with_the_same_weights(tmp_path, processes):
    steps = 12

    def command(*words):
        options = [
            "data.params.batch_size=2",
            f"lightning.trainer.max_steps={steps}",
            "lightning.trainer.val_check_interval=4",
        ]
        options += ["lightning.trainer.limit_val_batches=1", "data.params.num_workers=0"]
        return ["trainer.py", *words, "-t", "--gpus", f"cpu:{processes}", *options]

    base = ["--base", "configs/flat/adapters.yaml"]
    seconds = finish(command(*base, "--logdir", tmp_path / "undisturbed"))
    (undisturbed,) = (tmp_path / "undisturbed").iterdir()
    other_file_system = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    logs = other_file_system / f"killed-{os.getpid()}"
    rng = random.Random(1)
    try:
        for _ in range(KILLS):
            run = last_run(logs)
            kill_at_random(command(*(["--resume", run] if run else [*base, "--logdir", logs])), seconds, rng)
            for path in logs.rglob("*.ckpt"):
                if not LEFTOVER.fullmatch(path.name):
                    torch.load(path, weights_only=True)
        run = last_run(logs)
        finish(command(*(["--resume", run] if run else [*base, "--logdir", logs])))
        weights = [
            torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for folder in (undisturbed, last_run(logs))
        ]
    finally:
        subprocess.run(["rm", "-rf", logs], check=True)
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def last_run(logs: Path) -> Path | None:
    """The last log folder that has a checkpoint."""
    runs = [path.parents[1] for path in logs.glob("*/checkpoints/last.ckpt")]
    return max(runs, default=None)
