"""Pick what ships of rendered scenes: held-out examples with one edit each, and scenes whose latents ship.

    python scripts/render_scenes.py --out datasets/rendered/examples --seeds 3000000:3000064 --edits all
    python scripts/pack_examples.py --edits datasets/rendered/examples --train datasets/rendered/train --out data/demo
    python scripts/cache_latents.py --config configs/demo.yaml --no-mirror --out data/demo/latents data.params.flip=0 \\
      data.params.train.params.max_samples=1000 data.params.validation.params.max_samples=32

writes data/demo/examples, a folder of rendered scenes like those of scripts/render_scenes.py, and data/demo/latents, whose
shards say what the cached pictures show.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm.util.cli import Parser, positive, run_program
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, writable_folder


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("pack_examples.py", __doc__)
    add = parser.add_argument
    add(
        "--edits",
        metavar="DIR",
        required=True,
        help="rendered scenes with their edits, of which the examples are picked",
    )
    add("--train", metavar="DIR", required=True, help="rendered scenes whose latents will ship")
    add("--out", metavar="DIR", required=True, help="folder for examples/ and latents/")
    add("--n", type=positive, default=64, help="number of examples (default: %(default)s)")
    add("--latents", type=positive, default=1000, help="number of training scenes (default: %(default)s)")
    add("--validation", type=positive, default=32, help="number of validation scenes (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_program(lambda: run(arguments), "pack_examples.py", if_stopped="the same command starts again")


def run(arguments: argparse.Namespace) -> None:
    out = Path(writable_folder(arguments.out, "--out"))
    counts = pack_examples(Path(arguments.edits), out / "examples" / "shard-00000", arguments.n)
    pack_index(Path(arguments.train), out / "latents", arguments.validation, arguments.latents)
    size = sum(path.stat().st_size for path in (out / "examples").rglob("*") if path.is_file())
    print(f"wrote {arguments.n} examples, {size / 1000:.0f} kB, to {out}/examples: {dict(counts)}")
    print(f"wrote what {arguments.latents} training pictures show to {out}/latents")


def pack_examples(source: Path, shard: Path, count: int, quality: int = 80) -> Counter[str]:
    """Writes the first scenes with one edit each, so that operations are as frequent as the scenes allow.

    Args:
        quality: of the pictures, as WebP.

    Returns:
        The number of edits of each operation.

    Raises:
        UserError: there are fewer scenes with an edit.
    """
    from PIL import Image

    from ldm.evaluation.edit_tasks import OPERATIONS
    from ldm.synthetic.rendered.records import INDEX, complete_shards

    chosen: list[tuple[Path, dict[str, Any]]] = []
    counts: Counter[str] = Counter(dict.fromkeys(OPERATIONS, 0))
    for folder in complete_shards(source):
        lines = {line["file"]: line for line in map(json.loads, (folder / INDEX).read_text().splitlines())}
        edits: dict[str, list[dict[str, Any]]] = {}
        for line in lines.values():
            if line.get("edit"):
                edits.setdefault(line["edit"]["source"], []).append(line)
        for name, of_scene in edits.items():
            if sum(counts.values()) == count:
                break
            edit = min(of_scene, key=lambda line: counts[line["edit"]["operation"]])
            counts[edit["edit"]["operation"]] += 1
            files = [name, *([edit["edit"]["reference"]] if edit["edit"].get("reference") else ())]
            chosen += [(folder, lines[file]) for file in files] + [(folder, edit)]
    if sum(counts.values()) < count:
        raise UserError(f"{source} has {sum(counts.values())} scenes with edits, not {count}; render more of them")
    shard.mkdir(parents=True, exist_ok=True)
    for old in shard.iterdir():
        old.unlink()
    for folder, line in chosen:
        with Image.open(folder / line["file"]) as picture, atomic_write(shard / line["file"]) as part:
            picture.save(part, "WEBP", quality=quality, method=6)
    _write_lines(shard / INDEX, [line for _, line in chosen])
    return counts


def pack_index(source: Path, out: Path, validation: int, train: int) -> None:
    """Writes what the first pictures of the held-out shard, and of the others, show; the pictures are not copied.

    Raises:
        UserError: there are fewer pictures.
    """
    from ldm.synthetic.rendered.records import INDEX, complete_shards

    left = {True: validation, False: train}
    for number, folder in enumerate(complete_shards(source)):
        lines = [json.loads(line) for line in (folder / INDEX).read_text().splitlines()]
        lines = [line for line in lines if not line.get("edit")][: left[number == 0]]
        left[number == 0] -= len(lines)
        if lines:
            (out / folder.name).mkdir(parents=True, exist_ok=True)
            _write_lines(out / folder.name / INDEX, lines)
    if any(left.values()):
        raise UserError(f"{source} lacks {max(left.values())} of the scenes; render more of them")


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    with atomic_write(path) as part:
        text = (json.dumps(_rounded(line), separators=(",", ":")) + "\n" for line in lines)
        part.write_text("".join(text), encoding="utf-8")


def _rounded(value: Any) -> Any:
    """JSON data with numbers of five decimals, which is more than a picture shows."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 5) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
