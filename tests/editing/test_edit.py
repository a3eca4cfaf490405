"""Editing, in the library and through the script, with a tiny model whose adapters were moved away from zero."""

import importlib.util
import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model

from ldm import plots
from ldm.data.demo import DemoValidation
from ldm.editing.attention import keeping
from ldm.editing.edit import edit, psnr, variants
from ldm.editing.options import FAST, GUIDANCE, STEPS
from ldm.editing.plan import understood
from ldm.editing.region import Region
from ldm.graph.batch import encode
from ldm.graph.diff import diff
from ldm.graph.scene_graph import SceneGraph, write_graphs
from ldm.models.diffusion import inversion
from ldm.models.diffusion.dpm_solver import uniform_log_snr_schedule
from ldm.models.diffusion.inversion import METHODS, SAMPLERS, SECOND_ORDER
from ldm.models.loading import load_model
from ldm.models.preprocess import to_model_input
from ldm.models.runtime import PRECISIONS
from ldm.sampling.sample import SampleOptions, apply_layout, sample_images
from ldm.synthetic.shapes import render
from ldm.util import gallery
from ldm.util.errors import UserError

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run's log folder with a checkpoint in it."""
    torch.manual_seed(0)
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.model_ema.update(model)
    saved = {}
    model.on_save_checkpoint(saved)
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    torch.save(saved, folder / "checkpoints" / "last.ckpt")
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)


@pytest.fixture
def scene():
    """A photograph 50 wide and 30 high, its graph, and the graph with the first object replaced."""
    graph, background = DemoValidation(8).scene(3)
    photograph = render(graph, background, 64).resize((50, 30))
    other = "square" if graph.objects[0] != "square" else "circle"
    return photograph, graph, replace(graph, objects=(other, *graph.objects[1:]))


def load_script(name):
    """main() of a script."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def door():
    return load_script("ddim_invert_edit")


@pytest.mark.parametrize("options", [{}, {"region": "none"}, {"mask": Image.new("L", (9, 9), 255)}, {"method": "ddim"}])
def test_an_edit_that_changes_nothing_returns_the_photograph(model, scene, options):
    photograph, graph, _ = scene
    result = edit(model, photograph, graph, source=graph, steps=3, **options)
    assert result.image.tobytes() == photograph.tobytes()
    assert result.operations == [] and not result.region.any()


def test_a_relation_that_is_only_forgotten_changes_no_pixel(model, scene):
    photograph, graph, _ = scene
    result = edit(model, photograph, replace(graph, triples=graph.triples[1:]), source=graph, steps=3)
    assert result.operations and result.image.tobytes() == photograph.tobytes()


@pytest.mark.filterwarnings("ignore:fixed-point inversion")
@pytest.mark.parametrize("method", METHODS)
def test_outside_the_region_every_pixel_is_the_photographs_by_every_method(model, scene, method):
    photograph, graph, other = scene
    result = edit(model, photograph, other, source=graph, method=method, steps=2)
    before, after = np.asarray(photograph), np.asarray(result.image)
    outside = result.region == 0
    assert 0 < outside.sum() < outside.size
    assert (before[outside] == after[outside]).all() and (before != after).any()


@pytest.mark.parametrize("method", ["direct", "ddpm", "bdia"])
def test_without_an_edit_the_exact_methods_return_the_latent(model, scene, method):
    photograph, graph, other = scene
    result = edit(model, photograph, other, source=graph, method=method, steps=3)
    assert result.round_trip_error < 1e-4 and result.psnr == pytest.approx(result.psnr_autoencoder, abs=0.1)


def test_the_region_follows_the_mask_wherever_the_operations_are(model, scene):
    photograph, graph, other = scene
    mask = Image.new("L", photograph.size)
    mask.paste(255, (0, 0, 20, 30))
    result = edit(model, photograph, other, source=graph, mask=mask, steps=2)
    changed = (np.asarray(photograph) != np.asarray(result.image)).any(-1)
    assert changed[:, :20].any() and not changed[:, 20:].any()
    assert edit(model, photograph, other, mask=mask, steps=2).region.tolist() == result.region.tolist()
    with pytest.raises(UserError, match="black"):
        edit(model, photograph, other, source=graph, mask=Image.new("L", (4, 4)), steps=2)


def test_a_second_pass_edits_what_the_first_left_and_its_objects_are_not_coded_anew(model, scene, monkeypatch):
    photograph, graph, other = scene
    options = {"style": Image.new("RGB", (40, 40), (240, 90, 20)), "steps": 2}
    begun, made, direct, resample = [], [], inversion.METHODS["direct"], inversion.resample
    monkeypatch.setitem(inversion.METHODS, "direct", lambda s, t, x0, *a, **k: begun.append(x0) or direct(s, t, x0, *a, **k))
    monkeypatch.setattr(inversion, "resample", lambda *a, **k: made.append(resample(*a, **k)) or made[-1])
    graph, other = (replace(it, boxes=((0, 0, 0.5, 0.5), *[None] * (len(it.objects) - 1))) for it in (graph, other))
    twice = edit(model, photograph, other, source=graph, previews=2, reconstruct=False, **options)
    assert len(begun) == len(made) == 2 and len(twice.previews) == 4
    anew = model.encode(model.decode(made[0]).clamp(-1, 1))
    assert torch.equal(begun[1][..., :4, :4], made[0][..., :4, :4]) and not torch.equal(anew[..., :4, :4], made[0][..., :4, :4])
    assert torch.equal(begun[1][..., 4:, :], anew[..., 4:, :]) and torch.equal(begun[1][..., 4:], anew[..., 4:])
    once = edit(model, photograph, other, source=graph, passes=1, reconstruct=False, **options)
    assert torch.equal(made[0], made[2]) and once.image.tobytes() != twice.image.tobytes()


def test_only_a_style_taken_over_by_the_photographs_own_way_is_gone_over_twice(model, scene):
    photograph, graph, other = scene
    mask = Image.new("L", (9, 9), 255)

    def passes(**options) -> int:
        return edit(model, photograph, other, source=graph, steps=1, **options).settings.passes

    assert passes(style=photograph) == 2
    assert passes(style=photograph, mask=mask) == passes(style=photograph, method="ddim") == passes() == passes(passes=3) == 1
    assert passes(style=photograph, passes=3) == 3
    with pytest.raises(UserError, match="0 passes"):
        passes(passes=0)


def test_pictures_may_be_of_any_mode_and_what_is_transparent_in_a_mask_is_black(model, scene):
    photograph, graph, other = scene
    mask = Image.new("L", photograph.size)
    mask.paste(255, (0, 0, 20, 30))
    options = {"source": graph, "steps": 2}
    plain = edit(model, photograph, other, style=photograph, mask=mask, **options)
    clear = Image.new("RGBA", photograph.size, (255, 255, 255, 0))
    clear.paste((255, 255, 255, 255), (0, 0, 20, 30))
    full = photograph.convert("RGBA")
    same = edit(model, full, other, style=full, mask=clear, **options)
    assert same.image.mode == "RGB" and same.image.tobytes() == plain.image.tobytes()
    assert edit(model, full, graph, **options).image.tobytes() == photograph.tobytes()


def test_without_boxes_the_region_is_where_the_object_is_looked_at(model, scene):
    photograph, graph, other = scene
    bare = [replace(g, boxes=(None,) * len(g.objects)) for g in (graph, other)]
    result = edit(model, photograph, bare[1], source=bare[0], steps=2)
    assert result.attention.shape[0] == len(graph.objects)
    assert 0 < result.region.mean() < 1
    boxed = edit(model, photograph, other, source=graph, steps=2)
    assert boxed.attention is None
    assert edit(model, photograph, other, source=graph, steps=2, attention=True).attention is not None


def test_a_margin_wider_than_any_picture_makes_the_region_whole(model, scene):
    bare = [replace(graph, boxes=(None,) * len(graph.objects)) for graph in scene[1:]]
    for graph, other in (scene[1:], bare):
        assert edit(model, scene[0], other, source=graph, steps=1, margin=1e300).region.min() > 0.999


def test_without_a_region_or_with_a_style_everything_may_change(model, scene):
    photograph, graph, other = scene
    red = Image.new("RGB", (40, 60), "red")
    for options in ({"graph": other, "region": "none"}, {"graph": graph, "style": red}, {"graph": other, "source": None}):
        result = edit(model, photograph, **{"source": graph, "steps": 2, **options})
        assert (result.region == 1).all() and result.image.tobytes() != photograph.tobytes()


def test_a_moved_objects_new_place_is_chosen_and_said():
    boxes = ((0.1, 0.4, 0.3, 0.6), (0.4, 0.4, 0.6, 0.6))
    before = SceneGraph(("circle", "square"), boxes, (("red",), ("blue",)), ((0, "left of", 1),))
    after = SceneGraph(("circle", "square"), (None, boxes[1]), (("red",), ("blue",)), ((0, "right of", 1),))
    operations, graph, chosen = understood(before, after)
    assert "red circle" in chosen and "right of" in chosen
    assert graph.boxes[0][0] >= graph.boxes[1][2] and graph.boxes[1] == boxes[1]
    assert [type(operation).__name__ for operation in operations] == ["Move", "ChangeRelation"]


def test_a_seed_gives_an_edit_again_and_another_seed_another(model, scene):
    photograph, graph, other = scene
    one, two = (it.image.tobytes() for it in variants(2, model, photograph, other, source=graph, steps=2))
    assert one != two
    assert edit(model, photograph, other, source=graph, steps=2, seed=1).image.tobytes() == two


@pytest.mark.parametrize(
    "options, what",
    [
        ({"method": "ddim"}, "ddim draws nothing"), ({"region": "none"}, "direct draws"), ({"source": None}, "direct draws"),
        ({"method": "dim"}, "there is no method"),
    ],
)  # fmt: skip
def test_variants_of_a_method_that_draws_nothing_are_refused_before_the_first_is_made(model, scene, calls, options, what):
    with pytest.raises(UserError, match=what):
        variants(2, model, scene[0], scene[2], **{"source": scene[1], "steps": 2, **options})
    assert calls == []


def test_any_whole_number_is_a_seed(model, scene):
    options = {"model": model, "photograph": scene[0], "graph": scene[2], "source": scene[1], "steps": 1}
    one, big, negative = (edit(seed=seed, **options).image.tobytes() for seed in (1, 2**70 + 1, 1 - 2**64))
    assert one == big == negative != edit(seed=-1, **options).image.tobytes()


def test_keeping_shows_the_source_to_what_moves_and_costs_nothing_where_nothing_moves(model, scene):
    photograph, graph, other = scene
    graph, other = replace(graph, triples=()), replace(other, triples=())
    box = graph.boxes[0]
    dx = 0.25 if box[2] <= 0.75 else -0.25
    moved = replace(graph, boxes=((box[0] + dx, box[1], box[2] + dx, box[3]), *graph.boxes[1:]))
    calls = []
    hook = model.unet.register_forward_hook(lambda module, given, out: calls.append((len(given[0]), len(given) == 4)))
    kept = [edit(model, photograph, it, source=graph, steps=1, keep=True).settings.keep for it in (moved, other, graph)]
    hook.remove()
    assert calls == [(4, True), (2, False)]  # two branches of guidance
    assert kept == [True, False, False]


@pytest.fixture
def calls(model):
    """Rows of each call of the U-Net."""
    rows = []
    hook = model.unet.register_forward_hook(lambda module, given, out: rows.append(len(out)))
    yield rows
    hook.remove()


def test_each_step_is_one_call_with_a_row_for_each_branch_that_counts(model, scene, calls):
    photograph, graph, other = scene
    everywhere = {"region": "none", "reconstruct": False}
    for options, expected in (
        ({"reconstruct": False}, [2] * 4),
        ({"graph_scale": 1, "style_scale": 1}, [1] * 4),  # nothing to reconstruct
        ({"graph_scale": 1, "style_scale": 3}, [2] * 4),
        ({"graph_scale": 2, "style_scale": 3}, [3] * 4),
        ({"interval": (0.4, 1.0)}, [2, 2, 1, 1]),
        ({"strength": 0.5}, [2] * 2),
        ({**everywhere, "method": "ddim"}, [1] * 4 + [2] * 4),
        ({**everywhere, "method": "ddim", "strength": 0.5}, [1] * 2 + [2] * 2),
        (everywhere, [1] * 4 + [4] * 4),  # direct: the source goes beside the target
        ({**everywhere, "method": "ddpm"}, [4] * 4),
        ({**everywhere, "keep": True}, [1] * 4 + [4] * 4),
        ({**everywhere, "graph_scale": 1, "style_scale": 1}, [1] * 4 + [2] * 4),
        ({**everywhere, "sampler": "dpm++"}, [1] * 4 + [4] * 4),
    ):
        calls.clear()
        edit(model, photograph, other, source=graph, steps=4, **options)
        assert calls == expected, options


def test_a_round_trip_is_sampled_only_when_it_is_asked_for(model, scene, calls):
    photograph, graph, other = scene
    options = {"source": graph, "steps": 3, "method": "ddim"}
    quick, whole = (edit(model, photograph, other, reconstruct=it, **options) for it in (False, True))
    assert quick.image.tobytes() == whole.image.tobytes()
    assert (quick.reconstruction, quick.psnr, quick.psnr_autoencoder, quick.round_trip_error) == (None,) * 4
    calls.clear()
    assert quick.round_trip() == pytest.approx(whole.round_trip_error) and len(calls) == 3
    assert edit(model, photograph, other, source=graph, steps=3).round_trip is None


@pytest.mark.parametrize("method", SECOND_ORDER)
def test_an_edit_by_the_second_sampler_changes_what_it_should_and_nothing_else(model, scene, method):
    photograph, graph, other = scene
    result = edit(model, photograph, other, source=graph, method=method, sampler="dpm++", steps=4)
    outside, changed = result.region == 0, (np.asarray(photograph) != np.asarray(result.image)).any(-1)
    assert changed.any() and not changed[outside].any()
    assert (result.settings.sampler, result.settings.steps) == ("dpm++", 4)
    if method == "direct":
        assert result.round_trip_error < 1e-4
    first = edit(model, photograph, other, source=graph, method=method, sampler="ddim", steps=4)
    assert first.image.tobytes() != result.image.tobytes()


def test_each_sampler_has_its_own_number_of_steps_and_strength_counts_timesteps(model, scene, calls):
    photograph, graph, other = scene
    options = {"source": graph, "sampler": "dpm++", "graph_scale": 1, "style_scale": 1}
    assert edit(model, photograph, other, **options).settings.steps == len(calls) == STEPS["dpm++"] < STEPS["ddim"]
    assert tuple(STEPS) == SAMPLERS
    calls.clear()
    edit(model, photograph, other, **options, steps=10, strength=0.5)
    visited = uniform_log_snr_schedule(model.schedule, 10).timesteps
    assert len(calls) == int((visited <= 500).sum()) == 5


def test_where_no_sampler_is_asked_for_ddims_own_methods_go_by_ddim_and_the_others_by_the_quicker_one(model, scene):
    photograph, graph, other = scene
    for method in METHODS:
        settings = edit(model, photograph, other, source=graph, method=method, steps=2, reconstruct=False).settings
        assert settings.sampler == ("dpm++" if method in ("noise", "direct") else "ddim"), method
    assert set(FAST) <= set(SECOND_ORDER)


@pytest.mark.parametrize("wrong", [{"method": "null"}, {"method": "fixed-point"}, {"method": "bdia"}, {"method": "ddpm"}])
def test_methods_of_ddims_own_steps_are_refused_with_the_second_sampler(model, scene, wrong):
    with pytest.raises(UserError, match="leave the sampler at ddim"):
        edit(model, *scene[::2], source=scene[1], sampler="dpm++", **wrong)


def test_an_edit_gives_what_its_branches_give_one_by_one_without_anything_kept(model, scene, monkeypatch):
    photograph, graph, other = scene
    latents, decode = [], type(model).decode
    monkeypatch.setattr(type(model), "decode", lambda self, z: latents.append(z) or decode(self, z))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"source": graph, "sampler": "ddim", "steps": 3, "seed": 4, "reconstruct": False}
    edit(model, photograph, other, **options, graph_scale=2, style_scale=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    with torch.no_grad():
        look = to_model_input(model, photograph)
        z0, cond = model.encode(look), model.condition(encode([other], model.vocab), look)
        noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(4))
        region, yes = Region.of(diff(graph, other), (8, 8), photograph.size).latent, torch.tensor([True])
        a0, x = model.schedule.alphas_cumprod[0], None
        levels = [int(t) for t in model.schedule.ddim(3).timesteps]

        def source_at(t):
            a = model.schedule.alphas_cumprod[t] / a0 if t else torch.ones(())
            return (a**0.5 * z0 + (1 - a) ** 0.5 * noise).float()

        x = source_at(levels[-1])
        for t, down in zip(levels[::-1], [*levels[-2::-1], 0]):
            at = torch.tensor([t])
            neither = model.unet(x, at, cond.drop(yes, yes, model.null()))
            graph_only, both = model.unet(x, at, cond.drop(~yes, yes, model.null())), model.unet(x, at, cond)
            eps = neither + 2 * (graph_only - neither) + 3 * (both - graph_only)
            a, b = model.schedule.alphas_cumprod[t], model.schedule.alphas_cumprod[down]
            x = (b**0.5 * (x - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps).float()
            x = region * x + (1 - region) * source_at(down)
    assert (latents[0] - x).abs().max() < 1e-5 * x.abs().max()


def test_what_moves_is_seen_where_it_was_and_what_goes_is_not_seen():
    boxes = tuple((x, 0.0, x + 0.25, 0.25) for x in (0.0, 0.25, 0.5, 0.75))
    objects, ids = ("circle", "square", "triangle", "circle"), tuple("abcd")
    before = SceneGraph(objects, boxes, ids=ids)
    new = (0.0, 0.5, 0.5, 1.0)
    after = SceneGraph(("circle", "square", "square"), (new, boxes[2], boxes[3]), ids=("a", "c", "d"))
    control = keeping(tiny_model(), before, after, diff(before, after), everywhere=False, restyled=False)
    ((_, _, mutual, words),) = control.pairs
    assert set(mutual.shifts) == {(boxes[0], new), (boxes[1], None), (boxes[2], None), (boxes[3], None)}
    assert words is None  # without a region only
    assert mutual.where[0, 4] == 0 and mutual.where[4, 0] == 1  # a replaced thing's place sees itself


def test_previews_lead_up_to_the_edit_and_change_nothing(model, scene):
    photograph, graph, other = scene
    plain, seen = (edit(model, photograph, other, source=graph, steps=4, previews=count) for count in (0, 3))
    assert len(seen.previews) == 3 and seen.image.tobytes() == plain.image.tobytes()
    last = np.abs(np.asarray(seen.previews[-1], float) - np.asarray(seen.image)).mean()
    first = np.abs(np.asarray(seen.previews[0], float) - np.asarray(seen.image)).mean()
    assert last < first


def test_a_model_without_an_image_encoder_edits_and_says_that_it_takes_no_style(scene):
    photograph, graph, other = scene
    model = tiny_model(global_stage_config=None).eval().requires_grad_(False)
    assert edit(model, photograph, other, source=graph, steps=2).image.tobytes() != photograph.tobytes()
    with pytest.raises(UserError, match="image encoder"):
        edit(model, photograph, other, source=graph, style=photograph, steps=2)


def test_a_model_that_was_never_without_its_conditions_is_not_guided(scene):
    model = tiny_model(graph_drop=0.0, style_drop=0.0).eval().requires_grad_(False)
    settings = edit(model, *scene[::2], source=scene[1], steps=2).settings
    assert (settings.graph_scale, settings.style_scale) == (1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "dim"}, {"region": "all"}, {"strength": 0.0}, {"strength": 1.5}, {"steps": 0}, {"margin": -1.0},
        {"feather": -0.5},
    ],
)  # fmt: skip
def test_an_option_that_does_not_exist_is_named(model, scene, wrong):
    photograph, graph, other = scene
    with pytest.raises(UserError, match=str(*wrong.values())):
        edit(model, photograph, other, source=graph, **wrong)


def test_the_fixed_point_round_trip_is_within_a_thousandth(checkpoint, scene):
    photograph, graph, other = scene
    model = load_model(checkpoint)
    for parameter in model.unet.out.parameters():
        parameter *= 0.1  # a random U-Net answers a small change of x by a large one, as no trained one does
    result = edit(model, photograph, other, source=graph, method="fixed-point", steps=20)
    assert result.round_trip_error < 1e-3
    assert abs(result.psnr - result.psnr_autoencoder) < 0.1


def test_an_edit_has_the_size_of_its_photograph_whatever_that_is(model, scene):
    photograph, graph, other = scene
    for size in ((50, 30), (31, 97), (64, 64), (7, 5)):
        result = edit(model, photograph.resize(size), other, source=graph, steps=2)
        assert result.image.size == result.reconstruction.size == result.region.shape[::-1] == size


def test_the_graph_and_the_style_both_change_the_edit(model, scene):
    photograph, graph, other = scene
    plain = edit(model, photograph, graph, source=graph, steps=5)  # the photograph
    replaced = edit(model, photograph, other, source=graph, steps=5)
    restyled = edit(model, photograph, graph, source=graph, style=Image.new("RGB", (40, 60), "red"), steps=5)
    assert len({r.image.tobytes() for r in (plain, replaced, restyled)}) == 3
    assert [str(operation) for operation in replaced.operations]


def test_without_a_source_graph_the_inversion_knows_nothing_of_the_graph(model, scene):
    photograph, graph, other = scene
    one, two = (edit(model, photograph, g, steps=5) for g in (graph, other))
    assert one.reconstruction.tobytes() == two.reconstruction.tobytes()
    assert one.image.tobytes() != two.image.tobytes()


def test_the_readmes_lines_of_python_edit_a_photograph_and_its_comment_names_what_there_is(checkpoint, tmp_path, monkeypatch):
    root = SCRIPTS.parent
    (lines,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    other = re.search(r"; or (.*)", lines).group(1).replace("cuda", "cpu")
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(root / "data")
    Path("lines.py").write_text(lines + f"other = {other}\n")
    monkeypatch.setattr("ldm.models.loading.find_checkpoint", lambda: checkpoint)
    monkeypatch.setattr("ldm.models.loading.checkpoint_of", lambda run: checkpoint)
    monkeypatch.setitem(STEPS, "dpm++", 2)
    names = runpy.run_path("lines.py")
    with Image.open(root / "data" / "demo" / "example.png") as photograph, Image.open("edited.png") as edited:
        assert edited.size == photograph.size
    assert type(names["other"]) is type(names["model"])


def test_psnr_of_a_known_error():
    image = torch.zeros(1, 3, 8, 8)
    assert psnr(image, image + 0.2) == pytest.approx(20.0, abs=1e-3)  # 10 log10(2^2 / 0.2^2)
    assert psnr(image, image) == float("inf")


def test_a_model_comes_back_from_its_checkpoint_with_its_averages(checkpoint, model):
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, parameter in model.named_parameters():
        if name in saved:
            torch.testing.assert_close(parameter, saved["model_ema." + name.replace(".", "/")])


def test_the_script_writes_the_edit_a_panel_and_a_record(checkpoint, scene, door, tmp_path, capsys):
    photograph, graph, other = scene
    photograph.save(tmp_path / "photo.png")
    write_graphs(tmp_path / "source.json", [graph])
    write_graphs(tmp_path / "edited.json", [other])
    arguments = ["--sg", "edited.json", "--source-sg", "source.json", "--ref", "photo.png"]
    paths = [str(tmp_path / a) if "." in a else a for a in arguments]
    run = ["--run", str(checkpoint.parents[1]), "--steps", "3", "--device", "cpu", "--outdir", str(tmp_path / "out")]
    assert door([*paths, *run]) == 0
    assert Image.open(tmp_path / "out" / "edited.png").size == photograph.size
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["arguments"]["steps"] == 3 and record["versions"]["torch"] == torch.__version__
    assert record["operations"] and record["operations"][0] in capsys.readouterr().out
    again = edit(load_model(checkpoint), photograph, other, source=graph, steps=3)
    assert np.array_equal(Image.open(tmp_path / "out" / "edited.png"), again.image)
    for number in ("psnr", "psnr_autoencoder"):
        assert record[number] == pytest.approx(getattr(again, number), rel=1e-3)
    assert record["settings"] == json.loads(json.dumps(again.settings._asdict()))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["edited.png", "panel.png", "record.json"]

    more = ["--method", "ddpm", "--n", "2", "--sweep", "strength=0.5,1", "--previews", "2", "--attention", "--region", "none"]
    assert door([*paths, *run, *more]) == 0
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert names == set(record["files"])
    assert {"reconstruction.png", "grid.png", "previews.png", "edited_strength_1.0_seed_1.png"} <= names
    assert len([name for name in names if name.startswith("attention/")]) == len(graph.objects)
    assert door([*paths, *run]) == 0  # takes an earlier edit's pictures away
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2


@pytest.fixture
def batch(checkpoint, scene, tmp_path):
    """A file of three edits in a folder, and the command that makes them."""
    photograph, graph, other = scene
    photograph.save(tmp_path / "photo.png")
    write_graphs(tmp_path / "source.json", [graph])
    line = {"ref": "photo.png", "source_sg": "source.json", "sg": other.to_json()}
    lines = [line, {**line, "style": "photo.png", "out": "styles/one.png"}, {**line, "seed": 3}]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = ["--ckpt", str(checkpoint), "--steps", "2", "--device", "cpu", "--outdir", str(tmp_path / "out")]
    return tmp_path / "edits.jsonl", ["--batch", str(tmp_path / "edits.jsonl"), *run]


NAMES = ["000001.png", "000003.png", "styles/one.png"]


def made(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png") if path.name != "sheet.png")


def test_a_batch_makes_what_is_missing_and_nothing_twice(batch, door, scene, model):
    path, command = batch
    assert door(command) == 0
    out = path.parent / "out"
    assert made(out) == NAMES and (out / "sheet.png").exists()
    records = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert [record["file"] for record in records] == ["000001.png", "styles/one.png", "000003.png"]
    assert all(record["operations"] for record in records)
    third = edit(model, scene[0], scene[2], source=scene[1], steps=2, seed=3)
    assert np.array_equal(Image.open(out / "000003.png"), third.image)
    (out / "000003.png").unlink()
    before = (out / "000001.png").stat().st_mtime_ns
    assert door(command) == 0
    assert made(out) == NAMES and (out / "000001.png").stat().st_mtime_ns == before


def test_processes_share_a_batch(batch, door, monkeypatch):
    path, command = batch
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, there in (("1", ["styles/one.png"]), ("0", NAMES)):
        monkeypatch.setenv("RANK", rank)
        assert door(command) == 0
        assert made(path.parent / "out") == there
    assert len((path.parent / "out" / "index.jsonl").read_text().splitlines()) == 3


def test_a_bad_line_costs_the_others_nothing_and_each_is_one_sentence(batch, door, capsys):
    path, command = batch
    bad = ['{"sg"', '{"sg": "nowhere.json"}', '{"sg": "source.json", "sterngth": 1}', '{"out": "../x.png", "sg": "a"}']
    bad += ['{"sg": "source.json"}', '{"sg": "source.json", "ref": "photo.png", "steps": "many"}', "[]", '{"ref": "photo.png"}']
    path.write_text("\n".join(bad) + "\n\n" + path.read_text())
    assert door(command) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "edits.jsonl" in line]
    assert [f"line {number}:" in error for number, error in enumerate(errors, 1)] == [True] * 8
    assert "did you mean 'strength'" in errors[2] and "no photograph" in errors[4]
    out = path.parent / "out"
    assert made(out) == ["000010.png", "000012.png", "styles/one.png"]
    assert gallery.record_of(out / "000012.png")["options"]["seed"] == 3


def test_an_options_value_of_another_kind_costs_its_line_alone(batch, door, capsys):
    path, command = batch
    bad = {
        "seed": ("1.5", '"a"', "null"), "steps": ("2.5", "true"), "interval": ("[0, 0.5, 1]", "0.5", '["a", 1]'), "keep": ('"no"', "1"),
        "strength": ('"half"', "NaN"), "method": ("[]",), "graph_scale": ("1" + "0" * 400, "{}"),
    }  # fmt: skip
    wrong = [(key, value) for key, values in bad.items() for value in values]
    line = path.read_text().splitlines()[0]
    right = [f'{line[:-1]}, "seed": {2**70}}}', f'{line[:-1]}, "interval": [0, 1], "keep": true, "graph_scale": 3}}']
    path.write_text("\n".join([*(f'{line[:-1]}, "{key}": {value}}}' for key, value in wrong), *right]))
    assert door(command) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "edits.jsonl" in line]
    for number, (error, (key, value)) in enumerate(zip(errors, wrong, strict=True), 1):
        assert f"line {number}: {key} takes " in error and error.endswith(f", not {value}")
    assert made(path.parent / "out") == [f"{number:06}.png" for number in (len(wrong) + 1, len(wrong) + 2)]


@pytest.mark.parametrize("content, said", [(None, "No such file"), ("\n \n", "holds no edits"), (b"\xff\xfe", "not text")])
def test_a_batch_that_is_none_is_noticed_before_a_model_is_loaded(door, tmp_path, monkeypatch, capsys, content, said):
    path = tmp_path / "edits.jsonl"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setattr("ldm.models.loading.load_model", None)
    assert door(["--batch", str(path), "--outdir", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_batch_that_is_interrupted_says_how_to_go_on_and_an_edit_that_it_stopped(batch, door, monkeypatch, capsys):
    path, command = batch
    out = path.parent / "out"

    def stop(*arguments, **options):
        if made(out):
            raise KeyboardInterrupt
        return edit(*arguments, **options)

    monkeypatch.setattr("ldm.editing.batch.edit", stop)
    assert door(command) == 130 and made(out) == NAMES[:1]
    assert capsys.readouterr().err.endswith(f"ddim_invert_edit.py: stopped; the same command with --outdir {out} goes on\n")
    monkeypatch.setattr("ldm.editing.batch.edit", edit)
    assert door(command) == 0 and made(out) == NAMES
    capsys.readouterr()
    monkeypatch.setattr("ldm.editing.edit.edit", stop)
    photograph = ["--ref", str(path.parent / "photo.png"), "--sg", str(path.parent / "source.json")]
    assert door([*photograph, *command[2:]]) == 130
    assert capsys.readouterr().err == "ddim_invert_edit.py: stopped\n"


@pytest.mark.parametrize(
    "script, words",
    [("ddim_invert_edit", ["--sg", "a.json"]), ("sample", ["--sg", "a.json"]), ("evaluate", ["edits"]), ("evaluate", ["scenes"])],
)
def test_a_run_and_a_checkpoint_are_not_asked_for_together(script, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        load_script(script)([*words, "--run", "logs/one", "--ckpt", "other.ckpt"])
    assert "--ckpt: not allowed with argument --run" in capsys.readouterr().err


def test_the_script_knows_every_method_and_precision():
    script = load_script("ddim_invert_edit").__globals__
    assert script["METHODS"] == tuple(METHODS) and script["PRECISIONS"] == tuple(PRECISIONS)


def test_the_script_edits_by_the_second_sampler_in_half_precision_and_with_low_memory(batch, door, tmp_path):
    command, options = batch[1], ["--sampler", "dpm++", "--precision", "bf16", "--low-memory"]
    assert door([*command, *options]) == 0
    record = gallery.record_of(tmp_path / "out" / "000001.png")
    assert record["precision"] == "bf16" and record["options"]["sampler"] == "dpm++"
    assert record["settings"]["sampler"] == "dpm++" and record["psnr"] is None
    photo, graph = str(tmp_path / "photo.png"), str(tmp_path / "source.json")
    assert door(["--sg", graph, "--ref", photo, *command[2:], *options]) == 0
    assert json.loads((tmp_path / "out" / "record.json").read_text())["settings"]["method"] == "direct"


def test_the_script_needs_no_more_than_a_graph(checkpoint, scene, door, tmp_path, capsys):
    write_graphs(tmp_path / "edited.json", [scene[1]])
    run = ["--ckpt", str(checkpoint), "--steps", "2", "--device", "cpu", "--outdir", str(tmp_path / "out")]
    assert door(["--sg", str(tmp_path / "edited.json"), *run]) == 0
    assert "from noise" in capsys.readouterr().out
    scene[0].save(tmp_path / "photo.png")
    write_graphs(tmp_path / "edited.json", [replace(scene[1], image="photo.png")])
    assert door(["--sg", str(tmp_path / "edited.json"), *run]) == 0
    assert "null graph" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, why",
    [
        (["--source-sg", "source.json"], "nothing moves and no style is asked for"),
        (["--source-sg", "source.json", "--style", "photo.png", "--mask", "photo.png"], "nothing moves"),
        ([], "no --source-sg says what moves"),
        (["--source-sg", "source.json", "--style", "photo.png"], None),
    ],
)
def test_the_script_says_where_keeping_changes_nothing(checkpoint, scene, door, tmp_path, capsys, monkeypatch, options, why):
    monkeypatch.chdir(tmp_path)
    scene[0].save("photo.png")
    write_graphs("source.json", [replace(scene[1], triples=())])
    write_graphs("edited.json", [replace(scene[2], triples=())])
    run = ["--ckpt", str(checkpoint), "--steps", "1", "--device", "cpu", "--outdir", "out", "--keep", "--ref", "photo.png"]
    assert door(["--sg", "edited.json", *run, *options]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("--keep")]
    assert said == ([f"--keep: {why}, so it changes nothing"] if why else [])


def test_the_panel_shows_the_boxes_that_were_chosen_and_says_the_whole_may_change_only_where_it_may(
    checkpoint, scene, door, tmp_path, capsys, monkeypatch
):
    drawn, captions, panel = [], [], plots.panel
    monkeypatch.setattr(plots, "draw_graph", lambda graph: drawn.append(graph) or Image.new("RGB", (9, 9)))
    monkeypatch.setattr(plots, "panel", lambda items, said=(), **more: captions.extend(said) or panel(items, said, **more))
    before = SceneGraph(("circle", "square"), ((0.1, 0.4, 0.3, 0.6), (0.4, 0.4, 0.6, 0.6)), triples=((0, "left of", 1),))
    write_graphs(tmp_path / "source.json", [before])
    write_graphs(tmp_path / "edited.json", [replace(before, boxes=(None, before.boxes[1]), triples=((0, "right of", 1),))])
    scene[0].save(tmp_path / "photo.png")
    mask = Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 4, 8))
    mask.save(tmp_path / "mask.png")
    names = {"--sg": "edited.json", "--ref": "photo.png", "--source-sg": "source.json", "--mask": "mask.png"}
    files = {option: [option, str(tmp_path / name)] for option, name in names.items()}
    run = ["--ckpt", str(checkpoint), "--steps", "1", "--device", "cpu", "--outdir", str(tmp_path / "out")]
    assert door([*files["--sg"], *files["--ref"], *files["--source-sg"], *run]) == 0
    assert drawn[0] == before and drawn[1].boxes[0][0] >= 0.6
    for more, whole in (([], True), (files["--mask"], False)):
        captions.clear()
        capsys.readouterr()
        assert door([*files["--sg"], *files["--ref"], *more, *run]) == 0
        for said in (capsys.readouterr().out, " ".join(captions)):
            assert "graph" in said and ("may change" in said) == whole


def test_what_is_of_an_edit_is_refused_by_name_where_there_is_no_photograph(door, tmp_path, capsys):
    (tmp_path / "edited.json").write_text('{"objects": ["circle"]}')
    for name in ("source.json", "mask.png"):
        (tmp_path / name).write_text('{"objects": ["circle"]}')
    options = [
        ["--source-sg", str(tmp_path / "source.json")], ["--mask", str(tmp_path / "mask.png")], ["--n", "2"],
        ["--sweep", "steps=1,2"], ["--previews"], ["--attention"], ["--method", "ddim"], ["--region", "none"],
        ["--strength", "1"], ["--interval", "0", "1"], ["--rescale", "0"], ["--keep"], ["--margin", "0"], ["--feather", "0"],
    ]  # fmt: skip
    run = ["--sg", str(tmp_path / "edited.json"), "--steps", "2", "--device", "cpu", "--outdir", str(tmp_path / "out")]
    for given in ([word for option in options for word in option], *options):
        assert door([*run, *given]) == 2
        (error,) = capsys.readouterr().err.strip().splitlines()
        named = [word for word in error.replace(",", " ").replace(":", " ").split("there is none")[0].split() if word[:2] == "--"]
        assert named == [word for word in given if word[:2] == "--"] and not (tmp_path / "out").exists()


def test_a_sampled_picture_is_guided_as_an_edit_and_drawn_with_the_boxes_that_it_was_made_with(
    checkpoint, door, tmp_path, capsys, monkeypatch
):
    drawn = []
    monkeypatch.setattr(plots, "draw_graph", lambda graph: drawn.append(graph) or Image.new("RGB", (9, 9)))
    monkeypatch.setattr("ldm.sampling.sample.default_layout", lambda model: "search")
    contrary = SceneGraph(("circle", "square"), triples=((0, "left of", 1), (1, "left of", 0)))
    write_graphs(tmp_path / "edited.json", [contrary])
    run = ["--ckpt", str(checkpoint), "--steps", "2", "--device", "cpu", "--outdir", str(tmp_path / "out"), "--seed", str(2**70)]
    assert door(["--sg", str(tmp_path / "edited.json"), *run]) == 0
    told, complaint = apply_layout(contrary, 2**70, SampleOptions(layout="search"))
    assert drawn == [told] and all(told.boxes)
    assert complaint and complaint in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["settings"]["graph_scale"] == record["settings"]["style_scale"] == GUIDANCE
    settings = SampleOptions(2, graph_scale=GUIDANCE, style_scale=GUIDANCE, sampler="dpm++")
    (picture,) = sample_images(load_model(checkpoint), [told], [2**70], settings)
    assert np.array_equal(Image.open(tmp_path / "out" / "edited.png"), picture)


@pytest.mark.parametrize(
    "graph, arguments, sentence",
    [
        ({"objects": ["cirle"]}, [], "'circle'"),
        ({"objects": ["circle"], "relationships": [[0, "above", 3]]}, [], "relationships[0]"),
        ([{"objects": ["circle"]}] * 2, [], "2 graphs"),
        ({"objects": ["circle"] * 30}, [], "30 objects"),
        ({"objects": ["circle"]}, ["--ref", "nowhere.png"], "nowhere.png"),
        ({"objects": ["circle"]}, ["--ckpt", "nowhere"], "nowhere"),
        ({"objects": ["circle"]}, ["--steps", "0"], "0 steps of a schedule"),
        ({"objects": ["circle"]}, ["--device", "gpu7"], "gpu7"),
        ({"objects": ["circle"]}, ["--style", "nowhere.png"], "nowhere.png"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(checkpoint, door, tmp_path, capsys, graph, arguments, sentence):
    (tmp_path / "edited.json").write_text(json.dumps(graph))
    run = ["--ckpt", str(checkpoint), "--steps", "2", "--device", "cpu", "--outdir", str(tmp_path / "out")]
    assert door(["--sg", str(tmp_path / "edited.json"), *run, *arguments]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and sentence in errors[0]
    assert not (tmp_path / "out").exists()


def test_an_edit_deletes_nothing_but_an_earlier_edits_reconstruction(checkpoint, scene, door, tmp_path):
    scene[0].save(tmp_path / "photo.png")
    write_graphs(tmp_path / "edited.json", [scene[1]])
    run = ["--ckpt", str(checkpoint), "--steps", "2", "--device", "cpu", "--outdir", str(tmp_path)]
    assert door(["--sg", str(tmp_path / "edited.json"), "--ref", str(tmp_path / "photo.png"), *run]) == 0
    assert (tmp_path / "reconstruction.png").exists()
    assert door(["--sg", str(tmp_path / "edited.json"), *run]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "photo.png", "edited.json", "edited.png", "panel.png", "record.json",
    }  # fmt: skip
