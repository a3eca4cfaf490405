
import copy
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import MODEL, tiny_model

from ldm.data.demo import DemoValidation
from ldm.editing import edit, options
from ldm.editing.region import in_pixels
from ldm.evaluation import editors, sample_benchmark
from ldm.evaluation.edit_benchmark import EQUAL, markdown, measure, summary
from ldm.evaluation.edit_tasks import OPERATIONS, task
from ldm.evaluation.editors import Edited, counted, editor, parse
from ldm.evaluation.runner import picture_path, run_jobs, source_digest, wilson
from ldm.models.diffusion import inversion
from ldm.models.diffusion.ddim import normal
from ldm.models.preprocess import to_model_input
from ldm.sampling.sample import SampleOptions, apply_layout
from ldm.synthetic import shapes
from ldm.synthetic.checker import check
from ldm.synthetic.worlds import SCENES
from ldm.util.errors import UserError
from ldm.util.processes import single_thread

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"
GOES_ON = "; the same command goes on"
OFFSET, COUNT = 7000, 4

every_world = pytest.mark.parametrize("scenes", sorted(SCENES))
every_operation = pytest.mark.parametrize("operation", OPERATIONS)


def oracle(task):
    return Edited(task.truth, 0)


def idler(task):
    return Edited(task.picture, 0)


def several(scenes, operation, count=COUNT):
    return [task(scenes, operation, OFFSET + number) for number in range(count)]


def rows_of(editor, scenes, operation, reconstruct=None):
    return [measure(one, editor, reconstruct)[0] for one in several(scenes, operation)]


@pytest.fixture(autouse=True)
def alone():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def model():
    """One whose adapters are no longer the identity."""
    torch.manual_seed(0)
    model = tiny_model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    return begun(tmp_path_factory.mktemp("run"), tiny_model())


def begun(folder, model):
    """The folder of a run that has just begun."""
    saved = {}
    model.on_save_checkpoint(saved)
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(saved, folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("evaluate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def door(script, monkeypatch):
    monkeypatch.setattr("ldm.evaluation.runner.source_digest", lambda: "these tests'")  # the real one may change while they run
    return script.main


# --- editors with a known result --------------------------------------------------------------------------------------


@every_world
@every_operation
def test_an_editor_that_knows_the_truth_succeeds_and_changes_nothing_else(scenes, operation):
    for row in rows_of(oracle, scenes, operation):
        assert row["success"] and row["changed"] and row["intact"], row["complaints"]
        assert row["complaints"] == []
        assert row["psnr"] == (None if operation == "restyle" else EQUAL)
        assert row["ssim"] == (None if operation == "restyle" else pytest.approx(1))


@every_world
@every_operation
def test_an_editor_that_does_nothing_never_succeeds_and_leaves_all_intact(scenes, operation):
    for row in rows_of(idler, scenes, operation):
        assert not row["success"] and not row["changed"] and row["intact"]
        assert row["complaints"]
        assert row["graph"] == (operation == "restyle")
        assert row["psnr"] == (None if operation == "restyle" else EQUAL)


def test_what_happens_elsewhere_is_seen_and_what_happens_in_the_region_is_not():
    def vandal(task):
        """Makes the edit, and repaints a corner that no object covers."""
        pixels = np.array(task.truth)
        pixels[:4, :4] = 0
        return Edited(Image.fromarray(pixels), 0)

    one = next(t for t in several("shapes", "recolour", 30) if min(b[0] + b[1] for b in t.target.boxes) > 0.6)
    row, _ = measure(one, vandal)
    mask = np.ones((64, 64), bool)
    (box,) = {b for b, id in zip(one.target.boxes, one.target.ids) if id in one.changed}
    x0, y0, x1, y1 = (round(64 * edge) for edge in box)
    mask[max(0, y0 - 8) : y1 + 8, max(0, x0 - 8) : x1 + 8] = False
    error = np.asarray(one.picture, float)[:4, :4] ** 2
    assert mask[:4, :4].all()
    assert row["psnr"] == pytest.approx(10 * math.log10(255**2 * 3 * mask.sum() / error.sum()))


def test_a_refusal_is_a_failure_that_says_why():
    def refuses(task):
        raise UserError("the edit ran away to infinity")

    row, image = measure(task("shapes", "move", OFFSET), refuses)
    assert image is None and not row["success"] and row["complaints"] == ["the edit ran away to infinity"]
    (line, _) = summary([("refuses", "move", OFFSET)], [row])
    assert (line["refused"], line["success"], line["psnr"]) == (1, 0, None)


def test_the_distance_to_the_autoencoder_is_that_of_what_it_makes_of_the_source():
    def grey(picture):
        return Image.new("RGB", picture.size, (128, 128, 128))

    one = task("shapes", "move", OFFSET)
    row, _ = measure(one, lambda task: Edited(grey(task.picture), 0), grey)
    assert row["psnr_autoencoder"] == EQUAL and row["psnr"] < 30


def test_a_summary_counts_and_averages():
    jobs = [("a", "move", i) for i in range(3)] + [("a", "add", 0), ("b", "move", 0)]
    full = {"changed": True, "intact": False, "graph": True, "psnr": 50.0, "evaluations": 10, "seconds": 1.0}
    rows = [{"success": True, **full}, {"success": False, **full, "psnr": 40.0}, {"success": True, **full}]
    rows += [{"success": False, **full, "psnr": None}, {"success": True, **full}]
    lines = {(line["method"], line["operation"]): line for line in summary(jobs, rows)}
    assert list(lines) == [("a", "move"), ("a", "add"), ("a", "all"), ("b", "move"), ("b", "all")]
    moves, everything = lines["a", "move"], lines["a", "all"]
    assert moves["success"] == pytest.approx(2 / 3) and everything["success"] == 0.5 and everything["edits"] == 4
    assert moves["psnr"] == pytest.approx(140 / 3) and moves["preserved"] == pytest.approx(2 / 3)
    assert lines["a", "add"]["psnr"] is None and moves["changed"] == 1 and moves["intact"] == 0


def test_the_table_ends_with_what_an_edit_by_itself_does(model, monkeypatch):
    monkeypatch.setitem(options.STEPS, "dpm++", 3)
    line = markdown([]).splitlines()[-1]
    two = (task("shapes", operation, OFFSET) for operation in ("move", "restyle"))
    within, everywhere = (edit.edit(model, t.picture, t.target, t.source, t.reference).settings for t in two)
    assert f"the method {within.method} where it changes a region and by {everywhere.method} where" in line
    for it in (within, everywhere):
        assert f"the sampler {it.sampler} in {it.steps} steps" in line


def test_wilsons_interval_is_the_published_one():
    # Newcombe 1998, Statist. Med. 17, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    published = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (k, n), edges in published.items():
        assert wilson(k, n) == pytest.approx(edges, abs=5e-5)


# --- editors with a model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, rows",
    [
        ("autoencoder", 0),
        ("plain:steps=3", 3 + 2 * 3),  # up without guidance, down with it
        ("plain:steps=2:graph_scale=1:style_scale=1", 2 + 2),
        ("plain:steps=2:graph_scale=3", 2 + 3 * 2),
        ("sdedit:steps=10:strength=0.4", 2 * 4),
    ],
)
def test_evaluations_are_the_rows_that_the_u_net_is_given(model, text, rows):
    edited = editor(text, model)(task("shapes", "move", OFFSET))
    assert edited.evaluations == rows and edited.image.size == (64, 64)


def test_with_an_autoencoder_that_loses_nothing_the_truth_is_the_right_answer(model, monkeypatch):
    monkeypatch.setattr(editors, "reconstructed", lambda model, picture: picture)
    for operation in OPERATIONS:
        one = task("shapes", operation, OFFSET)
        edited = editor("truth", model)(one)
        assert check(one.target, edited.image).passed and edited.evaluations == 0
        assert np.array_equal(np.asarray(edited.image), np.asarray(one.truth))


def test_what_the_truth_leaves_alone_is_the_pictures_own(model, monkeypatch):
    monkeypatch.setattr(editors, "reconstructed", lambda model, picture: Image.new("RGB", picture.size))
    one = task("shapes", "recolour", OFFSET)
    black = ~np.asarray(editor("truth", model)(one).image).any(-1)
    (changed,) = (one.source.boxes[one.source.ids.index(id)] for id in one.changed)
    assert black[in_pixels(changed, (64, 64), (8, 8)) == 1].all() and 0 < black.sum() < black.size / 2


def test_counting_leaves_the_model_alone(model):
    before = len(model.unet._forward_hooks)
    view, rows = counted(model)
    cond = model.unconditional(3)
    x, t = torch.randn(3, 4, 8, 8), torch.full((3,), 5)
    assert torch.equal(view.unet(x, t, cond), model.unet(x, t, cond))
    assert rows() == 3 and len(model.unet._forward_hooks) == before
    assert all(a is b for a, b in zip(view.parameters(), model.parameters()))


def test_every_method_edits_and_the_same_task_gives_the_same_picture(model):
    one = task("shapes", "restyle", OFFSET)
    for name in ("plain", "sdedit", "edit", "ddim"):
        first, again = (editor(name, model, steps=2, style_scale=200)(one) for _ in range(2))
        assert first.image.tobytes() == again.image.tobytes(), name
        without = editor(name, model, steps=2, style_scale=200)(replace(one, reference=None))
        assert first.image.tobytes() != without.image.tobytes(), name


@pytest.mark.parametrize("method", ["edit:steps=2", "sdedit:steps=2", "noise:steps=2"])
def test_each_task_and_each_seed_has_noise_of_its_own(model, monkeypatch, method):
    drawn = []

    def noted(shape, generator):
        drawn.append(generator.initial_seed())
        return normal(shape, generator)

    for module in (editors, inversion):
        monkeypatch.setattr(module, "normal", noted)
    pictures = {
        (index, seed): editor(method, model, seed=seed)(task("shapes", "recolour", OFFSET + index)).image.tobytes()
        for index, seed in ((0, 0), (1, 0), (0, 1), (1, 1))
    }
    assert len(drawn) == len(set(drawn)) == 4
    assert pictures[0, 0] != pictures[0, 1] and pictures[1, 0] != pictures[1, 1]


def test_sdedit_of_no_strength_to_speak_of_nearly_returns_the_latent(model, monkeypatch):
    monkeypatch.setattr(editors, "_picture", lambda model, z, like: z)
    one = task("shapes", "move", OFFSET)
    z0 = model.encode(to_model_input(model, one.picture))
    near, far = ((editor("sdedit:steps=25", model, strength=s)(one).image - z0).norm() for s in (0.04, 1))
    assert near < 0.2 * far


def test_shared_options_give_way_to_those_of_the_name_and_to_edits_own(model, monkeypatch):
    given = {}

    def record(model, task, strength=0.6, steps=50):
        given.update(strength=strength, steps=steps)

    monkeypatch.setitem(editors.EDITORS, "sdedit", record)
    editor("sdedit:strength=0.25", model, steps=7, strength=0.5, graph_scale=3)(None)
    assert given == {"strength": 0.25, "steps": 7}


@pytest.mark.parametrize(
    "text, sentence",
    [("sdedid", "'sdedit'"), ("sdedit:strenght=1", "'strength'"), ("plain:steps", "'steps'"), ("sdedit:task=1", "'task=1'")],
)
def test_a_method_that_does_not_exist_is_refused_with_what_does(text, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(text)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("edit:steps=fifty", "steps takes a whole number, not 'fifty'"),
        ("edit:keep=1", "keep takes true or false"),
        ("edit:interval=[0,0.5", "cannot be read as YAML"),
        ("edit:interval=0.5", "interval takes .a number, a number."),
        ("sdedit:strength=half", "strength takes a number"),
        ("edit:mask=a.png", "'mask=a.png' is no option"),
        ("edit:previews=3", "'previews=3' is no option"),
        ("edit:attention=true", "'attention=true' is no option"),
        ("bdia:sampler=dpm++", "cannot go by dpm"),
        ("edit:sampler=euler", "no sampler 'euler'"),
        ("bdia:method=noise", "'method=noise' is no option"),
    ],
)
def test_options_are_checked_before_there_is_a_model(text, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(text)


def test_methods_are_told_apart_at_commas_outside_of_brackets(script):
    words = "edit:interval=[0,0.5],sdedit:strength=0.7:steps=20,edit:interval=[0, 0.5]:keep=true"
    arguments = script.parse(["edits", "--methods", words])
    assert arguments.methods == ["edit:interval=[0,0.5]", "sdedit:strength=0.7:steps=20", "edit:interval=[0, 0.5]:keep=true"]
    assert parse(arguments.methods[0])[1] == {"interval": [0, 0.5]}


# --- editors from elsewhere -------------------------------------------------------------------------------------------

ELSEWHERE = """
from ldm.editors import Edited

def truth(model, task, share=0.5, seed=None):
    assert share == 1 and seed == 5 and model.vocab
    return Edited(task.truth, 0)

def handing_on(m, t, **options):
    return Edited(t.picture, len(options))

def odd(model):
    pass
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The current folder has a module `elsewhere_editors`, which nothing has imported."""
    (tmp_path / "elsewhere_editors.py").write_text(ELSEWHERE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path / "elsewhere_editors.py"
    sys.modules.pop("elsewhere_editors", None)


def test_a_function_from_elsewhere_is_an_editor_with_options_of_its_own(elsewhere, model):
    one = task("shapes", "move", OFFSET)
    assert editor("elsewhere_editors.truth:share=1", model, seed=5, steps=3)(one).image is one.truth
    assert editor("elsewhere_editors.handing_on:x=1", model, seed=5, steps=3)(one).evaluations == 3


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("elsewhere_editors.trut", "'truth'"),
        ("elsewhere_editor.truth", "no module 'elsewhere_editor'"),
        ("elsewhere_editors.truth:share=half", "share takes a number"),
        ("elsewhere_editors.truth:task=1", "'task=1' is no option"),
        ("elsewhere_editors.odd", r"an editor is a function \(model, task, \*\*options\)"),
    ],
)
def test_what_is_no_editor_elsewhere_is_refused(elsewhere, text, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(text)


def test_an_editor_from_elsewhere_has_another_name_when_its_file_is_another(elsewhere):
    text = "elsewhere_editors.truth:share=1"
    first = editors.versioned(text)
    assert editors.versioned(first) == first and parse(first) == parse(text)
    elsewhere.write_text(ELSEWHERE + "\n")
    assert editors.versioned(text) != first
    assert editors.versioned("edit:keep=true") == "edit:keep=true"


def test_the_script_measures_an_editor_of_the_current_folder_in_workers_and_anew_when_it_changes(
    run, door, elsewhere, monkeypatch
):
    monkeypatch.setattr(sys, "path", sys.path[:-1])  # the script is to find the module
    arguments = ["edits", "--run", str(run), "--outdir", "out", "--device", "cpu", "--workers", "2", "--seed", "5", "--n", "2"]
    arguments += ["--operations", "remove", "--methods", "elsewhere_editors.truth:share=1"]
    for _ in range(2):
        assert door(arguments) == 0
        report = json.loads(Path("out/report.json").read_text())
        assert report["results"][0]["success"] == 1
        elsewhere.write_text(ELSEWHERE + "\n")
    assert len(Path("out/rows.jsonl").read_text().splitlines()) == 1 + 2 * 2


# --- a study that goes on ---------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def measured(done, stop_at=None):
    """prepare() of a measurement that writes down what it did, and is stopped at a job."""

    def measure(job):
        if job == stop_at:
            raise Stopped
        done.append(job)
        return {"success": job[-1] % 2 == 0, "number": job[-1]}, Image.new("RGB", (4, 4))

    return lambda: measure


JOBS = [("a", i) for i in range(20)]


def test_a_stopped_study_goes_on_and_ends_as_if_it_had_not_been(tmp_path):
    whole = run_jobs(tmp_path / "whole", {"seed": 1}, JOBS, measured([]))
    first, second = [], []
    with pytest.raises(Stopped):
        run_jobs(tmp_path / "stopped", {"seed": 1}, JOBS, measured(first, ("a", 9)))
    with (tmp_path / "stopped" / "rows.jsonl").open("a") as file:
        file.write('{"job": ["a", 9], "succ')  # killed while it wrote
    assert run_jobs(tmp_path / "stopped", {"seed": 1}, JOBS, measured(second)) == whole
    assert first + second == JOBS
    files = [{p.relative_to(f) for p in f.rglob("*")} for f in (tmp_path / "whole", tmp_path / "stopped")]
    assert files[0] == files[1]
    assert (tmp_path / "whole" / "rows.jsonl").read_text() == (tmp_path / "stopped" / "rows.jsonl").read_text()


def test_the_first_pictures_and_the_first_failures_are_kept(tmp_path):
    run_jobs(tmp_path, {}, JOBS, measured([]))
    assert [i for i in range(20) if picture_path(tmp_path, ("a", i)).exists()] == [0, 1, 2, 3, 5, 7]


def test_more_jobs_join_the_rows_that_are_there(tmp_path):
    run_jobs(tmp_path, {}, JOBS[:5], measured([]))
    done = []
    assert len(run_jobs(tmp_path, {}, JOBS, measured(done))) == 20
    assert done == JOBS[5:]


def test_rows_of_other_settings_are_refused(tmp_path):
    run_jobs(tmp_path, {"steps": 50}, JOBS[:2], measured([]))
    for settings in ({"steps": 20}, {"steps": 50, "seed": 1}):
        with pytest.raises(UserError, match="choose another --outdir"):
            run_jobs(tmp_path, settings, JOBS, measured([]))
    (tmp_path / "rows.jsonl").write_text("what is this\n")
    with pytest.raises(UserError, match="not the rows"):
        run_jobs(tmp_path, {}, JOBS, measured([]))


def test_a_package_is_known_by_the_names_and_the_text_of_its_modules(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.py").write_text("x = 1")
    first = source_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("not code")
    assert source_digest(tmp_path) == first and len(source_digest()) == len(first)
    (tmp_path / "a" / "b.py").write_text("x = 2")
    second = source_digest(tmp_path)
    (tmp_path / "a" / "b.py").rename(tmp_path / "b.py")
    assert len({first, second, source_digest(tmp_path)}) == 3


def test_rows_of_other_code_are_refused(run, door, tmp_path, capsys, monkeypatch):
    arguments = ["edits", "--run", str(run), "--outdir", str(tmp_path), "--device", "cpu", "--n", "1"]
    arguments += ["--operations", "remove", "--methods", "autoencoder"]
    assert door(arguments) == 0
    monkeypatch.setattr("ldm.evaluation.runner.source_digest", lambda: "others")
    assert door(arguments) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "its rows were made with code of ldm/ " in error and "not others; choose another --outdir" in error


ENDLESS = """
import os, sys, time
from pathlib import Path
from ldm import study

def prepare():
    Path(f"begun_{os.getpid()}").touch()
    return lambda job: time.sleep(600)

if __name__ == "__main__":
    try:
        study.conduct(Path("out"), {}, [("a", i) for i in range(9)], prepare, 2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def endless(tmp_path):
    """A study whose two workers are in the middle of a job, and the paths that bear their numbers."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    process = subprocess.Popen(
        [sys.executable, "endless.py"], cwd=tmp_path, env=env, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    try:
        while len(begun := list(tmp_path.glob("begun_*"))) < 2:
            assert process.poll() is None
            time.sleep(0.1)
        yield process, begun
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("everyone", [True, False], ids=["as a terminal's Ctrl-C", "the first process alone"])
def test_a_stopped_study_stops_its_workers_in_the_middle_of_a_job_and_quietly(endless, everyone):
    process, begun = endless
    (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    for path in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name.removeprefix("begun_")), 0)


def test_the_workers_of_a_study_that_is_killed_end_too(endless):
    process, _ = endless
    process.kill()
    process.communicate(timeout=60)  # which ends when the last of those that share its standard error has closed it


@pytest.mark.parametrize("command, says", [("edits", GOES_ON), ("scenes", GOES_ON), ("images", "")])
def test_ctrl_c_is_answered_with_one_sentence_and_130(script, monkeypatch, capsys, command, says):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("ldm.models.loading.choose_device", interrupted)
    words = ["--samples", "."] if command == "images" else []
    assert script.main([command, *words]) == 130
    errors = capsys.readouterr().err
    assert errors == f"evaluate.py: stopped{says}\n"


# --- scenes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boxes, reference", [("all", "same"), ("none", "other"), ("part", "none")])
def test_a_sample_is_judged_by_its_graph_and_its_reference(model, monkeypatch, boxes, reference):
    """With the true picture in the place of a sample, all that the graph says is seen, in the style of its own picture."""
    index = OFFSET + 1
    truth = DemoValidation(index + 1).picture(index)
    monkeypatch.setattr(sample_benchmark, "sample_images", lambda *given: [truth])
    row, image = sample_benchmark.sampled(model, "shapes", boxes, reference, index, SampleOptions(), 0)
    assert row["success"] and row["objects"] == row["of_objects"] and row["triples"] == row["of_triples"]
    assert image is truth
    if reference == "same":
        assert row["style"] and row["colour"] == 0 and row["towards_colour"] == pytest.approx(1)
        assert not row["wrong_style"] or row["wrong_colour"] <= 30
    elif reference == "none":
        assert "style" not in row


def test_a_layout_is_searched_for_where_a_job_says_so_and_the_graph_as_told_is_the_judge(model, monkeypatch):
    """With pictures drawn as the search laid them out in the place of samples."""
    seen = []

    def drawn(model, graphs, seeds, settings, style):
        seen.append(settings.layout)
        graph = apply_layout(graphs[0], seeds[0], settings)[0]
        return [shapes.render(graph, DemoValidation(OFFSET + 1).scene(OFFSET)[1])]

    monkeypatch.setattr(sample_benchmark, "load_model", lambda *given: model)
    monkeypatch.setattr(sample_benchmark, "sample_images", drawn)
    measure = sample_benchmark.Recipe("shapes", None, None, "cpu", SampleOptions(), 0).prepare()
    for job in (("none", "search", "none", OFFSET), ("all", "none", "none", OFFSET)):
        assert measure(job)[0]["success"]
    assert seen == ["search", "none"]


def test_where_all_boxes_are_told_there_is_no_layout_to_search_for():
    assert sample_benchmark.kinds(["all", "none"], ["none", "search"], ["other"]) == [
        ("autoencoder", "none", "same"),
        ("all", "none", "other"),
        ("none", "none", "other"),
        ("none", "search", "other"),
    ]


def test_the_ceiling_of_an_autoencoder_that_loses_nothing_is_the_checkers(model, monkeypatch):
    monkeypatch.setattr(sample_benchmark, "reconstructed", lambda model, picture: picture)
    row, _ = sample_benchmark.ceiling(model, "shapes", OFFSET)
    assert row["success"] and row["style"] and row["psnr"] == math.inf


# --- the script -------------------------------------------------------------------------------------------------------


def test_the_script_reports_edits_goes_on_and_refuses_other_settings(run, door, tmp_path, capsys):
    arguments = ["edits", "--run", str(run), "--outdir", str(tmp_path / "out"), "--device", "cpu", "--steps", "2"]
    few = ["--operations", "remove,relation", "--methods", "autoencoder,plain"]
    assert door([*arguments, *few, "--n", "1"]) == 0
    assert door([*arguments, *few, "--n", "2"]) == 0
    table = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {(line["method"], line["operation"], line["edits"]) for line in report["results"]} == {
        (method, operation, count)
        for method in ("autoencoder", "plain")
        for operation, count in (("remove", 2), ("relation", 2), ("all", 4))
    }
    assert report["protocol"]["edit"] in table and "`edit` by itself" in report["protocol"]["edit"]
    assert report["protocol"]["steps"] == 2 and report["protocol"]["measures"]["intact"]
    assert report["versions"]["torch"] == version("torch") and report["arguments"]["n"] == 2
    assert (tmp_path / "out" / "table.md").read_text() in table
    assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 1 + 8
    assert Image.open(tmp_path / "out" / "sheet_plain.png").width > 600
    assert door([*arguments, *few, "--n", "2", "--graph-scale", "3"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert "graph_scale 2.0, not 3.0" in errors[-1]


def test_the_script_reports_scenes(run, door, tmp_path, capsys):
    arguments = ["scenes", "--run", str(run), "--outdir", str(tmp_path), "--device", "cpu", "--steps", "2", "--n", "2"]
    assert door([*arguments, "--references", "same,none", "--boxes", "all,none"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(*(line[key] for key in ("boxes", "layout", "reference")), line["scenes"]) for line in report["results"]] == [
        ("autoencoder", "none", "same", 2),
        ("all", "none", "same", 2), ("all", "none", "none", 2),
        ("none", "none", "same", 2), ("none", "none", "none", 2),
        ("none", "search", "same", 2), ("none", "search", "none", 2),
    ]  # fmt: skip
    table = capsys.readouterr().out
    assert "| autoencoder | none | same | 2 |" in table and "| none | search | same | 2 |" in table
    assert Image.open(tmp_path / "sheet.png").width > 400


def test_a_model_without_an_image_encoder_is_measured_without_references(door, tmp_path, capsys):
    unet = copy.deepcopy(MODEL["params"]["unet_config"])
    del unet["params"]["film_embedding_dim"]
    run = begun(tmp_path / "run", tiny_model(global_stage_config=None, unet_config=unet))
    arguments = ["scenes", "--run", str(run), "--device", "cpu", "--steps", "2", "--n", "1", "--boxes", "all"]
    assert door([*arguments, "--references", "same,none", "--outdir", str(tmp_path / "refused")]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "--references same,none: this model has no image encoder" in error
    assert not (tmp_path / "refused").exists()
    assert door([*arguments, "--outdir", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [line["reference"] for line in report["results"]] == ["same", "none"]  # the autoencoder's, and the samples'


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["edits", "--methods", "magic"], "'magic'"),
        (["edits", "--operations", "remov"], "'remove'"),
        (["scenes", "--boxes", "many"], "many"),
        (["scenes", "--layout", "serch"], "did you mean 'search'"),
        (["scenes", "--scenes", "hard"], "the scenes 'hard'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(run, door, tmp_path, capsys, arguments, sentence):
    assert door([*arguments, "--run", str(run), "--device", "cpu", "--outdir", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and sentence in errors[0]
    assert not (tmp_path / "out").exists()
