"""Fonts for text in images: Pillow's own, and one of the system's for scripts that it lacks."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont

# Files that Pillow looks for in the system's folders, of fonts with Hangul, kana, Han, Cyrillic, Greek, Arabic or Thai.
FILES = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKkr-Regular.otf", "NanumGothic.ttf", "NanumSquareRoundR.ttf", "NanumSquareRoundB.ttf",
    "malgun.ttf", "AppleSDGothicNeo.ttc", "msgothic.ttc", "wqy-zenhei.ttc", "DejaVuSans.ttf", "NotoSansArabic-Regular.ttf",
    "NotoSansThai-Regular.ttf", "Arial Unicode.ttf",
)  # fmt: skip
MISSING = "\U0010fffe"  # no font has this noncharacter


@lru_cache(maxsize=256)
def font_for(size: float, text: str = "") -> FreeTypeFont:
    """A font of this size with all letters of a text, or else Pillow's own."""
    own = ImageFont.load_default(size)
    assert isinstance(own, FreeTypeFont)  # Pillow is built with FreeType
    if text.isascii() or has_letters(own, text):
        return own
    for file in FILES:
        try:
            font = ImageFont.truetype(file, size)
        except OSError:
            continue
        if has_letters(font, text):
            return font
    return own


def can_draw(text: str) -> bool:
    """Whether some font here has all letters of a text."""
    return has_letters(font_for(16, text), text)


def has_letters(font: FreeTypeFont, text: str) -> bool:
    """Whether a font has a glyph for each letter; it draws the same sign for all that it lacks."""
    lacking = bytes(font.getmask(MISSING))
    return all(not letter.isalnum() or bytes(font.getmask(letter)) != lacking for letter in set(text))
