"""The word lists on which open words are measured: `tuning`, on which thresholds were chosen, and `gold`, which was kept apart.

    data/words/gold_objects.tsv, ...    names in Japanese and Italian, of which the lexicon has nothing; several names of a
                                        line are equally right, and a star marks a homonym
    synonyms_LIST.tsv                   English words and the names that are right for them
    rejected_LIST.tsv                   words that mean nothing in the vocabulary
    homonyms_LIST.tsv                   a triple, the position of the homonym in it, and the name that is right

Further languages are those of the lexicon, each measured with a lexicon from which it is left out: Spanish and German for tuning,
Korean and French for gold.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import IMAGE, IN_IMAGE, Vocab
from ldm.util.errors import UserError
from ldm.words.lexicon import KINDS, read_forms, read_lexicon
from ldm.words.spelling import key_of

FOLDER = Path("data/words")
LEFT_OUT = {"tuning": ("es", "de"), "gold": ("ko", "fr")}
TYPO_SEEDS = {"tuning": 1, "gold": 2}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Case(NamedTuple):
    """A word and what it means.

    Args:
        kind: object, predicate or attribute.
        word: in any language.
        names: all that are right; empty if the word means nothing here.
        graph: with the word in it, for homonyms.
        position: of the word's object in that graph.
    """

    kind: str
    word: str
    names: frozenset[str]
    graph: SceneGraph | None = None
    position: int = 0


def vocabulary() -> Vocab:
    """All names of the lexicon: Visual Genome's, and some of the synthetic worlds' beside them."""
    objects, predicates, attributes = (tuple(read_lexicon().forms[kind]) for kind in KINDS)
    return Vocab((IMAGE, *objects), (IN_IMAGE, *predicates), attributes)


def words_by_language(which: str, folder: Path = FOLDER) -> dict[str, list[Case]]:
    """The names in each language of a list.

    Raises:
        UserError: a file is missing.
    """
    cases: dict[str, list[Case]] = {}
    for kind in KINDS:
        tables = [(read_lexicon().forms[kind], LEFT_OUT[which])]
        if which == "gold":
            tables.append((read_forms(_existing(folder / f"gold_{kind}s.tsv")), ("ja", "it")))
        for table, languages in tables:
            for language in languages:
                right: dict[str, set[str]] = {}
                for names, forms in table.items():
                    for form in forms:
                        if form.language == language and not form.homonym:
                            right.setdefault(form.text, set()).update(names.split(";"))
                cases.setdefault(language, []).extend(Case(kind, word, frozenset(of)) for word, of in right.items())
    return cases


def synonyms(which: str, folder: Path = FOLDER) -> list[Case]:
    """English words that are no names."""
    rows = _rows(folder / f"synonyms_{which}.tsv")
    return [Case(kind, word, frozenset(names.split(";"))) for kind, word, names in rows]


def rejected(which: str, folder: Path = FOLDER) -> list[Case]:
    """Words that mean nothing here."""
    return [Case(kind, word, frozenset()) for kind, word in _rows(folder / f"rejected_{which}.tsv")]


def homonyms(which: str, folder: Path = FOLDER) -> list[Case]:
    """Words with several meanings, in graphs of one triple."""
    cases = []
    for subject, predicate, object_, at, name in _rows(folder / f"homonyms_{which}.tsv"):
        graph = SceneGraph((subject, object_), triples=((0, predicate, 1),))
        position = 0 if at == "0" else 1
        cases.append(Case("object", graph.objects[position], frozenset({name}), graph, position))
    return cases


def typos(which: str) -> list[Case]:
    """Names of objects with one typing error: two letters swapped, a letter lost, doubled or replaced."""
    rng, cases = random.Random(TYPO_SEEDS[which]), []
    names = list(read_lexicon().forms["object"])
    keys = {key_of(name) for name in names}
    for name in names:
        if len(name) < 4:
            continue
        at = rng.randrange(len(name) - 1)
        word = rng.choice(
            (
                name[:at] + name[at + 1] + name[at] + name[at + 2 :],
                name[:at] + name[at + 1 :],
                name[: at + 1] + name[at:],
                name[:at] + rng.choice(LETTERS) + name[at + 1 :],
            )
        )
        if key_of(word) not in keys:
            cases.append(Case("object", word, frozenset({name})))
    return cases


def _rows(path: Path) -> Iterator[list[str]]:
    _, *lines = _existing(path).read_text(encoding="utf-8").splitlines()
    return (line.split("\t") for line in lines)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: the word lists are missing; start the program in the repository's root")
    return path
