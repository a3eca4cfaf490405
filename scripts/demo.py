"""The whole method in small: train adapters on the frozen weights that ship, then make one edit of each kind, of images
that no training saw, and let the checker judge them. `make demo` runs this.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it
    from ldm.util.cli import Parser

    Parser("demo.py", __doc__).parse_args()  # --help answers before torch is imported; there are no other flags

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from ldm import plots
from ldm.checkpoints import shipped
from ldm.data.demo import DemoValidation
from ldm.editing.options import EditRequest
from ldm.editing.pipeline import edit
from ldm.evaluation.edit_tasks import OPERATIONS, EditTask, make_task
from ldm.graph.diff import diff
from ldm.graph.graph_files import write_graphs
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.loading import load_model
from ldm.sampling.options import SampleOptions
from ldm.sampling.sample import sample_images
from ldm.synthetic.checker import check
from ldm.synthetic.worlds import find_reader
from ldm.util.cli import run_program
from ldm.util.errors import UserError

WEIGHTS = "flat"  # the frozen weights that ship for this world
CONFIG = f"configs/{WEIGHTS}/adapters.yaml"
FOLDER = Path("outputs/demo")
WORLD = "shapes"
SCENES = 8  # validation scenes that are sampled, before and after training
FIRST_TASK = 20  # index of the first held-out scene that is edited
SAMPLING = SampleOptions(steps=30, graph_scale=2.0, style_scale=2.0)


def main() -> int:
    return run_program(run, "demo.py", if_stopped="the next call starts from the beginning")


def run() -> int:
    os.chdir(shipped.ROOT)  # configs and weights are named from there
    shipped.shipped_adapters(WEIGHTS)
    FOLDER.mkdir(parents=True, exist_ok=True)
    before = sample_scenes(load_model(config=CONFIG))
    try:
        log_folder = train()
    except subprocess.CalledProcessError as error:  # the trainer has printed the reason
        return error.returncode
    model = load_model(log_folder)
    compare(before, sample_scenes(model)).save(FOLDER / "samples.png")
    print("\nOne edit of each kind, of images that no training saw:")
    panels = [edit_and_judge(model, operation) for operation in OPERATIONS]
    plots.grid(panels, columns=2).save(FOLDER / "edits.png")
    print(f"\nSamples before and after training: {FOLDER}/samples.png")
    print(f"The edits, each with the checker's verdict: {FOLDER}/edits.png")
    print("To repeat one of them with these adapters (or, without --run, with those that ship):")
    files = f"--ref {FOLDER}/replace.png --source-sg {FOLDER}/replace_source.json --sg {FOLDER}/replace.json"
    print(f"  python scripts/ddim_invert_edit.py --run {log_folder} {files}")
    return 0


def train() -> Path:
    """Trains the adapters by trainer.py, in a log folder of their own. Raises CalledProcessError."""
    logs = tempfile.mkdtemp(prefix="logs_", dir=FOLDER)
    command = ["trainer.py", "--base", CONFIG, "-t", "--gpus", "cpu:2", "--logdir", logs]
    command += ["lightning.trainer.log_every_n_steps=10"]
    print(f"\n$ python {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, *command], check=True)
    log_folder = max(Path(logs).glob(f"????-??-??T??-??-??_{Path(CONFIG).stem}"))
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


def sample_scenes(model: LatentDiffusion) -> list[Image.Image]:
    """Samples the first validation scenes, each from its graph, in its own image's style, with fixed noise."""
    scenes = DemoValidation(SCENES)
    return [sample_images(model, [scenes.scene(i)[0]], [i], SAMPLING, scenes.picture(i))[0] for i in range(SCENES)]


def compare(before: list[Image.Image], after: list[Image.Image]) -> Image.Image:
    """Prints how many samples show their graphs, and puts true images and samples side by side."""
    scenes = DemoValidation(SCENES)
    for when, images in (("before", before), ("after", after)):
        passed = sum(check(scenes.scene(i)[0], image, WORLD).passed for i, image in enumerate(images))
        print(f"samples {when} training: {passed} of {SCENES} show exactly their graph")
    rows = [[("true image", scenes.picture(i)), ("before", before[i]), ("after", after[i])] for i in range(SCENES)]
    return plots.grid([plots.panel(row, height=160) for row in rows], columns=2)


def edit_and_judge(model: LatentDiffusion, operation: str) -> Image.Image:
    """The panel of one edit, with the checker's verdict. Graphs and photograph are written to FOLDER."""
    task = make_task(WORLD, operation, FIRST_TASK + OPERATIONS.index(operation))
    task.picture.save(FOLDER / f"{operation}.png")
    write_graphs(FOLDER / f"{operation}_source.json", [task.source])
    write_graphs(FOLDER / f"{operation}.json", [task.target])
    request = summarize([str(it) for it in diff(task.source, task.target)] or ["transfer the style of another image"])
    images = [("photograph", task.picture), ("right answer", task.truth)]
    try:
        result = edit(model, EditRequest(task.picture, task.target, task.source, task.reference))
    except UserError as error:
        verdict = f"refused: {error}"
    else:
        images.insert(1, ("edited", result.image))
        faults = find_faults(task, result.image)
        verdict = f"wrong: {summarize(faults)}" if faults else "right"
    print(f"  {operation:9} {request}\n{'':11} checker: {verdict}", flush=True)
    if task.reference:
        images.insert(1, ("style", task.reference))
    return plots.panel(images, [f"{operation}: {request}", f"checker: {verdict}"], height=192)


def find_faults(task: EditTask, image: Image.Image) -> list[str]:
    """What the checker finds wrong with an edit; nothing if the image shows exactly the target graph and style."""
    reader = find_reader(WORLD)
    reading = reader.read_scene(image)
    faults = list(check(task.target, reading, WORLD).complaints)
    if task.reference and not reader.same_style(reading.style, reader.read_scene(task.reference).style):
        faults.append("the background does not have the reference's style")
    return faults


def summarize(sentences: list[str]) -> str:
    """The first sentence, and how many more there are."""
    more = len(sentences) - 1
    return sentences[0] + (f" (and {more} more)" if more else "")


if __name__ == "__main__":
    sys.exit(main())
