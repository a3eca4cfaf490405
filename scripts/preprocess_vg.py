"""Convert Visual Genome's raw files to vocab.json and train.h5, val.h5, test.h5; DATA.md says where to download them."""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import sys
from dataclasses import fields

from ldm.data.vg_options import Options
from ldm.util.cli import Parser, run_program


def main(argv: list[str] | None = None) -> int:
    parser = Parser("preprocess_vg.py", __doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for field in fields(Options):
        parser.add_argument(
            f"--{field.name}", default=field.default, type=type(field.default), help=field.metadata["help"]
        )
    options = Options(**vars(parser.parse_args(argv)))

    def run() -> None:
        from ldm.data.vg_preprocess import preprocess

        preprocess(options)

    return run_program(run, "preprocess_vg.py", if_stopped="existing files are unchanged")


if __name__ == "__main__":
    sys.exit(main())
