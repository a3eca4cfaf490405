"""Trains the model that configs describe, and resumes runs.

    python trainer.py --base configs/vg.yaml -t --gpus 0, [section.key=value ...]

Flags of Lightning's Trainer work too, such as --val_check_interval 500; they are keys of lightning.trainer.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import sys

from ldm.util.cli import Parser, add_verbose_argument, run_program, split_overrides
from ldm.util.processes import end_with_launcher

# Flags that are also keys of lightning.trainer; the flag wins.
TRAINER_FLAGS = {
    "precision": (str, "32, 16-mixed or bf16-mixed (default: 32)"),
    "max_steps": (int, "number of optimizer steps"),
    "max_epochs": (int, "number of epochs"),
    "strategy": (str, "for several processes: ddp, or fsdp, which shards the frozen U-Net (default: ddp)"),
    "num_nodes": (int, "number of machines, each with the GPUs of --gpus"),
    "accumulate_grad_batches": (int, "batches per optimizer step"),
}
# Further parameters of Lightning's Trainer that are accepted as flags.
LIGHTNING_KEYS = (
    "accelerator",
    "barebones",
    "benchmark",
    "check_val_every_n_epoch",
    "detect_anomaly",
    "deterministic",
    "devices",
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "fast_dev_run",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "inference_mode",
    "limit_predict_batches",
    "limit_test_batches",
    "limit_train_batches",
    "limit_val_batches",
    "log_every_n_steps",
    "max_time",
    "min_epochs",
    "min_steps",
    "num_sanity_val_steps",
    "overfit_batches",
    "profiler",
    "progress_bar_refresh_rate",
    "reload_dataloaders_every_n_epochs",
    "sync_batchnorm",
    "use_distributed_sampler",
    "val_check_interval",
    # of Lightning 1; the message says what replaces them
    "num_processes",
    "replace_sampler_ddp",
    "terminate_on_nan",
    "weights_save_path",
    "default_root_dir",
    "logger",
    "callbacks",
    "checkpoint_callback",
)
LIGHTNING_FLAGS = tuple(f"--{key}" for key in LIGHTNING_KEYS)
# Flags of other training programs -> what to use here.
HINTS = {
    "--project": "--name, or --resume for an existing run",
    "-p": "--name, or --resume for an existing run",
    "--config": "--base",
    "--batch_size": "data.params.batch_size=N",
    "--num_workers": "data.params.num_workers=N",
    "--lr": "model.base_learning_rate=RATE",
    "--learning_rate": "model.base_learning_rate=RATE",
    "--epochs": "--max_epochs",
    "--steps": "--max_steps",
    "--ckpt": "--actual_resume",
    "--ckpt_path": "--actual_resume",
    "--output_dir": "--logdir",
    "--outdir": "--logdir",
    "--device": "--gpus",
}
IF_OUT_OF_MEMORY = (
    "lower data.params.batch_size, and raise --accumulate_grad_batches by the same factor, or use --precision bf16-mixed, "
    "or model.params.unet_config.params.use_checkpoint=true (gradient checkpointing)"
)


def make_parser() -> Parser:
    parser = Parser("trainer.py", __doc__, takes_others=True, allow_abbrev=False)
    switch = {"type": boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
    add = parser.add_argument
    add(
        "-b",
        "--base",
        nargs="*",
        action="extend",
        default=[],
        metavar="YAML",
        help="configs; later ones override earlier ones, section.key=value overrides configs, flags override both",
    )
    add("-t", "--train", **switch, help="train; without it, build everything and print the table of parts")
    add("-g", "--gpus", help="'0,' one GPU, '0,1' two, '2' any two, '-1' all; 'cpu', or 'cpu:2' for two processes")
    add(
        "-r",
        "--resume",
        "--resume_from_checkpoint",
        metavar="PATH",
        help="continue a run: its log folder, or a checkpoint in it",
    )
    add(
        "--actual_resume",
        metavar="FILE",
        help="start a new run with these weights: a checkpoint, exported adapters, or published weights",
    )
    add(
        "--data_root",
        metavar="DIR",
        help="pictures to learn from (configs/sd1_words.yaml): data.params.train.params.data_root",
    )
    add(
        "--placeholder_string", metavar="WORD", help="the word to learn, such as '<my-cat>': model.params.words[0].word"
    )
    add("--init_word", metavar="TEXT", help="what it starts from, such as cat: model.params.words[0].init")
    add(
        "--embedding_manager_ckpt",
        metavar="FILE",
        help="learned words to start from, in any form (docs/learned_words.md): model.params.words_from",
    )
    add("-n", "--name", help="name of the log folder, after the time (default: the first config's)")
    add("-f", "--postfix", default="", help="appended to the name of the log folder")
    add("-l", "--logdir", default="logs", help="folder of the log folders (default: %(default)s)")
    add("-s", "--seed", type=int, help="seed of weights, data order and noise (default: 23)")
    add("--scale_lr", **switch, help="multiply the learning rate by processes x batch size x accumulated batches")
    add("--compile", **switch, help="compile the U-Net: minutes at the start, then faster steps (default: off)")
    add(
        "--cuda_graphs",
        **switch,
        help="replay the U-Net's kernels on a GPU as recorded in the second step; with --compile, the compiler's (default: off)",
    )
    for flag, (kind, explanation) in TRAINER_FLAGS.items():
        add(f"--{flag}", type=kind, help=explanation)
    add("--no-test", "--no_test", **switch, help="do not evaluate data.params.test after training")
    add("--check", action="store_true", help="examine the data sets, report problems, and exit")
    add("-d", "--debug", **switch, help="print the traceback of an error")
    add_verbose_argument(parser)
    parser.set_defaults(trainer_flags=("gpus", *TRAINER_FLAGS))
    return parser


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Separates the flags from the overrides 'section.key=value' of the config."""
    parser = make_parser()
    words, overrides = split_overrides(argv)
    arguments, others = parser.parse_known_args(words)
    return arguments, [*_as_overrides(others, parser), *overrides]


def _as_overrides(words: list[str], parser: Parser) -> list[str]:
    """Converts '--section.key value', '--section.key=value' and flags of Lightning's Trainer to overrides."""
    overrides, words = [], list(words)
    while words:
        flag, equals, value = words.pop(0).partition("=")
        key = flag.removeprefix("--")
        is_trainer_key = key in LIGHTNING_KEYS
        if not flag.startswith("--") or not (is_trainer_key or "." in key):
            parser.refuse(flag, f"; use {HINTS[flag]}" if flag in HINTS else "", LIGHTNING_FLAGS)
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        overrides.append(f"{'lightning.trainer.' if is_trainer_key else ''}{key}={value}")
    return overrides


def boolean(word: str) -> bool:
    if word.lower() in ("true", "t", "yes", "y", "1", "false", "f", "no", "n", "0"):
        return word[0].lower() in "ty1"
    raise argparse.ArgumentTypeError(f"{word!r} is neither True nor False")


def main(argv: list[str] | None = None) -> int:
    """Returns 0, 2 for a user's mistake, 1 for a run that had to stop, 128 + n for one that signal n ended."""
    arguments, overrides = parse(sys.argv[1:] if argv is None else argv)

    def train() -> int:
        # torch and Lightning are imported here, so that --help and mistakes in flags do not wait for them
        end_with_launcher()
        from ldm.training.run import run

        return run(arguments, overrides)

    return run_program(
        train,
        "trainer.py",
        if_stopped="to continue: --resume",
        if_out_of_memory=IF_OUT_OF_MEMORY,
        verbose=arguments.verbose,
    )


if __name__ == "__main__":
    sys.exit(main())
