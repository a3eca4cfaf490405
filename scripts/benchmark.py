"""Benchmark the speed and memory of training and editing, next to a plain implementation and to diffusers' U-Net.

    python scripts/benchmark.py                                  small shapes: about two minutes on two CPU cores
    python scripts/benchmark.py --size vg --out outputs/speed    the full size of configs/vg.yaml
    python scripts/benchmark.py --only step,memory --compile
    python scripts/benchmark.py --estimate                       what Stable Diffusion 1, 2 and XL need, without running them

Weights are random, which does not affect the speed. Each variant of a computation is visited twice, in opposite orders, and
only one is in memory at a time (on a CPU, in a process of its own unless shapes are small); a time is the median over the
rounds, with quartiles in parentheses, and speedups are computed round by round. Results are written after each section, and
--resume goes on where a run was ended. If diffusers is installed (pip install
diffusers), its U-Net gets our weights, and its output is compared with ours before it is timed. Sections:

    matmul      square matrix products: the machine's peak, of which 'of peak' is the share
    unet        forward pass of the U-Net
    backward    forward and backward pass of the U-Net with a frozen body
    attention   each of torch's attention kernels, forward and backward
    encoders    first stage and CLIP
    step        training step, with images to encode and with a latent cache
    images      training step without a cache as it is run: images read from disk by workers, then encoded
    optimizer   AdamW, unfused and fused
    edit        an edit, against a plain DDIM loop of 50 + 2 x 50 U-Net calls
    clips       the U-Net on the frames of a clip with temporal layers, against the image model; the batch is the clip, and times
                are those of a frame
    scaling     training on 1, 2, 4, ... CPU processes
    profile     time by kind of operation, of unet, backward, step, images and edit (by default of backward and step)
    memory      peak memory of step, images, edit and clips (of step and edit if none is named)
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.util.cli import Parser, positive, run_program
from ldm.util.files import writable_folder

if TYPE_CHECKING:
    from ldm.profiling.workload import Workload

SECTIONS = (
    "matmul",
    "unet",
    "backward",
    "attention",
    "encoders",
    "step",
    "images",
    "optimizer",
    "edit",
    "clips",
    "scaling",
    "profile",
    "memory",
)
SIZES = ("small", "vg", "sd1")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser("benchmark.py", __doc__)
    add = parser.add_argument
    add(
        "--size",
        choices=SIZES,
        default="small",
        help="shapes: small ones, or those of configs/vg.yaml or configs/sd1_vg.yaml (default: %(default)s)",
    )
    add("--only", type=parse_sections, default=SECTIONS, metavar="A,B", help="sections to run (default: all)")
    add("--repeats", type=positive, default=5, metavar="N", help="rounds of measurements (default: %(default)s)")
    add("--batch-size", type=positive, default=2, metavar="N", help="images per batch (default: %(default)s)")
    add(
        "--steps",
        type=positive,
        default=50,
        metavar="N",
        help="steps of an edit, for inversion and for sampling each (default: %(default)s)",
    )
    add(
        "--precision",
        choices=["auto", "fp32", "both"],
        default="auto",
        help="both: fp32 and bf16; auto: bf16 only if its matrix products are faster than those of fp32 (default: "
        "%(default)s)",
    )
    add("--compile", action="store_true", help="measure compiled U-Nets too")
    add("--threads", type=positive, metavar="N", help="CPU threads (default: torch's own choice)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, else the CPU)")
    add(
        "--estimate",
        action="store_true",
        help="calculate the memory of Stable Diffusion 1, 2 and XL at full size on torch's meta device, print it, and exit",
    )
    add("--out", metavar="DIR", help="folder for speed.md and speed.json (default: none is written)")
    add(
        "--page",
        metavar="FILE",
        help="Markdown page, such as docs/performance.md, whose table gets the figures of this device (default: none)",
    )
    add(
        "--resume",
        action="store_true",
        help="measure only the sections that DIR's speed.json lacks, with the same options as then",
    )
    arguments = parser.parse_args(argv)
    if arguments.resume and not arguments.out:
        parser.error("--resume: name the folder of the earlier run with --out")
    return arguments


def parse_sections(text: str) -> tuple[str, ...]:
    """The sections to run; 'profile' and 'memory' alone bring sections that they apply to."""
    chosen = tuple(text.split(","))
    if unknown := set(chosen) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"there is no section {min(unknown)!r}; choose from {', '.join(SECTIONS)}")
    for extra, applicable, default in (
        ("profile", {"unet", "backward", "step", "images", "edit"}, ("backward", "step")),
        ("memory", {"step", "images", "edit", "clips"}, ("step", "edit")),
    ):
        if extra in chosen and not applicable & set(chosen):
            chosen = default + chosen
    return chosen


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    arguments = parse(argv)
    return run_program(
        lambda: run(arguments),
        "benchmark.py",
        if_out_of_memory="choose fewer sections (--only) or a lower --batch-size",
    )


def run(arguments: argparse.Namespace) -> None:
    """Measures the chosen sections, prints the report and writes it."""
    import torch  # not before the options are checked, so that --help is quick

    from ldm.models.loading import choose_device
    from ldm.models.runtime import keep_freed_memory
    from ldm.profiling import estimate, report, sections
    from ldm.profiling.page import fill_in
    from ldm.profiling.record import JSON, TABLE, Record, read_record

    if arguments.estimate:
        print(estimate.table([estimate.estimate(name, kind) for name in estimate.CONFIGS for kind in ("fp32", "fp16")]))
        return
    folder = arguments.out and writable_folder(arguments.out, "--out")
    device = choose_device(arguments.device)
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    if device == "cpu":
        keep_freed_memory()
    extras = {extra: extra in arguments.only for extra in ("memory", "profile")}
    options = {"precision": arguments.precision, "steps": arguments.steps, "compiled": arguments.compile, **extras}
    workload = make_workload(arguments, device)
    machine = {**report.describe_machine(workload), **options}
    record = read_record(folder, machine) if arguments.resume else Record(machine)
    record.peaks = record.peaks or sections.machine_peaks(arguments.precision, device)
    workload, record.remarks = with_precisions(workload, arguments.precision, record.peaks)
    for section in arguments.only:
        if section in record.finished:
            continue
        found = sections.run_section(section, workload, record.peaks, extras["memory"], extras["profile"])
        record.measurements += found
        if section == "scaling" and device == "cpu":
            record.scaling = sections.run_scaling(workload)
        record.finished.append(section)
        if folder:
            record.write(folder)
    record.remarks += sections.remarks(arguments.only, workload)
    print(record.text())
    if folder:
        record.write(folder)
        print(f"wrote {folder}/{TABLE} and {folder}/{JSON}")
    if arguments.page:
        fill_in(Path(arguments.page), "GPU" if device.startswith("cuda") else "CPU", record.measurements)
        print(f"wrote {arguments.page}")


def make_workload(arguments: argparse.Namespace, device: str) -> Workload:
    """The shapes and how they are run, as the options say."""
    import torch

    from ldm.profiling.workload import Workload

    return Workload(
        size=arguments.size,
        device=device,
        threads=torch.get_num_threads(),
        batch=arguments.batch_size,
        steps=arguments.steps,
        compiled=arguments.compile,
        repeats=arguments.repeats,
    )


def with_precisions(workload: Workload, precision: str, peaks: dict[str, float]) -> tuple[Workload, list[str]]:
    """The workload with the precisions to measure, and what the report says of the machine's peaks."""
    remarks = [f"{name} peak: {rate / 1e9:,.0f} GFLOP/s" for name, rate in peaks.items()]
    fast_half = peaks.get("bf16", 0) > peaks["fp32"]
    both = precision == "both" or (precision == "auto" and fast_half)
    if not fast_half and precision != "fp32":
        remarks.append(
            "this device computes bf16 by way of fp32: shares of its peak are shares of fp32's, and it is measured only with "
            "--precision both"
        )
    return replace(workload, precisions=("fp32", "bf16") if both else ("fp32",)), remarks


if __name__ == "__main__":
    sys.exit(main())
