"""Captions: tags cleaned, triggers added by cluster or label, over-long ones named."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from ldm.curation.errors import CurationError
from ldm.curation.filters import call, load_function
from ldm.curation.options import CurationOptions, pairs_of
from ldm.curation.pictures import Picture
from ldm.graph.text_spans import count_tokens


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
    lengths = {row: count_tokens(text) for row, text in captions.items() if text}
    return {row: length for row, length in lengths.items() if length > limit}
