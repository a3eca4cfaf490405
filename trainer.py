"""From configs, flags and overrides to a training run.

    python trainer.py --base configs/vg.yaml -t --gpus 0, [section.key=value ...]
"""

from __future__ import annotations

import argparse
import re
import sys

from ldm.util.cli import add_verbose_argument, configure_logging

# Flags that are also keys of lightning.trainer; the flag wins.
TRAINER_FLAGS = {
    "precision": (str, "32, 16-mixed or bf16-mixed (default: 32)"),
    "max_steps": (int, "end after so many optimizer steps"),
    "max_epochs": (int, "end after so many epochs"),
    "strategy": (str, "of several processes: ddp, or fsdp, which divides the frozen U-Net among them (default: ddp)"),
    "num_nodes": (int, "machines, with --gpus on each"),
    "accumulate_grad_batches": (int, "batches to an optimizer step"),
}


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"trainer.py: {message}; --help lists what there is\n")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the overrides among them: 'section.key=value'."""
    overrides = [word for word in argv if re.match(r"[A-Za-z_][\w.\[\]]*=", word)]
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    switch = {"type": boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
    add = parser.add_argument
    add("-b", "--base", nargs="*", action="extend", default=[], metavar="YAML",
        help="configs; later ones win, then overrides, then flags")  # fmt: skip
    add("-t", "--train", **switch, help="train; without it, build everything and print the table of parts")
    add("-g", "--gpus", help="'0,' one GPU, '0,1' two, '2' any two, '-1' all; 'cpu', or 'cpu:2' for two processes")
    add("-r", "--resume", metavar="PATH", help="go on from a log folder's last checkpoint, or from a checkpoint in one")
    add("-n", "--name", help="end of the log folder's name (default: the first config's)")
    add("-l", "--logdir", default="logs", help="where log folders go (default: %(default)s)")
    add("-s", "--seed", type=int, help="of weights, data order and noise (default: 23)")
    add("--scale_lr", **switch, help="learning rate = base x accumulated x processes x batch size (default: off)")
    add("--compile", **switch, help="compile the U-Net: minutes at the start, then faster steps (default: off)")
    for flag, (kind, explanation) in TRAINER_FLAGS.items():
        add(f"--{flag}", type=kind, help=explanation)
    add("--no-test", **switch, help="leave out data.params.test after training")
    add("--check", action="store_true", help="examine the datasets, say what is wrong with them, and end")
    add("-d", "--debug", **switch, help="show where an error comes from")
    add_verbose_argument(parser)
    parser.set_defaults(trainer_flags=("gpus", *TRAINER_FLAGS))
    return parser.parse_args([word for word in argv if word not in overrides]), overrides


def boolean(word: str) -> bool:
    if word.lower() in ("true", "t", "yes", "y", "1", "false", "f", "no", "n", "0"):
        return word[0].lower() in "ty1"
    raise argparse.ArgumentTypeError(f"{word!r} is neither True nor False")


def main(argv: list[str] | None = None) -> int:
    """0, or 2 for a user's mistake, 1 for a run that had to stop, 128 + n for one that signal n ended."""
    arguments, overrides = parse(sys.argv[1:] if argv is None else argv)
    configure_logging(arguments.verbose)
    # torch and Lightning only from here on: --help and mistakes in flags need not wait for them
    import torch

    from ldm.training.callbacks import Interrupted, TrainingStopped
    from ldm.training.run import is_first_process, run
    from ldm.util.errors import UserError

    try:
        return run(arguments, overrides)
    except UserError as error:
        if arguments.debug:
            raise
        return said(" ".join(str(error).split()), 2)
    except TrainingStopped as stop:
        return said(str(stop), 1)
    except torch.OutOfMemoryError:
        return said(
            "out of GPU memory: lower data.params.batch_size, and raise --accumulate_grad_batches by as much, or use "
            "--precision bf16-mixed, or model.params.unet_config.params.use_checkpoint=true, which computes twice what it "
            "does not keep", 1
        )  # fmt: skip
    except Interrupted as stop:
        # the other processes exit quietly and with 0, or Lightning would kill this one for their sake
        return said(str(stop), 128 + stop.signum) if is_first_process() else 0
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        return said("stopped at once", 130)


def said(sentence: str, exit_code: int) -> int:
    print(f"trainer.py: {sentence}", file=sys.stderr, flush=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
