"""CLIP's tokens of a text, 77 at a time, and the words that do not fit.

The vocabulary is the one that open_clip brings along, which all published CLIP text towers share. Texts are normalised as
transformers' CLIPTokenizer does it: Unicode NFC, single spaces, lower case. (open_clip's own cleaning also repairs wrongly
decoded characters and resolves HTML entities.) One thing differs: transformers takes "!" for padding where that is the padding
token, as in SD 2 and SDXL; open_clip, which these towers were trained with, reads it as a word, and so does this module.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import regex
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

LENGTH = 77  # tokens that a tower reads at a time, the start and the end token included
ROOM = LENGTH - 2
VOCABULARY = 49408  # tokens of CLIP's
START, END = 49406, 49407
SPECIAL = {"<|startoftext|>": START, "<|endoftext|>": END}
Texts = Sequence[str] | Tensor  # B of them, or their tokens (B,77) as `token_ids` returns them
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


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


def tokenize(text: str, chunked: bool = False) -> TokenizedText:
    """Splits a text into tokens.

    Args:
        text: any text, also an empty one.
        chunked: whether a text of more than 75 tokens is read in several chunks of 75; otherwise it is cut there.
    """
    words = split_words(text)
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


def split_words(text: str) -> list[Word]:
    """The words of a text with their tokens."""
    tokenizer = clip_tokenizer()
    return [Word(word, word_ids(word)) for word in tokenizer.pat.findall(tokenizer.clean_fn(text))]


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
    tokenizer = clip_tokenizer()
    characters = "".join(tokenizer.byte_encoder[byte] for byte in word.encode("utf-8"))
    return tuple(tokenizer.encoder[piece] for piece in tokenizer.bpe(characters).split(" "))


@lru_cache(maxsize=1)
def clip_tokenizer() -> SimpleTokenizer:
    """open_clip's tokenizer with the normalisation and the words of transformers' CLIPTokenizer."""
    tokenizer = SimpleTokenizer()
    tokenizer.clean_fn = normalise  # pyright: ignore[reportAttributeAccessIssue] - a function is expected whose argument is x
    tokenizer.pat = regex.compile(WORDS)
    return tokenizer


def _lost_words(words: Sequence[Word]) -> str:
    lost, end = [], 0
    for word in words:
        end += len(word.ids)
        if end > ROOM:
            lost.append(word.text)
    return " ".join(lost)
