import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import adapted_model

from ldm.editing import EditOptions, EditRequest, edit
from ldm.editing.region import in_pixels
from ldm.evaluation import editors
from ldm.evaluation.edit_tasks import OPERATIONS, make_task
from ldm.evaluation.editors import code_digest, counted_rows, describe_default_edit, make_editor, parse_editor
from ldm.models.diffusion import inversion
from ldm.models.diffusion.ddim import gaussian_noise
from ldm.models.preprocess import to_model_input
from ldm.synthetic.checker import check
from ldm.util.errors import UserError
from ldm.util.processes import single_thread

FIRST = 7000


@pytest.fixture(autouse=True)
def one_thread():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def model():
    return adapted_model().eval().requires_grad_(False)


@pytest.mark.parametrize(
    "name, rows",
    [
        ("autoencoder", 0),
        ("plain:steps=3", 3 + 2 * 3),  # inversion without guidance, sampling with guidance
        ("plain:steps=2:graph_scale=1:style_scale=1", 2 + 2),
        ("plain:steps=2:graph_scale=3", 2 + 3 * 2),
        ("sdedit:steps=10:strength=0.4", 2 * 4),
        ("ddim:steps=3:graph_scale=1:style_scale=1", 3 + 3),
    ],
)
def test_evaluations_are_the_rows_that_the_u_net_computes(model, name, rows):
    result = make_editor(name, model)(make_task("shapes", "move", FIRST))
    assert result.evaluations == rows and result.image.size == (64, 64)


def test_counting_rows_leaves_the_model_unchanged(model):
    hooks = len(model.unet._forward_hooks)
    x, t, cond = torch.randn(3, 4, 8, 8), torch.full((3,), 5), model.unconditional(3)
    before = model.unet(x, t, cond)
    with counted_rows(model.unet) as rows:
        assert torch.equal(model.unet(x, t, cond), before)
    model.unet(x, t, cond)
    assert rows == [3] and len(model.unet._forward_hooks) == hooks


def test_the_truth_through_a_lossless_autoencoder_is_the_true_answer(model, monkeypatch):
    monkeypatch.setattr(editors, "reconstruct", lambda model, picture: picture)
    for operation in OPERATIONS:
        task = make_task("shapes", operation, FIRST)
        result = make_editor("truth", model)(task)
        assert check(task.target, result.image).passed and result.evaluations == 0
        assert np.array_equal(np.asarray(result.image), np.asarray(task.truth))


def test_the_truth_keeps_the_source_pixels_outside_the_region(model, monkeypatch):
    monkeypatch.setattr(editors, "reconstruct", lambda model, picture: Image.new("RGB", picture.size))
    task = make_task("shapes", "recolour", FIRST)
    black = ~np.asarray(make_editor("truth", model)(task).image).any(-1)
    (box,) = (task.source.boxes[task.source.ids.index(id)] for id in task.changed)
    assert black[in_pixels(box, (64, 64), (8, 8)) == 1].all() and 0 < black.sum() < black.size / 2


def test_every_method_follows_the_style_and_is_deterministic(model):
    task = make_task("shapes", "restyle", FIRST)
    for name in ("plain", "sdedit", "edit", "ddim"):
        method = make_editor(name, model, steps=2, style_scale=200)
        image = method(task).image.tobytes()
        assert method(task).image.tobytes() == image, name
        assert method(replace(task, reference=None)).image.tobytes() != image, name


@pytest.mark.parametrize("method", ["edit:steps=2", "sdedit:steps=2", "noise:steps=2"])
def test_each_task_and_each_seed_has_its_own_noise(model, monkeypatch, method):
    drawn = []

    def recorded_noise(shape, generator):
        drawn.append(generator.initial_seed())
        return gaussian_noise(shape, generator)

    for module in (editors, inversion):
        monkeypatch.setattr(module, "gaussian_noise", recorded_noise)
    pictures = {
        (index, seed): make_editor(method, model, seed=seed)(
            make_task("shapes", "recolour", FIRST + index)
        ).image.tobytes()
        for index, seed in ((0, 0), (1, 0), (0, 1), (1, 1))
    }
    assert len(drawn) == len(set(drawn)) == 4
    assert pictures[0, 0] != pictures[0, 1] and pictures[1, 0] != pictures[1, 1]


def test_sdedit_with_little_strength_nearly_returns_the_latent(model, monkeypatch):
    monkeypatch.setattr(editors, "_decode", lambda model, z, original: z)
    task = make_task("shapes", "move", FIRST)
    z0 = model.encode(to_model_input(model, task.picture))
    near, far = ((make_editor("sdedit:steps=25", model, strength=s)(task).image - z0).norm() for s in (0.04, 1))
    assert near < 0.2 * far


def test_the_round_trip_error_is_computed_by_methods_with_inversion_only(model):
    task = make_task("shapes", "move", FIRST)
    errors = {name: make_editor(name, model, steps=2)(task).round_trip_error for name in ("ddim", "plain", "noise")}
    assert 0 < errors["ddim"]() < 10 and 0 < errors["plain"]() < 10
    assert errors["noise"]() is None and make_editor("autoencoder", model)(task).round_trip_error is None


def test_the_description_of_the_default_edit_matches_what_edit_does(model):
    text = describe_default_edit()
    tasks = (make_task("shapes", operation, FIRST) for operation in ("move", "restyle"))
    local, everywhere = (
        edit(model, EditRequest(task.picture, task.target, task.source, task.reference)).settings for task in tasks
    )
    assert f"the method {local['method']} where it changes a region and {everywhere['method']} where" in text
    for settings in (local, everywhere):
        assert f"the sampler {settings['sampler']} in {settings['steps']} steps" in text


# --- names and options ------------------------------------------------------------------------------------------------


def test_options_in_the_name_take_precedence_over_shared_ones(model, monkeypatch):
    given = {}

    def record(model, task, strength=0.6, steps=50):
        given.update(strength=strength, steps=steps)

    monkeypatch.setitem(editors.EDITORS, "sdedit", record)
    make_editor("sdedit:strength=0.25", model, steps=7, strength=0.5, graph_scale=3)(None)
    assert given == {"strength": 0.25, "steps": 7}


@pytest.mark.parametrize("name, expected", [("edit", {"seed": 5}), ("bdia", {"seed": 5, "steps": 7})])
def test_the_default_edit_takes_only_the_seed_of_the_shared_options(model, monkeypatch, name, expected):
    given = []
    monkeypatch.setattr(editors, "edit", lambda model, request, options: given.append(options) or 1 / 0)
    task = make_task("shapes", "move", FIRST)
    with pytest.raises(ZeroDivisionError):
        make_editor(name, model, seed=5, steps=7)(task)
    (options,) = given
    defaults = EditOptions(method=None if name == "edit" else name, seed=editors.task_seed(5, task))
    assert options == defaults.replace(steps=expected.get("steps"))


@pytest.mark.parametrize(
    "name, word",
    [
        ("sdedid", "'sdedit'"),
        ("sdedit:strenght=1", "'strength'"),
        ("plain:steps", "'steps'"),
        ("sdedit:task=1", "'task=1'"),
        ("edit:steps=fifty", "'fifty'"),
        ("edit:keep=1", "true or false"),
        ("edit:interval=[0,0.5", "YAML"),
        ("edit:interval=0.5", "interval"),
        ("edit:strength=2", "strength"),
        ("sdedit:strength=half", "strength"),
        ("edit:mask=a.png", "'mask=a.png'"),
        ("edit:previews=3", "'previews=3'"),
        ("edit:attention=true", "'attention=true'"),
        ("bdia:sampler=dpm++", "bdia"),
        ("edit:sampler=euler", "'euler'"),
        ("bdia:method=noise", "'method=noise'"),
    ],
)
def test_wrong_names_and_options_are_refused_without_a_model(name, word):
    with pytest.raises(UserError, match=word.replace("[", r"\[")):
        parse_editor(name)


def test_option_values_are_read_as_yaml():
    assert parse_editor("edit:interval=[0,0.5]")[1] == {"interval": [0, 0.5]}


# --- editors of other packages ----------------------------------------------------------------------------------------

OTHER_EDITORS = """
from ldm.evaluation.editors import EditResult

def truth(model, task, share=0.5, seed=None):
    assert share == 1 and seed == 5 and model.vocab
    return EditResult(task.truth, 0)

def any_options(m, t, **options):
    return EditResult(t.picture, len(options))

def no_editor(model):
    pass
"""


@pytest.fixture
def other_editors(tmp_path, monkeypatch):
    """The file of a module `other_editors`, importable but not imported."""
    (tmp_path / "other_editors.py").write_text(OTHER_EDITORS)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "other_editors.py"
    sys.modules.pop("other_editors", None)


def test_a_function_of_another_package_is_an_editor_with_its_own_options(other_editors, model):
    task = make_task("shapes", "move", FIRST)
    assert make_editor("other_editors.truth:share=1", model, seed=5, steps=3)(task).image is task.truth
    assert make_editor("other_editors.any_options:x=1", model, seed=5, steps=3)(task).evaluations == 3


@pytest.mark.parametrize(
    "name, word",
    [
        ("other_editors.trut", "'truth'"),
        ("other_editor.truth", "'other_editor'"),
        ("other_editors.truth:share=half", "share"),
        ("other_editors.truth:task=1", "'task=1'"),
        ("other_editors.no_editor", "model, task"),
    ],
)
def test_a_function_of_another_package_that_is_no_editor_is_refused(other_editors, name, word):
    with pytest.raises(UserError, match=word):
        parse_editor(name)


def test_the_code_digest_of_another_packages_editor_changes_with_its_file(other_editors):
    first = code_digest("other_editors.truth:share=1")
    assert first and code_digest("other_editors.truth") == first
    other_editors.write_text(OTHER_EDITORS + "\n")
    assert code_digest("other_editors.truth:share=1") != first
    assert code_digest("edit:strength=0.5") is None
