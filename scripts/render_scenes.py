"""Render scenes of things on a table, with their graphs, boxes and, on request, edits with true results.

    pip install -e '.[render]'        # Blender as a Python module: Python 3.11 only, 374 MB
    python scripts/render_scenes.py --out datasets/rendered/train --seeds 0:17000
    python scripts/render_scenes.py --out datasets/rendered/test --seeds 2000000:2000250 --edits all
    python scripts/render_scenes.py --out datasets/rendered/clevr --seeds 0:1000 --look clevr
    python scripts/render_scenes.py --out datasets/rendered/clips/train --seeds 3000000:3000240 --frames 16

A seed determines its picture, on every machine with the same version of Blender. An interrupted command goes on where it
was; several machines share a range of seeds with --num-shards and --shard-index. On 2 CPU cores a picture of 128 pixels
takes a quarter of a second.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from ldm.util.cli import Parser, at_least, positive, run_program
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, read_json, remove_leftovers, writable_folder

# Those of `ldm.synthetic.rendered.edits`, which imports torch; --help need not wait for it.
OPERATIONS = ("replace", "recolour", "remove", "add", "move", "resize", "relation", "restyle", "two")
SETTINGS = "settings.json"
COMMON = ("look", "side", "samples", "edits", "masks", "depth", "shard_size", "first seed", "frames")
ADDED = {"frames": 0}  # what settings mean that folders of earlier versions do not state


def _seeds(text: str) -> range:
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a range of seeds; write the first and the last plus one, 0:500"
        )
    return range(int(match[1]), int(match[2]))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("render_scenes.py", __doc__)
    add = parser.add_argument
    add("--out", metavar="DIR", required=True, help="folder for the shards")
    add("--seeds", type=_seeds, metavar="A:B", required=True, help="scenes to render: seeds from A to B - 1")
    add(
        "--edits",
        nargs="+",
        choices=["all", *OPERATIONS],
        default=[],
        metavar="OPERATION",
        help=f"also render each scene after these edits: all, or some of {', '.join(OPERATIONS)}",
    )
    add(
        "--look",
        choices=["table", "clevr"],
        default="table",
        help="table: things on a table; clevr: CLEVR's solids, camera, lamps and greys (default: %(default)s)",
    )
    add(
        "--frames",
        type=at_least(4),
        default=0,
        metavar="T",
        help="render clips of this many frames instead of pictures: things glide along the table, turn, come and go",
    )
    add("--masks", action="store_true", help="write which thing each pixel shows")
    add("--depth", action="store_true", help="write each pixel's distance from the camera")
    add("--side", type=at_least(32), default=128, help="side of the pictures in pixels (default: %(default)s)")
    add("--samples", type=positive, default=8, help="light paths per pixel (default: %(default)s)")
    add("--threads", type=positive, default=os.cpu_count() or 1, help="threads (default: all cores)")
    add("--shard-size", type=positive, default=500, metavar="N", help="scenes per folder (default: %(default)s)")
    add("--num-shards", type=positive, default=1, metavar="N", help="machines that share the work (default: 1)")
    add("--shard-index", type=at_least(0), default=0, metavar="I", help="which of these machines this is, from 0")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_program(lambda: run(args), "render_scenes.py", if_stopped="the same command resumes")


def run(args: argparse.Namespace) -> None:
    if args.shard_index >= args.num_shards:
        raise UserError(
            f"--shard-index {args.shard_index}: with --num-shards {args.num_shards} it is below that number"
        )
    if args.edits and args.look == "clevr":
        raise UserError("--edits: scenes of --look clevr have none; leave --edits out")
    if args.frames and (args.edits or args.look == "clevr"):
        raise UserError("--frames: clips are of the table and without edits; leave --edits and --look clevr out")
    out = writable_folder(args.out, "--out")
    try:
        import bpy  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "rendering needs Blender as a Python module: run `pip install -e '.[render]'` with Python 3.11 (existing "
            "pictures can be used without it)"
        ) from error
    from tqdm import tqdm

    from ldm.synthetic.rendered.clevr_stage import ClevrStage
    from ldm.synthetic.rendered.shards import Extras, write_shard
    from ldm.synthetic.rendered.stage import Stage

    operations = OPERATIONS if "all" in args.edits else tuple(dict.fromkeys(args.edits))
    _compare_settings(
        Path(out) / SETTINGS,
        {**vars(args), "edits": list(operations), "first seed": args.seeds[0]},
    )
    extras = Extras(operations, args.masks, args.depth, args.frames)
    stage = (ClevrStage if args.look == "clevr" else Stage)(args.side, args.samples, args.threads)
    shards = range(0, len(args.seeds), args.shard_size)[args.shard_index :: args.num_shards]
    parts = [args.seeds[start : start + args.shard_size] for start in shards]
    with tqdm(total=sum(map(len, parts)), unit="scene") as bar:
        for start, seeds in zip(shards, parts):
            folder = Path(out) / f"shard-{start // args.shard_size:05d}"
            if folder.is_dir():
                remove_leftovers(folder)
            write_shard(stage, seeds, folder, extras, bar.update)


def _compare_settings(file: Path, settings: dict[str, Any]) -> None:
    """Notes what the pictures of a folder have in common, so that later calls do not mix others with them.

    Raises:
        UserError: the folder was begun with other settings.
    """
    kept = {name: settings[name] for name in COMMON}
    if not file.exists():
        with atomic_write(file) as part:
            part.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    earlier = read_json(file, if_broken="choose another --out")
    for name, value in kept.items():
        was = earlier.get(name, ADDED.get(name)) if isinstance(earlier, dict) else earlier
        if was != value:
            raise UserError(f"{file.parent}: was begun with {name} {was}, not {value}; choose another --out")


if __name__ == "__main__":
    sys.exit(main())
