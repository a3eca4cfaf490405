"""The main job in small: train adapters on the frozen weights that ship, then edit pictures that nothing has seen, one
edit of each kind, and let the checker judge them. `make demo` runs this.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from ldm import plots
from ldm.checkpoints import shipped
from ldm.data.demo import DemoValidation
from ldm.editing.edit import edit
from ldm.evaluation.edit_tasks import OPERATIONS, EditTask, make_task
from ldm.graph.diff import diff
from ldm.graph.scene_graph import write_graphs
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.loading import load_model
from ldm.sampling.sample import SampleOptions, sample_images
from ldm.synthetic.checker import check, same_style
from ldm.synthetic.shapes import read_scene
from ldm.util.cli import configure_logging
from ldm.util.errors import UserError

CONFIG = "configs/demo.yaml"
FOLDER = Path("outputs/demo")
SCENES = 8  # of the validation set: what is sampled, before and after
FIRST_TASK = 20  # number of the held-out scenes that are edited
SAMPLING = SampleOptions(steps=30, graph_scale=2.0, style_scale=2.0)


def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)  # there is nothing to choose, but --help explains
    configure_logging()
    os.chdir(shipped.ROOT)  # from where configs and weights are named
    try:
        shipped.shipped_adapters()
        FOLDER.mkdir(parents=True, exist_ok=True)
        before = samples(load_model(config=CONFIG))
        run = train()
        model = load_model(run / "checkpoints" / "last.ckpt")
        compare(before, samples(model)).save(FOLDER / "samples.png")
        print("\nOne edit of each kind, of pictures that were in no training:")
        panels = [edited(model, operation) for operation in OPERATIONS]
    except UserError as error:
        print(f"demo.py: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:  # which has said why
        return error.returncode
    except KeyboardInterrupt:
        print("\ndemo.py: stopped; the next call begins anew", file=sys.stderr)
        return 130
    plots.grid(panels, columns=2).save(FOLDER / "edits.png")
    print(f"\nSamples before and after training: {FOLDER}/samples.png")
    print(f"The edits, with the checker's verdict on each: {FOLDER}/edits.png")
    print("To do one of them by hand, with these adapters (or, without --run, with those that ship):")
    this = f"--ref {FOLDER}/replace.png --source-sg {FOLDER}/replace_source.json --sg {FOLDER}/replace.json"
    print(f"  python scripts/ddim_invert_edit.py --run {run} {this}")
    return 0


def train() -> Path:
    """A new run's log folder, apart from those of other runs."""
    logs = tempfile.mkdtemp(prefix="logs_", dir=FOLDER)
    command = ["trainer.py", "--base", CONFIG, "-t", "--gpus", "cpu:2", "--logdir", logs]
    command += ["lightning.trainer.log_every_n_steps=10"]
    print(f"\n$ python {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, *command], check=True)
    run = max(Path(logs).glob(f"????-??-??T??-??-??_{Path(CONFIG).stem}"))
    first, last = losses(run)
    print(f"loss: {first:.3f} over the first tenth of the run, {last:.3f} over the last")
    return run


def losses(run: Path) -> tuple[float, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    values = [event.value for event in events.Scalars("train/loss_simple")]
    tenth = max(1, len(values) // 10)
    return sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth


def samples(model: LatentDiffusion) -> list[Image.Image]:
    """Of the first held-out scenes, each from its graph, in its own picture's style, and always from the same noise."""
    scenes = DemoValidation(SCENES)
    return [
        sample_images(model, [scenes.scene(i)[0]], [i], SAMPLING, scenes.picture(i))[0] for i in range(SCENES)
    ]


def compare(before: list[Image.Image], after: list[Image.Image]) -> Image.Image:
    scenes = DemoValidation(SCENES)
    for when, pictures in (("before", before), ("after", after)):
        right = sum(check(scenes.scene(i)[0], picture).passed for i, picture in enumerate(pictures))
        print(f"samples {when} training: {right} of {SCENES} show exactly what their graphs say")
    rows = [[("as drawn", scenes.picture(i)), ("before", before[i]), ("after", after[i])] for i in range(SCENES)]
    return plots.grid([plots.panel(row, height=160) for row in rows], columns=2)


def edited(model: LatentDiffusion, operation: str) -> Image.Image:
    """The edit's panel, with what was asked for and the checker's verdict; its graphs and its picture go to FOLDER."""
    this = make_task("shapes", operation, FIRST_TASK + OPERATIONS.index(operation))
    this.picture.save(FOLDER / f"{operation}.png")
    write_graphs(FOLDER / f"{operation}_source.json", [this.source])
    write_graphs(FOLDER / f"{operation}.json", [this.target])
    wish = first([str(change) for change in diff(this.source, this.target)] or ["take the background of another picture"])
    pictures = [("photograph", this.picture), ("as it should be", this.truth)]
    try:
        result = edit(model, this.picture, this.target, source=this.source, style=this.reference)
    except UserError as error:
        verdict = f"refused: {error}"
    else:
        pictures.insert(1, ("edited", result.image))
        faults = complaints(this, result.image)
        verdict = f"wrong: {first(faults)}" if faults else "right"
    print(f"  {operation:9} {wish}\n{'':11} checker: {verdict}", flush=True)
    if this.reference:
        pictures.insert(1, ("style", this.reference))
    return plots.panel(pictures, [f"{operation}: {wish}", f"checker: {verdict}"], height=192)


def first(sentences: list[str]) -> str:
    more = len(sentences) - 1
    return sentences[0] + (f" (and {more} more)" if more else "")


def complaints(this: EditTask, image: Image.Image) -> list[str]:
    """What the checker has against an edit: nothing, if the picture shows the whole target graph."""
    faults = list(check(this.target, image).complaints)
    if this.reference and not same_style(read_scene(image).style, read_scene(this.reference).style):
        faults.append("the background is not the style picture's")
    return faults


if __name__ == "__main__":
    sys.exit(main())
