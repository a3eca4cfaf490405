"""A lexicon of names in several languages: Visual Genome's, COCO-like things, and those of the synthetic worlds.

`lexicon/objects.tsv`, `predicates.tsv` and `attributes.tsv` have a line per name: the name, further English forms, and forms in
other languages, separated by semicolons. A star marks a form that is a homonym, in this kind of names or beyond (배* is a boat, a pear
and a belly).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ldm.graph.vocab import KINDS, Vocab
from ldm.words.spelling import key_of

FOLDER = Path(__file__).with_name("lexicon")
ENGLISH = "en"


class Form(NamedTuple):
    """A word for a name."""

    text: str
    language: str
    homonym: bool


@dataclass(frozen=True)
class Lexicon:
    """Words for names.

    Attributes:
        forms: of each kind, the forms of each name; not the name itself.
    """

    forms: Mapping[str, Mapping[str, tuple[Form, ...]]]

    def without(self, languages: Collection[str]) -> Lexicon:
        """The same without some languages."""
        return Lexicon(
            {
                kind: {
                    name: tuple(form for form in forms if form.language not in languages) for name, forms in of.items()
                }
                for kind, of in self.forms.items()
            }
        )

    def among(self, vocab: Vocab) -> Lexicon:
        """The same for the names of a vocabulary only."""
        tables = vocab.objects, vocab.predicates, vocab.attributes
        return Lexicon(
            {
                kind: {name: forms for name in dict.fromkeys(names) if (forms := self.forms_of(kind, name))}
                for kind, names in zip(KINDS, tables)
            }
        )

    def forms_of(self, kind: str, name: str) -> tuple[Form, ...]:
        """The forms of a name, also of one that is listed as an English form of another name ('airplane': 'plane')."""
        table, key = self.forms[kind], key_of(name)
        if key in table:
            return table[key]
        for listed, forms in table.items():
            if any(form.language == ENGLISH and key_of(form.text) == key for form in forms):
                return (Form(listed, ENGLISH, False), *(form for form in forms if key_of(form.text) != key))
        return ()

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(form.language for of in self.forms.values() for forms in of.values() for form in forms)
        )


@lru_cache(maxsize=1)
def read_lexicon() -> Lexicon:
    """The lexicon of the project."""
    return Lexicon({kind: read_forms(FOLDER / f"{kind}s.tsv") for kind in KINDS})


def read_forms(path: Path) -> dict[str, tuple[Form, ...]]:
    """The forms of each name in a file of tab-separated columns: name, then one per language."""
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    _, *languages = head.split("\t")
    table: dict[str, tuple[Form, ...]] = {}
    for line in lines:
        name, *cells = line.split("\t")
        table[name] = tuple(
            Form(text.rstrip("*"), language, text.endswith("*"))
            for language, cell in zip(languages, cells)
            for text in cell.split(";")
            if text
        )
    return table
