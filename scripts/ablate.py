"""What each trained part buys: train the adapters of configs/demo.yaml with and without them, and measure their samples.

    python scripts/ablate.py --seeds 1,2,3 --outdir outputs/ablation

Every run, and every measurement of it, that is already in --outdir is not done again, so seeds can be shared among
processes or machines, and the table is of all that is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

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
    add("--base", default="configs/demo.yaml", metavar="YAML", help="(default: %(default)s)")
    add("--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[1, 2, 3], help="of the training "
        "(default: 1,2,3)")  # fmt: skip
    add("--max-steps", type=int, help="of each training (default: the config's)")
    add("--n", type=int, default=200, help="scenes of a kind that are sampled (default: %(default)s)")
    add("--seed-offset", type=int, default=100_000, help="number of the first of them (default: %(default)s)")
    add("--scenes", choices=["shapes", "hard"], default="shapes", help="(default: %(default)s)")
    add("--gpus", default="cpu", help="for the training (default: %(default)s)")
    add("--outdir", default="outputs/ablation", metavar="DIR", help="(default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    folder = Path(arguments.outdir)
    try:
        for seed in arguments.seeds:
            for parts, overrides in PARTS.items():
                run_and_measure(arguments, folder / f"{file_name(parts)}_{seed}", seed, overrides)
    except subprocess.CalledProcessError as error:  # which has said why
        return error.returncode
    table = markdown(folder)
    (folder / ".table.md").write_text(table)
    (folder / ".table.md").replace(folder / "table.md")
    print(table, end="")
    print(f"wrote {folder}/table.md")
    return 0


def file_name(parts: str) -> str:
    return parts.replace(" + ", "_").replace(", ", "_").replace(" ", "_")


def run_and_measure(arguments: argparse.Namespace, place: Path, seed: int, overrides: list[str]) -> None:
    """Train into `place`/logs, measure into `place`/scenes; what is there is gone on with, or let be."""
    if (place / "scenes" / "report.json").exists():
        return
    begun = sorted(place.glob("logs/*/checkpoints/last.ckpt"))
    steps = ["--max_steps", str(arguments.max_steps)] if arguments.max_steps else []
    if begun:
        call("trainer.py", "--resume", begun[-1].parents[1], "-t", "--gpus", arguments.gpus, *steps)
    else:
        where = ["--logdir", place / "logs", "--seed", seed]
        call("trainer.py", "--base", arguments.base, "-t", "--gpus", arguments.gpus, *steps, *where, *overrides)
    run = max(place.glob("logs/*/checkpoints/last.ckpt")).parents[1]
    references = "none" if "model.params.global_stage_config=null" in overrides else "same,other"
    count = ["--n", arguments.n, "--seed-offset", arguments.seed_offset, "--scenes", arguments.scenes]
    given = ["--references", references, "--layout", "none", "--sampler", "dpm++", "--steps", 10, *count]
    call("scripts/evaluate.py", "scenes", "--run", run, *given, "--outdir", place / "scenes")


def call(*words) -> None:
    """Run one of the project's programs, saying so, so that it can be run again by hand."""
    words = [str(word) for word in words]
    print(f"\n$ python {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, *words], check=True)


def markdown(folder: Path) -> str:
    """A line for each set of parts: means over the seeds, and the standard deviation between them."""
    rows = ["| trained | seeds | " + " | ".join(heading for heading, *_ in COLUMNS) + " |"]
    rows.append("|---|---:|" + "---:|" * len(COLUMNS))
    for parts in PARTS:
        reports = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{file_name(parts)}_[0-9]*/scenes/report.json"))]
        if reports:
            cells = [cell([value(report, *column[1:]) for report in reports]) for column in COLUMNS]
            rows.append(f"| {parts} | {len(reports)} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def value(report: dict, boxes: str, reference: str, measure: str) -> float | None:
    """Without an image encoder there was no reference, and what does not need one is the same for both."""
    for line in report["results"]:
        if line["boxes"] == boxes and line["reference"] in (reference, "none"):
            found = line[measure]
            return found if found is None or measure.startswith("towards") else 100 * found
    return None


def cell(values: list[float | None]) -> str:
    if None in values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
