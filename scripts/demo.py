"""The main job in small: train on drawn scenes, then edit some that the model has not seen. `make demo` runs this."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image

from ldm import plots
from ldm.data.demo import COLOURS, SHAPES, DemoValidation, render
from ldm.graph import SceneGraph, write_graphs

FOLDER = Path("outputs/demo")
SCENE, STYLE = 5, 0  # of the validation set: the picture that is edited, and one whose background is another
EDIT = "--method fixed-point --steps 30 --device cpu"


def main() -> int:
    first_stage = train("configs/demo_first_stage.yaml")
    run = train("configs/demo.yaml", f"model.params.first_stage_config.params.ckpt_path={first_stage}/checkpoints/last.ckpt")

    scenes = DemoValidation(SCENE + 1)
    (graph, background), (_, other) = scenes.scene(SCENE), scenes.scene(STYLE)
    FOLDER.mkdir(parents=True, exist_ok=True)
    render(graph, background).save(FOLDER / "photo.png")
    render(scenes.scene(STYLE)[0], other).save(FOLDER / "style.png")
    write_graphs(FOLDER / "source.json", [graph])

    rows = []
    for name, (edited, style) in edits(graph).items():
        write_graphs(FOLDER / f"{name}.json", [edited])
        call(
            f"scripts/ddim_invert_edit.py --run {run} --ref {FOLDER}/photo.png --source-sg {FOLDER}/source.json "
            f"--sg {FOLDER}/{name}.json {style or '--graph-scale 1.5'} {EDIT} --outdir {FOLDER}/{name}"
        )
        truth = render(edited, other if style else background)
        rows.append((name, Image.open(FOLDER / name / "edited.png"), truth))

    sheet = [("photograph", Image.open(FOLDER / "photo.png")), ("style", Image.open(FOLDER / "style.png"))]
    for name, edited, truth in rows:
        sheet += [(name, edited), ("as it should be", truth)]
    plots.panel(sheet, height=192).save(FOLDER / "edits.png")
    print(f"\nEdits of a picture that the model had not seen, beside what they should be: {FOLDER}/edits.png")
    print(f"Each with its graphs: {', '.join(f'{FOLDER}/{name}/panel.png' for name, *_ in rows)}")
    print(f"Samples while it trained: {run}/images")
    return 0


def edits(graph: SceneGraph) -> dict[str, tuple[SceneGraph, str]]:
    """Edited graphs by name, and the flags of an edit that takes another picture's style."""
    shape = next(s for s in SHAPES if s not in graph.objects[:1])
    size = graph.attributes[0][0]
    new_colour = next(c for c in COLOURS if all(c not in words for words in graph.attributes))
    last = len(graph.objects) - 1
    return {
        "replace": (replace(graph, objects=(shape, *graph.objects[1:])), ""),
        "recolour": (replace(graph, attributes=((size, new_colour), *graph.attributes[1:])), ""),
        "remove": (
            SceneGraph(
                graph.objects[:last],
                graph.boxes[:last],
                graph.attributes[:last],
                tuple(t for t in graph.triples if last not in (t[0], t[2])),
            ),
            "",
        ),
        "restyle": (graph, f"--style {FOLDER}/style.png --style-scale 4"),
    }


def train(config: str, *overrides: str) -> Path:
    """Train, or go on with a run that was begun before, to nothing if it came to its end; its log folder."""
    runs = f"????-??-??T??-??-??_{Path(config).stem}"
    begun = sorted(Path("logs").glob(f"{runs}/checkpoints/last.ckpt"))
    if begun:
        call(f"trainer.py --resume {begun[-1].parents[1]} -t --gpus cpu")
    else:
        call(" ".join(["trainer.py --base", config, "-t --gpus cpu", *overrides]))
    return max(Path("logs").glob(runs))


def call(command: str) -> None:
    """Run one of the project's programs, saying so, so that it can be run again by hand."""
    print(f"\n$ python {command}", flush=True)
    subprocess.run([sys.executable, *shlex.split(command)], check=True)


if __name__ == "__main__":
    sys.exit(main())
