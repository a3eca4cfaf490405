"""Learns a word from four annotated pictures and uses it in an edit: `zorp`, a name that the vocabulary lacks, comes to mean a
small red striped triangle. `make demo-words` runs this.

The training pictures are in data/flat/words/; --draw draws others, also of a kind of objects that the weights have never seen:
    python scripts/demo_words.py --draw datasets/hearts --means "large heart" --word heart --n 8
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.util.cli import Parser, positive, run_program

if TYPE_CHECKING:
    from PIL import Image

    from ldm.graph.scene_graph import SceneGraph
    from ldm.synthetic.worlds import World

FOLDER, PICTURES = Path("outputs/demo_words"), Path("data/flat/words")
CONFIGS = ("configs/flat/adapters.yaml", "configs/flat/graph_words.yaml")
WORD, MEANING = "zorp", "small red striped triangle"
PICTURE_COUNT = 4
EDITED = 3  # seed of the scene that is edited
OVERLAPS = ("inside", "in front of", "behind")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("demo_words.py", __doc__)
    add = parser.add_argument
    add(
        "--draw",
        metavar="DIR",
        help="draw training pictures of a word, with their graphs, into this folder, and do nothing else",
    )
    add("--word", default=WORD, help="of --draw: the word (default: %(default)s)")
    add(
        "--means",
        default=MEANING,
        help="of --draw: what it means; for a word that is a name of the world itself, such as heart, the attributes stay in the graphs "
        "(default: %(default)s)",
    )
    add("--n", type=positive, default=PICTURE_COUNT, help="of --draw: number of pictures (default: %(default)s)")
    add("--seed", type=int, default=0, help="of --draw (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    run = (lambda: draw(arguments)) if arguments.draw else learn_and_edit
    return run_program(run, "demo_words.py", if_stopped="the next call starts from the beginning")


def draw(arguments: argparse.Namespace) -> int:
    """Draws training pictures of a word, with other objects that the weights know."""
    from ldm.graph.graph_files import write_graphs
    from ldm.synthetic.things import Thing, scenes_with
    from ldm.synthetic.worlds import find_world
    from ldm.util.files import writable_folder

    known, word = find_world("shapes").object_names, arguments.word
    world = find_world("shapes" if arguments.means.split()[-1:] in [[name] for name in known] else "more_shapes")
    thing, folder = Thing.of(arguments.means, world), Path(arguments.draw)
    writable_folder(arguments.draw, "--draw").mkdir(parents=True, exist_ok=True)
    scenes = islice(scenes_with(thing, world, arguments.seed, known), arguments.n)
    for number, (graph, background) in enumerate(scenes, 1):
        world.render(graph, background).save(folder / f"{number}.png", optimize=True)
        called = graph if word == thing.name else thing.called(word, graph)
        write_graphs(folder / f"{number}.json", [replace(called, image=f"{number}.png")])
    print(f"wrote {arguments.n} pictures and graphs to {folder}")
    return 0


def learn_and_edit() -> int:
    from ldm.checkpoints import shipped

    os.chdir(shipped.ROOT)  # configs and weights are named from there
    shipped.shipped_adapters("flat")
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        words = train()
    except subprocess.CalledProcessError as error:  # the trainer has printed the reason
        return error.returncode
    edit_with(words)
    return 0


def train() -> Path:
    """Trains the word with trainer.py; returns the file of words. Raises CalledProcessError."""
    logs = tempfile.mkdtemp(prefix="logs_", dir=FOLDER)
    command = ["trainer.py", "--base", *CONFIGS, "-t", "--gpus", "cpu", "--logdir", logs]
    print(f"$ python {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, *command], check=True)
    return next(Path(logs).glob("*/learned/graph_words.safetensors"))


def edit_with(words: Path) -> None:
    """Replaces an object of a new picture by the word, and lets the checker judge it."""
    from ldm import plots
    from ldm.editing.options import EditRequest
    from ldm.editing.pipeline import edit
    from ldm.graph.graph_files import write_graphs
    from ldm.models.finding import find_checkpoint
    from ldm.models.loading import load_model
    from ldm.synthetic.checker import check
    from ldm.synthetic.things import Thing
    from ldm.synthetic.worlds import find_world
    from ldm.util.images import read_image

    world = find_world("shapes")
    thing = Thing.of(MEANING, world)
    source, picture, index = scene_to_edit(world)
    meant = replace_object(source, index, thing.name, thing.attributes)
    target = thing.called(WORD, meant)
    picture.save(FOLDER / "before.png")
    write_graphs(FOLDER / "before.json", [source])
    write_graphs(FOLDER / "after.json", [target])
    weights = find_checkpoint(weights="flat")
    model = load_model(weights, words=[words])
    result = edit(model, EditRequest(picture, target, source)).image
    result.save(FOLDER / "after.png")
    complaints = check(meant, result).complaints
    request = f"the {describe(source, index)} becomes a {WORD}"
    verdict = f"wrong: {complaints[0]}" if complaints else f"right: a {MEANING} in its place, all else as it was"
    pictures = [(f"training picture {path.stem}", read_image(path)) for path in sorted(PICTURES.glob("*.png"))]
    panel = plots.panel(
        [*pictures, ("before", picture), ("after", result)], [request, f"checker: {verdict}"], height=192
    )
    panel.save(FOLDER / "panel.png")
    print(
        f"\nedit: {request}\nchecker: {verdict}\ntraining pictures and edit: {FOLDER}/panel.png\nThe same edit by hand:"
    )
    files = f"--ref {FOLDER}/before.png --source-sg {FOLDER}/before.json --sg {FOLDER}/after.json"
    print(f"  python scripts/ddim_invert_edit.py --ckpt {os.path.relpath(weights)} {files} --words {words}")


def scene_to_edit(world: World) -> tuple[SceneGraph, Image.Image, int]:
    """Graph and picture of a scene, and its object that is to become the thing: a small one that overlaps no other."""
    rng = random.Random(f"demo words/{EDITED}")
    while True:
        graph, background = world.random_graph(rng), world.random_background(rng)
        covered = {i for s, name, o in graph.known_triples if name in OVERLAPS for i in (s, o)}
        small = [i for i, names in enumerate(graph.known_attributes) if "small" in names and "red" not in names]
        free = [i for i in small if i not in covered and graph.objects[i] != "triangle"]
        if free and len(graph.objects) >= 4:
            return graph, world.render(graph, background), free[0]


def replace_object(graph: SceneGraph, index: int, name: str, attributes: tuple[str, ...]) -> SceneGraph:
    """The graph with another object in the place of one."""
    objects, described = list(graph.objects), list(graph.attributes)
    objects[index], described[index] = name, attributes
    return replace(graph, objects=tuple(objects), attributes=tuple(described))


def describe(graph: SceneGraph, index: int) -> str:
    return " ".join((*(graph.attributes[index] or ()), graph.objects[index]))


if __name__ == "__main__":
    sys.exit(main())
