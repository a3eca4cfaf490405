"""How fast training and editing are here, side by side with the plain path and with diffusers' U-Net of the same shape.

    python scripts/benchmark.py                                  small shapes: about two minutes on two CPU cores
    python scripts/benchmark.py --size vg --out outputs/speed    the full size of configs/vg.yaml
    python scripts/benchmark.py --only step,memory --compile

Weights are random, which time does not know. All ways to do one thing run in turns; a number is the median of all rounds,
with the quartiles in brackets, and a ratio is taken within each round. Where diffusers is installed (pip install diffusers),
its U-Net gets our weights, and has to give the same numbers before it is timed. What is measured:

    matmul      products of square matrices: what the machine can do, of which 'of peak' is the share
    unet        the U-Net's forward pass
    backward    its forward and backward pass with a frozen body
    attention   each of torch's kernels, forward and backward
    encoders    the first stage and CLIP
    step        a training step, with images to encode and with a cache
    optimizer   AdamW as torch has it, and fused
    edit        an edit, against a plain loop of 50 + 2 x 50 evaluations
    scaling     training on 1, 2, 4, ... CPU processes
    profile     what the time of unet, backward, step and edit goes to, of backward and step where none of them is named
    memory      peaks of step and edit, of both where neither is named, in a process of their own each; these take a while
"""

from __future__ import annotations

import argparse
import json
import sys

from ldm.util.cli import positive
from ldm.util.errors import UserError
from ldm.util.files import writable_folder

SECTIONS = ("matmul", "unet", "backward", "attention", "encoders", "step", "optimizer", "edit", "scaling", "profile",
            "memory")  # fmt: skip
SIZES = ("small", "vg", "sd1")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--size", choices=SIZES, default="small", help="shapes: small ones, or those of configs/vg.yaml or "
        "configs/sd1_vg.yaml (default: %(default)s)")  # fmt: skip
    add("--only", type=sections, default=SECTIONS, metavar="A,B", help="some of the above (default: all)")
    add("--repeats", type=positive, default=5, metavar="N", help="rounds (default: %(default)s)")
    add("--batch-size", type=positive, default=2, metavar="N", help="images at once (default: %(default)s)")
    add("--steps", type=positive, default=50, metavar="N", help="of an edit, up and down each (default: %(default)s)")
    add("--precision", choices=["auto", "fp32", "both"], default="auto", help="auto measures bf16 as well where its matrix "
        "products are faster than those of fp32 (default: %(default)s)")  # fmt: skip
    add("--compile", action="store_true", help="measure compiled U-Nets as well")
    add("--threads", type=positive, metavar="N", help="of the CPU (default: torch's own)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    add("--out", metavar="DIR", help="write speed.md and speed.json there")
    return parser.parse_args(argv)


def sections(words: str) -> tuple[str, ...]:
    chosen = tuple(words.split(","))
    if unknown := set(chosen) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"there is no {min(unknown)!r}, only {', '.join(SECTIONS)}")
    for what, of, usual in (
        ("profile", {"unet", "backward", "step", "edit"}, ("backward", "step")),
        ("memory", {"step", "edit"}, ("step", "edit")),
    ):
        if what in chosen and not of & set(chosen):
            chosen = usual + chosen
    return chosen


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    import torch  # only now, as --help need not wait for it

    try:
        return run(arguments)
    except UserError as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
    except torch.OutOfMemoryError:
        print("benchmark.py: out of GPU memory: fewer sections (--only), or a lower --batch-size", file=sys.stderr)
    except KeyboardInterrupt:
        print("benchmark.py: stopped", file=sys.stderr)
        return 130
    return 2


def run(arguments: argparse.Namespace) -> int:
    import torch

    from ldm.models.loading import choose_device
    from ldm.models.runtime import keep_freed_memory
    from ldm.profiling import report, sections
    from ldm.profiling.setting import Setting

    folder = arguments.out and writable_folder(arguments.out, "--out")
    device = choose_device(arguments.device)
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    if device == "cpu":
        keep_freed_memory()
    peaks = sections.machine_peaks(arguments.precision, device)
    fast_half = peaks.get("bf16", 0) > peaks["fp32"]
    both = arguments.precision == "both" or (arguments.precision == "auto" and fast_half)
    setting = Setting(
        arguments.size, device, torch.get_num_threads(), arguments.batch_size, arguments.steps,
        ("fp32", "bf16") if both else ("fp32",), arguments.compile, arguments.repeats,
    )  # fmt: skip
    remarks = [f"{name} peak: {rate / 1e9:,.0f} GFLOP/s" for name, rate in peaks.items()]
    if not fast_half and arguments.precision != "fp32":
        remarks.append("bf16 is computed by way of fp32 here, so it is left out (--precision both measures it), and its shares "
                       "are of fp32's peak")  # fmt: skip
    peaks["bf16"] = max(peaks.values())

    rows = sections.rows_of(arguments.only, setting, peaks)
    processes = sections.scaling(setting) if "scaling" in arguments.only and device == "cpu" else []
    remarks += sections.remarks(arguments.only, setting)

    about = report.machine(setting)
    text = [report.table(rows)] if rows else []
    text += [profiles] if (profiles := report.profiles(rows, peaks)) else []
    text += [report.processes(processes)] if processes else []
    text += ["\n".join(f"- {remark}" for remark in (", ".join(f"{k} {v}" for k, v in about.items()), *remarks))]
    text = "\n\n".join(text)
    print(text)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        record = {"machine": about, "peaks": peaks, "remarks": remarks, "rows": [report.to_json(row) for row in rows]}
        record["processes"] = [dict(zip(("processes", "images_per_second", "apart"), row)) for row in processes]
        (folder / "speed.json").write_text(json.dumps(record, indent=1) + "\n")
        (folder / "speed.md").write_text(text + "\n")
        print(f"written: {folder}/speed.md, {folder}/speed.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
