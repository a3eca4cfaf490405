"""Equal names as equal texts, whichever Unicode form a program or file system has written them in."""

from __future__ import annotations

import unicodedata


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC), in which equal names are equal texts."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
