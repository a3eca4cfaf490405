"""The options --words and --rename of the programs that sample and edit. Imports no torch, since command lines are parsed first."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

OPEN = "open"  # the value of --words that is no file: names that the vocabulary lacks are resolved


def add_words_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --words, which may be given several times, and --rename; `learned_files` and `renames_of` read them."""
    parser.add_argument(
        "--words",
        action="append",
        default=[],
        metavar="FILE",
        help="learned words (textual inversion), a file of diffusers, LDM, A1111 or SDXL; may be given several times. They are "
        "then names like any other in graphs and prompts",
    )
    parser.add_argument(
        "--rename",
        type=old_and_new,
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="new name of a learned word, or of that of one file as FILE/OLD=NEW",
    )


def learned_files(words: Sequence[str]) -> list[str]:
    """The files among the values of --words."""
    return [word for word in words if word != OPEN]


def given_additions(arguments: argparse.Namespace) -> dict[str, list]:
    """The values of --lora, --words and --rename that were given, for the record of an image."""
    return {name: value for name in ("lora", "words", "rename") if (value := getattr(arguments, name))}


def old_and_new(text: str) -> list[str]:
    """'a=b' -> ["a", "b"], as JSON keeps it."""
    old, equals, new = text.rpartition("=")
    if not (old and equals and new):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form OLD=NEW")
    return [old, new]
