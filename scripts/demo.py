"""The whole method in small: train adapters on the frozen weights that ship, then make one edit of each kind, of images
that no training saw, and let the checker judge them. `make demo` runs this.

    python scripts/demo.py                    rendered scenes
    python scripts/demo.py --scenes shapes    flat shapes
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import sys

from ldm.util.cli import Parser, run_program


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("demo.py", __doc__)
    worlds = {"choices": ("rendered", "shapes"), "default": "rendered"}
    parser.add_argument("--scenes", **worlds, help="world of the scenes (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    arguments = parse(argv)

    def run() -> int:
        from ldm.evaluation import demo  # torch is imported here, so that --help does not wait for it

        return demo.run(arguments.scenes)

    return run_program(run, "demo.py", if_stopped="the next call starts from the beginning")


if __name__ == "__main__":
    sys.exit(main())
