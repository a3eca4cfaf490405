"""CLIP's tokens of a text, 77 at a time, and the words that do not fit.

The vocabulary is the one that open_clip brings along, which all published CLIP text towers share. Texts are normalised as
transformers' CLIPTokenizer does it: Unicode NFC, single spaces, lower case. (open_clip's own cleaning also repairs wrongly
decoded characters and resolves HTML entities.) One thing differs: transformers takes "!" for padding where that is the padding
token, as in SD 2 and SDXL; open_clip, which these towers were trained with, reads it as a word, and so does this module.

Words that a text encoder has learned (textual inversion, Gal et al. 2208.01618) have ids above the vocabulary, one for each of
their vectors. They are found before anything else is split, as transformers finds added tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import regex
import torch
from torch import Tensor

from ldm.graph.byte_pairs import clip_vocabulary, split_word
from ldm.util.errors import UserError

LENGTH = 77  # tokens that a tower reads at a time, the start and the end token included
ROOM = LENGTH - 2
VOCABULARY = 49408  # tokens of CLIP's
START, END = 49406, 49407
SPECIAL = {"<|startoftext|>": START, "<|endoftext|>": END}
Texts = Sequence[str] | Tensor  # B of them, or their tokens (B,77) as `token_ids` returns them
LEARNED: dict[str, tuple[int, ...]] = {}  # learned word, normalised -> ids of its vectors, in this process
_vectors: list[tuple[str, int, int]] = []  # id - VOCABULARY -> word, number of its vectors, index of this one
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
TRIGGER = re.compile(r"<[^<>\s]+>")  # the usual form of a learned word
PUNCTUATION = r"[^\s\p{L}\p{N}]+"  # the last kind of WORDS


class Word(NamedTuple):
    """A word of a normalised text, which the vocabulary may split into several tokens."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class TokenizedText:
    """The tokens of one text.

    Attributes:
        chunks: ids of each chunk, at most ROOM, without start, end and padding; one chunk for a text that fits.
        lost: the words that did not fit, separated by spaces; empty if all did.
    """

    chunks: tuple[tuple[int, ...], ...]
    lost: str = ""

    def ids(self, padding: int) -> Tensor:  # -> (chunks,77)
        """The input of a text tower.

        Args:
            padding: id behind the end token: END (CLIP-L as Stable Diffusion 1 and XL use it) or 0 (OpenCLIP).
        """
        return torch.tensor([[START, *chunk, END] + [padding] * (ROOM - len(chunk)) for chunk in self.chunks])


def tokenize(text: str, chunked: bool = False, learned: Mapping[str, tuple[int, ...]] | None = None) -> TokenizedText:
    """Splits a text into tokens.

    Args:
        text: any text, also an empty one.
        chunked: whether a text of more than 75 tokens is read in several chunks of 75; otherwise it is cut there.
        learned: the learned words and their ids; by default those of all text encoders of this process.
    """
    words = split_words(text, learned)
    ids = tuple(token for word in words for token in word.ids)
    if chunked:
        return TokenizedText(tuple(ids[first : first + ROOM] for first in range(0, len(ids), ROOM)) or ((),))
    return TokenizedText((ids[:ROOM],), _lost_words(words))


def token_ids(text: str) -> Tensor:  # -> (77,)
    """The tokens of a text, cut to the length of one chunk, with END behind them: how batches hold texts."""
    return tokenize(text).ids(END)[0]


def pad_with(ids: Tensor, padding: int) -> Tensor:  # (B,77) -> (B,77)
    """Texts of `token_ids` as a text tower with another padding reads them."""
    return torch.where((ids == END).cumsum(1) > 1, padding, ids)


def split_words(text: str, learned: Mapping[str, tuple[int, ...]] | None = None) -> list[Word]:
    """The words of a text with their tokens; see `tokenize`."""
    learned = LEARNED if learned is None else learned
    found = word_pattern(learned).findall(normalise(text))
    return [Word(word, learned.get(word) or word_ids(word)) for word in found]


def word_pattern(learned: Mapping[str, tuple[int, ...]] = LEARNED) -> regex.Pattern:
    """The words of a normalised text; by default with the learned ones of this process."""
    return _pattern(tuple(learned))


def add_learned_word(name: str, count: int) -> tuple[int, ...]:
    """Makes texts contain a learned word from now on.

    Args:
        name: the word, without spaces; case does not matter.
        count: number of its vectors, each of which takes the place of a token.

    Returns:
        The ids of its vectors. The same word with the same number of vectors has the same ones in a process.

    Raises:
        UserError: it cannot be a word of its own.
    """
    word = check_learned_word(name)
    if not 1 <= count <= ROOM:
        raise UserError(f"the learned word {name!r} has {count} vectors; a text encoder takes 1 to {ROOM}")
    if (word, count, 0) not in _vectors:
        _vectors.extend((word, count, index) for index in range(count))
    first = VOCABULARY + _vectors.index((word, count, 0))
    LEARNED[word] = tuple(range(first, first + count))
    return LEARNED[word]


def check_learned_word(name: str) -> str:
    """The normalised form of a name for a learned word. Raises UserError for one that texts could not contain as such."""
    word = normalise(name)
    remedy = "name it like <my-cat>"
    if not word or regex.search(r"\s", word):
        raise UserError(f"a learned word cannot be {name!r}, since spaces separate words; {remedy}")
    if word in SPECIAL:
        raise UserError(f"a learned word cannot be {name!r}, a mark of the text encoder; {remedy}")
    if regex.search(r"[\p{L}\p{N}]", word) and regex.fullmatch(WORDS, word) and len(word_ids(word)) == 1:
        raise UserError(f"a learned word cannot be {name!r}, since the text encoder knows this word already; {remedy}")
    return word


def learned_word_of(token: int) -> str:
    """The learned word to which an id above the vocabulary belongs."""
    return _vectors[token - VOCABULARY][0]


@lru_cache(maxsize=64)
def _pattern(words: tuple[str, ...]) -> regex.Pattern:
    """WORDS, and before them the learned words, also between punctuation, but not inside of other words."""
    if not words:
        return regex.compile(WORDS)
    letter = r"[\p{L}\p{N}]"
    learned = "|".join(
        (rf"(?<!{letter})" if regex.match(letter, word) else "")
        + regex.escape(word)
        + (rf"(?!{letter})" if regex.match(letter, word[-1]) else "")
        for word in sorted(words, key=len, reverse=True)
    )
    return regex.compile(f"{learned}|{WORDS.removesuffix('|' + PUNCTUATION)}|(?:(?!{learned}){PUNCTUATION[:-1]})+")


def normalise(text: str) -> str:
    """Unicode NFC, every run of white space as one space, lower case character by character.

    Half a surrogate pair, which no text holds but JSON can, becomes the replacement character.
    """
    text = regex.sub("[\ud800-\udfff]", "\ufffd", text)
    text = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
    return "".join(character.lower() for character in text)  # str.lower changes a final sigma by its neighbours


@lru_cache(maxsize=16384)
def word_ids(word: str) -> tuple[int, ...]:
    """The tokens of one word of a normalised text, by byte pair encoding."""
    if word in SPECIAL:
        return (SPECIAL[word],)
    ids = clip_vocabulary().ids
    return tuple(ids[piece] for piece in split_word(word))


def _lost_words(words: Sequence[Word]) -> str:
    lost, end = [], 0
    for word in words:
        end += len(word.ids)
        if end > ROOM:
            lost.append(word.text)
    return " ".join(lost)
