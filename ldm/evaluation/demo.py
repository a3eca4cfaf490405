"""The whole method in small: adapters are trained on frozen weights that ship, then make one edit of each kind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ldm import plots
from ldm.checkpoints import shipped
from ldm.editing.options import EditRequest
from ldm.editing.pipeline import edit
from ldm.evaluation.edit_tasks import OPERATIONS, EditTask
from ldm.evaluation.editors import true_answer
from ldm.evaluation.task_sources import TaskSource, find_tasks
from ldm.graph.diff import diff
from ldm.graph.graph_files import write_graphs
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.models.loading import load_model
from ldm.sampling.options import SampleOptions
from ldm.sampling.sample import sample_images
from ldm.synthetic.checker import check
from ldm.synthetic.worlds import find_reader
from ldm.util.errors import UserError

FOLDER = Path("outputs/demo")
SCENES = 8  # held-out scenes that are sampled, before and after training
SAMPLING = SampleOptions(sampler="dpm++", steps=10, graph_scale=2.0, style_scale=2.0)


class Demo(NamedTuple):
    """What the demo shows.

    Args:
        scenes: name of the world.
        weights: the set of frozen weights that ship for it.
        configs: of the adapters' training.
        folder: of held-out scenes and their edits, if these are not drawn.
        first_task: number of the first edit, where they are drawn.
    """

    scenes: str
    weights: str
    configs: tuple[str, ...]
    folder: str | None = None
    first_task: int = 0

    @property
    def source(self) -> TaskSource:
        return find_tasks(self.scenes, self.folder)

    def task(self, operation: str) -> EditTask:
        """The held-out edit of this kind that the demo makes."""
        number = self.first_task + OPERATIONS.index(operation) if self.folder is None else 0
        return self.source.task(operation, number)


DEMOS = {
    "rendered": Demo("rendered", "demo", ("configs/demo.yaml", "configs/demo/quick.yaml"), "data/demo/examples"),
    "shapes": Demo("shapes", "flat", ("configs/flat/adapters.yaml",), first_task=20),
}


def run(scenes: str) -> int:
    """Trains, samples and edits in one world; returns the exit code."""
    demo = DEMOS[scenes]
    os.chdir(shipped.ROOT)  # configs and weights are named from there
    shipped.shipped_adapters(demo.weights)
    FOLDER.mkdir(parents=True, exist_ok=True)
    before = sample_scenes(load_model(config=demo.configs), demo.source)
    try:
        log_folder = train(demo)
    except subprocess.CalledProcessError as error:  # the trainer has printed the reason
        return error.returncode
    model = load_model(log_folder)
    compare(before, sample_scenes(model, demo.source), demo.source).save(FOLDER / "samples.png")
    print("\nOne edit of each kind, of images that no training saw:")
    panels = [edit_and_judge(model, demo.task(operation)) for operation in OPERATIONS]
    plots.grid(panels, columns=2).save(FOLDER / "edits.png")
    print(f"\nSamples before and after training: {FOLDER}/samples.png")
    print(f"The edits, each with the checker's verdict: {FOLDER}/edits.png")
    print("To repeat one of them with these adapters:")
    files = f"--ref {FOLDER}/replace.png --source-sg {FOLDER}/replace_source.json --sg {FOLDER}/replace.json"
    print(f"  python scripts/ddim_invert_edit.py --run {log_folder} {files}")
    return 0


def train(demo: Demo) -> Path:
    """Trains the adapters by trainer.py, in a log folder of their own. Raises CalledProcessError."""
    logs = tempfile.mkdtemp(prefix="logs_", dir=FOLDER)
    command = ["trainer.py", "--base", *demo.configs, "-t", "--gpus", "cpu:2", "--logdir", logs]
    command += ["lightning.trainer.log_every_n_steps=10"]
    print(f"\n$ python {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, *command], check=True)
    log_folder = max(Path(logs).glob(f"????-??-??T??-??-??_{Path(demo.configs[0]).stem}"))
    first, last = read_losses(log_folder)
    print(f"loss: {first:.3f} over the first tenth of the steps, {last:.3f} over the last")
    return log_folder


def read_losses(log_folder: Path) -> tuple[float, float]:
    """Mean training loss over the first and the last tenth of the steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log_folder / "tensorboard"))
    events.Reload()
    values = [event.value for event in events.Scalars("train/loss_simple")]
    tenth = max(1, len(values) // 10)
    return sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth


def sample_scenes(model: LatentDiffusion, source: TaskSource) -> list[Image.Image]:
    """Samples the first held-out scenes, each from its graph, in its own image's style, with fixed noise."""
    return [sample_images(model, [source.graph(i)], [i], SAMPLING, source.picture(i))[0] for i in range(SCENES)]


def compare(before: list[Image.Image], after: list[Image.Image], source: TaskSource) -> Image.Image:
    """Prints how many samples show their graphs, and puts true images and samples side by side."""
    for when, images in (("before", before), ("after", after)):
        passed = sum(check(source.graph(i), image, source.scenes).passed for i, image in enumerate(images))
        print(f"samples {when} training: {passed} of {SCENES} show exactly their graph")
    rows = [[("true image", source.picture(i)), ("before", before[i]), ("after", after[i])] for i in range(SCENES)]
    return plots.grid([plots.panel(row, height=160) for row in rows], columns=2)


def edit_and_judge(model: LatentDiffusion, task: EditTask) -> Image.Image:
    """The panel of one edit, with the checker's verdict. Graphs and photograph are written to FOLDER."""
    operation = task.operation
    task.picture.save(FOLDER / f"{operation}.png")
    write_graphs(FOLDER / f"{operation}_source.json", [task.source])
    write_graphs(FOLDER / f"{operation}.json", [task.target])
    request = summarize([str(it) for it in diff(task.source, task.target)] or ["transfer the style of another image"])
    images = [("before", task.picture), ("true result", true_answer(task))]
    try:
        result = edit(model, EditRequest(task.picture, task.target, task.source, task.reference))
    except UserError as error:
        verdict = f"refused: {error}"
    else:
        images.insert(1, ("after", result.image))
        faults = find_faults(task, result.image)
        verdict = f"wrong: {summarize(faults)}" if faults else "right"
    print(f"  {operation:9} {request}\n{'':11} checker: {verdict}", flush=True)
    if task.reference:
        images.insert(1, ("style", task.reference))
    return plots.panel(images, [f"{operation}: {request}", f"checker: {verdict}"], height=192)


def find_faults(task: EditTask, image: Image.Image) -> list[str]:
    """What the checker finds wrong with an edit; nothing if the image shows exactly the target graph and style."""
    reader = find_reader(task.scenes)
    reading = reader.read_scene(image)
    faults = list(check(task.target, reading, task.scenes).complaints)
    if task.reference and not reader.same_style(reading.style, reader.read_scene(task.reference).style):
        faults.append("the background does not have the reference's style")
    return faults


def summarize(sentences: list[str]) -> str:
    """The first sentence, and how many more there are."""
    more = len(sentences) - 1
    return sentences[0] + (f" (and {more} more)" if more else "")
