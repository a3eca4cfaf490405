"""Train the checker of the rendered world: a detector that reads things, their words, boxes and places, and the style.

    python scripts/train_checker.py --data datasets/rendered/train --out data/demo/checker.safetensors
    python scripts/train_checker.py --data datasets/rendered/train --held-out datasets/rendered/choose --out checker.safetensors --no-autoencoder

It learns from true renders alone (scripts/render_scenes.py), made worse at random as files and cameras do, and by a
throw-away autoencoder that is trained beside it. An interrupted command goes on where it was: the state is kept in a file
beside the result. At the end it reads the held-out pictures. 8000 steps take a few minutes on a GPU.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import json
import sys
import time
from pathlib import Path

from ldm.util.cli import at_least, finite, positive, run_program
from ldm.util.errors import UserError
from ldm.util.files import writable_folder

HELD_OUT = 500  # pictures at the end of --data that validate, without --held-out


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", metavar="DIR", required=True, help="folder of rendered scenes to train on; edits are left out")
    add(
        "--held-out",
        metavar="DIR",
        help=f"folder of rendered scenes to validate on (default: the last {HELD_OUT} pictures of --data, or a tenth of "
        "them if that is less)",
    )
    add("--out", metavar="FILE", required=True, help="safetensors file for the weights, in half precision")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, else the CPU)")
    add("--steps", type=positive, default=8000, help="steps of training at most (default: %(default)s)")
    add("--minutes", type=finite, help="minutes of training at most, earlier pieces counted in")
    add("--batch", type=positive, default=256, help="pictures in a step (default: %(default)s)")
    add("--lr", type=finite, default=2e-3, help="highest learning rate (default: %(default)s)")
    add("--width", type=finite, default=1.0, help="factor of the detector's channel counts (default: %(default)s)")
    add("--limit", type=positive, metavar="N", help="use the first N pictures of --data only")
    add("--seed", type=at_least(0), default=0, help="seed of the training (default: %(default)s)")
    add("--no-autoencoder", action="store_true", help="train a checker that saw no autoencoder, to choose between some")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_program(
        lambda: run(args),
        "train_checker.py",
        if_stopped="the same command resumes",
        if_out_of_memory="a smaller --batch needs less",
    )


def run(args: argparse.Namespace) -> None:
    for option in ("minutes", "lr", "width"):
        value = getattr(args, option)
        if value is not None and value <= 0:
            raise UserError(f"--{option} {value:g}: it is above 0")
    out = Path(args.out)
    writable_folder(out.parent, "--out")

    import torch
    from tqdm import tqdm

    from ldm.synthetic.rendered.detector import save_detector
    from ldm.synthetic.rendered.targets import to_tensors
    from ldm.synthetic.rendered.training import DetectorTraining, Pictures, TrainingOptions

    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    (records, pictures), (held_records, held_pictures) = _load(args)
    print(f"{len(records)} pictures to train on, {len(held_records)} held out, on {device}", flush=True)
    options = TrainingOptions(
        steps=args.steps,
        minutes=args.minutes,
        batch=args.batch,
        learning_rate=args.lr,
        autoencoder=not args.no_autoencoder,
        width=args.width,
        seed=args.seed,
    )
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    data = Pictures.on(device, pictures, to_tensors(records))
    training = DetectorTraining(data, options, out.with_suffix(".state"))
    with tqdm(total=1000, bar_format="{percentage:3.0f} % |{bar}| {elapsed}<{remaining} {postfix}") as bar:

        def report(training: DetectorTraining, losses: dict[str, float]) -> None:
            bar.n = min(1000, round(1000 * training.progress))
            shown = {name: f"{losses[name]:.3f}" for name in ("heat", "kind", "box", "autoencoder") if name in losses}
            bar.set_postfix(step=training.step, **shown)

        training.run(report)
    save_detector(training.average, out)
    speed = training.seconds / max(1, training.step)
    print(
        f"{training.step} steps in {training.seconds / 60:.1f} minutes, {1000 * speed:.0f} ms a step; {out} is written"
    )
    _validate(out, held_records, held_pictures, device)


def _load(args: argparse.Namespace):
    """Records and pictures to train on, and those held out."""
    from tqdm import tqdm

    from ldm.synthetic.rendered.detector import SIDE
    from ldm.synthetic.rendered.pictures import read_pictures, read_scenes

    def read(records, paths):
        with tqdm(total=len(paths), unit="picture", desc="reading") as bar:
            return records, read_pictures(paths, SIDE, bar.update)

    records, paths = read_scenes(args.data)
    plain = [index for index, record in enumerate(records) if record.edit is None][: args.limit]
    held = [] if args.held_out else plain[-min(HELD_OUT, max(1, len(plain) // 10)) :]
    used = plain[: len(plain) - len(held)]
    if not used:
        raise UserError(f"{args.data}: too few pictures to train on; render more with scripts/render_scenes.py")
    training, validation = (([records[i] for i in part], [paths[i] for i in part]) for part in (used, held))
    return read(*training), read(*(read_scenes(args.held_out) if args.held_out else validation))


def _validate(weights: Path, records, pictures, device) -> None:
    """Prints how well the weights, as written, read the held-out pictures, and writes it beside them."""
    from ldm.synthetic.rendered.detector import load_detector
    from ldm.synthetic.rendered.validation import faults_caught, read_all, score

    began = time.monotonic()
    readings = read_all(load_detector(weights).to(device), pictures)
    seconds = time.monotonic() - began
    scores, faults = score(records, readings), faults_caught(records, readings)
    print(f"{len(records)} held-out pictures, read in {seconds:.1f} s:")
    for name, value in scores.items():
        print(f"  {name:20} {value:.4f}" if name in ("box", "position") else f"  {name:20} {100 * value:.2f} %")
    print("planted faults that are caught:")
    for name, value in faults.items():
        print(f"  {name:20} {100 * value:.2f} %")
    weights.with_suffix(".json").write_text(json.dumps({"scores": scores, "faults": faults}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
