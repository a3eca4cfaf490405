"""Equal words in different spelling: case, punctuation, plural, articles and Korean particles; and typing errors."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from ldm.util.unicode import composed

# Particles that Korean writes after a noun, and the plural; longer ones first.
PARTICLES = (
    "에서", "으로", "에게", "까지", "부터", "이랑", "하고",
    "들", "은", "는", "이", "가", "을", "를", "의", "에", "와", "과", "도", "로", "만", "랑",
)  # fmt: skip
ARTICLES = (
    "the", "a", "an", "le", "la", "les", "un", "une", "des", "el", "los", "las", "una", "unos", "unas",
    "der", "die", "das", "ein", "eine", "einen", "einem", "il", "lo", "gli", "uno", "den", "dem",
)  # fmt: skip
ELISIONS = ("l'", "d'", "un'")
SHORTEST_TYPO = 4  # letters; shorter words differ from too many names by one letter


def key_of(text: str) -> str:
    """The form in which spellings are compared: composed, without case, punctuation between words as single spaces."""
    folded = composed(unicodedata.normalize("NFKC", text)).casefold().replace("\u2019", "'")
    return " ".join(re.sub(r"[\s_\-.,;:!?\"()]+", " ", folded).split())


def spellings(text: str) -> Iterator[str]:
    """The keys under which a word may be listed, the most literal first."""
    key = key_of(text)
    yield key
    first, _, rest = key.partition(" ")
    if rest and first in ARTICLES:
        key = rest
        yield key
    for elision in ELISIONS:
        if key.startswith(elision) and len(key) > len(elision):
            key = key[len(elision) :]
            yield key
    yield from _singulars(key)
    yield from _without_particles(key)


def _singulars(key: str) -> Iterator[str]:
    """English singulars, and plurals for names that are listed in the plural."""
    if not key.isascii() or len(key) < 3:
        return
    for plural, singular in (("ves", "f"), ("ves", "fe"), ("ies", "y"), ("es", ""), ("s", "")):
        if key.endswith(plural) and not key.endswith("ss"):
            yield key[: -len(plural)] + singular
    yield f"{key}s"


def _without_particles(key: str) -> Iterator[str]:
    if not ("\uac00" <= key[-1:] <= "\ud7a3"):
        return
    for particle in PARTICLES:
        if key.endswith(particle) and len(key) > len(particle):
            rest = key[: -len(particle)]
            yield rest
            if rest.endswith("들") and len(rest) > 1:  # 말들이: the plural stands before the particle
                yield rest[:-1]


def look_up(text: str, table: Mapping[str, list]) -> list:
    """The entry of the first spelling that the table has; [] without any."""
    return next((table[key] for key in spellings(text) if key in table), [])


def similar_keys(text: str, keys: Iterable[str], cutoff: float) -> list[tuple[str, float]]:
    """Keys that differ from a word by a typing error, with difflib's ratio: of those with a ratio from the cutoff on, or within
    one correction, all that need the fewest corrections.

    Only for words in Latin letters: a syllable of another script is a large share of its word.
    """
    key = key_of(text)
    if len(key) < SHORTEST_TYPO or not is_latin(key):
        return []
    latin = [each for each in keys if is_latin(each) and abs(len(each) - len(key)) <= len(key) // 4 + 1]
    close = set(difflib.get_close_matches(key, latin, n=8, cutoff=cutoff))
    near = len(key) - 1, len(key), len(key) + 1
    counted = [(each, corrections(key, each)) for each in latin if each in close or len(each) in near]
    counted = [(each, count) for each, count in counted if each in close or count == 1]
    fewest = min((count for _, count in counted), default=0)
    return [(each, difflib.SequenceMatcher(None, each, key).ratio()) for each, count in counted if count == fewest]


def corrections(a: str, b: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that turn one text into another (Damerau 1964)."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i in range(1, len(a) + 1):
        before, last, row = row, before, [i]
        for j in range(1, len(b) + 1):
            least = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                least = min(least, last[j - 2] + 1)
            row.append(least)
    return row[-1]


def is_latin(text: str) -> bool:
    """Whether all letters are Latin ones, with or without accents."""
    return all("LATIN" in unicodedata.name(letter, "") for letter in text if letter.isalpha())
