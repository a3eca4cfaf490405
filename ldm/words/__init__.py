"""Words that a vocabulary lacks, in any language: which of its names they mean, decided by spelling, a lexicon and meaning."""

from ldm.words.open_words import OpenWords, Reading
from ldm.words.policy import Policy
from ldm.words.sentence_encoder import SentenceEncoder, load_encoder

__all__ = ["OpenWords", "Policy", "Reading", "SentenceEncoder", "load_encoder"]
