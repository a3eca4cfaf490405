"""Measure results. `evaluate.py images`: how good samples are, against real images, as a JSON report with its protocol.

    python scripts/evaluate.py images --samples outputs/vg --config configs/vg.yaml --split test
    python scripts/evaluate.py images --samples edits --reference originals --metrics psnr,ssim

FID and IS by default, with --paired also PSNR, SSIM and LPIPS, and diversity where a graph has several samples.
The weights of their networks are not downloaded: it says which file belongs where.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    images = commands.add_parser("images", help="FID, IS, PSNR, SSIM, LPIPS and diversity of folders of images")
    images.set_defaults(report=report_on_images)
    add = images.add_argument
    add("--samples", required=True, metavar="DIR", help="images of scripts/sample.py (its index.jsonl says whose graph "
        "each shows), or any others, those of one graph in a subfolder of their own")  # fmt: skip
    real = images.add_mutually_exclusive_group()
    real.add_argument("--reference", metavar="DIR", help="real images")
    real.add_argument("--config", metavar="YAML", help="whose data section has the real images")
    add("--split", default="test", help="of --config: train, validation or test (default: %(default)s)")
    add("--paired", action="store_true", help="each sample belongs to one real image: the one of its file name in "
        "--reference, the one of its graph_index in --config; adds PSNR, SSIM and LPIPS")  # fmt: skip
    add("--metrics", type=lambda text: text.split(","), help="some of fid,is,psnr,ssim,lpips,diversity instead")
    add("--n", type=at_least(1), help="the first so many of either side (default: all)")
    add("--size", type=at_least(32), default=256, help="pixels that all images are resized to (default: %(default)s)")
    add("--lpips-net", choices=["alex", "vgg"], default="alex", help="(default: %(default)s, as diversity has it)")
    add("--weights", metavar="DIR", help="where the networks' weights are (default: torch's own folder, "
        "~/.cache/torch/hub/checkpoints)")  # fmt: skip
    add("--batch-size", type=at_least(1), default=32, help="(default: %(default)s)")
    add("--workers", type=at_least(0), default=4, help="processes that read ahead (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    add("--out", metavar="JSON", help="where the report goes (default: report.json in the samples' folder)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    from ldm.util import UserError  # from here on torch is imported, which --help need not wait for

    try:
        arguments.report(arguments)
    except UserError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    return 0


def report_on_images(arguments: argparse.Namespace) -> None:
    import torch

    from ldm.data.image_sets import Folder, Split, of_one_graph
    from ldm.evaluation import METRICS, PAIRED, evaluate, find_weights, load_networks
    from ldm.run import choose_device
    from ldm.util import UserError, nearest, writable_folder

    for metric in arguments.metrics or ():
        if metric not in METRICS:
            raise UserError(f"--metrics {metric}: not one of {', '.join(METRICS)}{nearest(metric, METRICS)}")
    device, out = choose_device(arguments.device), Path(arguments.out or Path(arguments.samples) / "report.json")
    writable_folder(out.parent, "--out")
    if out.is_dir():
        raise UserError(f"--out {out}: a folder; name a file in it")
    size, n = arguments.size, arguments.n
    samples = Folder(arguments.samples, size, n)
    usual = ["fid", "is", *(PAIRED if arguments.paired else ()), *(["diversity"] if of_one_graph(samples) else ())]
    metrics = arguments.metrics or usual
    weights_folder = Path(arguments.weights or Path(torch.hub.get_dir()) / "checkpoints").expanduser()
    weights = find_weights(metrics, weights_folder, arguments.lpips_net)
    reference = None
    if arguments.config:
        reference = Split(arguments.config, arguments.split, size)
    elif arguments.reference:
        reference = Folder(arguments.reference, size)

    networks = load_networks(weights, arguments.lpips_net, device)
    report = evaluate(samples, reference, metrics, networks, n, arguments.batch_size, arguments.workers, device)
    write(out, arguments, report)
    for name, number in report["metrics"].items():
        values = (f"{key} {value:.4f}" for key, value in number.items() if isinstance(value, float))
        print(f"{name:10}{', '.join(values)}")
    for remark in report["remarks"]:
        print(f"  {remark}")
    print(f"wrote {out}")


def write(out: Path, arguments: argparse.Namespace, report: dict) -> None:
    """Beside its place first, then renamed, so that it is never half written."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "pillow", "torchmetrics", "torch-fidelity", "lpips"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            pass
    given = {name: value for name, value in vars(arguments).items() if not callable(value)}
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}")
    part.write_text(json.dumps({**report, "arguments": given, "versions": versions}, indent=2) + "\n")
    part.replace(out)


def at_least(least: int):
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
