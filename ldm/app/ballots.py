"""A vote on pairs of pictures: the folder that `validate.py vote` wrote, and the votes that were cast on it.

The folder has pairs.json and pictures, and nothing that names a model. Votes are kept beside it, a line each, so that
`validate.py merge --votes` reads them.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.app.errors import NotFound, RequestError
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, read_json, read_text

PAIRS, VOTES = "pairs.json", "votes.jsonl"
SIDES = ("left", "right", "photograph")
CHOICES = ("left", "tie", "right")
RATER_LENGTH = 60
MOST_VOTES = 1_000_000  # that a file of votes may hold
NAME = re.compile(r"[0-9a-f]{12}")
REMEDY = "write it again with validate.py vote"


@dataclass(frozen=True)
class BallotPair:
    """Two pictures to choose from.

    Args:
        pair: its random name.
        asked: what the pictures should show, in words.
        files: side -> picture; the photograph only where there is one.
    """

    pair: str
    asked: str
    files: dict[str, Path]


class Ballots:
    """The pairs of a folder, and everybody's votes on them. May be used from several threads.

    Args:
        folder: with pairs.json and the pictures.
        votes: the file of votes; made with the first one, continued if it exists.

    Raises:
        UserError: the folder or the file is missing or damaged.
    """

    def __init__(self, folder: str | Path, votes: str | Path):
        self.folder, self.path = Path(folder), Path(votes)
        self._lock = threading.Lock()
        self.pairs = {pair.pair: pair for pair in _read_pairs(self.folder)}
        self._votes: dict[tuple[str, str], str] = dict(_read_votes(self.path, self.pairs)) if self.path.exists() else {}

    def of_rater(self, rater: str) -> list[dict[str, Any]]:
        """All pairs in an order that is the rater's own and always the same, with the rater's choices.

        Raises:
            RequestError: the name is empty or too long.
        """
        rater = _checked(rater)
        ordered = sorted(self.pairs, key=lambda name: hashlib.sha256(f"{rater}/{name}".encode()).digest())
        with self._lock:
            choices = {name: self._votes.get((rater, name)) for name in ordered}
        return [
            {
                "pair": name,
                "asked": self.pairs[name].asked,
                "photograph": "photograph" in self.pairs[name].files,
                "choice": choices[name],
            }
            for name in ordered
        ]

    def vote(self, rater: str, pair: str, choice: str | None) -> None:
        """Keeps a vote in place of the rater's earlier one on the pair; None takes it back.

        Raises:
            RequestError: the name or the choice is not one.
            NotFound: there is no such pair.
            OSError: the file cannot be written; the vote is not kept then.
        """
        rater = _checked(rater)
        if choice is not None and choice not in CHOICES:
            raise RequestError(f"choice: is one of {', '.join(CHOICES)}, or null to take the vote back")
        if pair not in self.pairs:
            raise NotFound("there is no such pair; reload the page")
        with self._lock:
            changed = dict(self._votes)
            changed.pop((rater, pair), None)
            if choice is not None:
                changed[rater, pair] = choice
            if len(changed) > MOST_VOTES:
                raise RequestError("there are too many votes already; tell who asked for them")
            lines = (json.dumps({"pair": p, "choice": c, "rater": r}) for (r, p), c in changed.items())
            with atomic_write(self.path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            self._votes = changed

    def picture(self, pair: str, side: str) -> Path:
        """The file of one side; its path comes from the folder's own list. Raises NotFound."""
        found = self.pairs[pair].files.get(side) if pair in self.pairs else None
        if found is None:
            raise NotFound("there is no such picture")
        return found


def _checked(rater: str) -> str:
    rater = " ".join(rater.split())
    if not 0 < len(rater) <= RATER_LENGTH:
        raise RequestError(f"rater: write a name of 1 to {RATER_LENGTH} letters")
    return rater


def _read_pairs(folder: Path) -> Iterator[BallotPair]:
    path = folder / PAIRS
    entries = read_json(path, remedy="name the folder that validate.py vote wrote", if_broken=REMEDY)
    listed = {file.relative_to(folder).as_posix(): file for file in (folder / "pictures").glob("*.png")}
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: holds no pairs; {REMEDY}")
    for number, entry in enumerate(entries):
        given = entry if isinstance(entry, dict) else {}
        files = {
            side: listed[given[side]] for side in SIDES if isinstance(given.get(side), str) and given[side] in listed
        }
        name, asked = given.get("pair"), given.get("asked", "")
        right = isinstance(name, str) and NAME.fullmatch(name) and isinstance(asked, str)
        wanted = {side for side in SIDES if given.get(side) is not None} | {"left", "right"}
        if not right or files.keys() != wanted:
            raise UserError(f"{path}: pair {number} is damaged, or one of its pictures is missing; {REMEDY}")
        yield BallotPair(str(name), str(asked), files)


def _read_votes(path: Path, pairs: dict[str, BallotPair]) -> Iterator[tuple[tuple[str, str], str]]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            vote = json.loads(line)
            key, choice = (_checked(vote["rater"]), vote["pair"]), vote["choice"]
            if vote["pair"] not in pairs or choice not in CHOICES:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RequestError):
            raise UserError(
                f"{path}, line {number}: is no vote on a pair of this folder; move the file away to begin anew"
            ) from None
        yield key, choice
