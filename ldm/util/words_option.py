"""The options --words, --dictionary and --alignment of the programs that read graphs. Imports no numpy, as command lines come first."""

from __future__ import annotations

import argparse

RESOLVED, EMBEDDED = "open", "embed"
CHOICES = (RESOLVED, EMBEDDED)


def add_words_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument_group("words that the vocabulary lacks").add_argument
    add(
        "--words",
        choices=CHOICES,
        help="open: names of graphs may be any words, in sixteen languages; each is read as a name of the vocabulary, by spelling, a "
        "lexicon and meaning, or refused. embed: for a model trained with open_words, words without a name are used as they are. "
        "Both need the extra `words` (default: names of the vocabulary only)",
    )
    add(
        "--dictionary",
        action="append",
        default=[],
        metavar="JSON",
        help='with --words, file of names by words, such as {"양": "sheep"}, which go before everything else; may be given several times',
    )
    add(
        "--alignment",
        metavar="FILE",
        help="with --words open, map of embeddings that scripts/align_words.py wrote; used for the kinds of names where it won",
    )


def check_words_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends the program with a message if a file is given that nothing would read."""
    for flag, given in (("--dictionary", arguments.dictionary), ("--alignment", arguments.alignment)):
        if given and arguments.words is None:
            parser.error(f"{flag}: only with --words open")
