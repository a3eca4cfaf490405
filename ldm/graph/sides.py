"""Left and right in words, exchanged for the mirror image of what they describe."""

from __future__ import annotations

import re

OPPOSITE = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_SIDE = re.compile(rf"\b({'|'.join(OPPOSITE)})\b", re.IGNORECASE)
_NO_SIDE = re.compile(r"\b(all right|right away|right angle|right now|left over|human rights?)\b", re.IGNORECASE)


def swap_sides(text: str) -> str:
    """The name or caption of the mirror image: left and right exchanged, except in "all right" and its like."""
    spared = [match.span() for match in _NO_SIDE.finditer(text)]

    def swapped(match: re.Match) -> str:
        word = match[0]
        if any(start <= match.start() < end for start, end in spared):
            return word
        other = OPPOSITE[word.lower()]
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return _SIDE.sub(swapped, text)
