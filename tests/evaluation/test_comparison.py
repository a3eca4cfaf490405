"""Comparing two sets of edits of the same tasks."""

import json
import math

import pytest

from ldm.evaluation.comparison import compare, read_successes, table
from ldm.util.errors import UserError


def write_rows(folder, successes, method="edit"):
    """Rows of `successes`, {(operation, seed, number): success}, as the benchmark stores them."""
    folder.mkdir(exist_ok=True)
    lines = [{"settings": {}}, *({"job": [method, *task], "success": success} for task, success in successes.items())]
    with (folder / "rows.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines[(folder / "rows.jsonl").stat().st_size > 0 :]))
    return folder


def edits(pattern, operation="add"):
    return {(operation, "0", number): mark == "x" for number, mark in enumerate(pattern)}


def test_the_difference_is_that_of_the_shares_on_common_edits(tmp_path):
    first = write_rows(tmp_path / "a", edits("xx..") | {("add", "0", 99): True})
    second = write_rows(tmp_path / "b", edits("xxx.") | edits("x", "move"))
    add, everything = compare(first, second)
    assert add == everything | {"operation": "add"}
    assert (add["pairs"], add["first"], add["second"], add["difference"]) == (4, 0.5, 0.75, 0.25)


def test_the_interval_is_that_of_the_normal_approximation_for_many_pairs(tmp_path):
    pattern = "x" * 700 + "." * 300
    other = "x" * 660 + "." * 40 + "x" * 20 + "." * 280  # 40 lost, 20 won
    summary = compare(write_rows(tmp_path / "a", edits(pattern)), write_rows(tmp_path / "b", edits(other)))[-1]
    spread = 1.96 * math.sqrt((60 / 1000 - 0.02**2) / 1000)
    low, high = summary["difference_95"]
    assert summary["difference"] == pytest.approx(-0.02)
    assert low == pytest.approx(-0.02 - spread, abs=0.003) and high == pytest.approx(-0.02 + spread, abs=0.003)
    assert "| all | 1000 | 70.0 | 68.0 | -2.0 (" in table([summary])


def test_repeats_of_a_task_with_other_seeds_do_not_narrow_the_interval(tmp_path):
    def width(seeds):
        pairs = {("add", f"{seed}", number): number % 2 == 0 for seed in range(seeds) for number in range(40)}
        none = dict.fromkeys(pairs, False)
        folders = [write_rows(tmp_path / f"{name}{seeds}", rows) for name, rows in (("a", none), ("b", pairs))]
        low, high = compare(*folders)[-1]["difference_95"]
        return high - low

    assert width(4) == pytest.approx(width(1))


def test_a_folder_of_several_methods_needs_the_name_of_one(tmp_path):
    folder = write_rows(write_rows(tmp_path / "a", edits("xx")), edits(".x"), "edit:steer=1")
    with pytest.raises(UserError, match="holds the methods edit, edit:steer=1"):
        compare(folder, folder)
    with pytest.raises(UserError, match="no edits of the method 'edi'.*did you mean 'edit'"):
        read_successes(folder, "edi")
    assert compare(folder, folder, ("edit", "edit:steer=1"))[-1]["difference"] == -0.5


def test_folders_of_something_else_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no results"):
        read_successes(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}\nno json\n")
    with pytest.raises(UserError, match="holds no results"):
        read_successes(tmp_path)
    first, second = write_rows(tmp_path / "a", edits("x")), write_rows(tmp_path / "b", edits("x", "move"))
    with pytest.raises(UserError, match="no edit was made in both"):
        compare(first, second)
