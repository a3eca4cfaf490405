"""Which tokens of a text encoder stand for which characters of a text: CLIP's byte-level BPE, traced back to the text.

The tokenizer (`ldm.graph.text_tokens`) normalises a text, splits it into words, and each word into tokens of one or more
bytes. All of CLIP's text encoders in SD 1.x, 2.x and XL share it, and so do both towers of SDXL: a position is the same in each
of them, whichever padding follows the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import accumulate

from ldm.graph.byte_pairs import WORD_END, split_word
from ldm.graph.text_tokens import LEARNED, LENGTH, ROOM, SPECIAL, normalise, split_words, word_pattern

Characters = tuple[int, int]  # text[start:end]


def count_tokens(text: str) -> int:
    """Number of tokens of a text, the start and the end token included."""
    return sum(len(word.ids) for word in split_words(text)) + 2


def token_characters(text: str) -> list[Characters]:
    """The characters of the text that each of its tokens stands for, without the start and the end token.

    A character of several bytes may be split into several tokens, which then all stand for it.
    """
    normalised = normalise(text)
    origin = _origins(text, normalised)
    found = []
    for word in word_pattern().finditer(normalised):
        if learned := LEARNED.get(word.group()):  # each of its vectors stands for all of it
            whole = origin[word.start()][0], origin[word.end() - 1][1]
            found += [whole] * len(learned)
            continue
        characters = [word.start() + i for i, c in enumerate(word.group()) for _ in c.encode()]  # of each byte
        ends = [0, *accumulate(_byte_counts(word.group()))]
        for start, end in zip(ends, ends[1:]):
            covered = [origin[i] for i in characters[start:end]]
            found.append((min(first for first, _ in covered), max(last for _, last in covered)))
    return found


def token_positions(text: str, spans: Sequence[Characters], chunked: bool = False) -> list[tuple[int, ...]]:
    """The positions of the tokens of each span among the tokens that a text encoder returns.

    Args:
        text: the whole text.
        spans: characters text[start:end].
        chunked: whether a long text is read in chunks of 77, each with a start and an end token; otherwise it is cut off.

    Returns:
        For each span the positions of all tokens that share a character with it; () for words that are cut off.
    """
    characters = token_characters(text)
    characters = characters if chunked else characters[:ROOM]
    return [
        tuple(_position(number) for number, (first, last) in enumerate(characters) if first < end and start < last)
        for start, end in spans
    ]


def _position(number: int) -> int:
    """The position of a token, of which the first of each chunk follows the start token."""
    chunk, place = divmod(number, ROOM)
    return chunk * LENGTH + 1 + place


def _byte_counts(word: str) -> list[int]:
    """How many bytes of a normalised word each of its tokens stands for."""
    if word in SPECIAL:
        return [len(word)]
    return [len(piece.removesuffix(WORD_END)) for piece in split_word(word)]


def _origins(text: str, normalised: str) -> list[Characters]:
    """For each character of the normalised text the characters of the text that it comes from."""
    lower = [(c, i) for i, character in enumerate(text) for c in character.lower()]
    if len(lower) == len(text) and text.lower() == normalised:
        return [(i, i + 1) for i in range(len(text))]
    origins: list[Characters] = []
    matcher = SequenceMatcher(None, [c for c, _ in lower], list(normalised), autojunk=False)
    for kind, first, last, new_first, new_last in matcher.get_opcodes():
        if kind == "equal":
            origins += [(i, i + 1) for _, i in lower[first:last]]
        else:  # characters that were normalised together come from all that they replace
            start = lower[first][1] if first < len(lower) else len(text)
            end = lower[last - 1][1] + 1 if last > first else start
            origins += [(start, end)] * (new_last - new_first)
    return origins
