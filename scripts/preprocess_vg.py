"""Make vocab.json and train.h5, val.h5, test.h5 from Visual Genome's raw files; DATA.md says where they come from."""

import argparse
import sys
from dataclasses import fields

from ldm.data.vg_preprocess import Options, preprocess
from ldm.data.vg_raw import DataError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for field in fields(Options):
        parser.add_argument(
            f"--{field.name}", default=field.default, type=type(field.default), help=field.metadata["help"]
        )
    try:
        preprocess(Options(**vars(parser.parse_args())))
    except (DataError, OSError) as error:
        print(f"preprocess_vg: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
