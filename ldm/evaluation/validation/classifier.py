"""A classifier of the user's: its confusion matrix on labelled pictures, and what its verdicts say once that is corrected.

A classifier that errs makes a model look better or worse than it is. With C[i, j], the share of pictures of class i that it
calls j, the shares q of its verdicts come from true shares p as q = C^T p. For two classes the solution is Rogan & Gladen's
(Am. J. Epidemiol. 107, 1978), p = (q + specificity - 1) / (sensitivity + specificity - 1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.optimize import nnls

from ldm.evaluation.validation.statistics import judge
from ldm.util.errors import UserError

RESAMPLES = 500
LEAST_SINGULAR = 0.05  # of the confusion matrix; below, the correction is ruled by the errors of the matrix
SUM_WEIGHT = 1e3  # how strictly the corrected shares sum to 1

Classifier = Callable[[Image.Image], str]


@dataclass(frozen=True)
class Confusion:
    """How a classifier judges labelled pictures.

    Args:
        classes: their names.
        counts: (K,K), of the pictures of class i how many it calls j.
    """

    classes: tuple[str, ...]
    counts: np.ndarray

    @property
    def shares(self) -> np.ndarray:  # (K,K), rows sum to 1
        return self.counts / self.counts.sum(1, keepdims=True)

    def draw(self, rng: np.random.Generator) -> np.ndarray:  # (K,K)
        """Shares that are as likely as these, each row from its posterior under Perks' prior of 1/K per cell."""
        return np.stack([rng.dirichlet(row + 1 / len(self.classes)) for row in self.counts])

    def to_json(self) -> dict:
        """For the report."""
        return {"classes": list(self.classes), "counts": self.counts.astype(int).tolist()}


def measure_confusion(labelled: Sequence[tuple[str, str]]) -> Confusion:
    """The confusion matrix of labelled pictures.

    Args:
        labelled: of each picture its class and the classifier's verdict.

    Raises:
        UserError: a verdict is no class of the labelled pictures, or the classifier cannot tell two classes apart.
    """
    classes = tuple(sorted({label for label, _ in labelled}))
    if len(classes) < 2:
        raise UserError(
            "the labelled pictures are of fewer than two classes; a confusion matrix needs some of each class"
        )
    unknown = sorted({verdict for _, verdict in labelled} - set(classes))
    if unknown:
        raise UserError(
            f"the classifier says {unknown[0]!r}, a class of no labelled picture; label some, so that its errors are known"
        )
    counts = np.zeros((len(classes), len(classes)))
    for label, verdict in labelled:
        counts[classes.index(label), classes.index(verdict)] += 1
    confusion = Confusion(classes, counts)
    if np.linalg.svd(confusion.shares, compute_uv=False)[-1] < LEAST_SINGULAR:
        raise UserError(
            "on the labelled pictures the classifier cannot tell some classes apart (its confusion matrix is singular), so "
            "its verdicts cannot be corrected; train it better, or join these classes"
        )
    return confusion


def corrected_shares(observed: np.ndarray, confusion: np.ndarray) -> np.ndarray:  # (K,), (K,K) -> (K,)
    """The shares p >= 0 of sum 1 for which C^T p is nearest to the observed shares of verdicts."""
    rows = np.vstack([confusion.T, np.full((1, len(confusion)), SUM_WEIGHT)])
    return nnls(rows, np.append(observed, SUM_WEIGHT))[0]


@dataclass(frozen=True)
class Verdicts:
    """The classifier's verdicts on the pictures of one model.

    Args:
        wanted: of each picture the class that its line asks for, as an index.
        given: of each picture the verdict, as an index.
    """

    wanted: np.ndarray
    given: np.ndarray

    def success(self, confusion: np.ndarray | None, weights: np.ndarray | None = None) -> float:
        """The share of pictures that show the class their line asks for.

        Args:
            confusion: (K,K) for the corrected share; None for the plain one.
            weights: (N,), how often each picture counts.
        """
        weights = np.ones(len(self.wanted)) if weights is None else weights
        if confusion is None:
            return float(weights @ (self.wanted == self.given) / weights.sum())
        total = 0.0
        for wanted in np.unique(self.wanted):
            of_class = weights * (self.wanted == wanted)
            if of_class.sum():
                observed = np.bincount(self.given, of_class, len(confusion)) / of_class.sum()
                total += of_class.sum() * corrected_shares(observed, confusion)[wanted]
        return float(total / weights.sum())


def report_classes(
    verdicts: Mapping[str, Mapping[str, str]],
    labels: Mapping[str, str],
    units: Mapping[str, str],
    confusion: Confusion,
) -> dict:
    """Success of each model by the classifier, plain and corrected, and its difference to the base.

    The intervals are of 95 %: in each of `RESAMPLES` rounds units of pictures are drawn with replacement, and a confusion
    matrix from what the labelled pictures leave open, the same for all models.

    Args:
        verdicts: model -> id of a line -> verdict; the base first. All models have the same ids.
        labels: of each line the class that it asks for.
        units: of each line its unit.

    Raises:
        UserError: a class has no labelled pictures, or a verdict is no such class.
    """
    index = {name: number for number, name in enumerate(confusion.classes)}
    ids = [id for id in next(iter(verdicts.values())) if id in labels]
    for name in dict.fromkeys(labels[id] for id in ids):
        if name not in index:
            raise UserError(
                f"class {name!r} is asked for by {sum(labels[id] == name for id in ids)} lines, but no labelled picture "
                "shows it, so the classifier's errors on it are unknown; add some to --labelled"
            )
    for model, of_model in verdicts.items():
        for id in ids:
            if of_model[id] not in index:
                raise UserError(
                    f"model {model!r}, line {id}: the classifier says {of_model[id]!r}, a class of no labelled picture; add "
                    "some to --labelled"
                )
    wanted = np.array([index[labels[id]] for id in ids])
    tables = {model: Verdicts(wanted, np.array([index[v[id]] for id in ids])) for model, v in verdicts.items()}
    draws = _resample(tables, [units[id] for id in ids], confusion)
    base, count = next(iter(tables)), len({units[id] for id in ids})
    results: dict[str, Any] = {}
    for model, table in tables.items():
        corrected = table.success(confusion.shares)
        results[model] = {
            "plain": table.success(None),
            "corrected": corrected,
            "corrected_95": _percentiles(draws[model]),
            "by_class": {
                name: {
                    "pictures": int((wanted == number).sum()),
                    "plain": float((table.given[wanted == number] == number).mean())
                    if (wanted == number).any()
                    else None,
                }
                for name, number in index.items()
            },
        }
        if model != base:
            interval = _percentiles(draws[model] - draws[base])
            results[model] |= {
                "difference": corrected - results[base]["corrected"],
                "difference_95": interval,
                "verdict": judge(interval, count, True),
            }
    absent = [name for name, number in index.items() if not (wanted == number).any()]
    return {
        "models": results,
        "confusion": confusion.to_json(),
        "pictures": len(ids),
        "units": count,
        "classes_without_lines": absent,
    }


def read_labelled(path: str | Path, classifier: Classifier) -> list[tuple[str, str]]:
    """Class and verdict of each labelled picture.

    Args:
        path: JSON Lines with `file`, relative to it, and `label`.

    Raises:
        UserError: the file or a picture cannot be read.
    """
    from ldm.editing.batch import numbered_lines, parse_line
    from ldm.util.images import read_image

    pairs = []
    for number, text in numbered_lines(Path(path), "labelled pictures", '{"file": "a.png", "label": "cat"}'):
        try:
            values = parse_line(text)
            if not isinstance(values.get("file"), str) or not isinstance(values.get("label"), str):
                raise UserError("has no texts `file` and `label`; correct it")
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        picture = read_image(Path(path).parent / values["file"], upright=True)
        pairs.append((values["label"], call(classifier, picture)))
    return pairs


def call(classifier: Classifier, picture: Image.Image) -> str:
    """The verdict on a picture. Raises UserError if it is no text."""
    verdict = classifier(picture)
    if not isinstance(verdict, str):
        raise UserError(
            f"the classifier returned {type(verdict).__name__}; it takes an image and returns a class's name"
        )
    return verdict


def _resample(tables: Mapping[str, Verdicts], units: Sequence[str], confusion: Confusion) -> dict[str, np.ndarray]:
    """Model -> (RESAMPLES,) corrected shares."""
    rng = np.random.default_rng(0)
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    of_pictures = np.array([numbers[unit] for unit in units])
    draws: dict[str, list[float]] = {model: [] for model in tables}
    for _ in range(RESAMPLES):
        drawn = Counter(rng.integers(0, len(numbers), len(numbers)).tolist())
        weights = np.array([drawn[number] for number in of_pictures], float)
        shares = confusion.draw(rng)
        for model, table in tables.items():
            draws[model].append(table.success(shares, weights))
    return {model: np.array(values) for model, values in draws.items()}


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
