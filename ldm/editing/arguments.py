"""Arguments of scripts/ddim_invert_edit.py. Imports nothing large, so that --help is quick."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from ldm.editing.options import EditOptions
from ldm.util.cli import Parser, add_memory_arguments, add_model_arguments, add_verbose_argument, at_least, positive
from ldm.util.errors import did_you_mean
from ldm.util.lora_option import add_lora_argument
from ldm.util.options import add_arguments, from_mapping, option_types
from ldm.util.score_option import add_min_score_argument
from ldm.util.words_option import add_words_arguments, check_words_arguments

PROGRAM = "ddim_invert_edit.py"
SAMPLING_OPTIONS = ("sampler", "steps", "graph_scale", "style_scale", "seed")  # of an image sampled from noise, too
SINGLE_EDIT_OPTIONS = ("source_sg", "mask", "n", "sweep", "previews", "attention")  # of the edit of one photograph only
CLIP_OPTIONS = ("out", "frame_attention", "overlap")  # of the edit of a clip only
PHOTOGRAPH_OPTIONS = (
    "mask",
    "lora",
    "prediction",
    "low_memory",
    "n",
    "sweep",
    "previews",
    "attention",
    "words",
)  # not of a clip


def parse_arguments(argv: list[str] | None, description: str) -> argparse.Namespace:
    """The command's arguments.

    Args:
        argv: without the program's name; None for those of the process.
        description: what --help says first.
    """
    parser = Parser(PROGRAM, description)
    add_input_arguments(parser)
    add_model_arguments(parser)
    add_lora_argument(parser)
    add_min_score_argument(parser)
    add_words_arguments(parser)
    add_running_arguments(parser)
    add_verbose_argument(parser)
    add_arguments(parser.add_argument_group("how to edit"), EditOptions)
    add_clip_arguments(parser.add_argument_group("edits of clips, with storyboards as --source-sg and --sg"))
    add_diagnostic_arguments(parser.add_argument_group("several edits, and diagnostics"))
    arguments = parser.parse_args(argv)
    check_words_arguments(parser, arguments)
    if arguments.batch and (found := given(arguments, ("ref", "style", *SINGLE_EDIT_OPTIONS, *CLIP_OPTIONS))):
        parser.error(f"{found}: for a single edit; with --batch, write it into the lines of the file")
    return arguments


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """The photograph and its graphs, or a file of many."""
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--sg", metavar="JSON", help="scene graph of what the edited image should show")
    target.add_argument(
        "--batch",
        metavar="JSONL",
        help='many edits, one JSON object per line: {"ref": ..., "source_sg": ..., "sg": ..., "style": ..., "mask": ..., '
        '"out": ...} and options such as "graph_scale": 3; file names are relative to this file; the same command with '
        "the same --outdir continues",
    )
    add = parser.add_argument
    add(
        "--ref",
        metavar="IMAGE",
        help="the photograph to edit (default: the `image` that the graph names; without either, an image is sampled from "
        "noise)",
    )
    add("--source-sg", metavar="JSON", help="scene graph of the photograph as it is (default: the null graph)")
    add("--style", metavar="IMAGE", help="another image to take the look from (default: the photograph itself)")
    add("--mask", metavar="IMAGE", help="white where the image may change (default: what the operations touch)")


def add_running_arguments(parser: argparse.ArgumentParser) -> None:
    """How the model runs, and where results go."""
    add = parser.add_argument
    add(
        "--prediction",
        choices=("eps", "v"),
        help="what the U-Net of a Stable Diffusion without --config predicts (default: as its weights state)",
    )
    add_memory_arguments(parser)
    add("--outdir", metavar="DIR", help="output folder (default: outputs/<date and time>)")


def add_clip_arguments(group: argparse._ActionsContainer) -> None:
    """The options of edits of clips."""
    add = group.add_argument
    add(
        "--out",
        metavar="PATH",
        help="edited clip: .mp4, .webm, .webp or .gif, or a folder of frames (default: edited.webp in --outdir)",
    )
    add(
        "--frame-attention",
        action=argparse.BooleanOptionalAction,
        help="each frame attends to the first and the previous one (default: for models without temporal layers)",
    )
    add(
        "--overlap",
        type=at_least(0),
        metavar="N",
        help="frames that windows of long clips share (default: half of a window)",
    )


def add_diagnostic_arguments(group: argparse._ActionsContainer) -> None:
    """Several edits of one photograph, and what is shown besides."""
    add = group.add_argument
    add("--n", type=positive, help="number of edits, with different seeds (default: 1)")
    add("--sweep", type=sweep, metavar="OPTION=VALUES", help="one edit per value, as in graph-scale=1,3,5")
    add("--previews", type=positive, nargs="?", const=8, metavar="N", help="also show N steps of the way (8)")
    add("--attention", action="store_true", default=None, help="also show where the U-Net attends to each object")


def sweep(word: str) -> tuple[str, list]:
    """'graph-scale=1,3' -> ("graph_scale", [1.0, 3.0])."""
    types = {name: kind for name, kind in option_types(EditOptions).items() if name != "seed"}
    number = {name: int if "int" in str(kind) else float for name, kind in types.items() if _is_number(kind)}
    name, _, values = word.partition("=")
    name = name.replace("-", "_")
    if name not in number:
        known = [known.replace("_", "-") for known in number]
        raise argparse.ArgumentTypeError(f"{word!r}: sweep one of {', '.join(known)}{did_you_mean(name, known)}")
    try:
        return name, [
            getattr(from_mapping(EditOptions, {name: number[name](value)}), name) for value in values.split(",")
        ]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{word!r} is not of the form graph-scale=1,3,5 ({error})") from None


def given(arguments: argparse.Namespace, names: Iterable[str]) -> str:
    """Those of the options that are on the command line, as they are written there."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names if _is_given(getattr(arguments, name)))


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value != []  # 0 counts as given


def _is_number(kind: object) -> bool:
    return kind in (int, float) or str(kind) in ("int | None", "float | None")
