"""Ablation: train the adapters of configs/flat/adapters.yaml with and without each part, and measure samples of each variant.

    python scripts/ablate.py --seeds 1,2,3 --outdir outputs/ablation
    python scripts/ablate.py --base configs/flat/adapters.yaml own.yaml --outdir outputs/own \\
        model.params.ckpt_path=logs/<a run>/checkpoints/last.ckpt

Overrides such as section.key=value apply to every training run; relative paths in them start at the project's folder. Runs
and measurements that are already in --outdir are not repeated, so that seeds can be divided among processes or machines,
and the table covers everything in the folder. asked.json holds the options that all of it has in common; other options are
refused.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from ldm.util.cli import Parser, at_least, positive, run_program, split_overrides
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, digest, writable_folder
from ldm.util.tables import markdown_table

ROOT = Path(__file__).resolve().parents[1]
UNET = "model.params.unet_config.params"
VARIANTS = {  # name -> overrides of the config
    "encoder": ["model.params.global_stage_config=null", f"{UNET}.film_embedding_dim=null", f"{UNET}.lora_rank=null"],
    "encoder + FiLM": [f"{UNET}.lora_rank=null"],
    "encoder + FiLM + LoRA": [],
    "all, U-Net too": ["model.params.freeze_unet=false", f"{UNET}.lora_rank=null"],
}
# Columns of the table: heading, boxes of the graphs, scene of the reference image, measure of `evaluate.py scenes`.
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
    """The options, and in `overrides` the words such as section.key=value."""
    parser = Parser("ablate.py", __doc__)
    add = parser.add_argument
    add(
        "--base",
        nargs="+",
        default=["configs/flat/adapters.yaml"],
        metavar="YAML",
        help="configs, of which later ones override earlier ones (default: configs/flat/adapters.yaml)",
    )
    add(
        "--seeds",
        type=lambda text: [int(word) for word in text.split(",")],
        default=[1, 2, 3],
        help="seeds of the training runs, one run of each variant per seed (default: 1,2,3)",
    )
    add("--max-steps", type=positive, help="steps of each training run (default: the config's)")
    add("--n", type=positive, default=200, help="scenes of each kind that are sampled (default: %(default)s)")
    add("--seed-offset", type=at_least(0), default=100_000, help="number of the first scene (default: %(default)s)")
    add("--scenes", default="shapes", help="synthetic world (default: %(default)s)")
    add("--gpus", default="cpu:2", help="devices for training, as in trainer.py (default: %(default)s)")
    add("--outdir", default="outputs/ablation", metavar="DIR", help="folder of the results (default: %(default)s)")
    words, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(words)
    arguments.overrides = overrides
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    arguments = parse(argv)
    return run_program(lambda: run(arguments), "ablate.py", if_stopped="the same command continues")


def run(arguments: argparse.Namespace) -> int:
    """Trains and measures what is missing, and writes the table. Returns the exit code of a program that failed, else 0."""
    folder = Path(arguments.outdir).absolute()
    configs = [find_config(name) for name in arguments.base]
    os.chdir(ROOT)  # configs name their weights relative to it
    check_options(folder, arguments, configs)
    for seed in arguments.seeds:
        for variant, overrides in VARIANTS.items():
            try:
                train_and_measure(arguments, configs, folder / f"{file_name(variant)}_{seed}", seed, overrides)
            except subprocess.CalledProcessError as error:  # the program has printed its reason
                return error.returncode
    table = results_table(folder)
    with atomic_write(folder / "table.md") as temporary:
        temporary.write_text(table)
    print(table, end="")
    print(f"wrote {folder}/table.md")
    return 0


def find_config(name: str) -> Path:
    """A config file, relative to the current folder or to the project's. Raises UserError if there is none."""
    for path in (Path(name).absolute(), ROOT / name):
        if path.is_file():
            return path
    raise UserError(f"--base {name}: no such file; name a config such as configs/flat/adapters.yaml")


def check_options(folder: Path, arguments: argparse.Namespace, configs: list[Path]) -> None:
    """Records the options that all results in the folder share.

    Raises:
        UserError: other options are recorded there, or there is no such world.
    """
    from ldm.synthetic.worlds import find_world  # imports torch, which --help need not wait for

    find_world(arguments.scenes)
    names = ("max_steps", "n", "seed_offset", "scenes", "overrides")
    options = {"base": [f"{path.name} {digest(path)[:8]}" for path in configs]}
    options |= {name: getattr(arguments, name) for name in names}
    path = writable_folder(folder, "--outdir") / "asked.json"
    if path.exists():
        recorded = json.loads(path.read_text())
        for name, value in options.items():
            if recorded.get(name) != value:
                raise UserError(
                    f"{folder}: its results were made with {name} {recorded.get(name)}, not {value}; choose another --outdir"
                )
    elif any(folder.glob("*/scenes/report.json")):
        raise UserError(f"{folder}: holds reports, but no {path.name} with their options; choose another --outdir")
    else:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(options, indent=2) + "\n")


def file_name(variant: str) -> str:
    """The variant's name in paths."""
    return variant.replace(" + ", "_").replace(", ", "_").replace(" ", "_")


def train_and_measure(
    arguments: argparse.Namespace, configs: list[Path], folder: Path, seed: int, overrides: list[str]
) -> None:
    """Trains into `folder`/logs and measures into `folder`/scenes, or resumes; does nothing if both are done."""
    if (folder / "scenes" / "report.json").exists():
        return
    checkpoints = sorted(folder.glob("logs/*/checkpoints/last.ckpt"))
    train = ["-t", "--gpus", arguments.gpus, *(["--max_steps", arguments.max_steps] if arguments.max_steps else [])]
    if checkpoints:
        call("trainer.py", "--resume", checkpoints[-1].parents[1], *train)
    else:
        overrides = [*arguments.overrides, *overrides]
        call("trainer.py", "--base", *configs, *train, "--logdir", folder / "logs", "--seed", seed, *overrides)
    log_folder = max(folder.glob("logs/*/checkpoints/last.ckpt")).parents[1]
    scenes = ["--n", arguments.n, "--seed-offset", arguments.seed_offset, "--scenes", arguments.scenes]
    sampling = ["--layout", "none", "--sampler", "dpm++", "--steps", 10]
    call("scripts/evaluate.py", "scenes", "--run", log_folder, *sampling, *scenes, "--outdir", folder / "scenes")


def call(*words: object) -> None:
    """Runs one of the project's programs, and prints the command so that it can be repeated by hand.

    Ctrl-C reaches the program too; it gets the time to finish what it then does, such as writing a checkpoint.
    """
    command = [str(word) for word in words]
    print(f"\n$ python {' '.join(command)}", flush=True)
    process = subprocess.Popen([sys.executable, *command])
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    if status:
        raise subprocess.CalledProcessError(status, command)


def results_table(folder: Path) -> str:
    """A row for each variant: means over the seeds, and the standard deviations between them."""
    rows = []
    for variant in VARIANTS:
        paths = sorted(folder.glob(f"{file_name(variant)}_[0-9]*/scenes/report.json"))
        reports = [json.loads(path.read_text()) for path in paths]
        if reports:
            cells = [
                mean_and_std([value_of(report, *column) for report in reports], 2 if is_share(column[-1]) else 1)
                for _, *column in COLUMNS
            ]
            rows.append([variant, str(len(reports)), *cells])
    return markdown_table(["trained", "seeds", *(heading for heading, *_ in COLUMNS)], rows) + "\n"


def is_share(measure: str) -> bool:
    """Whether a measure is shown as a share rather than in percent."""
    return measure.startswith("towards")


def value_of(report: dict, boxes: str, reference: str, measure: str) -> float | None:
    """A number of a report of `evaluate.py scenes`. Without an image encoder there is no reference: 'none' stands for any."""
    for summary in report["results"]:
        if summary["boxes"] == boxes and summary["reference"] in (reference, "none"):
            value = summary[measure]
            return value if value is None or is_share(measure) else 100 * value
    return None


def mean_and_std(values: list[float | None], digits: int) -> str:
    """The text of a cell; empty if a value is unknown."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return ""
    deviation = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{deviation}"


if __name__ == "__main__":
    sys.exit(main())
