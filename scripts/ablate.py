"""What each trained part buys: train the adapters of configs/demo.yaml with and without them, and measure their samples.

    python scripts/ablate.py --seeds 1,2,3 --outdir outputs/ablation
    python scripts/ablate.py --base configs/demo.yaml configs/demo/hard.yaml --scenes hard --outdir outputs/hard \\
        model.params.ckpt_path=logs/<a run>/checkpoints/last.ckpt

Words such as section.key=value go to every training; files in them count from the project's folder. Every run, and every
measurement of it, that is already in --outdir is not done again, so seeds can be shared among processes or machines, and
the table is of all that is there: what was asked for is in asked.json, and nothing else may be asked for there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

from ldm.util.errors import UserError
from ldm.util.files import writable_folder

ROOT = Path(__file__).resolve().parents[1]
UNET = "model.params.unet_config.params"
PARTS = {
    "encoder": ["model.params.global_stage_config=null", f"{UNET}.film_embedding_dim=null", f"{UNET}.lora_rank=null"],
    "encoder + FiLM": [f"{UNET}.lora_rank=null"],
    "encoder + FiLM + LoRA": [],
    "all, U-Net too": ["model.params.freeze_unet=false", f"{UNET}.lora_rank=null"],
}
# Columns of the table: heading, kind of graph, whose picture was the reference, measure of evaluate.py scenes.
COLUMNS = (
    ("with boxes: passed %", "all", "same", "success"),
    ("without: relations %", "none", "same", "triples"),
    ("without: all objects %", "none", "same", "all_objects"),
    ("style %", "all", "same", "style"),
    ("another's style: passed %", "all", "other", "success"),
    ("style %", "all", "other", "style"),
    ("towards its colour", "all", "other", "towards_colour"),
    ("towards its texture", "all", "other", "towards_texture"),
)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base", nargs="+", default=["configs/demo.yaml"], metavar="YAML", help="later ones win (default: "
        "configs/demo.yaml)")  # fmt: skip
    add("--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[1, 2, 3], help="of the training "
        "(default: 1,2,3)")  # fmt: skip
    add("--max-steps", type=int, help="of each training (default: the config's)")
    add("--n", type=int, default=200, help="scenes of a kind that are sampled (default: %(default)s)")
    add("--seed-offset", type=int, default=100_000, help="number of the first of them (default: %(default)s)")
    add("--scenes", choices=["shapes", "hard"], default="shapes", help="(default: %(default)s)")
    add("--gpus", default="cpu:2", help="for the training (default: %(default)s)")
    add("--outdir", default="outputs/ablation", metavar="DIR", help="(default: %(default)s)")
    words = sys.argv[1:] if argv is None else argv
    overrides = [word for word in words if re.match(r"[A-Za-z_][\w.\[\]]*=", word)]
    arguments = parser.parse_args([word for word in words if word not in overrides])
    arguments.overrides = overrides
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    folder = Path(arguments.outdir).absolute()
    try:
        bases = [find(name) for name in arguments.base]
        os.chdir(ROOT)  # from where configs and weights are named
        agree(folder, arguments, bases)
        for seed in arguments.seeds:
            for parts, overrides in PARTS.items():
                run_and_measure(arguments, bases, folder / f"{file_name(parts)}_{seed}", seed, overrides)
    except UserError as error:
        print(f"ablate.py: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:  # which has said why
        return error.returncode
    except KeyboardInterrupt:
        print("ablate.py: stopped; the same command goes on", file=sys.stderr)
        return 130
    table = markdown(folder)
    replace(folder / "table.md", table)
    print(table, end="")
    print(f"wrote {folder}/table.md")
    return 0


def find(name: str) -> Path:
    """A config, from the current folder or else from the project's. Raises UserError."""
    for path in (Path(name).absolute(), ROOT / name):
        if path.is_file():
            return path
    raise UserError(f"--base {name}: there is no such file; name a config such as configs/demo.yaml")


def agree(folder: Path, arguments: argparse.Namespace, bases: list[Path]) -> None:
    """Write down what all in the folder has in common. Raises UserError where something else was asked for there."""
    digests = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}" for path in bases]
    names = ("max_steps", "n", "seed_offset", "scenes", "overrides")
    asked = {"base": digests, **{name: getattr(arguments, name) for name in names}}
    path = writable_folder(folder, "--outdir") / "asked.json"
    if path.exists():
        there = json.loads(path.read_text())
        for name, now in asked.items():
            if (was := there.get(name)) != now:
                raise UserError(f"{folder}: there {name} is {was}, and now it is {now}; choose another --outdir")
    elif any(folder.glob("*/scenes/report.json")):
        raise UserError(f"{folder}: there are reports, but nothing says what was asked for; choose another --outdir")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        replace(path, json.dumps(asked, indent=2) + "\n")


def replace(path: Path, text: str) -> None:
    """Written beside its place first."""
    part = path.with_name(f".{path.name}")
    part.write_text(text)
    part.replace(path)


def file_name(parts: str) -> str:
    return parts.replace(" + ", "_").replace(", ", "_").replace(" ", "_")


def run_and_measure(arguments: argparse.Namespace, bases: list[Path], place: Path, seed: int, parts: list[str]) -> None:
    """Train into `place`/logs, measure into `place`/scenes; what is there is gone on with, or let be."""
    if (place / "scenes" / "report.json").exists():
        return
    begun = sorted(place.glob("logs/*/checkpoints/last.ckpt"))
    train = ["-t", "--gpus", arguments.gpus, *(["--max_steps", arguments.max_steps] if arguments.max_steps else [])]
    if begun:
        call("trainer.py", "--resume", begun[-1].parents[1], *train)
    else:
        overrides = [*arguments.overrides, *parts]
        call("trainer.py", "--base", *bases, *train, "--logdir", place / "logs", "--seed", seed, *overrides)
    run = max(place.glob("logs/*/checkpoints/last.ckpt")).parents[1]
    count = ["--n", arguments.n, "--seed-offset", arguments.seed_offset, "--scenes", arguments.scenes]
    given = ["--layout", "none", "--sampler", "dpm++", "--steps", 10, *count]
    call("scripts/evaluate.py", "scenes", "--run", run, *given, "--outdir", place / "scenes")


def call(*words) -> None:
    """Run one of the project's programs, saying so, so that it can be run again by hand. Ctrl-C is heard by it as well, and
    it is let finish what it does then."""
    words = [str(word) for word in words]
    print(f"\n$ python {' '.join(words)}", flush=True)
    process = subprocess.Popen([sys.executable, *words])
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    if status:
        raise subprocess.CalledProcessError(status, words)


def markdown(folder: Path) -> str:
    """A line for each set of parts: means over the seeds, and the standard deviation between them."""
    rows = ["| trained | seeds | " + " | ".join(heading for heading, *_ in COLUMNS) + " |"]
    rows.append("|---|---:|" + "---:|" * len(COLUMNS))
    for parts in PARTS:
        paths = sorted(folder.glob(f"{file_name(parts)}_[0-9]*/scenes/report.json"))
        reports = [json.loads(path.read_text()) for path in paths]
        if reports:
            cells = [
                cell([value(report, *column) for report in reports], 2 if column[-1].startswith("towards") else 1)
                for _, *column in COLUMNS
            ]
            rows.append(f"| {parts} | {len(reports)} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def value(report: dict, boxes: str, reference: str, measure: str) -> float | None:
    """Without an image encoder there was no reference, and what does not need one is the same for both."""
    for line in report["results"]:
        if line["boxes"] == boxes and line["reference"] in (reference, "none"):
            found = line[measure]
            return found if found is None or measure.startswith("towards") else 100 * found
    return None


def cell(values: list[float | None], digits: int) -> str:
    if None in values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
