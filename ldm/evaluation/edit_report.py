"""What the edit benchmark reports: definitions of its numbers, their summaries and their table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldm.evaluation.editors import describe_default_edit
from ldm.evaluation.report import Column, average, bootstrap_interval, percentage, success_share, summary_table
from ldm.evaluation.runner import Job
from ldm.evaluation.truth_measures import NOISE

CELL_PIXELS = 8  # pixels per latent cell, in an image of the scenes' own size
MAX_PSNR = 99.0  # dB, reported for equal pixels, whose PSNR is infinite
PRESERVED_PSNR = 45.0  # dB from which pixels count as preserved

# Definitions for the report.
MEASURES = {
    "success": "the edited image shows all of the target graph and nothing else; in a restyle also the reference's style; "
    "after a removal no shadow stays. success_95 is Wilson's 95 % interval for as many edits as there are tasks, however "
    "many seeds each was made with",
    "changed": "the change itself is right: the changed objects and the new relation, or the style",
    "intact": "every object that the operation does not change is still recognised as before",
    "untouched": "share of the objects that the operation does not change which are recognised as before",
    "graph": "the edited image shows all of the target graph and nothing else, whatever its style",
    "outside": "share of edits whose pixels outside of the editor's region are all the source image's own",
    "region": "share of the image that the editor's region covers",
    "shadow": f"share of edits whose shadows and reflections (pixels outside of the changed objects' boxes that differ between "
    f"source and true result by more than {NOISE} levels) are nearer to the true result than to the source",
    "truth_psnr": f"dB, against the true result, of the pixels in which that differs from the source by more than {NOISE} "
    "levels; not for a relation, which has many true results. truth_ssim: of the same pixels. Intervals of means are of the "
    "bootstrap over tasks, 95 %",
    "truth_features": "1 - cosine of the features of the model's image tower to those of the true result, averaged over "
    "patches by their share of the same pixels",
    "psnr": f"dB, outside the changed boxes enlarged by {CELL_PIXELS} pixels, against the source image; equal pixels count "
    f"as {MAX_PSNR}",
    "ssim": "of the same pixels",
    "preserved": f"share of edits with a psnr of at least {PRESERVED_PSNR}",
    "psnr_autoencoder": "as psnr, against the autoencoder's reconstruction of the source image; likewise ssim_autoencoder",
    "round_trip_error": "|z0' - z0| / |z0| of the latent after inversion and sampling without an edit",
    "evaluations": "rows that the U-Net computed for one edit, those of guidance included",
    "seconds": "for one edit, on one CPU thread or on the GPU; other workers may slow it down",
}

PRESERVATION = ("psnr", "ssim", "psnr_autoencoder", "ssim_autoencoder")
TRUTH = ("truth_psnr", "truth_ssim", "truth_features")
SHARES = ("outside", "region", "shadow")
AVERAGED = (*PRESERVATION, *TRUTH, *SHARES, "round_trip_error", "evaluations", "seconds")

COLUMNS = (
    Column("method", "method"),
    Column("operation", "operation"),
    Column("edits", "edits", "d"),
    percentage("success % (95 %)", "success", "success_95"),
    percentage("changed %", "changed"),
    percentage("intact %", "intact"),
    percentage("untouched %", "untouched"),
    percentage("graph %", "graph"),
    percentage("shadows %", "shadow"),
    Column("PSNR to truth", "truth_psnr", ".1f", interval="truth_psnr_95"),
    Column("SSIM to truth", "truth_ssim", ".3f", interval="truth_ssim_95"),
    Column("features to truth", "truth_features", ".3f", interval="truth_features_95"),
    percentage("source outside %", "outside"),
    percentage("region %", "region"),
    Column("PSNR dB", "psnr", ".1f"),
    Column("SSIM", "ssim", ".4f"),
    percentage(f">= {PRESERVED_PSNR:.0f} dB %", "preserved"),
    Column("PSNR to autoencoder", "psnr_autoencoder", ".1f"),
    Column("round trip", "round_trip_error", ".1e"),
    Column("U-Net rows", "evaluations", ".0f"),
    Column("seconds", "seconds", ".2f"),
)


def summarise(jobs: Sequence[Job], rows: Sequence[dict]) -> list[dict]:
    """A summary for each method and operation over all seeds, then one for all of the method's, in the order of the jobs."""
    groups: dict[tuple[str, str], list[tuple[Job, dict]]] = {}
    for job, row in zip(jobs, rows):
        groups.setdefault((job[0], job[1]), []).append((job, row))
    summaries = []
    for method in dict.fromkeys(job[0] for job in jobs):
        of_method = {operation: group for (name, operation), group in groups.items() if name == method}
        of_method["all"] = [pair for group in of_method.values() for pair in group]
        summaries += [
            {"method": method, "operation": operation, **_summarise_group(group)}
            for operation, group in of_method.items()
        ]
    return summaries


def _summarise_group(pairs: Sequence[tuple[Job, dict]]) -> dict:
    rows, tasks = [row for _, row in pairs], [(job[1], job[-1]) for job, _ in pairs]
    summary: dict = {"edits": len(rows), "refused": sum(row.get("refused", False) for row in rows)}
    summary |= success_share(rows, len(tasks) / len(set(tasks)))
    for key in ("changed", "intact", "graph"):
        judged = [row for row in rows if not row.get("refused")]
        is_judged = not judged or any(key in row for row in judged)
        summary[key] = sum(row.get(key) is True for row in rows) / len(rows) if is_judged else None
    objects = sum(row.get("of_untouched", 0) for row in rows)
    summary["untouched"] = sum(row.get("untouched", 0) for row in rows) / objects if objects else None
    summary |= {key: average(rows, key) for key in AVERAGED}
    summary |= {f"{key}_95": bootstrap_interval(rows, tasks, key) for key in (*PRESERVATION, *TRUTH)}
    summary["preserved"] = average(rows, "psnr", lambda values: np.mean(np.array(values) >= PRESERVED_PSNR))
    return summary


def markdown(summaries: Sequence[dict]) -> str:
    """The summaries as a table, without columns in which nothing was measured, and a sentence on the defaults of `edit`."""
    columns = [column for column in COLUMNS if any(summary[column.key] is not None for summary in summaries)]
    return f"{summary_table(columns, summaries)}\n{describe_default_edit()}\n"
