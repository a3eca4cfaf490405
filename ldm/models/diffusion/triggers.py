"""Checks that captions contain exactly the words that are trained, and warns where the text encoder cuts captions off."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ldm.graph.text_tokens import LEARNED, LENGTH, TRIGGER, normalise, split_words, tokenize
from ldm.util.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)


def refuse_other_triggers(taught: Sequence[str], captions: Mapping[str, str]) -> None:
    """Checks that captions contain the words that are trained, and no others of the form <word>.

    Args:
        taught: the words that are trained.
        captions: texts by where they come from.

    Raises:
        UserError: a caption contains such a word that is not trained, or none contains a trained one.
    """
    unused = {normalise(name): name for name in taught}
    for place, text in captions.items():
        for trigger in TRIGGER.findall(normalise(text)):
            if trigger not in LEARNED:
                raise UserError(
                    f"{place}: the caption uses {trigger!r}, which model.params.words does not name{did_you_mean(trigger, taught)}; "
                    "add it there with an initializer, or correct the caption"
                )
        for word in split_words(text):
            unused.pop(word.text, None)
    if unused:
        raise UserError(
            f"model.params.words names {next(iter(unused.values()))!r}, which no caption uses; write it into the captions, or remove it"
        )


def warn_of_cut_captions(captions: Mapping[str, str]) -> None:
    """Warns of captions that are longer than the text encoder reads, with the words that are cut off."""
    for place, text in captions.items():
        if lost := tokenize(text).lost:
            logger.warning("%s: the caption is longer than %d tokens; lost: %s", place, LENGTH, lost)
