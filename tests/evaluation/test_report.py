import json
from importlib.metadata import version

import pytest
from PIL import Image

from ldm.evaluation.report import (
    Column,
    average,
    group_rows,
    percentage,
    picture_sheet,
    success_share,
    summary_table,
    wilson_interval,
    write_report,
)
from ldm.evaluation.runner import run_jobs


def test_wilsons_interval_has_its_published_values():
    # Newcombe 1998, Statist. Med. 17, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (successes, count), interval in published.items():
        assert wilson_interval(successes, count) == pytest.approx(interval, abs=5e-5)


def test_averages_leave_out_rows_without_the_number():
    rows = [{"psnr": 40.0}, {"psnr": None}, {}, {"psnr": 50.0}]
    assert average(rows, "psnr") == 45 and average(rows, "psnr", max) == 50 and average(rows, "ssim") is None
    assert success_share([{"success": True}, {"success": False}])["success"] == 0.5


def test_rows_are_grouped_by_all_but_the_number():
    jobs = [("a", "x", 0), ("b", "x", 0), ("a", "x", 1)]
    assert group_rows(jobs, [{"n": 0}, {"n": 1}, {"n": 2}]) == {
        ("a", "x"): [{"n": 0}, {"n": 2}],
        ("b", "x"): [{"n": 1}],
    }


def test_a_table_has_a_row_for_each_summary_and_an_empty_cell_for_each_missing_number():
    columns = (
        Column("method", "method"),
        percentage("success %", "success", "success_95"),
        Column("dB", "psnr", ".1f"),
    )
    summaries = [
        {"method": "a", "success": 0.5, "success_95": (0.25, 0.75), "psnr": None},
        {"method": "b", "success": 1.0, "success_95": (0.9, 1.0), "psnr": 40.06},
    ]
    assert summary_table(columns, summaries).splitlines() == [
        "| method | success % | dB |",
        "|---|---:|---:|",
        "| a | 50.0 (25.0 to 75.0) |  |",
        "| b | 100.0 (90.0 to 100.0) | 40.1 |",
    ]


def test_a_sheet_begins_with_failures_in_red_frames_or_follows_the_jobs(tmp_path):
    def prepare():
        return lambda job: ({"success": job[-1] == 0, "complaints": ["c"] * (job[-1] != 0)}, Image.new("RGB", (8, 8)))

    jobs = [("a", 0), ("a", 1)]
    rows = run_jobs(tmp_path, {}, jobs, prepare)

    def context(job):
        return [("before", Image.new("RGB", (8, 8)))], "after"

    def first_frame(sheet):
        """The colour of the first frame from the left: green if success, red if failure."""
        pixels = [sheet.getpixel((x, 90)) for x in range(sheet.width)]
        return next(name for r, g, b in pixels for name, ok in (("green", g > r + 60), ("red", r > g + 60)) if ok)

    assert first_frame(picture_sheet(tmp_path, jobs, rows, context)) == "red"
    assert first_frame(picture_sheet(tmp_path, jobs, rows, context, failures_first=False)) == "green"
    assert picture_sheet(tmp_path / "empty", jobs, rows, context).size == (1, 1)


def test_a_report_records_arguments_and_versions(tmp_path):
    write_report(tmp_path / "new" / "report.json", {"results": [1]}, {"n": 2})
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert report["results"] == [1] and report["arguments"] == {"n": 2}
    assert report["versions"]["torch"] == version("torch")
