"""The options --words, --rename, --dictionary and --alignment of the programs that read graphs and texts.

Imports neither numpy nor torch, since command lines are parsed first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.util.errors import did_you_mean

RESOLVED, EMBEDDED = "open", "embed"
MODES = (RESOLVED, EMBEDDED)  # values of --words that are no files: what becomes of words that the vocabulary lacks


def add_words_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; `mode_of` and `learned_files` read the values of --words."""
    group = parser.add_argument_group("words that the vocabulary lacks")
    group.add_argument(
        "--words",
        action="append",
        default=[],
        metavar="open|embed|FILE",
        help="open: names of graphs may be any words, in sixteen languages; each is read as a name of the vocabulary, by spelling, a "
        "lexicon and meaning, or refused. embed: for a model trained with open_words, words without a name are used as they are. "
        "Both need the extra `words`. A file: learned words, of the graph's vocabulary or of a text encoder (textual inversion: "
        "diffusers, LDM, A1111, SDXL), which then are names like any other; may be given several times (default: names of the "
        "vocabulary only)",
    )
    _add_rename(group)
    group.add_argument(
        "--dictionary",
        action="append",
        default=[],
        metavar="JSON",
        help='with --words, file of names by words, such as {"양": "sheep"}, which go before everything else; may be given several times',
    )
    group.add_argument(
        "--alignment",
        metavar="FILE",
        help="with --words open, map of embeddings that scripts/align_words.py wrote; used for the kinds of names where it won",
    )


def add_learned_words_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --words, of files only, and --rename."""
    parser.add_argument(
        "--words", action="append", default=[], metavar="FILE", help="learned words; may be given several times"
    )
    _add_rename(parser)


def _add_rename(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--rename",
        type=old_and_new,
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="new name of a learned word, or of that of one file as FILE/OLD=NEW",
    )


def check_words_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends the program with a message if a value of --words means nothing, or a file is given that nothing would read."""
    for value in learned_files(arguments.words):
        if not Path(value).suffix and not Path(value).exists():
            parser.error(
                f"--words {value}: neither open nor embed, nor a file of learned words such as learned_embeds.safetensors"
                f"{did_you_mean(value, MODES)}"
            )
    if len(modes := set(arguments.words) & set(MODES)) > 1:
        parser.error(
            f"--words {' and '.join(sorted(modes))}: words are either read as names or used as they are; give one"
        )
    if arguments.rename and not learned_files(arguments.words):
        parser.error("--rename: only with --words FILE")
    for flag, given in (("--dictionary", arguments.dictionary), ("--alignment", arguments.alignment)):
        if given and mode_of(arguments.words) is None:
            parser.error(f"{flag}: only with --words open")


def mode_of(words: Sequence[str]) -> str | None:
    """What becomes of words that the vocabulary lacks: open, embed, or None for an error."""
    return next((value for value in words if value in MODES), None)


def learned_files(words: Sequence[str]) -> list[str]:
    """The files among the values of --words."""
    return [value for value in words if value not in MODES]


def given_additions(arguments: argparse.Namespace) -> dict[str, list]:
    """The LoRA files, files of learned words and new names that were given, for the record of an image."""
    given = {"lora": arguments.lora, "learned_words": learned_files(arguments.words), "rename": arguments.rename}
    return {name: value for name, value in given.items() if value}


def old_and_new(text: str) -> list[str]:
    """'a=b' -> ["a", "b"], as JSON keeps it."""
    old, equals, new = text.rpartition("=")
    if not (old and equals and new):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form OLD=NEW")
    return [old, new]
