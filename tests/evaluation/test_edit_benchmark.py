import math

import numpy as np
import pytest
from PIL import Image

from ldm.evaluation.edit_benchmark import list_jobs, measure
from ldm.evaluation.edit_report import MAX_PSNR, markdown, summarise
from ldm.evaluation.edit_tasks import OPERATIONS, make_task
from ldm.evaluation.editors import EditResult, describe_default_edit
from ldm.synthetic.worlds import WORLDS
from ldm.util.errors import UserError
from ldm.util.processes import single_thread

FIRST, COUNT = 7000, 4

every_world = pytest.mark.parametrize("scenes", sorted(WORLDS))
every_operation = pytest.mark.parametrize("operation", OPERATIONS)


@pytest.fixture(autouse=True)
def one_thread():
    with single_thread():
        yield


def true_answer(task):
    return EditResult(task.truth, 0)


def no_change(task):
    return EditResult(task.picture, 0)


def measure_tasks(editor, scenes, operation):
    return [measure(make_task(scenes, operation, FIRST + number), editor)[0] for number in range(COUNT)]


@every_world
@every_operation
def test_the_true_answer_succeeds_and_preserves_the_rest(scenes, operation):
    for row in measure_tasks(true_answer, scenes, operation):
        assert row["success"] and row["changed"] and row["intact"], row["complaints"]
        assert row["complaints"] == []
        assert row["psnr"] == (None if operation == "restyle" else MAX_PSNR)
        assert row["ssim"] == (None if operation == "restyle" else pytest.approx(1))


@every_world
@every_operation
def test_the_unchanged_image_never_succeeds_and_leaves_everything_intact(scenes, operation):
    for row in measure_tasks(no_change, scenes, operation):
        assert not row["success"] and not row["changed"] and row["intact"]
        assert row["complaints"]
        assert row["graph"] == (operation == "restyle")
        assert row["psnr"] == (None if operation == "restyle" else MAX_PSNR)


def test_psnr_counts_changes_outside_the_region_only():
    def edit_and_paint_corner(task):
        """Makes the edit, and paints a corner that no object covers."""
        pixels = np.array(task.truth)
        pixels[:4, :4] = 0
        return EditResult(Image.fromarray(pixels), 0)

    tasks = (make_task("shapes", "recolour", FIRST + number) for number in range(30))
    task = next(task for task in tasks if min(box[0] + box[1] for box in task.target.boxes) > 0.6)
    row, _ = measure(task, edit_and_paint_corner)
    mask = np.ones((64, 64), bool)
    (box,) = {box for box, id in zip(task.target.boxes, task.target.ids) if id in task.changed}
    x0, y0, x1, y1 = (round(64 * edge) for edge in box)
    mask[max(0, y0 - 8) : y1 + 8, max(0, x0 - 8) : x1 + 8] = False
    error = np.asarray(task.picture, float)[:4, :4] ** 2
    assert mask[:4, :4].all()
    assert row["psnr"] == pytest.approx(10 * math.log10(255**2 * 3 * mask.sum() / error.sum()))


def test_a_refused_edit_is_a_failure_with_the_editors_message():
    def refuse(task):
        raise UserError("sampling diverged")

    row, image = measure(make_task("shapes", "move", FIRST), refuse)
    assert image is None and not row["success"] and row["complaints"] == ["sampling diverged"]
    (summary, _) = summarise([("refuse", "move", FIRST)], [row])
    assert (summary["refused"], summary["success"], summary["psnr"]) == (1, 0, None)


def test_psnr_autoencoder_compares_with_the_reconstruction_of_the_source():
    def grey(picture):
        return Image.new("RGB", picture.size, (128, 128, 128))

    task = make_task("shapes", "move", FIRST)
    row, _ = measure(task, lambda task: EditResult(grey(task.picture), 0), grey)
    assert row["psnr_autoencoder"] == MAX_PSNR and row["psnr"] < 30


@pytest.mark.parametrize("error, recorded", [(0.25, 0.25), (lambda: 0.5, 0.5), (lambda: math.nan, None), (None, None)])
def test_the_round_trip_error_is_recorded_as_a_number_or_none(error, recorded):
    row, _ = measure(make_task("shapes", "move", FIRST), lambda task: EditResult(task.truth, 3, error))
    assert row["round_trip_error"] == recorded and row["evaluations"] == 3 and row["seconds"] > 0


def test_a_summary_counts_and_averages_the_rows_of_each_operation_and_of_all():
    jobs = [("a", "move", i) for i in range(3)] + [("a", "add", 0), ("b", "move", 0)]
    common = {"changed": True, "intact": False, "graph": True, "psnr": 50.0, "evaluations": 10, "seconds": 1.0}
    rows = [{"success": True, **common}, {"success": False, **common, "psnr": 40.0}, {"success": True, **common}]
    rows += [{"success": False, **common, "psnr": None}, {"success": True, **common}]
    summaries = {(summary["method"], summary["operation"]): summary for summary in summarise(jobs, rows)}
    assert list(summaries) == [("a", "move"), ("a", "add"), ("a", "all"), ("b", "move"), ("b", "all")]
    moves, everything = summaries["a", "move"], summaries["a", "all"]
    assert moves["success"] == pytest.approx(2 / 3) and everything["success"] == 0.5 and everything["edits"] == 4
    assert moves["psnr"] == pytest.approx(140 / 3) and moves["preserved"] == pytest.approx(2 / 3)
    assert summaries["a", "add"]["psnr"] is None and moves["changed"] == 1 and moves["intact"] == 0


def test_the_table_ends_with_the_defaults_of_edit():
    assert markdown([]).splitlines()[-1] == describe_default_edit()


def test_methods_that_draw_noise_make_every_edit_with_every_seed():
    jobs = list_jobs(["edit", "edit:seed=4", "ddim", "sdedit"], {"move": range(2), "add": range(1)}, [5, 6])
    assert {job[2] for job in jobs if job[0] == "edit"} == {job[2] for job in jobs if job[0] == "sdedit"} == {"5", "6"}
    assert {job[2] for job in jobs if job[0] in ("ddim", "edit:seed=4")} == {"5"}
    assert len(jobs) == 3 * (2 + 1 + 1 + 2) and [job[-1] for job in jobs] == sorted(job[-1] for job in jobs)


def test_several_seeds_of_a_task_do_not_make_the_interval_narrower():
    def rows_of(seeds):
        jobs = [("edit", "move", seed, number) for number in range(20) for seed in seeds]
        rows = [{"success": number > 3, "truth_psnr": 30.0 + number} for _, _, _, number in jobs]
        return summarise(jobs, rows)[0]

    one, three = rows_of("0"), rows_of("012")
    assert one["success"] == three["success"] == 0.8 and three["edits"] == 60
    assert one["success_95"] == pytest.approx(three["success_95"])
    assert one["truth_psnr_95"] == pytest.approx(three["truth_psnr_95"])
    assert one["truth_psnr_95"][0] < one["truth_psnr"] == 39.5 < one["truth_psnr_95"][1]


def test_a_shadow_of_what_was_removed_that_stays_is_a_fault(monkeypatch):
    task = make_task("shapes", "remove", FIRST)
    monkeypatch.setattr("ldm.evaluation.edit_benchmark.shadow_follows", lambda *arguments: False)
    row, _ = measure(task, true_answer)
    assert not row["success"] and row["changed"] and "shadow" in row["complaints"][-1]
    row, _ = measure(make_task("shapes", "add", FIRST), true_answer)
    assert row["success"] and row["shadow"] is False


def test_pixels_outside_the_editors_region_are_compared_with_the_source():
    task = make_task("shapes", "recolour", FIRST)
    before, after = np.asarray(task.picture), np.asarray(task.truth)
    region = (before != after).any(-1).astype(np.float32)
    row, _ = measure(task, lambda task: EditResult(task.truth, 0, region=region))
    assert row["outside"] and row["region"] == pytest.approx(region.mean())
    region[tuple(np.argwhere(region)[0])] = 0
    row, _ = measure(task, lambda task: EditResult(task.truth, 0, region=region))
    assert not row["outside"]
