"""Captions: tags cleaned, triggers added by cluster or label, sides swapped for mirror images, over-long ones named."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from ldm.curation.errors import CurationError
from ldm.curation.filters import call, load_function
from ldm.curation.options import CurationOptions, pairs_of
from ldm.curation.pictures import Picture

SIDES = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_SIDE = re.compile(r"\b(left|right)(most)?\b", re.IGNORECASE)
_NOT_A_SIDE = re.compile(r"\b(all right|right away|right angle|right now|left over|human rights?)\b", re.IGNORECASE)


def clean_tags(text: str) -> str:
    """Tags with single spaces and no underscores, brackets or weights of prompts, each once, in their order.

    "blue_sky, (cat:1.2),cat, " becomes "blue sky, cat".
    """
    tags = []
    for part in text.replace("\n", ",").split(","):
        tag = re.sub(r"^[({\[]+|(:[\d.]+)?[)}\]]+$", "", part.strip().replace("\\", ""))
        tag = " ".join(tag.replace("_", " ").split())
        if tag and tag.lower() not in map(str.lower, tags):
            tags.append(tag)
    return ", ".join(tags)


def swap_sides(text: str) -> str:
    """The caption of the mirror image: left and right exchanged, except in "all right" and its like."""
    spared = [match.span() for match in _NOT_A_SIDE.finditer(text)]

    def swapped(match: re.Match) -> str:
        word = match[0]
        if any(start <= match.start() < end for start, end in spared):
            return word
        other = SIDES[word.lower()]
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return _SIDE.sub(swapped, text)


def add_trigger(text: str | None, triggers: Sequence[str]) -> str | None:
    """The caption with triggers that it does not contain before it."""
    new = [word for word in triggers if not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text or "")]
    return ", ".join([*new, *([text] if text else [])]) or text


def make_captions(
    pictures: Sequence[Picture], rows: Sequence[int], clusters: Mapping[int, str], options: CurationOptions
) -> dict[int, str | None]:
    """The captions of the pictures that are kept.

    Args:
        clusters: row -> name of the cluster.

    Raises:
        CurationError: a trigger's name is neither a cluster nor a label, so that it would be in no caption, or the
            translation fails.
    """
    triggers = pairs_of(options.triggers, "triggers")
    translate: Callable | None = load_function(options.translate, "translate") if options.translate else None
    used: set[str] = set()
    captions: dict[int, str | None] = {}
    for row in rows:
        picture = pictures[row]
        text = picture.caption
        if text and translate:
            text = str(call(translate, text, str(options.translate), picture.name))
        if text and options.clean_tags:
            text = clean_tags(text)
        groups = [name for name in (clusters.get(row), *picture.labels) if name in triggers]
        used |= set(groups)
        captions[row] = add_trigger(text, [triggers[name] for name in groups])
    unused = [f"{name}={word}" for name, word in triggers.items() if name not in used]
    if unused:
        known = sorted({*clusters.values(), *(label for row in rows for label in pictures[row].labels)})
        raise CurationError(
            f"triggers: {', '.join(unused)} is in no caption, since no picture that is kept has such a cluster or label; "
            f"there are {', '.join(known[:20]) or 'none'}"
        )
    return captions


def long_captions(captions: Mapping[int, str | None], limit: int) -> dict[int, int]:
    """Row -> number of tokens, with the first and the last, of captions with more than `limit` of CLIP's tokens."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    lengths = {row: len(tokenizer.encode(text)) + 2 for row, text in captions.items() if text}
    return {row: length for row, length in lengths.items() if length > limit}
