"""FID of several models against the same real images, and intervals of the differences.

|m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1 S2)^(1/2) (Heusel et al. 1706.08500). With features A (N,D), centred and divided by
sqrt(N - 1), S1 = A^T A, and Tr (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of A S2 A^T (N,N). A bootstrap needs
that matrix once: those of its resamples are rows and columns of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

RESAMPLES = 100
MOST_PICTURES = 1500  # with more, the eigenvalues of all resamples take hours


class Reference:
    """Moments of the real images' features (M,D)."""

    def __init__(self, features: np.ndarray):
        self.mean = features.mean(0)
        self.covariance = np.cov(features, rowvar=False)


class Samples:
    """Features (N,D) of a model's pictures against a reference."""

    def __init__(self, features: np.ndarray, reference: Reference):
        self.features, self.reference = np.asarray(features, float), reference
        self.products = self.features @ reference.covariance @ self.features.T  # (N,N)

    def distance(self, chosen: np.ndarray | None = None) -> float:
        """FID of the pictures with these indices, by default of all."""
        chosen = np.arange(len(self.features)) if chosen is None else chosen
        features, products = self.features[chosen], self.products[np.ix_(chosen, chosen)]
        products = products - products.mean(0) - products.mean(1, keepdims=True) + products.mean()
        values = np.linalg.eigvalsh(products / (len(chosen) - 1))
        roots = np.sqrt(
            values[values > values.max() * len(values) * np.finfo(float).eps]
        )  # the others are rounding errors
        spread = features.var(0, ddof=1).sum() + np.trace(self.reference.covariance)
        return float(((features.mean(0) - self.reference.mean) ** 2).sum() + spread - 2 * roots.sum())


def compare_fid(
    features: Mapping[str, np.ndarray], reference: np.ndarray, units: Sequence[str]
) -> dict[str, dict[str, float | tuple[float, float] | None]]:
    """FID of each model, and its difference to the first one's.

    The interval is the difference +- 1.96 standard deviations of the resamples' differences: a resample repeats pictures,
    which biases both FIDs upwards, and so would their percentiles be.

    Args:
        features: model -> (N,D), of the same lines in the same order; the base first.
        reference: (M,D) of real images.
        units: of each line its unit; units are drawn together.
    """
    real = Reference(reference)
    samples = {model: Samples(values, real) for model, values in features.items()}
    base = next(iter(samples))
    results: dict[str, dict] = {model: {"fid": each.distance()} for model, each in samples.items()}
    if len(units) > MOST_PICTURES:
        return results
    draws = _draw_units(units)
    distances = {model: np.array([each.distance(chosen) for chosen in draws]) for model, each in samples.items()}
    for model in [model for model in samples if model != base]:
        difference = results[model]["fid"] - results[base]["fid"]
        deviation = float((distances[model] - distances[base]).std(ddof=1))
        results[model] |= {
            "difference": difference,
            "difference_95": (difference - 1.96 * deviation, difference + 1.96 * deviation),
        }
    return results


def _draw_units(units: Sequence[str]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    members: dict[str, list[int]] = {}
    for index, unit in enumerate(units):
        members.setdefault(unit, []).append(index)
    groups = list(members.values())
    return [
        np.concatenate([groups[number] for number in rng.integers(0, len(groups), len(groups))])
        for _ in range(RESAMPLES)
    ]
