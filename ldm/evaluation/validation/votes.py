"""Human votes: a page that shows pictures of a model and of the base side by side, blinded, and the reading of its files.

The page is one HTML file beside a folder of pictures. Sides and order are random; neither the names of the pictures nor
anything within them tells the model. `votes_key.json` does, and stays with whoever runs the vote.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ldm.editing.batch import numbered_lines, parse_line
from ldm.evaluation.report import save_picture
from ldm.evaluation.validation import votes_page
from ldm.evaluation.validation.lines import ValidationLine
from ldm.evaluation.validation.merge import Results
from ldm.evaluation.validation.statistics import preference
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, read_json
from ldm.util.images import read_image

PAGE, KEY, PAIRS = "votes.html", "votes_key.json", "pairs.json"
PAGE_FOLDER = "votes"  # what a voter gets; the key lies outside of it
CHOICES = ("left", "right", "tie")
EXAMPLE = '{"pair": "0123456789ab", "choice": "left", "rater": "ada"}'
SEED_DIGITS = 12  # hexadecimal digits of a pair's name


@dataclass(frozen=True)
class Pair:
    """Two pictures of one line.

    Args:
        pair: random name.
        id: of the line.
        left, right: models.
    """

    pair: str
    id: str
    left: str
    right: str


def draw_pairs(results: Results, seed: int = 0, most: int | None = None) -> list[Pair]:
    """Each model against the base on each line, with random sides, in random order.

    Args:
        seed: of names, sides and order.
        most: pairs of each model, drawn at random; None for all.

    Raises:
        UserError: there is no model but the base.
    """
    base, *models = results.plan.models
    if not models:
        raise UserError("there is no model but the base; name one with --model")
    rng, pairs = random.Random(f"votes/{seed}"), []
    for model in models:
        ids = [line.id for line in results.plan.lines]
        for id in rng.sample(ids, min(most or len(ids), len(ids))):
            sides = [model, base]
            rng.shuffle(sides)
            pairs.append(Pair(f"{rng.getrandbits(4 * SEED_DIGITS):0{SEED_DIGITS}x}", id, *sides))
    rng.shuffle(pairs)
    return pairs


def write_page(
    results: Results, lines: Sequence[ValidationLine], folder: Path, seed: int = 0, most: int | None = None
) -> Path:
    """Writes the page, its pictures, and the key. Equal pictures are shown too: voters who find a difference there guess.

    Args:
        lines: whose prompts or graphs the page shows.

    Returns:
        The path of the page.

    Raises:
        UserError: there is no model but the base, or a picture is missing.
    """
    pairs, by_id = draw_pairs(results, seed, most), {line.id: line for line in lines}
    page_folder = folder / PAGE_FOLDER
    shown = []
    for pair in pairs:
        line = by_id[pair.id]
        entry: dict[str, Any] = {"pair": pair.pair, "asked": _asked(line)}
        for side in ("left", "right"):
            entry[side] = f"pictures/{pair.pair}_{side}.png"
            picture = read_image(results.picture(getattr(pair, side), pair.id))
            save_picture(picture, page_folder / entry[side])  # anew, since the record inside names the model
        if line.photograph is not None:
            entry["photograph"] = f"pictures/{pair.pair}_before.png"
            save_picture(read_image(line.photograph, upright=True), page_folder / entry["photograph"])
        shown.append(entry)
    _write(page_folder / PAIRS, json.dumps(shown, indent=1) + "\n")
    _write(folder / KEY, json.dumps([asdict(pair) for pair in pairs], indent=1) + "\n")
    data = json.dumps(shown).replace("<", "\\u003c")
    _write(page_folder / PAGE, votes_page.TEMPLATE.replace(votes_page.PLACE, data))
    return page_folder / PAGE


def read_votes(files: Sequence[str | Path], key: Path, results: Results) -> dict[str, dict]:
    """How often people preferred each model to the base.

    Args:
        files: JSON Lines that the page saved, with `pair`, `choice` and `rater`.
        key: the key file of the page.

    Raises:
        UserError: a file is damaged, a pair is unknown, or somebody voted on a pair twice.
    """
    pairs = _read_key(key, results)
    base, units = results.plan.models[0], results.plan.units
    choices: dict[str, list[tuple[float, str]]] = {}
    seen: set[tuple[str, str]] = set()
    for file in files:
        for number, text in numbered_lines(Path(file), "votes", EXAMPLE):
            place = f"{file}, line {number}"
            try:
                vote = parse_line(text)
            except UserError as error:
                raise UserError(f"{place}: {error}") from None
            pair = pairs.get(str(vote.get("pair")))
            if pair is None or vote.get("choice") not in CHOICES:
                raise UserError(f"{place}: no vote on a pair of {key} (choice: left, right or tie)")
            voter = (str(vote.get("rater", file)), pair.pair)
            if voter in seen:
                raise UserError(f"{place}: {voter[0]!r} voted on this pair before; keep one of the two votes")
            seen.add(voter)
            model = pair.right if pair.left == base else pair.left
            chosen = {"left": pair.left, "right": pair.right}.get(vote["choice"])
            value = 0.5 if chosen is None else float(chosen == model)
            choices.setdefault(model, []).append((value, units[pair.id]))
    return {model: preference(*map(list, zip(*of_model))) for model, of_model in choices.items()}


def _read_key(path: Path, results: Results) -> dict[str, Pair]:
    """The pairs by name. Raises UserError for a file that is no key of these results."""
    entries = read_json(path, remedy="validate.py vote wrote it", if_broken="write it again with validate.py vote")
    try:
        pairs = [Pair(**{name: entry[name] for name in Pair.__dataclass_fields__}) for entry in entries]
        if not all(isinstance(text, str) for pair in pairs for text in asdict(pair).values()):
            raise TypeError
    except (TypeError, KeyError, IndexError):
        raise UserError(f"{path}: is no key of a vote; write it again with validate.py vote") from None
    base, *models = results.plan.models
    for pair in pairs:
        sides = {pair.left, pair.right}
        if pair.id not in results.plan.units or base not in sides or not sides & set(models):
            raise UserError(
                f"{path}: is the key of other results (pair {pair.pair}); name that of these with --votes-key"
            )
    return {pair.pair: pair for pair in pairs}


def _asked(line: ValidationLine) -> str:
    if line.prompt is not None:
        return line.prompt
    graph = line.graph
    if graph is None:
        return line.type
    names = ", ".join(graph.describe(index) for index in range(len(graph.objects)))
    relations = (f"{graph.objects[s]} {predicate} {graph.objects[o]}" for s, predicate, o in graph.known_triples)
    return "; ".join([names, *relations])


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
