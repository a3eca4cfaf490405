"""Proves this project on one NVIDIA GPU: the tests marked `gpu`, then a benchmark, and one summary of both.

    python tests/gpu/prove.py --page docs/performance.md     what `make gpu` runs; needs nothing from the network
    python tests/gpu/prove.py --device cpu                   a rehearsal without a GPU, with small shapes

Writes tests.xml, speed.json, speed.md and summary.md to --out. Exits with 0 if everything is proven, or if there is no GPU; a
rehearsal, which proves nothing about GPUs, if no test failed and the benchmark ran.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
GOAL = 6 * 60  # seconds for everything
NO_GPU = (
    "no test was run: torch finds no NVIDIA GPU here (torch.cuda.is_available() is false); run this on a machine that has "
    "one, or rehearse it with --device cpu"
)
SHAPES = {  # options of scripts/benchmark.py
    "cuda": "--size vg --only matmul,unet,backward,step,images,edit,memory --precision both --batch-size 8 --repeats 2",
    "cpu": "--size small --only matmul,unet,backward,step --precision both --batch-size 1 --repeats 2 --steps 2",
}
# What is proven, and a pattern of the names of the tests that prove it. The first match counts.
PROOFS = {
    "predicted noise in fp32, fp16 and bf16, and the encoders": r"predicted_noise|encoders_give",
    "offloaded parts and the choice of the device": r"offloaded|gpu_is_chosen",
    "every inversion method": r"inversion_method",
    "every sampler": r"every_sampler|sampled_images",
    "edits in fp32, fp16 and bf16": r"an_edit_is|style_transfer|program_edits",
    "edits at 256 and 512 px, with and without --low-memory": r"low_memory_gives",
    "memory of edits with Stable Diffusion 1, 2 and XL": r"stable_diffusion",
    "training steps in fp32, bf16-mixed and 16-mixed": r"gradients_are_the_cpus|recomputed",
    "training steps, compiled": r"compiled",
    "training steps, replayed by CUDA graphs": r"replayed",
    "training steps, sharded (fsdp) on one device": r"sharded",
    "training of each shipped config": r"every_config|cached_latents",
    "exact resume": r"resumed",
}


class Case(NamedTuple):
    """One test.

    Attributes:
        name: with its parameters.
        seconds: it took.
        outcome: 'passed', 'failed' or 'skipped'.
        reason: of a failure or a skip, in one line.
        figures: what it recorded.
    """

    name: str
    seconds: float
    outcome: str
    reason: str = ""
    figures: tuple[str, ...] = ()


def main(argv: list[str] | None = None) -> int:
    """Runs the tests and the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: rehearse (default: cuda)")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "gpu", help="folder (default: outputs/gpu)")
    parser.add_argument("--page", type=Path, help="page whose table gets the GPU's figures; not in a rehearsal")
    parser.add_argument("--tests", default="", metavar="PATTERN", help="run only tests whose names match (pytest -k)")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not has_gpu():
        print(NO_GPU)
        return 0
    started = time.monotonic()
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tests.xml", "speed.json"):
        (out / name).unlink(missing_ok=True)
    run_tests(arguments.device, out, arguments.tests)
    run_benchmark(arguments.device, out, arguments.page)
    cases = read_cases(out / "tests.xml")
    rows = json.loads((out / "speed.json").read_text())["rows"] if (out / "speed.json").exists() else []
    text, proven = summary(cases, rows, time.monotonic() - started)
    (out / "summary.md").write_text(text + "\n")
    print(f"\n{text}\n\nwrote {out}/summary.md")
    rehearsed = arguments.device == "cpu" and rows and not any(case.outcome == "failed" for case in cases)
    return 0 if proven or rehearsed else 1


def has_gpu() -> bool:
    """Whether torch can use an NVIDIA GPU."""
    import torch

    return torch.cuda.is_available()


def run_tests(device: str, out: Path, pattern: str) -> None:
    """Runs the tests; some at a time where pytest-xdist is installed, since most keep neither the GPU nor a CPU core busy."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests" / "gpu")]
    command += [f"--junitxml={out / 'tests.xml'}", *(["-k", pattern] if pattern else [])]
    if device == "cuda" and importlib.util.find_spec("xdist"):
        command += ["-n", str(min(4, os.cpu_count() or 1))]
    environment = {**os.environ, **({"GPU_TESTS_DEVICE": "cpu"} if device == "cpu" else {})}
    subprocess.run(command, cwd=ROOT, env=environment, check=False)


def run_benchmark(device: str, out: Path, page: Path | None) -> None:
    """Runs the benchmark, which writes each section when it is finished."""
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--device", device, *SHAPES[device].split()]
    command += ["--out", str(out), *(["--page", str(page)] if page and device == "cuda" else [])]
    subprocess.run(command, cwd=ROOT, check=False)


def read_cases(path: Path) -> list[Case]:
    """The tests in a file of pytest's --junitxml; none if there is no file."""
    if not path.exists():
        return []
    cases = []
    for element in ElementTree.parse(path).iter("testcase"):
        outcome, reason = "passed", ""
        for child in element:
            if child.tag in ("failure", "error", "skipped"):
                outcome = "skipped" if child.tag == "skipped" else "failed"
                reason = (child.get("message") or "").partition("\n")[0]
        figures = [p.get("value", "") for p in element.iter("property") if p.get("name") == "figure"]
        cases.append(Case(element.get("name", ""), float(element.get("time", 0)), outcome, reason, tuple(figures)))
    return cases


def summary(cases: list[Case], rows: list[dict], seconds: float) -> tuple[str, bool]:
    """The summary in Markdown, and whether everything is proven: each proof has a test, none failed, all was measured.

    Args:
        cases: the tests.
        rows: those of speed.json.
        seconds: that everything took.
    """
    lines = ["| what | passed | s |", "|---|---:|---:|"]
    unproven = []
    for proof, chosen in by_proof(cases).items():
        passed = sum(case.outcome == "passed" for case in chosen)
        ran = sum(case.outcome != "skipped" for case in chosen)
        lines.append(f"| {proof} | {passed} of {ran} | {sum(case.seconds for case in chosen):.0f} |")
        if not passed or passed < ran:
            unproven.append(proof)
    lines += ["", *(f"- failed: {case.name}: {case.reason}" for case in cases if case.outcome == "failed")]
    lines += [f"- skipped: {case.name}: {case.reason}" for case in cases if case.outcome == "skipped"]
    lines += [f"- {figure}" for case in cases for figure in case.figures]
    lines += [f"- {line}" for line in speed_lines(rows)]
    if not rows:
        unproven.append("speed and memory (the benchmark wrote nothing)")
    passed = sum(case.outcome == "passed" for case in cases)
    minutes, rest = divmod(round(seconds), 60)
    late = f", {round(seconds - GOAL)} s above the goal of {GOAL // 60} min" if seconds > GOAL else ""
    verdict = f"NOT proven: {'; '.join(unproven)}" if unproven else "proven"
    lines += ["", f"{verdict}; {passed} of {len(cases)} tests passed, {minutes} min {rest} s{late}"]
    return "\n".join(lines), not unproven


def by_proof(cases: list[Case]) -> dict[str, list[Case]]:
    """The tests of each proof; those of none are listed as 'others' if there are any."""
    chosen: dict[str, list[Case]] = {proof: [] for proof in PROOFS}
    for case in cases:
        chosen.setdefault(proof_of(case.name) or "others", []).append(case)
    return chosen


def proof_of(test: str) -> str | None:
    """What a test proves, by its name."""
    name = test.partition("[")[0]
    return next((proof for proof, pattern in PROOFS.items() if re.search(pattern, name)), None)


def speed_lines(rows: list[dict]) -> list[str]:
    """One line for each computation and precision: its fastest variant's time, speed beside the peer's, peak share and memory."""
    best: dict[tuple[str, str], dict] = {}
    for row in rows:
        key = row["group"], row["precision"]
        ours = "diffusers" not in row["way"]
        if ours and (key not in best or row["seconds"]["median"] < best[key]["seconds"]["median"]):
            best[key] = row
    lines = []
    for (group, precision), row in best.items():
        found = [f"{group}, {precision}: {1000 * row['seconds']['median']:.1f} ms per image ({row['way']})"]
        if row["against_peer"]:
            median, low, high = (row["against_peer"][key] for key in ("median", "low", "high"))
            found.append(f"{median:.2f} ({low:.2f}–{high:.2f}) times diffusers' speed")
        found += [f"{row['share']:.0%} of peak"] if row["share"] else []
        found += [f"{row['memory'] / 1e9:.2f} GB"] if row["memory"] else []
        lines.append(", ".join(found))
    return lines


if __name__ == "__main__":
    sys.exit(main())
