"""Benchmark the speed and memory of training and editing, next to a plain implementation and to diffusers' U-Net.

    python scripts/benchmark.py                                  small shapes: about two minutes on two CPU cores
    python scripts/benchmark.py --size vg --out outputs/speed    the full size of configs/vg.yaml
    python scripts/benchmark.py --only step,memory --compile
    python scripts/benchmark.py --estimate                       what Stable Diffusion 1, 2 and XL need, without running them

Weights are random, which does not affect the speed. All variants of a computation run in turns; a time is the median over
the rounds, with quartiles in parentheses, and speedups are computed round by round. If diffusers is installed (pip install
diffusers), its U-Net gets our weights, and its output is compared with ours before it is timed. Sections:

    matmul      square matrix products: the machine's peak, of which 'of peak' is the share
    unet        forward pass of the U-Net
    backward    forward and backward pass of the U-Net with a frozen body
    attention   each of torch's attention kernels, forward and backward
    encoders    first stage and CLIP
    step        training step, with images to encode and with a latent cache
    optimizer   AdamW, unfused and fused
    edit        an edit, against a plain DDIM loop of 50 + 2 x 50 U-Net calls
    clips       the U-Net on the frames of a clip with layers along time, against the image model; the batch is the clip, and times
                are those of a frame
    scaling     training on 1, 2, 4, ... CPU processes
    profile     time by kind of operation, of unet, backward, step and edit (of backward and step if none of them is named)
    memory      peak memory of step, edit and clips (of the first two if none is named); takes a while: one process for each variant
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import json
import sys

from ldm.util.cli import Parser, positive, run_program
from ldm.util.files import atomic_write, writable_folder

SECTIONS = (
    "matmul",
    "unet",
    "backward",
    "attention",
    "encoders",
    "step",
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
    return parser.parse_args(argv)


def parse_sections(text: str) -> tuple[str, ...]:
    """The sections to run; 'profile' and 'memory' alone bring sections that they apply to."""
    chosen = tuple(text.split(","))
    if unknown := set(chosen) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"there is no section {min(unknown)!r}; choose from {', '.join(SECTIONS)}")
    for extra, applicable, default in (
        ("profile", {"unet", "backward", "step", "edit"}, ("backward", "step")),
        ("memory", {"step", "edit", "clips"}, ("step", "edit")),
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
    from ldm.profiling.workload import Workload

    if arguments.estimate:
        print(estimate.table([estimate.estimate(name, kind) for name in estimate.CONFIGS for kind in ("fp32", "fp16")]))
        return
    folder = arguments.out and writable_folder(arguments.out, "--out")
    device = choose_device(arguments.device)
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    if device == "cpu":
        keep_freed_memory()
    peaks = sections.machine_peaks(arguments.precision, device)
    remarks = [f"{name} peak: {rate / 1e9:,.0f} GFLOP/s" for name, rate in peaks.items()]
    fast_half = peaks.get("bf16", 0) > peaks["fp32"]
    both = arguments.precision == "both" or (arguments.precision == "auto" and fast_half)
    if not fast_half and arguments.precision != "fp32":
        remarks.append(
            "this device computes bf16 by way of fp32: shares of its peak are shares of fp32's, and it is measured only with "
            "--precision both"
        )
    peaks["bf16"] = max(peaks.values())
    workload = Workload(
        size=arguments.size,
        device=device,
        threads=torch.get_num_threads(),
        batch=arguments.batch_size,
        steps=arguments.steps,
        precisions=("fp32", "bf16") if both else ("fp32",),
        compiled=arguments.compile,
        repeats=arguments.repeats,
    )
    measurements = sections.run_sections(arguments.only, workload, peaks)
    scaling = sections.run_scaling(workload) if "scaling" in arguments.only and device == "cpu" else []
    remarks += sections.remarks(arguments.only, workload)

    machine = report.describe_machine(workload)
    tables = [report.speed_table(measurements)] if measurements else []
    tables += [table] if (table := report.profile_table(measurements, peaks)) else []
    tables += [report.scaling_table(scaling)] if scaling else []
    notes = [", ".join(f"{key} {value}" for key, value in machine.items()), *remarks]
    text = "\n\n".join([*tables, "\n".join(f"- {note}" for note in notes)])
    print(text)
    if folder:
        record = {
            "machine": machine,
            "peaks": peaks,
            "remarks": remarks,
            "rows": [report.to_json(measurement) for measurement in measurements],
            "processes": [result._asdict() for result in scaling],
        }
        with atomic_write(folder / "speed.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
        with atomic_write(folder / "speed.md") as temporary:
            temporary.write_text(text + "\n")
        print(f"wrote {folder}/speed.md and {folder}/speed.json")


if __name__ == "__main__":
    sys.exit(main())
