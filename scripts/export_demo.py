"""Write synthetic scenes as image and graph files.

    python scripts/export_demo.py --split validation --n 64 --out scenes

writes scenes/images/000000.png ..., scenes/graphs.json (sg2im's format, one graph for each image, in their order),
scenes/vocab.json (sg2im's format) and a contact sheet, scenes/sheet.png. The graphs are those of training; --boxes all
gives every object its box. An interrupted call can be repeated and continues; a folder with other content is not changed.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.util.cli import Parser, at_least, positive, run_program
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, digest, writable_folder

if TYPE_CHECKING:  # importing torch takes seconds, which --help need not wait for
    from PIL import Image

    from ldm.data.demo import DemoTrain, DemoValidation

SPLITS, BOXES = ("train", "validation"), ("mixed", "all", "part", "none")
COLUMNS, SHEET_SIZE, GAP = 8, 64, 4  # of the contact sheet: columns, most pictures, pixels between pictures


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("export_demo.py", __doc__)
    add = parser.add_argument
    add("--scenes", default="shapes", help="synthetic world (default: %(default)s)")
    add("--split", choices=SPLITS, default="validation", help="default: %(default)s")
    add("--n", type=positive, default=64, help="number of scenes (default: %(default)s)")
    add("--image-size", type=at_least(8), help="side in pixels (default: the world's)")
    add("--boxes", choices=BOXES, default="mixed", help="which objects have a box in the graphs (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the train split; validation is always the same (default: %(default)s)")
    add("--out", required=True, metavar="DIR", help="output folder")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)

    def run() -> None:
        print(f"wrote {arguments.n} scenes to {export(arguments)}")

    return run_program(run, "export_demo.py", if_stopped="the same command continues")


def export(arguments: argparse.Namespace) -> Path:
    """Writes all files and returns the folder.

    Raises:
        UserError: an option has an invalid value, or the folder holds something else.
    """
    from ldm.data.demo import DemoTrain, DemoValidation
    from ldm.graph.graph_files import write_graphs

    for option, value in (("--n", arguments.n), ("--image-size", arguments.image_size)):
        if value is not None and value < 1:
            raise UserError(f"{option} {value}: give a number from 1")
    split = {"train": DemoTrain, "validation": DemoValidation}[arguments.split]
    dataset = split(arguments.n, arguments.image_size, arguments.seed, scenes=arguments.scenes, boxes=arguments.boxes)
    out = prepare_folder(arguments)
    graphs = write_images(dataset, out)
    write_graphs(out / "graphs.json", graphs)
    dataset.vocab.write(out / "vocab.json")
    with atomic_write(out / "sheet.png") as path:
        contact_sheet([out / str(graph.image) for graph in graphs[:SHEET_SIZE]], dataset.image_size).save(path)
    return out


def prepare_folder(arguments: argparse.Namespace) -> Path:
    """Makes the folder, or checks that an earlier call with the same options and code made it."""
    out = writable_folder(arguments.out, "--out")
    made_with = {key: value for key, value in vars(arguments).items() if key != "out"}
    made_with["drawn_by"] = source_digest()
    record = out / "made_with.json"
    if out.exists() and any(out.iterdir()):
        try:
            continued = json.loads(record.read_text()) == made_with
        except (OSError, ValueError):
            continued = False
        if not continued:
            raise UserError(f"--out {out}: holds something else already; name a new folder")
    with atomic_write(record) as path:
        path.write_text(json.dumps(made_with) + "\n")
    return out


def source_digest() -> str:
    """Of the code that determines the scenes."""
    from ldm import synthetic
    from ldm.data import demo

    files = [*sorted(Path(str(synthetic.__file__)).parent.rglob("*.py")), Path(demo.__file__)]
    return digest(b"".join(file.read_bytes() for file in files))[:16]


def write_images(dataset: DemoTrain | DemoValidation, out: Path) -> list:
    """Writes the missing images; returns the graphs, which name their images."""
    from tqdm import tqdm

    from ldm.util.images import to_image

    graphs = []
    for index in tqdm(range(len(dataset)), unit="scene"):
        name = f"images/{index:06}.png"
        tensor, graph = dataset[index]
        if not (out / name).exists():
            with atomic_write(out / name) as path:
                to_image(tensor).save(path)
        graphs.append(replace(graph, image=name))
    return graphs


def contact_sheet(paths: list[Path], side: int) -> Image.Image:
    from PIL import Image

    cell = side + GAP
    sheet = Image.new("RGB", (COLUMNS * cell, -(-len(paths) // COLUMNS) * cell), "white")
    for index, path in enumerate(paths):
        row, column = divmod(index, COLUMNS)
        with Image.open(path) as image:
            sheet.paste(image, (GAP // 2 + cell * column, GAP // 2 + cell * row))
    return sheet


if __name__ == "__main__":
    sys.exit(main())
