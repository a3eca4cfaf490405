"""Statistics of the validation, against closed forms and scipy."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import binomtest, bootstrap

from ldm.evaluation.validation import classifier, frechet, statistics
from ldm.util.errors import UserError


def numbers(values):
    return {f"{index}": float(value) for index, value in enumerate(values)}


def own_units(values):
    return {f"{index}": f"{index}" for index in range(len(values))}


def test_the_interval_of_a_paired_difference_is_that_of_scipy():
    rng = np.random.default_rng(3)
    base, model = rng.normal(size=60), rng.normal(0.2, 1, 60)
    result = statistics.compare(numbers(model), numbers(base), own_units(base), True)
    assert result is not None and result.difference == pytest.approx((model - base).mean())
    expected = bootstrap(
        ((model - base),), np.mean, n_resamples=20000, method="percentile", rng=rng
    ).confidence_interval
    assert result.interval == pytest.approx(tuple(expected), abs=0.03)


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    rng, covered, count = np.random.default_rng(5), 0, 200
    for _ in range(count):
        base = rng.normal(size=50)
        model = base + rng.normal(0.3, 1, 50)
        low, high = statistics.compare(numbers(model), numbers(base), own_units(base), True).interval
        covered += low <= 0.3 <= high
    assert 0.90 < covered / count < 0.985


def test_equal_scores_are_within_chance():
    values = numbers(np.random.default_rng(0).normal(size=30))
    result = statistics.compare(values, dict(values), own_units(values), True)
    assert (result.verdict, result.difference, result.interval) == ("within chance", 0, (0, 0))


@pytest.mark.parametrize(
    ("shift", "higher_is_better", "verdict"),
    [(5, True, "better"), (5, False, "worse"), (-5, False, "better"), (5, None, "higher"), (0, True, "within chance")],
)
def test_the_verdict_follows_from_the_interval_and_the_direction(shift, higher_is_better, verdict):
    noise = np.linspace(-1, 1, 41)
    result = statistics.compare(numbers(noise + shift), numbers(0 * noise), own_units(noise), higher_is_better)
    assert result.verdict == verdict


def test_lines_of_one_unit_count_once():
    difference = np.repeat([3.0, 4.0, 5.0], 20)
    units = {f"{index}": f"clip {index // 20}" for index in range(60)}
    result = statistics.compare(numbers(difference), numbers(0 * difference), units, True)
    assert (result.units, result.verdict) == (3, "too few to tell")
    low, high = result.interval
    assert high - low > 1  # of three units; 60 independent lines would give 0.4


def test_lines_without_a_number_are_left_out_on_both_sides():
    result = statistics.compare(
        {"a": 1.0, "b": float("nan"), "c": 3.0}, {"a": 0.0, "b": 9.0}, {"a": "a", "b": "b"}, True
    )
    assert (result.pictures, result.mean, result.base) == (1, 1, 0)
    assert statistics.compare({"a": 1.0}, {"b": 1.0}, {}, True) is None


def test_the_preference_is_tested_as_scipy_does():
    choices = [1.0] * 17 + [0.0] * 5 + [0.5] * 4
    result = statistics.preference(choices, [f"{index}" for index in range(26)])
    assert result["share"] == pytest.approx((17 + 2) / 26) and result["ties"] == 4
    assert result["p"] == pytest.approx(binomtest(17, 22).pvalue) and result["verdict"] == "better"


# The classifier ------------------------------------------------------------------------------------------------------


def labelled(sensitivity, specificity, count=1000):
    right, calm = round(sensitivity * count), round(specificity * count)
    pairs = [("yes", "yes")] * right + [("yes", "no")] * (count - right)
    return pairs + [("no", "no")] * calm + [("no", "yes")] * (count - calm)


def test_the_correction_of_two_classes_is_that_of_rogan_and_gladen():
    confusion = classifier.measure_confusion(labelled(0.8, 0.9))
    yes = confusion.classes.index("yes")
    observed = np.array([0.0, 0.0])
    observed[yes], observed[1 - yes] = 0.45, 0.55
    assert classifier.corrected_shares(observed, confusion.shares)[yes] == pytest.approx(
        (0.45 + 0.9 - 1) / (0.8 + 0.9 - 1)
    )


def test_the_correction_returns_the_shares_that_made_the_verdicts():
    rng = np.random.default_rng(1)
    confusion = rng.dirichlet(np.ones(5), 5) * 0.4 + 0.6 * np.eye(5)
    true = rng.dirichlet(np.ones(5))
    np.testing.assert_allclose(classifier.corrected_shares(confusion.T @ true, confusion), true, atol=1e-6)


def test_corrected_shares_are_shares():
    confusion = classifier.measure_confusion(labelled(0.8, 0.9)).shares
    shares = classifier.corrected_shares(np.array([0.99, 0.01]), confusion)
    assert shares.min() >= 0 and shares.sum() == pytest.approx(1, abs=1e-5)


def test_the_uncertainty_of_the_confusion_matrix_is_carried_through():
    """The interval's width follows from the variance by the delta method (Rogan & Gladen 1978)."""
    count, examined, q, sensitivity, specificity = 400, 100, 0.5, 0.85, 0.9
    confusion = classifier.measure_confusion(labelled(sensitivity, specificity, examined))
    given = ["yes"] * int(q * count) + ["no"] * (count - int(q * count))
    verdicts = {"base": {f"{index}": verdict for index, verdict in enumerate(given)}}
    labels = dict.fromkeys(verdicts["base"], "yes")
    result = classifier.report_classes(verdicts, labels, {id: id for id in labels}, confusion)["models"]["base"]
    slope = sensitivity + specificity - 1
    p = (q + specificity - 1) / slope
    variance = q * (1 - q) / count
    variance += (p**2 * sensitivity * (1 - sensitivity) + (1 - p) ** 2 * specificity * (1 - specificity)) / examined
    width = 2 * 1.96 * np.sqrt(variance) / slope
    low, high = result["corrected_95"]
    assert result["corrected"] == pytest.approx(p, abs=1e-4) and result["plain"] == q
    assert high - low == pytest.approx(width, rel=0.15)


def test_a_class_without_labelled_pictures_is_an_error_that_names_it():
    confusion = classifier.measure_confusion(labelled(0.8, 0.9))
    with pytest.raises(UserError, match="class 'maybe' is asked for by 1 lines, but no labelled picture shows it"):
        classifier.report_classes({"base": {"a": "yes"}}, {"a": "maybe"}, {"a": "a"}, confusion)


def test_a_class_without_lines_is_named():
    confusion = classifier.measure_confusion(labelled(0.8, 0.9))
    result = classifier.report_classes({"base": {"a": "yes"}}, {"a": "yes"}, {"a": "a"}, confusion)
    assert result["classes_without_lines"] == ["no"]


def test_a_classifier_that_cannot_tell_classes_apart_is_refused():
    with pytest.raises(UserError, match="cannot tell some classes apart"):
        classifier.measure_confusion(labelled(0.5, 0.5))


def test_the_difference_of_equal_verdicts_is_zero():
    confusion = classifier.measure_confusion(labelled(0.8, 0.9))
    verdicts = {f"{index}": "yes" if index % 3 else "no" for index in range(30)}
    labels = dict.fromkeys(verdicts, "yes")
    result = classifier.report_classes(
        {"base": verdicts, "copy": dict(verdicts)}, labels, {id: id for id in labels}, confusion
    )
    assert result["models"]["copy"]["difference_95"] == (0, 0)


# FID -----------------------------------------------------------------------------------------------------------------


def test_the_frechet_distance_is_the_definition_with_a_matrix_root():
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(40, 12)) @ rng.normal(size=(12, 12)), rng.normal(0.3, 1.5, (70, 12))
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    distance = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(one + two - 2 * sqrtm(one @ two).real)
    ours = frechet.Samples(first, frechet.Reference(second))
    assert ours.distance() == pytest.approx(distance, rel=1e-6)
    chosen = rng.integers(0, 40, 40)
    again = frechet.Samples(first[chosen], frechet.Reference(second))
    assert ours.distance(chosen) == pytest.approx(again.distance(), rel=1e-8)


def test_the_fid_of_a_copy_does_not_differ_and_that_of_a_shifted_model_does():
    rng = np.random.default_rng(4)
    base, real = rng.normal(size=(80, 6)), rng.normal(size=(200, 6))
    features = {"base": base, "copy": base.copy(), "far": base + 1}
    results = frechet.compare_fid(features, real, [f"{index}" for index in range(80)])
    assert results["copy"]["difference_95"] == (0, 0)
    assert results["far"]["difference_95"][0] > 2
