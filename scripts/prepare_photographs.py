"""Make FOD-A, photographs of things on the ground, ready for training and for edits with a known answer.

    python scripts/prepare_photographs.py --fod FOD-A/VOC2007 --out datasets/photographs
    python scripts/prepare_photographs.py --fod FOD-A/VOC2007 --conditions FOD_categorization_annotations.csv \\
        --out datasets/photographs

It writes square crops of 128 pixels, compositions in which things from photographs of the same ground, light and weather are
blended in, COCO's annotations, and pairs of pictures before and after an edit; docs/photographs.md has the rules. An
interrupted command goes on where it was; the same seed gives the same pictures again.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import sys
from collections import Counter
from pathlib import Path

from ldm.util.cli import Parser, at_least, positive, run_program
from ldm.util.files import writable_folder


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("prepare_photographs.py", __doc__)
    add = parser.add_argument
    add("--fod", metavar="DIR", required=True, help="folder of FOD-A's VOC copy, with JPEGImages and Annotations")
    add("--out", metavar="DIR", default="datasets/photographs", help="folder of the set (default: %(default)s)")
    add("--conditions", metavar="CSV", help="FOD-A's table of light and weather, if the annotations do not say them")
    add("--per-clip", type=positive, default=100, help="frames of each film clip (default: %(default)s)")
    add("--seed", type=at_least(0), default=0, help="seed of all that is drawn (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_program(lambda: run(arguments), "prepare_photographs.py", if_stopped="the same command resumes")


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ldm.data.fod.planning import PreparationOptions
    from ldm.data.fod.preparation import prepare
    from ldm.data.fod.voc import join_clips, read_frames

    out = writable_folder(arguments.out, "--out")
    frames = read_frames(Path(arguments.fod), arguments.conditions and Path(arguments.conditions))
    clips = join_clips(frames)
    print(f"{len(frames)} frames of {len(clips)} clips", flush=True)
    options = PreparationOptions(per_clip=arguments.per_clip, seed=arguments.seed)
    with tqdm(total=0, unit="picture", desc="pictures") as bar:
        plans = prepare(clips, out, options, bar.reset, bar.update)
    for split, plan in plans.items():
        kinds = Counter(picture.kind for picture in plan.pictures)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        print(f"{split}: {counts}; {len(plan.edits)} edits")
    print(f"wrote {out}")


if __name__ == "__main__":
    sys.exit(main())
