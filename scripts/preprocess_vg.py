"""Convert Visual Genome's raw files to vocab.json and train.h5, val.h5, test.h5; DATA.md says where to download them."""

import argparse
import sys
from dataclasses import fields

from ldm.data.vg_preprocess import Options, preprocess
from ldm.util.cli import run_program


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for field in fields(Options):
        parser.add_argument(
            f"--{field.name}", default=field.default, type=type(field.default), help=field.metadata["help"]
        )
    options = Options(**vars(parser.parse_args(argv)))
    return run_program(lambda: preprocess(options), "preprocess_vg.py", if_stopped="existing files are unchanged")


if __name__ == "__main__":
    sys.exit(main())
