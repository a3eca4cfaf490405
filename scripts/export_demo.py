"""Write drawn scenes as files, so that they can be looked at and read by others.

    python scripts/export_demo.py --scenes hard --split validation --n 64 --out scenes

makes scenes/images/000000.png ..., scenes/graphs.json (sg2im's form, a graph each, in the images' order),
scenes/vocab.json (sg2im's) and scenes/sheet.png. Graphs are told as training sees them; --boxes all tells every box. A
call that was cut off goes on where it was; a folder of other scenes, or of what an earlier version drew, is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

SCENES, SPLITS, BOXES = ("shapes", "hard"), ("train", "validation"), ("mixed", "all", "part", "none")
COLUMNS, SHEET = 8, 64  # of the contact sheet: pictures in a row, pictures at most


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--scenes", choices=SCENES, default=SCENES[0], help="flat shapes, or shaded solids (default: %(default)s)")
    add("--split", choices=SPLITS, default=SPLITS[1], help="default: %(default)s")
    add("--n", type=int, default=64, help="number of scenes (default: %(default)s)")
    add("--image-size", type=int, help="pixels to a side (default: 64 of shapes, 128 of solids)")
    add("--boxes", choices=BOXES, default=BOXES[0], help="how many boxes graphs tell (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the train split; validation is always the same (default: %(default)s)")
    add("--out", required=True, metavar="DIR", help="where to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    from ldm.util.errors import UserError  # from here on torch is imported, which --help need not wait for

    try:
        print(f"wrote {arguments.n} scenes to {export(arguments)}")
    except UserError as error:
        print(f"export_demo.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("export_demo.py: stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


def export(arguments: argparse.Namespace) -> Path:
    from PIL import Image
    from tqdm import tqdm

    from ldm.data import demo
    from ldm.data.demo import DemoTrain, DemoValidation
    from ldm.graph.scene_graph import write_graphs
    from ldm.synthetic import shapes, solids
    from ldm.util.errors import UserError
    from ldm.util.files import writable_folder
    from ldm.util.images import to_image

    for option, value in (("--n", arguments.n), ("--image-size", arguments.image_size)):
        if value is not None and value < 1:
            raise UserError(f"{option} {value}: give a number from 1")
    out = writable_folder(arguments.out, "--out")
    made_with = {key: value for key, value in vars(arguments).items() if key != "out"}
    made_with["drawn_by"] = digest_of(demo, shapes, solids)
    record = out / "made_with.json"
    if not is_free_for(out, record, made_with):
        raise UserError(f"--out {out}: holds something else already; name a new folder")
    (out / "images").mkdir(parents=True, exist_ok=True)
    put(record, lambda path: path.write_text(json.dumps(made_with) + "\n"))
    split = {"train": DemoTrain, "validation": DemoValidation}[arguments.split]
    dataset = split(arguments.n, arguments.image_size, arguments.seed, scenes=arguments.scenes, boxes=arguments.boxes)
    graphs, side = [], dataset.image_size
    rows = -(-min(len(dataset), SHEET) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (side + 4), rows * (side + 4)), "white")
    for index in tqdm(range(len(dataset)), unit="scene"):
        name = f"images/{index:06}.png"
        tensor, graph = dataset[index]
        image = to_image(tensor)
        if not (out / name).exists():
            put(out / name, partial(image.save, format="PNG"))
        graphs.append(replace(graph, image=name))
        if index < SHEET:
            sheet.paste(image, tuple(2 + (side + 4) * place for place in (index % COLUMNS, index // COLUMNS)))
    write_graphs(out / "graphs.json", graphs)
    dataset.vocab.write(out / "vocab.json")
    put(out / "sheet.png", lambda path: sheet.save(path, "PNG"))
    return out


def is_free_for(out: Path, record: Path, made_with: dict) -> bool:
    """Whether the folder is new or empty, or an earlier call with the same arguments and code began it."""
    if not out.exists() or not any(out.iterdir()):
        return True
    try:
        return json.loads(record.read_text()) == made_with
    except (OSError, ValueError):
        return False


def digest_of(*modules: ModuleType) -> str:
    """Of their source code."""
    return hashlib.sha256(b"".join(Path(module.__file__).read_bytes() for module in modules)).hexdigest()[:16]


def put(path: Path, write: Callable[[Path], object]) -> None:
    """The file is there as a whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
