"""Is a curation worth it? Adapters trained on a curated half of a pool against ones trained on a random half of the same size.

    python scripts/try_curation.py --outdir outputs/curation-trial

For each seed: draws a pool of scenes, half of which is junk (copies, mirror images with the old graph, blurred, dark and flat
pictures), curates it with fixed limits that do not see what was planted, trains the adapters of configs/flat/adapters.yaml on
both halves with the same options, and compares samples of held-out scenes with scripts/validate.py, the random half as the
base. The table has each seed's difference with its interval over scenes, and the mean over seeds with its own. What is in
--outdir already is not repeated.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from ldm.util.cli import Parser, positive, run_program
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, writable_folder

ROOT = Path(__file__).resolve().parents[1]
WORLD, CONFIG = "shapes", "configs/flat/adapters.yaml"
LIMITS = ("--min-sharpness", 100, "--min-contrast", 0.05, "--crop-neighbours", 0, "--clustering", "none")
UNET = "model.params.unet_config.params"
NO_STYLE = (
    "model.params.global_stage_config=null",
    f"{UNET}.film_embedding_dim=null",
)  # curated sets have no references
ARMS = ("random", "curated")
SAMPLING = ("--sampler", "dpm++", "--steps", 10, "--graph-scale", 2)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = Parser("try_curation.py", __doc__)
    add = parser.add_argument
    add("--pool", type=positive, default=1000, metavar="N", help="pictures in the pool (default: %(default)s)")
    add("--seeds", type=seeds, default=[1, 2, 3], help="of pools and training runs (default: 1,2,3)")
    add("--max-steps", type=positive, default=160, help="steps of each training run (default: %(default)s)")
    add("--n", type=positive, default=40, help="held-out scenes, with boxes and without (default: %(default)s)")
    add("--gpus", default="cpu:1", help="devices for training, as in trainer.py (default: %(default)s)")
    add(
        "--outdir", default="outputs/curation-trial", metavar="DIR", help="folder of the results (default: %(default)s)"
    )
    return parser.parse_args(argv)


def seeds(text: str) -> list[int]:
    """'1,2' -> [1, 2]."""
    return [int(word) for word in text.split(",")]


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    arguments = parse(argv)
    return run_program(lambda: run(arguments), "try_curation.py", if_stopped="the same command continues")


def run(arguments: argparse.Namespace) -> int:
    """Does what is missing and writes the table. Returns the exit code of a program that failed, else 0."""
    folder = writable_folder(Path(arguments.outdir).absolute(), "--outdir")
    os.chdir(ROOT)  # configs name their weights relative to it
    settings = {name: getattr(arguments, name) for name in ("pool", "max_steps", "n")}
    record = folder / "settings.json"
    if record.exists() and (before := json.loads(record.read_text())) != settings:
        raise UserError(f"{folder}: its results were made with {before}, not {settings}; choose another --outdir")
    write(record, json.dumps(settings) + "\n")
    reports = []
    for seed in arguments.seeds:
        try:
            reports.append(try_seed(folder / f"seed{seed}", seed, arguments))
        except subprocess.CalledProcessError as error:  # the program has printed its reason
            return error.returncode
    text = table(reports, arguments.seeds) + "\n"
    write(folder / "table.md", text)
    print(text, end="")
    print(f"wrote {folder / 'table.md'}")
    return 0


def try_seed(folder: Path, seed: int, arguments: argparse.Namespace) -> dict:
    """Pool, halves, both trainings and the comparison of one seed; returns what the table needs."""
    from ldm.curation.planted import write_pool

    pool, curated, report = folder / "pool", folder / "curation", folder / "validation" / "report.json"
    if not (pool / "metadata.jsonl").exists():
        write_pool(pool, arguments.pool, seed)
    if not (curated / "report.html").exists():
        words = ("--images", pool, "--config", CONFIG, "--seed", seed, *LIMITS)
        call("scripts/curate.py", *words, "--out", curated)
    planted = write_halves(curated, folder, seed)
    runs = {arm: train(folder / arm, seed, arguments) for arm in ARMS}
    if not report.exists():
        models = ("--base", runs["random"], "--model", f"curated={runs['curated']}")
        call("scripts/validate.py", "run", WORLD, "--n", arguments.n, *models, *SAMPLING, "--outdir", report.parent)
    return {"planted": planted, **json.loads(report.read_text())}


def write_halves(curated: Path, folder: Path, seed: int) -> dict[str, Counter]:
    """A folder per half, each with as many pictures; returns what was planted in each."""
    from ldm.synthetic.worlds import find_world

    lines = [json.loads(line) for line in (curated / "metadata.jsonl").read_text().splitlines()]
    kept = [line["name"] for line in lines if line["kept"]]
    size, rng = min(len(kept), len(lines) // 2), random.Random(f"halves/{seed}")
    chosen = {"curated": rng.sample(kept, size), "random": rng.sample([line["name"] for line in lines], size)}
    planted = {}
    for arm, names in chosen.items():
        half = [{**line, "kept": True} for line in lines if line["name"] in set(names)]
        for line in half:
            line["file_name"] = os.path.relpath(curated / line["file_name"], folder / arm)
        (folder / arm).mkdir(parents=True, exist_ok=True)
        write(folder / arm / "metadata.jsonl", "".join(json.dumps(line) + "\n" for line in half))
        find_world(WORLD).vocab.write(folder / arm / "vocab.json")  # in the order of the validation scenes
        planted[arm] = Counter(line["planted"] for line in half)
    return planted


def train(folder: Path, seed: int, arguments: argparse.Namespace) -> Path:
    """Trains on a half, unless that is done; returns the log folder."""
    if not any(folder.glob("logs/*/checkpoints/last.ckpt")):
        data = (
            "data.params.train.target=ldm.data.curated.CuratedTrain",
            f"data.params.train.params={{root: {folder}, image_size: 64}}",
            "data.params.validation.params.reference=false",
            "data.params.num_workers=0",
            f"lightning.trainer.val_check_interval={arguments.max_steps}",
        )
        words = ("-t", "--gpus", arguments.gpus, "--max_steps", arguments.max_steps, "--seed", seed)
        call("trainer.py", "--base", CONFIG, *words, "--logdir", folder / "logs", *NO_STYLE, *data)
    return max(folder.glob("logs/*/checkpoints/last.ckpt")).parents[1]


def table(reports: list[dict], seeds: list[int]) -> str:
    """Curated minus random: each seed's difference with its interval, and their mean with that of Student's t."""
    from scipy import stats

    from ldm.util.tables import markdown_table

    rows = []
    for kind in ("with boxes", "without boxes"):
        for measure in reports[0]["measures"]:
            found = [
                each
                for report in reports
                for each in report["differences"]
                if (each["model"], each["type"], each["measure"]) == ("curated", kind, measure)
            ]
            unit = reports[0]["measures"][measure]["factor"]
            cells = [interval(unit * each["difference"], [unit * end for end in each["interval"]]) for each in found]
            mean = ""
            if len(found) > 1:
                values = [unit * each["difference"] for each in found]
                centre, half = sum(values) / len(values), stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
                mean = interval(centre, [centre - half, centre + half])
            base = sum(unit * each["base"] for each in found) / len(found)
            rows.append([kind, measure, f"{base:.1f}", *cells, mean])
    lines = [markdown_table(["graphs", "%", "random", *(f"seed {seed}" for seed in seeds), "mean (95 %)"], rows, 2)]
    for arm in ARMS:
        total = sum((Counter(report["planted"][arm]) for report in reports), Counter())
        lines.append(f"planted in the {arm} halves: {', '.join(f'{kind} {n}' for kind, n in total.most_common())}")
    return "\n\n".join(lines)


def interval(value: float, ends: list[float]) -> str:
    """'+3.1 (-1.0 to 7.2)'."""
    return f"{value:+.1f} ({ends[0]:.1f} to {ends[1]:.1f})"


def write(path: Path, text: str) -> None:
    """Writes a file beside its place and renames it."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def call(*words: object) -> None:
    """Runs one of the project's programs, and prints the command so that it can be repeated by hand."""
    command = [str(word) for word in words]
    print(f"\n$ python {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, *command], check=True)


if __name__ == "__main__":
    sys.exit(main())
