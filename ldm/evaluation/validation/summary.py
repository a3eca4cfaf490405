"""The report of a validation: averages with intervals, differences to the base, and a verdict in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from ldm.evaluation.report import bootstrap_interval, wilson_interval
from ldm.evaluation.validation import pie_scores
from ldm.evaluation.validation.merge import Results
from ldm.evaluation.validation.scores import Measure
from ldm.evaluation.validation.statistics import (
    BETTER,
    LEAST_UNITS,
    NO_DIFFERENCE,
    TOO_FEW,
    WITHIN_CHANCE,
    WORSE,
    Comparison,
    compare,
)
from ldm.util.tables import markdown_table

ALL = "all"


class Difference(NamedTuple):
    """A comparison with the base.

    Args:
        type: of the lines, or 'all'.
    """

    model: str
    measure: str
    type: str
    comparison: Comparison


def summarise(results: Results) -> dict:
    """Averages and differences, as JSON values.

    Returns:
        averages: model -> type -> measure -> {mean, mean_95, pictures}; differences: see `Difference`; same: models whose
        pictures are the base's; types: lines of each.
    """
    differences = find_differences(results)
    return {
        "pictures": len(results.plan.lines),
        "units": len(set(results.plan.units.values())),
        "types": {name: len(ids) for name, ids in results.plan.types().items()},
        "averages": find_averages(results),
        "differences": [
            {"model": each.model, "measure": each.measure, "type": each.type, **asdict(each.comparison)}
            for each in differences
        ],
        "same_pictures": same_pictures(results),
        "measures": {name: measure._asdict() for name, measure in results.plan.measures.items()},
        "models": {model: next(iter(rows.values()))["made_by"] for model, rows in results.rows.items()},
    }


def types_of(results: Results) -> dict[str, list[str] | None]:
    """'all', whose ids are None, and the types if there are several."""
    types = results.plan.types()
    return {ALL: None, **(types if len(types) > 1 else {})}


def find_averages(results: Results) -> dict[str, dict[str, dict[str, dict]]]:
    """Model -> type -> measure -> mean with its interval, and over how many pictures."""
    units = results.plan.units
    averages: dict[str, dict[str, dict[str, dict]]] = {}
    for model in results.plan.models:
        for kind, ids in types_of(results).items():
            entries = averages.setdefault(model, {}).setdefault(kind, {})
            for measure in results.plan.measures:
                numbers = _of_ids(results.numbers(model, measure), ids)
                if numbers:
                    entries[measure] = describe_average(numbers, units)
    return averages


def describe_average(numbers: Mapping[str, float], units: Mapping[str, str]) -> dict:
    """Mean, its 95 % interval and how many pictures.

    The interval of a share is Wilson's for as many pictures as there are units, since a bootstrap of nothing but failures
    has no width; that of other numbers is a bootstrap's.
    """
    mean, of_lines = float(np.mean(list(numbers.values()))), [units[id] for id in numbers]
    if set(numbers.values()) <= {0, 1}:
        count = len(set(of_lines))
        interval = wilson_interval(mean * count, count)
    else:
        interval = bootstrap_interval([{"number": value} for value in numbers.values()], of_lines, "number")
    return {"mean": mean, "mean_95": interval, "pictures": len(numbers)}


def find_differences(results: Results) -> list[Difference]:
    """Each model against the base, by measure and type."""
    base, *models = results.plan.models
    found, same = [], same_pictures(results)
    for model in models:
        for kind, ids in types_of(results).items():
            for name, measure in results.plan.measures.items():
                sides = [_of_ids(results.numbers(side, name), ids) for side in (model, base)]
                comparison = compare(*sides, results.plan.units, measure.higher_is_better)
                if comparison and model in same:
                    comparison = replace(comparison, verdict=NO_DIFFERENCE)
                if comparison:
                    found.append(Difference(model, name, kind, comparison))
    return found


def same_pictures(results: Results) -> list[str]:
    """Models whose pictures all equal the base's, pixel by pixel."""
    base, *models = results.plan.models
    pixels = {model: [row["pixels"] for row in rows.values()] for model, rows in results.rows.items()}
    return [model for model in models if pixels[model] == pixels[base]]


# In words ------------------------------------------------------------------------------------------------------------


def verdict(results: Results, differences: Sequence[Difference] | None = None) -> list[str]:
    """The outcome in sentences: what is the base under another name, what is better, worse, or within chance."""
    differences = find_differences(results) if differences is None else differences
    plan, same = results.plan, same_pictures(results)
    units = len(set(plan.units.values()))
    count = f"{len(plan.lines)} pictures" + (f" in {units} units" if units < len(plan.lines) else "")
    sentences = []
    for model in plan.models[1:]:
        if model in same:
            sentences.append(f"{model}: no difference; {_why_same(results, model)} ({count})")
            continue
        by_verdict: dict[str, list[str]] = {}
        for each in differences:
            if each.model == model and each.type == ALL:
                by_verdict.setdefault(each.comparison.verdict, []).append(describe(each, plan.measures[each.measure]))
        parts = [
            f"{word} than the base: {'; '.join(by_verdict.pop(word))}" for word in (BETTER, WORSE) if word in by_verdict
        ]
        for word in (WITHIN_CHANCE, TOO_FEW):
            if word in by_verdict:
                parts.append(f"{word}: {'; '.join(by_verdict.pop(word))}")
        parts += [f"{word}: {'; '.join(texts)}" for word, texts in by_verdict.items()]
        sentences.append(f"{model} ({count}): {'. '.join(parts) or 'no measure applies'}")
    return sentences + remarks(results, differences)


def describe(difference: Difference, measure: Measure) -> str:
    """'passed +3.1 (0.5 to 5.9)', in the units of the tables."""
    each = difference.comparison
    text = f"{difference.measure} {measure.factor * each.difference:+{measure.form}}"
    if each.interval and each.verdict != NO_DIFFERENCE:
        low, high = (format(measure.factor * edge, measure.form) for edge in each.interval)
        text += f" ({low} to {high})"
    return text


def remarks(results: Results, differences: Sequence[Difference]) -> list[str]:
    """What a reader should know before believing the differences."""
    plan = results.plan
    judged = [
        each for each in differences if each.type == ALL and plan.measures[each.measure].higher_is_better is not None
    ]
    sentences = []
    units = len(set(plan.units.values()))
    if len(plan.models) == 1:
        sentences.append("only the base was measured; name others with --model")
    if units < LEAST_UNITS:
        sentences.append(f"{units} independent units are too few for an interval; give at least {LEAST_UNITS}")
    compared = len([each for each in differences if each.comparison.verdict not in (NO_DIFFERENCE, TOO_FEW)])
    if compared > 1:
        sentences.append(
            f"{compared} differences were examined at 95 %: where nothing differs, about {0.05 * compared:.1f} of them still look "
            "as if something did"
        )
    for name in dict.fromkeys(each.measure for each in judged):
        words = [each.comparison.verdict for each in judged if each.measure == name]
        if BETTER not in words and WORSE in words and len(words) > 1:
            sentences.append(f"{name}: no model is better than the base")
    return sentences


def _why_same(results: Results, model: str) -> str:
    rows = [next(iter(results.rows[name].values()))["made_by"] for name in (results.plan.models[0], model)]
    if rows[0] == rows[1]:
        return "it is the base under another name, with the same weights and options"
    return "its pictures are the base's, pixel by pixel, although its weights or options differ"


# Tables --------------------------------------------------------------------------------------------------------------


def tables(results: Results, extras: Mapping[str, Any] | None = None) -> str:
    """Averages, differences and, for PIE-Bench, the row of the published table, in Markdown.

    Args:
        extras: reports on fid, classifier and votes, by name.
    """
    averages, differences = find_averages(results), find_differences(results)
    parts = [_averages_table(results, averages), _differences_table(results, differences)]
    if set(pie_scores.PUBLISHED) <= set(results.plan.measures):
        parts.append(_published_table(results, averages))
    for name, table in (("fid", _fid_table), ("classes", _classes_table), ("votes", _votes_table)):
        if extras and extras.get(name):
            parts.append(table(extras[name]))
    lines = [f"- {sentence}" for sentence in verdict(results, differences)]
    return "\n\n".join([*(part for part in parts if part), "\n".join(lines)]) + "\n"


def _averages_table(results: Results, averages: Mapping) -> str:
    measures = results.plan.measures
    used = [name for name in measures if any(name in of_model[ALL] for of_model in averages.values())]
    rows = []
    for kind in types_of(results):
        for model in results.plan.models:
            entries = averages[model][kind]
            counts = sorted({entry["pictures"] for entry in entries.values()})
            pictures = "-".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "0"
            cells = [_cell(entries.get(name), measures[name]) for name in used]
            rows.append([model, kind, pictures, *cells])
    return markdown_table(["model", "lines", "pictures", *(f"{name} (95 %)" for name in used)], rows, 2)


def _cell(entry: Mapping | None, measure: Measure) -> str:
    if entry is None:
        return ""
    low, high = (format(measure.factor * edge, measure.form) for edge in entry["mean_95"])
    return f"{measure.factor * entry['mean']:{measure.form}} ({low} to {high})"


def _differences_table(results: Results, differences: Sequence[Difference]) -> str:
    rows = []
    for each in differences:
        measure, numbers = results.plan.measures[each.measure], each.comparison
        low, high = (format(measure.factor * edge, measure.form) for edge in numbers.interval or (0, 0))
        difference = f"{measure.factor * numbers.difference:+{measure.form}} ({low} to {high})"
        rows.append([each.model, each.measure, each.type, numbers.verdict, difference, f"{numbers.pictures}"])
    return (
        markdown_table(["model", "measure", "lines", "verdict", "minus base (95 %)", "pictures"], rows, 4)
        if rows
        else ""
    )


def _published_table(results: Results, averages: Mapping) -> str:
    rows = []
    for model in results.plan.models:
        means = {name: entry["mean"] for name, entry in averages[model][ALL].items()}
        if set(pie_scores.PUBLISHED) <= set(means):
            rows.append([model, *pie_scores.row(means)])
    header = ["method", "structure distance x 10^3", "PSNR", "LPIPS x 10^3", "MSE x 10^4", "SSIM x 10^2"]
    return markdown_table([*header, "CLIP whole", "CLIP edited"], rows)


def _fid_table(report: Mapping[str, Mapping]) -> str:
    rows = [[model, f"{entry['fid']:.2f}", _signed(entry, 1, ".2f")] for model, entry in report.items()]
    return markdown_table(["model", "FID", "minus base (95 %)"], rows)


def _classes_table(report: Mapping) -> str:
    rows = []
    for model, entry in report["models"].items():
        low, high = entry["corrected_95"]
        corrected = f"{100 * entry['corrected']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        plain = f"{100 * entry['plain']:.1f}"
        rows.append([model, entry.get("verdict", ""), plain, corrected, _signed(entry, 100, ".1f")])
    return markdown_table(
        ["model", "verdict", "class % by the classifier", "corrected % (95 %)", "minus base (95 %)"], rows, 2
    )


def _votes_table(report: Mapping[str, Mapping]) -> str:
    rows = []
    for model, entry in report.items():
        low, high = (100 * edge for edge in entry["share_95"])
        share = f"{100 * entry['share']:.1f} ({low:.1f} to {high:.1f})"
        rows.append([model, entry["verdict"], share, f"{entry['votes']}", f"{entry['ties']}", f"{entry['p']:.3g}"])
    return markdown_table(
        ["model", "verdict", "preferred to the base % (95 %)", "votes", "ties", "p (sign test)"], rows, 2
    )


def _signed(entry: Mapping, factor: float, form: str) -> str:
    if "difference" not in entry:
        return ""
    low, high = (format(factor * edge, form) for edge in entry["difference_95"])
    return f"{factor * entry['difference']:+{form}} ({low} to {high})"


def _of_ids(numbers: Mapping[str, float], ids: Sequence[str] | None) -> dict[str, float]:
    return dict(numbers) if ids is None else {id: numbers[id] for id in ids if id in numbers}
