"""Which tokens of a text encoder stand for which characters of a text: CLIP's byte-level BPE, traced back to the text.

The tokenizer (open_clip's `SimpleTokenizer`) repairs and lower-cases a text, splits it into words, and each word into tokens
of one or more bytes. All of CLIP's text encoders in SD 1.x, 2.x and XL share it, and so do both towers of SDXL: a position is
the same in each of them, whichever padding follows the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

LENGTH = 77  # tokens of a text or of a chunk of it, the start and the end token included

Characters = tuple[int, int]  # text[start:end]


class Tokenizer(Protocol):
    """The parts of open_clip's SimpleTokenizer that make tokens of a text."""

    pat: Any  # compiled pattern of words
    byte_encoder: dict[int, str]
    clean_fn: Callable[[str], str]

    def bpe(self, token: str) -> str:
        """The tokens of a word whose bytes are written as `byte_encoder` says, separated by spaces."""
        ...


@lru_cache(maxsize=1)
def clip_tokenizer() -> Tokenizer:
    """The tokenizer of all of CLIP's text encoders, whose vocabulary comes with open_clip."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def count_tokens(text: str, tokenizer: Tokenizer | None = None) -> int:
    """Number of tokens of a text, the start and the end token included."""
    return len(token_characters(text, tokenizer)) + 2


def token_characters(text: str, tokenizer: Tokenizer | None = None) -> list[Characters]:
    """The characters of the text that each of its tokens stands for, without the start and the end token.

    A character of several bytes may be split into several tokens, which then all stand for it.
    """
    tokenizer = tokenizer or clip_tokenizer()
    cleaned = tokenizer.clean_fn(text)
    origin = _origins(text, cleaned)
    found = []
    for word in tokenizer.pat.finditer(cleaned):
        characters = [word.start() + i for i, c in enumerate(word.group()) for _ in c.encode()]  # of each byte
        pieces = tokenizer.bpe("".join(tokenizer.byte_encoder[b] for b in word.group().encode())).split(" ")
        ends = list(accumulate(len(piece.removesuffix("</w>")) for piece in pieces))
        for start, end in zip([0, *ends], ends):
            covered = [origin[i] for i in characters[start:end]]
            found.append((min(first for first, _ in covered), max(last for _, last in covered)))
    return found


def token_positions(
    text: str,
    spans: Sequence[Characters],
    chunked: bool = False,
    length: int = LENGTH,
    tokenizer: Tokenizer | None = None,
) -> list[tuple[int, ...]]:
    """The positions of the tokens of each span among the tokens that a text encoder returns.

    Args:
        text: the whole text.
        spans: characters text[start:end].
        chunked: whether a long text is read in chunks of `length`, each with a start and an end token; otherwise it is cut off.
        length: tokens of a text or chunk, start and end token included.
        tokenizer: CLIP's by default.

    Returns:
        For each span the positions of all tokens that share a character with it; () for words that are cut off.
    """
    inner = length - 2
    characters = token_characters(text, tokenizer)
    characters = characters if chunked else characters[:inner]

    def position(number: int) -> int:
        return number // inner * length + 1 + number % inner

    return [
        tuple(position(number) for number, (first, last) in enumerate(characters) if first < end and start < last)
        for start, end in spans
    ]


def _origins(text: str, cleaned: str) -> list[Characters]:
    """For each character of the cleaned text the characters of the text that it comes from."""
    lower = [(c, i) for i, character in enumerate(text) for c in character.lower()]
    if len(lower) == len(text) and text.lower() == cleaned:
        return [(i, i + 1) for i in range(len(text))]
    origins: list[Characters] = []
    matcher = SequenceMatcher(None, [c for c, _ in lower], list(cleaned), autojunk=False)
    for kind, first, last, cleaned_first, cleaned_last in matcher.get_opcodes():
        if kind == "equal":
            origins += [(i, i + 1) for _, i in lower[first:last]]
        else:  # characters that were repaired together come from all of what they replace
            start = lower[first][1] if first < len(lower) else len(text)
            end = lower[last - 1][1] + 1 if last > first else start
            origins += [(start, end)] * (cleaned_last - cleaned_first)
    return origins
