"""How well open words are read: nearest names by language, and what the policy does with words, homonyms and nonsense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ldm.evaluation import name_lists
from ldm.evaluation.name_lists import Case
from ldm.graph.resolving import Slot
from ldm.words.lexicon import KINDS, Lexicon, read_lexicon
from ldm.words.names import Alignment
from ldm.words.open_words import OpenWords
from ldm.words.policy import Outcome, Policy
from ldm.words.sentence_encoder import SentenceEncoder

SHOWN = 3
# What the policy does with a word: read right, read wrong, asked with the right name among three, asked without it, refused.
OUTCOMES = ("right", "wrong", "asked", "asked in vain", "refused")


@dataclass
class NameBenchmark:
    """Measures one list.

    Args:
        which: tuning or gold.
        encoder, policy, alignments: see `OpenWords`.
    """

    which: str
    encoder: SentenceEncoder | None = None
    policy: Policy = field(default_factory=Policy)
    alignments: dict[str, Alignment] = field(default_factory=dict)

    def report(self) -> dict:
        """All figures, as shares with their numbers of words."""
        return {
            "list": self.which,
            "policy": vars(self.policy),
            "nearest": {**self.nearest(), "synonyms": self.nearest_synonyms()},
            "outcomes": self.outcomes(),
            "homonyms": self.homonyms(),
        }

    def nearest(self) -> dict:
        """Top-1 and top-3 of the nearest name by meaning, by language and kind, for the name alone and for prototypes."""
        table = {}
        for language, cases in name_lists.words_by_language(self.which).items():
            alone, prototype = self._words(_nothing()), self._words(read_lexicon().without({language}))
            table[language] = {
                kind: _tops([case for case in cases if case.kind == kind], alone, prototype) for kind in KINDS
            }
        return table

    def nearest_synonyms(self) -> dict:
        """The same for English synonyms."""
        cases, words = name_lists.synonyms(self.which), self._words(read_lexicon())
        return {
            kind: _tops([each for each in cases if each.kind == kind], self._words(_nothing()), words) for kind in KINDS
        }

    def outcomes(self) -> dict:
        """Shares of what the policy does, for words by language, synonyms, misspelt names, and words that mean nothing."""
        table = {
            language: tally(cases, self._words(read_lexicon().without({language})))
            for language, cases in name_lists.words_by_language(self.which).items()
        }
        words = self._words(read_lexicon())
        table |= {"synonyms": tally(name_lists.synonyms(self.which), words)}
        table |= {"misspelt": tally(name_lists.typos(self.which), words)}
        return table | {"meaningless": tally(name_lists.rejected(self.which), words)}

    def homonyms(self) -> dict:
        """Share of homonyms read right: by the word alone, with its triple, and by the whole policy."""
        cases, words = name_lists.homonyms(self.which), self._words(read_lexicon())
        alone = with_triple = 0
        for case in cases:
            near = words.index["object"].nearest(case.word)
            alone += near[0].name in case.names
            names = [each.name for each in near[:8]]
            names += [each.name for each in words.index["object"].in_lexicon(case.word) if each.name not in names]
            ranked = words.rank("object", case.word, names, case.graph, Slot("object", case.position))
            with_triple += bool(ranked) and ranked[0].name in case.names
        count = len(cases)
        return {"words": count, "alone": alone / count, "with_triple": with_triple / count, **tally(cases, words)}

    def _words(self, lexicon: Lexicon) -> OpenWords:
        return OpenWords(name_lists.vocabulary(), self.encoder, self.policy, lexicon, {}, self.alignments)


def _nothing() -> Lexicon:
    return Lexicon({kind: {} for kind in KINDS})


def _tops(cases: Sequence[Case], alone: OpenWords, prototype: OpenWords) -> dict:
    row: dict = {"words": len(cases)}
    for label, words in (("alone", alone), ("prototype", prototype)):
        ranked = [[each.name for each in words.index[case.kind].nearest(case.word)] for case in cases]
        for top in (1, SHOWN):
            right = sum(bool(case.names & set(names[:top])) for case, names in zip(cases, ranked))
            row[f"{label}_top{top}"] = right / len(cases) if cases else None
    return row


def tally(cases: Iterable[Case], words: OpenWords) -> dict:
    """Shares of the policy's outcomes."""
    counts: Counter = Counter()
    for case in cases:
        slot = Slot("object", case.position) if case.graph else None
        counts[classify(case, words, slot)] += 1
    total = counts.total()
    return {"words": total, **{outcome: counts[outcome] / total for outcome in OUTCOMES}}


def classify(case: Case, words: OpenWords, slot: Slot | None = None) -> str:
    """One of `OUTCOMES`."""
    decision = words.read(case.kind, case.word, case.graph, slot)
    if decision.reading is not None:
        return "right" if decision.reading.name in case.names else "wrong"
    if decision.outcome is Outcome.REFUSE:
        return "refused"
    shown = {each.name for each in decision.candidates[:SHOWN]}
    return "asked" if shown & case.names else "asked in vain"


def tables(report: dict) -> str:
    """The figures in Markdown, in percent."""
    lines = [
        "| words | kind | number | name alone: top 1 | top 3 | prototype: top 1 | top 3 |",
        "|---|---|---|---|---|---|---|",
    ]
    for language, kinds in report["nearest"].items():
        for kind, row in kinds.items():
            if row["words"]:
                shares = [row[f"{label}_top{top}"] for label in ("alone", "prototype") for top in (1, SHOWN)]
                lines.append(f"| {language} | {kind} | {row['words']} | " + _percent(shares))
    lines += [
        "",
        "| words | number | right | wrong | asked, right one shown | asked in vain | refused |",
        "|---|---|---|---|---|---|---|",
    ]
    for words, row in {**report["outcomes"], "homonyms": report["homonyms"]}.items():
        lines.append(f"| {words} | {row['words']} | " + _percent([row[outcome] for outcome in OUTCOMES]))
    alone, phrase = report["homonyms"]["alone"], report["homonyms"]["with_triple"]
    lines += ["", f"homonyms by meaning: the word alone {100 * alone:.1f} %, with its triple {100 * phrase:.1f} %"]
    return "\n".join(lines) + "\n"


def _percent(shares: Sequence[float]) -> str:
    return " | ".join(f"{100 * share:.1f}" for share in shares) + " |"
