"""Train the classifier that judges edits of photographs: which thing is in a crop, or nothing.

    python scripts/train_crop_classifier.py --data datasets/photographs
    python scripts/train_crop_classifier.py --data datasets/photographs --check-only

It learns from crops of the unaltered photographs in instances_train.json and of bare ground; composed pictures, and those of
models, are left out. Then it says how often it is right on the unaltered photographs in instances_val.json, category by
category. An interrupted command goes on where it was.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import json
import sys
from pathlib import Path

from ldm.util.cli import Parser, at_least, positive, run_program
from ldm.util.files import atomic_write, writable_folder


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("train_crop_classifier.py", __doc__)
    add = parser.add_argument
    add("--data", metavar="DIR", default="datasets/photographs", help="folder of photographs (default: %(default)s)")
    add(
        "--out",
        metavar="FILE",
        help="safetensors file for the weights, in half precision (default: weights/crop_classifier.safetensors in --data)",
    )
    add("--epochs", type=positive, default=20, help="how often each crop is seen, about (default: %(default)s)")
    add("--batch", type=positive, default=64, help="crops in a step (default: %(default)s)")
    add("--seed", type=at_least(0), default=0, help="seed of the training (default: %(default)s)")
    add("--check-only", action="store_true", help="train nothing: measure the weights --out")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_program(
        lambda: run(arguments),
        "train_crop_classifier.py",
        if_stopped="the same command resumes",
        if_out_of_memory="a smaller --batch needs less",
    )


def run(arguments: argparse.Namespace) -> None:
    from ldm.evaluation.photographs.annotations import PhotographSplit
    from ldm.evaluation.photographs.classifier import load_classifier, save_classifier
    from ldm.evaluation.photographs.crops import read_crops
    from ldm.evaluation.photographs.training import TrainingOptions, confusion, train

    data = Path(arguments.data)
    out = Path(arguments.out or data / "weights" / "crop_classifier.safetensors")
    writable_folder(out.parent, "--out")
    if not arguments.check_only:
        crops = read_crops(PhotographSplit(data, "train"), arguments.seed)
        print(f"{len(crops.labels)} crops of {len(crops.classes)} classes to train on", flush=True)
        options = TrainingOptions(arguments.epochs, arguments.batch, seed=arguments.seed)
        state = out.with_suffix(".state")
        classifier = train(
            crops,
            options,
            state,
            lambda epoch, loss: print(f"epoch {epoch} of {options.epochs}: loss {loss:.3f}", flush=True),
        )
        save_classifier(classifier, out)
        state.unlink(missing_ok=True)
    classifier = load_classifier(out)
    report(
        out, classifier.classes, confusion(classifier, read_crops(PhotographSplit(data, "val"), 0, classifier.classes))
    )


def report(out: Path, classes: tuple[str, ...], counts) -> None:
    """Prints the share of right answers of each class and of all, and writes the confusion matrix beside the weights."""
    right = counts.diagonal()
    print(f"{int(counts.sum())} held-out crops: {100 * right.sum() / counts.sum():.1f} % right")
    for index, name in enumerate(classes):
        if total := int(counts[index].sum()):
            wrong = counts[index].clone()
            wrong[index] = 0
            taken_for = f", most often taken for {classes[int(wrong.argmax())]}" if wrong.sum() else ""
            print(f"{name:20}{100 * right[index] / total:6.1f} % of {total}{taken_for}")
    with atomic_write(out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"classes": classes, "counts": counts.tolist()}, indent=1) + "\n")
    print(f"wrote {out.with_suffix('.json')}")


if __name__ == "__main__":
    sys.exit(main())
