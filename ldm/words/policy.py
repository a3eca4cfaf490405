"""When a word is read as a name, when the user is asked, and when the word is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Candidate(NamedTuple):
    """A name that a word may mean, and the cosine similarity of the two (of spellings: their ratio), at most 1."""

    name: str
    score: float


class Outcome(Enum):
    """What happens with a word."""

    ACCEPT = "accept"
    ASK = "ask"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Policy:
    """Thresholds, chosen on data/words/*_tuning.tsv; docs/words.md tells what they do on other lists.

    Args:
        accept: similarity from which on a word is read as the nearest name.
        margin: by which the nearest name must lead.
        refuse: similarity below which a word means nothing here. In between, the user is asked.
        typo: difflib's ratio from which on a word that the encoder's tokenizer does not know is a misspelt name.
        word, phrase, neighbour: weights by which the meanings of a homonym are ranked: of the similarity of the word itself, of
            the phrases of its relations, and of the name and the names of the objects that it is related to.
        rank_margin: lead that decides between the meanings.
    """

    accept: float = 0.66
    margin: float = 0.05
    refuse: float = 0.57
    typo: float = 0.8
    word: float = 0.5
    phrase: float = 1.0
    neighbour: float = 1.0
    rank_margin: float = 0.02

    def decide(self, candidates: Sequence[Candidate]) -> Outcome:
        """The outcome for candidates by meaning, the best first."""
        if not candidates or candidates[0].score < self.refuse:
            return Outcome.REFUSE
        lead = candidates[0].score - candidates[1].score if len(candidates) > 1 else candidates[0].score
        return Outcome.ACCEPT if candidates[0].score >= self.accept and lead >= self.margin else Outcome.ASK
