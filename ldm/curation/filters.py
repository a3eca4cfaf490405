"""Which pictures are too small, too blurred, too dark, or show too little: each removal with its measure and limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm.curation.duplicates import Removal
from ldm.curation.errors import CurationError
from ldm.curation.options import CurationOptions, pairs_of
from ldm.curation.pictures import Picture
from ldm.curation.store import Records
from ldm.util.config import resolve
from ldm.util.errors import ConfigError
from ldm.util.files import read_text
from ldm.util.images import read_image

Scores = dict[str, list[float | None]]  # name -> of each picture


def filter_pictures(
    pictures: Sequence[Picture], records: Records, options: CurationOptions, scores: Scores | None = None
) -> dict[int, Removal]:
    """Removes pictures that are beyond a limit of the options, or that cannot be read.

    Args:
        scores: of `score_pictures`.
    """
    sizes = records["size"]
    words = read_words(options.vocabulary, "vocabulary") if options.vocabulary else set()
    limits = {name: float(limit) for name, limit in pairs_of(options.scores, "scores").items()}
    columns = {name: records[name] for name in ("sharpness", "contrast", "clipped")}
    removed: dict[int, Removal] = {}
    for row, picture in enumerate(pictures):
        width, height = sizes[row].tolist()
        measured = {name: float(column[row]) for name, column in columns.items()}
        own = {name: values[row] for name, values in (scores or {}).items()}
        reason = (
            "cannot be read"
            if not min(width, height)
            else _reason(picture, width, height, measured, options)
            or _word_reason(picture, words)
            or _score_reason(own, limits)
        )
        if reason:
            removed[row] = Removal(reason)
    return removed


def score_pictures(pictures: Sequence[Picture], rows: Sequence[int], scores: str | None) -> Scores:
    """Scores of some pictures by the user's functions, such as detectors of text, watermarks or nudity.

    Args:
        scores: "package.module.function=limit,..."; a function takes an RGB picture and returns a number.

    Raises:
        CurationError: a function cannot be imported, fails, or returns no number.
    """
    result: Scores = {}
    for name, limit in pairs_of(scores, "scores").items():
        try:
            float(limit)
        except ValueError:
            raise CurationError(f"scores: {name}={limit}: the largest value is no number") from None
        function = load_function(name, "scores")
        values: list[float | None] = [None] * len(pictures)
        for row in rows:
            value = call(function, read_image(pictures[row].path), name, pictures[row].name)
            if not isinstance(value, int | float | np.number) or not np.isfinite(value):
                raise CurationError(f"scores: {name} returned {value!r} for {pictures[row].name}, which is no number")
            values[row] = float(value)
        result[name] = values
    return result


def load_function(name: str, option: str) -> Callable:
    """The function package.module.function. Raises CurationError if there is none."""
    try:
        return resolve(name)
    except ConfigError as error:
        sentence = (
            f"{option}: {name} is no function that can be imported ({error}); name one as package.module.function"
        )
        raise CurationError(sentence) from None


def call(function: Callable, argument: Any, name: str, where: str) -> Any:
    """Calls a user's function. Raises CurationError with its exception."""
    try:
        return function(argument)
    except Exception as error:  # of the user's function
        raise CurationError(
            f"{name} failed on {where} ({type(error).__name__}: {error}); correct the function"
        ) from error


def _reason(
    picture: Picture, width: int, height: int, measured: Mapping[str, float], options: CurationOptions
) -> str | None:
    aspect, objects = max(width, height) / min(width, height), len(picture.objects)
    tests = (
        (min(width, height) < options.min_side, f"{min(width, height)} pixels, fewer than {options.min_side}"),
        (0 < options.max_aspect < aspect, f"aspect {aspect:.2f}, more than {options.max_aspect:g}"),
        _below("sharpness", measured, options.min_sharpness),
        _below("contrast", measured, options.min_contrast),
        (
            measured["clipped"] > options.max_clipped,
            f"clipped {measured['clipped']:.2f}, above {options.max_clipped:g}",
        ),
        (objects < options.min_objects, f"{objects} objects, fewer than {options.min_objects}"),
        (0 < options.max_objects < objects, f"{objects} objects, more than {options.max_objects}"),
    )
    return next((reason for failed, reason in tests if failed), None)


def _below(name: str, measured: Mapping[str, float], limit: float) -> tuple[bool, str]:
    return measured[name] < limit, f"{name} {measured[name]:.3g}, below {limit:g}"


def _word_reason(picture: Picture, words: set[str]) -> str | None:
    own = {word.lower() for word in (*picture.objects, *picture.labels)}
    return "none of its words is in the vocabulary" if words and not own & words else None


def _score_reason(own: Mapping[str, float | None], limits: Mapping[str, float]) -> str | None:
    for name, value in own.items():
        if value is not None and value > limits[name]:
            return f"{name.rpartition('.')[2]} {value:.3g}, above {limits[name]:g}"
    return None


def read_words(path: str, option: str) -> set[str]:
    """The words of a file with one per line, in lower case. Raises CurationError if it has none."""
    words = {line.strip().lower() for line in read_text(Path(path)).splitlines() if line.strip()}
    if not words:
        raise CurationError(f"{option}: {path} is empty; write a word per line")
    return words
