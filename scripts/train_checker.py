"""Train a checker of rendered scenes: a detector that reads things, their words, boxes and places, and the style.

    python scripts/train_checker.py --data datasets/rendered/train --out data/demo/checker.safetensors
    python scripts/train_checker.py --data datasets/rendered/train --out no_autoencoder.safetensors --no-autoencoder
    python scripts/train_checker.py --check-only --held-out datasets/rendered/choose --out data/demo/checker.safetensors \\
        --first-stage configs/demo/first_stage.yaml last.ckpt
    python scripts/train_checker.py --data datasets/rendered/clevr/train --from data/demo/checker.safetensors \\
        --out datasets/rendered/clevr/checker.safetensors --pictures CLEVR_v1.0/val

Scenes in CLEVR's look (scripts/render_scenes.py --look clevr) train a checker of CLEVR's solids.
It learns from true renders alone (scripts/render_scenes.py), made worse at random as files and cameras do, and by a
throw-away autoencoder that is trained beside it. An interrupted command goes on where it was: the state is kept in a file
beside the result. At the end it reads the held-out pictures; --check-only does just that.
8000 steps take a few minutes on a GPU.
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

from ldm.util.cli import Parser, at_least, finite, positive, run_program
from ldm.util.errors import UserError
from ldm.util.files import writable_folder

HELD_OUT = 500  # pictures at the end of --data that validate, without --held-out


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("train_checker.py", __doc__)
    add = parser.add_argument
    add("--data", metavar="DIR", help="folder of rendered scenes to train on; edits are left out")
    add(
        "--held-out",
        metavar="DIR",
        help=f"folder of rendered scenes to validate on (default: the last {HELD_OUT} pictures of --data, or a tenth of "
        "them if that is less)",
    )
    add("--out", metavar="FILE", required=True, help="safetensors file for the weights, in half precision")
    add(
        "--from",
        dest="initial",
        metavar="FILE",
        help="weights of another checker to start from: layers of equal shape, and channels of words that both have",
    )
    add(
        "--pictures",
        nargs="+",
        metavar="DIR",
        default=[],
        help="for CLEVR's look: read also pictures that were not rendered here, of folders with images and CLEVR_scenes.json",
    )
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, else the CPU)")
    add("--steps", type=positive, default=8000, help="steps of training at most (default: %(default)s)")
    add("--minutes", type=finite, help="minutes of training at most, earlier pieces counted in")
    add("--batch", type=positive, default=256, help="pictures in a step (default: %(default)s)")
    add("--lr", type=finite, default=2e-3, help="highest learning rate (default: %(default)s)")
    add("--width", type=finite, default=1.0, help="factor of the detector's channel counts (default: %(default)s)")
    add("--limit", type=positive, metavar="N", help="use the first N pictures of --data only")
    add("--seed", type=at_least(0), default=0, help="seed of the training (default: %(default)s)")
    add("--no-autoencoder", action="store_true", help="train a checker that saw no autoencoder, to choose between some")
    add(
        "--hues",
        type=finite,
        default=0.0,
        metavar="SHARE",
        help="colour augmentation: share of the pictures whose hues are rotated at random and whose colours are not learned, so that things of any colour are found (default: %(default)s)",
    )
    add(
        "--check-only",
        action="store_true",
        help="train nothing: read the pictures of --held-out with the weights --out",
    )
    add(
        "--first-stage",
        nargs=2,
        metavar=("YAML", "FILE"),
        help="read the held-out pictures also through this first stage: its training config and its weights",
    )
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
    if not 0 <= args.hues <= 1:
        raise UserError(f"--hues {args.hues:g}: give a share from 0 to 1")
    if args.check_only and not (args.held_out or args.pictures):
        raise UserError("--check-only: name the pictures to read with --held-out or --pictures")
    if not args.check_only and not args.data:
        raise UserError("--data: name a folder of rendered scenes; scripts/render_scenes.py writes them")
    out = Path(args.out)
    writable_folder(out.parent, "--out")

    import torch

    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    held_out = None
    if not args.check_only:
        held_out = _train(args, out, device)
    elif args.held_out:
        held_out = _read(*_scenes(args.held_out, _look_of(out)))
    if held_out:
        _validate(out, *held_out, device)
    if held_out and args.first_stage:
        print(f"the same pictures through {args.first_stage[1]}:")
        _validate(out, held_out[0], _reconstruct(*args.first_stage, held_out[1], device), device, "through_first_stage")
    if args.pictures:
        _read_clevr(out, args.pictures)


def _train(args: argparse.Namespace, out: Path, device):
    """Trains and writes the weights; gives the records and the pictures that are held out."""
    import torch
    from tqdm import tqdm

    from ldm.synthetic.rendered.detector import load_detector, save_detector
    from ldm.synthetic.rendered.pictures import find_look
    from ldm.synthetic.rendered.targets import to_tensors
    from ldm.synthetic.rendered.training import DetectorTraining, Pictures, TrainingOptions
    from ldm.synthetic.rendered.vocabulary import LOOKS

    initial = load_detector(Path(args.initial)) if args.initial else None
    look = find_look(args.data)
    (records, pictures), (held_records, held_pictures) = _load(args, look)
    print(f"{len(records)} pictures to train on, {len(held_records)} held out, on {device}", flush=True)
    options = TrainingOptions(
        steps=args.steps,
        minutes=args.minutes,
        batch=args.batch,
        learning_rate=args.lr,
        autoencoder=not args.no_autoencoder,
        hues=args.hues,
        width=args.width,
        seed=args.seed,
    )
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    data = Pictures.on(device, pictures, to_tensors(records, LOOKS[look]))
    training = DetectorTraining(data, options, out.with_suffix(".state"), LOOKS[look], initial)
    if initial:
        layers, words = training.taken_over
        print(f"from {args.initial}: {layers} tensors of equal shape, and the channels of {words} words that both have")
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
    return held_records, held_pictures


def _scenes(folder: str, look: str):
    """Records and paths of the pictures in a folder."""
    from ldm.synthetic.rendered.pictures import read_scenes

    return read_scenes(folder, look)


def _look_of(weights: Path) -> str:
    """The look of the scenes that a checker reads."""
    from ldm.synthetic.rendered.detector import load_detector
    from ldm.synthetic.rendered.vocabulary import LOOKS

    words = load_detector(weights).vocabulary
    found = next((look for look, known in LOOKS.items() if known == words), None)
    if found is None:
        raise UserError(f"{weights}: reads other words than those of rendered scenes; train it again")
    return found


def _read(records, paths):
    """The records and the pictures (N,SIDE,SIDE,3)."""
    from tqdm import tqdm

    from ldm.synthetic.rendered.detector import SIDE
    from ldm.synthetic.rendered.pictures import read_pictures

    with tqdm(total=len(paths), unit="picture", desc="reading") as bar:
        return records, read_pictures(paths, SIDE, bar.update)


def _load(args: argparse.Namespace, look: str):
    """Records and pictures to train on, and those held out."""
    records, paths = _scenes(args.data, look)
    plain = [index for index, record in enumerate(records) if record.edit is None][: args.limit]
    held = [] if args.held_out else plain[-min(HELD_OUT, max(1, len(plain) // 10)) :]
    used = plain[: len(plain) - len(held)]
    if not used:
        raise UserError(f"{args.data}: too few pictures to train on; render more with scripts/render_scenes.py")
    training, validation = (([records[i] for i in part], [paths[i] for i in part]) for part in (used, held))
    return _read(*training), _read(*(_scenes(args.held_out, look) if args.held_out else validation))


def _reconstruct(config: str, weights: str, pictures, device):
    """The pictures (N,S,S,3) uint8, encoded and decoded by a first stage."""
    import numpy as np
    import torch

    from ldm.synthetic.rendered.decoding import to_pixels
    from ldm.util.config import instantiate_from_config, plain, read_config

    model = plain(read_config(config).model)
    params = {**model["params"], "lossconfig": None, "ckpt_path": weights}
    first_stage = instantiate_from_config({**model, "params": params}).to(device).eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(pictures), 32):
            images = 2 * to_pixels(pictures[start : start + 32]).to(device) - 1
            images = first_stage.reconstruct(images)[0].clamp(-1, 1)
            parts.append((127.5 * (images + 1)).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)


def _validate(weights: Path, records, pictures, device, key: str = "held_out") -> None:
    """Prints how well the weights, as written, read the held-out pictures, and adds it to a file beside them."""
    from ldm.synthetic.rendered.detector import load_detector
    from ldm.synthetic.rendered.validation import WORLDS, faults_caught, read_all, score
    from ldm.synthetic.rendered.vocabulary import LOOKS

    world, words = WORLDS[look := _look_of(weights)], LOOKS[look]
    began = time.monotonic()
    readings = read_all(load_detector(weights).to(device), pictures)
    seconds = time.monotonic() - began
    scores, faults = score(records, readings, world), faults_caught(records, readings, world, words)
    print(f"{len(records)} held-out pictures, read in {seconds:.1f} s:")
    for name, value in scores.items():
        print(f"  {name:20} {value:.4f}" if name in ("box", "position") else f"  {name:20} {100 * value:.2f} %")
    print("planted faults that are caught:")
    for name, value in faults.items():
        print(f"  {name:20} {100 * value:.2f} %")
    _record(weights, key, {"pictures": len(records), "scores": scores, "faults": faults})


def _read_clevr(weights: Path, folders: list[str]) -> None:
    """Prints how well the weights read CLEVR's own pictures, and adds it to the file beside them."""
    from ldm.evaluation.clevr_pictures import ClevrPictures, reading_shares
    from ldm.synthetic.rendered.world import ClevrWorld

    world = ClevrWorld(weights)
    for folder in folders:
        shares = reading_shares(ClevrPictures(Path(folder)), world)
        print(f"{shares['scenes']:.0f} pictures of {folder}, {shares['objects']:.0f} objects:")
        for name, value in shares.items():
            if name not in ("scenes", "objects"):
                print(f"  {name:20} {100 * value:.2f} %")
        _record(weights, f"pictures {folder}", shares)


def _record(weights: Path, key: str, result: dict) -> None:
    """Adds a result to the file beside the weights."""
    path = weights.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(results | {key: result}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
