"""An edit step by step and as a whole, with a tiny model whose adapters have an effect."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model

from ldm.editing.attention import appearance_control
from ldm.editing.diagnostics import round_trip_error
from ldm.editing.options import FAST_METHODS, RESTYLE_PASSES, EditOptions, EditRequest
from ldm.editing.pipeline import compose, describe_source, edit, invert, locate, sample, variants
from ldm.editing.plan import make_plan, make_schedule
from ldm.editing.region import Region
from ldm.graph.batch import encode
from ldm.graph.diff import diff
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion import inversion
from ldm.models.diffusion.dpm_solver import make_schedule as make_dpm_schedule
from ldm.models.diffusion.inversion import ANY_SAMPLER, METHODS
from ldm.models.diffusion.samplers import SAMPLERS
from ldm.models.loading import load_model
from ldm.models.preprocess import to_model_input
from ldm.util.errors import UserError


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)


def edit_with(
    model,
    photograph,
    graph,
    source=None,
    style=None,
    mask=None,
    previews=0,
    attention=False,
    reconstruction=False,
    **options,
):
    request = EditRequest(photograph, graph, source, style, mask)
    return edit(model, request, EditOptions(**options), previews, attention, reconstruction)


@pytest.fixture
def calls(model):
    """Number of rows of each call of the U-Net."""
    rows = []
    hook = model.unet.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    yield rows
    hook.remove()


# The steps -----------------------------------------------------------------------------------------------------------


def test_the_steps_called_one_by_one_give_the_edit(model, scene):
    photograph, graph, other = scene
    options = EditOptions(steps=3)
    request = EditRequest(photograph, other, graph)
    plan = make_plan(request, options, model)
    with torch.no_grad():
        source = invert(describe_source(model, plan, make_schedule(model, plan.options)), plan)
        region = locate(source, plan)
        image = compose(photograph, model.decode(sample(model, source, region, plan)), region)
    whole = edit(model, request, options)
    difference = np.asarray(image, int) - np.asarray(whole.image)  # here LoRA is not merged into the weights
    assert abs(difference).max() <= 1 and region.pixels.tolist() == whole.region.tolist()


def test_an_edit_samples_what_the_branches_of_guidance_give_one_by_one(model, scene, monkeypatch):
    photograph, graph, other = scene
    latents, decode = [], type(model).decode
    monkeypatch.setattr(type(model), "decode", lambda self, z: latents.append(z) or decode(self, z))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    edit_with(model, photograph, other, graph, sampler="ddim", steps=3, seed=4, graph_scale=2.0, style_scale=3.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    with torch.no_grad():
        image = to_model_input(model, photograph)
        z0, cond = model.encode(image), model.condition(encode([other], model.vocab), image)
        noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(4))
        region, all_rows = Region.of(diff(graph, other), (8, 8), photograph.size).latent, torch.tensor([True])
        a0 = model.schedule.alphas_cumprod[0]
        levels = [int(t) for t in model.schedule.ddim(3).timesteps]

        def noised_source(t):
            a = model.schedule.alphas_cumprod[t] / a0 if t else torch.ones(())
            return (a**0.5 * z0 + (1 - a) ** 0.5 * noise).float()

        x = noised_source(levels[-1])
        for t, following in zip(levels[::-1], [*levels[-2::-1], 0]):
            at = torch.tensor([t])
            neither = model.unet(x, at, cond.drop(all_rows, all_rows, model.null()))
            graph_only = model.unet(x, at, cond.drop(~all_rows, all_rows, model.null()))
            eps = neither + 2 * (graph_only - neither) + 3 * (model.unet(x, at, cond) - graph_only)
            a, b = model.schedule.alphas_cumprod[t], model.schedule.alphas_cumprod[following]
            x = (b**0.5 * (x - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps).float()
            x = region * x + (1 - region) * noised_source(following)
    assert (latents[0] - x).abs().max() < 1e-5 * x.abs().max()


def test_each_step_is_one_call_with_a_row_for_each_branch_that_has_a_weight(model, scene, calls):
    photograph, graph, other = scene
    for options, expected in (
        ({}, [2] * 4),
        ({"graph_scale": 1.0, "style_scale": 1.0}, [1] * 4),
        ({"graph_scale": 1.0, "style_scale": 3.0}, [2] * 4),
        ({"graph_scale": 2.0, "style_scale": 3.0}, [3] * 4),
        ({"interval": (0.4, 1.0)}, [2, 2, 1, 1]),
        ({"strength": 0.5}, [2] * 2),
        ({"region": "none", "method": "ddim"}, [1] * 4 + [2] * 4),
        ({"region": "none", "method": "ddim", "strength": 0.5}, [1] * 2 + [2] * 2),
        ({"region": "none"}, [1] * 4 + [4] * 4),  # direct: source and target in one batch
        ({"region": "none", "method": "ddpm"}, [4] * 4),
        ({"region": "none", "keep": True}, [1] * 4 + [4] * 4),
        ({"region": "none", "graph_scale": 1.0, "style_scale": 1.0}, [1] * 4 + [2] * 4),
        ({"region": "none", "sampler": "dpm++"}, [1] * 4 + [4] * 4),
    ):
        calls.clear()
        edit_with(model, photograph, other, graph, steps=4, **options)
        assert calls == expected, options


# Region --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"region": "none"}, {"mask": Image.new("L", (9, 9), 255)}, {"method": "ddim"}])
def test_an_edit_that_changes_nothing_returns_the_photograph(model, scene, options):
    photograph, graph, _ = scene
    result = edit_with(model, photograph, graph, graph, steps=3, **options)
    assert result.image.tobytes() == photograph.tobytes()
    assert not result.plan.operations and not result.region.any()


def test_removing_a_relation_alone_changes_no_pixel(model, scene):
    photograph, graph, _ = scene
    result = edit_with(model, photograph, replace(graph, triples=graph.triples[1:]), graph, steps=3)
    assert result.plan.operations and result.image.tobytes() == photograph.tobytes()


@pytest.mark.filterwarnings("ignore:fixed-point inversion")
@pytest.mark.parametrize("method", METHODS)
def test_outside_the_region_every_pixel_is_the_photographs_with_every_method(model, scene, method):
    photograph, graph, other = scene
    result = edit_with(model, photograph, other, graph, method=method, steps=2)
    before, after = np.asarray(photograph), np.asarray(result.image)
    outside = result.region == 0
    assert 0 < outside.sum() < outside.size
    assert (before[outside] == after[outside]).all() and (before != after).any()


def test_the_region_is_the_mask_wherever_the_operations_are(model, scene):
    photograph, graph, other = scene
    mask = Image.new("L", photograph.size)
    mask.paste(255, (0, 0, 20, 30))
    result = edit_with(model, photograph, other, graph, mask=mask, steps=2)
    changed = (np.asarray(photograph) != np.asarray(result.image)).any(-1)
    assert changed[:, :20].any() and not changed[:, 20:].any()
    assert edit_with(model, photograph, other, mask=mask, steps=2).region.tolist() == result.region.tolist()
    with pytest.raises(UserError, match="black"):
        edit_with(model, photograph, other, graph, mask=Image.new("L", (4, 4)), steps=2)


def test_without_boxes_the_region_is_where_the_unet_attends_to_the_object(model, scene):
    photograph, graph, other = scene
    bare = [replace(g, boxes=(None,) * len(g.objects)) for g in (graph, other)]
    result = edit_with(model, photograph, bare[1], bare[0], steps=2)
    assert result.attention.shape[0] == len(graph.objects)
    assert 0 < result.region.mean() < 1
    assert edit_with(model, photograph, other, graph, steps=2).attention is None
    assert edit_with(model, photograph, other, graph, steps=2, attention=True).attention is not None


def test_a_margin_wider_than_the_image_makes_the_region_full(model, scene):
    bare = [replace(graph, boxes=(None,) * len(graph.objects)) for graph in scene[1:]]
    for graph, other in (scene[1:], bare):
        assert edit_with(model, scene[0], other, graph, steps=1, margin=1e300).region.min() > 0.999


def test_without_a_region_or_with_a_style_everything_may_change(model, scene):
    photograph, graph, other = scene
    red = Image.new("RGB", (40, 60), "red")
    for edited, source, options in (
        (other, graph, {"region": "none"}),
        (graph, graph, {"style": red}),
        (other, None, {}),
    ):
        result = edit_with(model, photograph, edited, source, steps=2, **options)
        assert (result.region == 1).all() and result.image.tobytes() != photograph.tobytes()


# Images, seeds, samplers ---------------------------------------------------------------------------------------------


def test_images_may_have_any_mode_and_transparent_parts_of_a_mask_are_black(model, scene):
    photograph, graph, other = scene
    mask = Image.new("L", photograph.size)
    mask.paste(255, (0, 0, 20, 30))
    plain = edit_with(model, photograph, other, graph, photograph, mask, steps=2)
    transparent = Image.new("RGBA", photograph.size, (255, 255, 255, 0))
    transparent.paste((255, 255, 255, 255), (0, 0, 20, 30))
    rgba = photograph.convert("RGBA")
    same = edit_with(model, rgba, other, graph, rgba, transparent, steps=2)
    assert same.image.mode == "RGB" and same.image.tobytes() == plain.image.tobytes()
    assert edit_with(model, rgba, graph, graph, steps=2).image.tobytes() == photograph.tobytes()


def test_an_edit_has_the_size_of_its_photograph_whatever_that_is(model, scene):
    photograph, graph, other = scene
    for size in ((50, 30), (31, 97), (7, 5)):
        result = edit_with(model, photograph.resize(size), other, graph, reconstruction=True, steps=1)
        assert result.image.size == result.reconstruction.image.size == result.region.shape[::-1] == size


def test_a_seed_repeats_an_edit_and_another_seed_gives_another(model, scene):
    photograph, graph, other = scene
    one, two = variants(2, model, EditRequest(photograph, other, graph), EditOptions(steps=2))
    assert one.image.tobytes() != two.image.tobytes()
    assert edit_with(model, photograph, other, graph, steps=2, seed=1).image.tobytes() == two.image.tobytes()


@pytest.mark.parametrize("options, known", [({"method": "ddim"}, True), ({"region": "none"}, True), ({}, False)])
def test_variants_of_a_method_without_noise_are_refused_before_the_first_edit(model, scene, calls, options, known):
    request = EditRequest(scene[0], scene[2], scene[1] if known else None)
    with pytest.raises(UserError, match="noise"):
        variants(2, model, request, EditOptions(steps=2, **options))
    assert calls == []


def test_any_whole_number_is_a_seed(model, scene):
    photograph, graph, other = scene
    seeds = (1, 2**70 + 1, 1 - 2**64, -1)
    one, big, negative, last = (
        edit_with(model, photograph, other, graph, steps=1, seed=s).image.tobytes() for s in seeds
    )
    assert one == big == negative != last


@pytest.mark.parametrize("method", ANY_SAMPLER)
def test_an_edit_by_the_second_order_sampler_changes_the_region_and_nothing_else(model, scene, method):
    photograph, graph, other = scene
    result = edit_with(model, photograph, other, graph, method=method, sampler="dpm++", steps=4)
    outside, changed = result.region == 0, (np.asarray(photograph) != np.asarray(result.image)).any(-1)
    assert changed.any() and not changed[outside].any()
    assert (result.settings["sampler"], result.settings["steps"]) == ("dpm++", 4)
    if method == "direct":
        assert round_trip_error(result.source) < 1e-4
    first_order = edit_with(model, photograph, other, graph, method=method, sampler="ddim", steps=4)
    assert first_order.image.tobytes() != result.image.tobytes()


def test_each_sampler_has_its_own_number_of_steps_and_strength_is_a_share_of_the_timesteps(model, scene, calls):
    photograph, graph, other = scene
    options = {"sampler": "dpm++", "graph_scale": 1.0, "style_scale": 1.0}
    result = edit_with(model, photograph, other, graph, **options)
    assert result.settings["steps"] == len(calls) == SAMPLERS["dpm++"].default_steps < SAMPLERS["ddim"].default_steps
    calls.clear()
    edit_with(model, photograph, other, graph, **options, steps=10, strength=0.5)
    timesteps = make_dpm_schedule(model.schedule, 10).timesteps
    assert len(calls) == int((timesteps <= 500).sum()) == 5


def test_the_default_sampler_is_ddim_for_methods_made_of_its_steps_and_dpm_for_the_others(model, scene):
    request = EditRequest(scene[0], scene[2], scene[1])
    for method in METHODS:
        sampler = make_plan(request, EditOptions(method=method), model).options.sampler
        assert sampler == ("dpm++" if method in ("noise", "direct") else "ddim"), method
    assert set(FAST_METHODS) <= set(ANY_SAMPLER)


@pytest.mark.parametrize("method", ["null", "fixed-point", "bdia", "ddpm"])
def test_methods_made_of_ddim_steps_are_refused_with_the_second_order_sampler(model, scene, method):
    with pytest.raises(UserError, match="ddim"):
        edit_with(model, scene[0], scene[2], scene[1], sampler="dpm++", method=method)


@pytest.mark.parametrize("steps", [0, 5000])
def test_more_or_fewer_steps_than_there_are_timesteps_are_refused(model, scene, steps):
    with pytest.raises(UserError, match=str(steps)):
        edit_with(model, scene[0], scene[2], scene[1], steps=steps)


def test_the_graph_and_the_style_both_change_the_edit(model, scene):
    photograph, graph, other = scene
    replaced = edit_with(model, photograph, other, graph, steps=5)
    restyled = edit_with(model, photograph, graph, graph, Image.new("RGB", (40, 60), "red"), steps=5)
    assert len({photograph.tobytes(), replaced.image.tobytes(), restyled.image.tobytes()}) == 3


def test_a_model_without_an_image_encoder_edits_but_refuses_a_style(scene):
    photograph, graph, other = scene
    model = tiny_model(global_stage_config=None).eval().requires_grad_(False)
    assert edit_with(model, photograph, other, graph, steps=2).image.tobytes() != photograph.tobytes()
    with pytest.raises(UserError, match="image encoder"):
        edit_with(model, photograph, other, graph, photograph, steps=2)


# Passes and appearance -----------------------------------------------------------------------------------------------


def test_a_second_pass_starts_from_the_result_of_the_first_and_does_not_reencode_its_objects(model, scene, monkeypatch):
    photograph, graph, other = scene
    options = {"style": Image.new("RGB", (40, 40), (240, 90, 20)), "steps": 2}
    started, results, direct, resample = [], [], inversion.METHODS["direct"], inversion.resample
    monkeypatch.setitem(
        inversion.METHODS, "direct", lambda s, t, x0, *a, **k: started.append(x0) or direct(s, t, x0, *a, **k)
    )
    monkeypatch.setattr(inversion, "resample", lambda *a, **k: results.append(resample(*a, **k)) or results[-1])
    boxes = ((0, 0, 0.5, 0.5), *[None] * (len(graph.objects) - 1))
    graph, other = replace(graph, boxes=boxes), replace(other, boxes=boxes)
    twice = edit_with(model, photograph, other, graph, previews=2, **options)
    assert len(started) == len(results) == 2 and len(twice.previews) == 4
    encoded = model.encode(model.decode(results[0]).clamp(-1, 1))
    assert torch.equal(started[1][..., :4, :4], results[0][..., :4, :4])
    assert not torch.equal(encoded[..., :4, :4], results[0][..., :4, :4])
    assert torch.equal(started[1][..., 4:, :], encoded[..., 4:, :])
    assert torch.equal(started[1][..., 4:], encoded[..., 4:])
    once = edit_with(model, photograph, other, graph, passes=1, **options)
    assert torch.equal(results[0], results[2]) and once.image.tobytes() != twice.image.tobytes()


def test_only_a_style_transferred_by_direct_inversion_takes_several_passes_by_default(model, scene):
    photograph, graph, other = scene
    mask = Image.new("L", (9, 9), 255)

    def passes(style=None, mask=None, **options) -> int:
        request = EditRequest(photograph, other, graph, style, mask)
        return make_plan(request, EditOptions(**options), model).options.passes

    assert passes(photograph) == RESTYLE_PASSES == 2
    assert passes(photograph, mask) == passes(photograph, method="ddim") == passes() == passes(passes=3) == 1
    assert passes(photograph, passes=3) == 3


def test_keep_attends_to_the_source_where_something_moves_and_costs_nothing_elsewhere(model, scene):
    photograph, graph, other = scene
    graph, other = replace(graph, triples=()), replace(other, triples=())
    box = graph.boxes[0]
    dx = 0.25 if box[2] <= 0.75 else -0.25
    moved = replace(graph, boxes=((box[0] + dx, box[1], box[2] + dx, box[3]), *graph.boxes[1:]))
    calls = []
    hook = model.unet.register_forward_hook(
        lambda module, inputs, out: calls.append((len(inputs[0]), len(inputs) == 4))
    )
    kept = [edit_with(model, photograph, g, graph, steps=1, keep=True).settings["keep"] for g in (moved, other, graph)]
    hook.remove()
    assert calls == [(4, True), (2, False)]  # two branches of guidance; with or without attention control
    assert kept == [True, False, False]


def test_moved_objects_attend_to_their_old_place_and_removed_or_replaced_ones_are_hidden():
    boxes = tuple((x, 0.0, x + 0.25, 0.25) for x in (0.0, 0.25, 0.5, 0.75))
    objects, ids = ("circle", "square", "triangle", "circle"), tuple("abcd")
    before = SceneGraph(objects, boxes, ids=ids)
    new = (0.0, 0.5, 0.5, 1.0)
    after = SceneGraph(("circle", "square", "square"), (new, boxes[2], boxes[3]), ids=("a", "c", "d"))
    control = appearance_control(tiny_model(), before, after, diff(before, after), everywhere=False, restyled=False)
    ((_, _, mutual, tokens),) = control.pairs
    assert set(mutual.shifts) == {(boxes[0], new), (boxes[1], None), (boxes[2], None), (boxes[3], None)}
    assert tokens is None  # token injection is for edits without a region
    assert mutual.blend[0, 4] == 0 and mutual.blend[4, 0] == 1  # the place of a replaced object attends to itself


# Diagnostics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["direct", "ddpm", "bdia"])
def test_exact_methods_reconstruct_the_latent(model, scene, method):
    photograph, graph, other = scene
    again = edit_with(model, photograph, other, graph, method=method, steps=3, reconstruction=True).reconstruction
    assert again.round_trip_error < 1e-4 and again.psnr == pytest.approx(again.psnr_autoencoder, abs=0.1)


def test_the_round_trip_of_fixed_point_inversion_is_within_a_thousandth(checkpoint, scene):
    photograph, graph, other = scene
    model = load_model(checkpoint)
    for parameter in model.unet.out.parameters():
        parameter *= 0.1  # a random U-Net magnifies small changes of its input as no trained one does
    again = edit_with(
        model, photograph, other, graph, method="fixed-point", steps=20, reconstruction=True
    ).reconstruction
    assert again.round_trip_error < 1e-3
    assert abs(again.psnr - again.psnr_autoencoder) < 0.1


def test_a_reconstruction_is_sampled_only_on_request_and_does_not_change_the_edit(model, scene, calls):
    photograph, graph, other = scene
    options = {"steps": 3, "method": "ddim"}
    quick, full = (edit_with(model, photograph, other, graph, reconstruction=r, **options) for r in (False, True))
    assert quick.image.tobytes() == full.image.tobytes() and quick.reconstruction is None
    calls.clear()
    assert round_trip_error(quick.source) == pytest.approx(full.reconstruction.round_trip_error) and len(calls) == 3
    assert round_trip_error(edit_with(model, photograph, other, graph, steps=3).source) is None


def test_an_edit_that_inverts_nothing_has_no_psnr_of_an_inversion(model, scene):
    photograph, graph, other = scene
    for edited in (graph, other):  # nothing to do, and the method noise
        again = edit_with(model, photograph, edited, graph, steps=2, reconstruction=True).reconstruction
        assert again.psnr is None and again.round_trip_error is None and again.psnr_autoencoder > 0


def test_without_a_source_graph_the_reconstruction_does_not_depend_on_the_edited_graph(model, scene):
    photograph, graph, other = scene
    one, two = (edit_with(model, photograph, g, reconstruction=True, steps=2) for g in (graph, other))
    assert one.reconstruction.image.tobytes() == two.reconstruction.image.tobytes()
    assert one.image.tobytes() != two.image.tobytes()


def test_previews_approach_the_edit_and_change_nothing(model, scene):
    photograph, graph, other = scene
    plain, watched = (edit_with(model, photograph, other, graph, steps=4, previews=count) for count in (0, 3))
    assert len(watched.previews) == 3 and watched.image.tobytes() == plain.image.tobytes()
    distances = [np.abs(np.asarray(p, float) - np.asarray(watched.image)).mean() for p in watched.previews]
    assert distances[-1] < distances[0]


def test_who_watches_an_edit_sees_every_step_and_changes_nothing(model, scene):
    photograph, graph, other = scene
    request, options, seen = EditRequest(photograph, other, graph), EditOptions(steps=4), []
    watched = edit(model, request, options, previews=4, watch=lambda x0, region: seen.append((x0, region)))
    plain = edit(model, request, options)
    assert watched.image.tobytes() == plain.image.tobytes() and len(seen) == 4
    for (x0, region), preview in zip(seen, watched.previews, strict=True):
        assert compose(photograph, model.decode(x0), region).tobytes() == preview.tobytes()


def test_an_exception_of_who_watches_ends_an_edit_at_that_step(model, scene, calls):
    photograph, graph, other = scene

    def stop(x0, region):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        edit(
            model, EditRequest(photograph, other, graph), EditOptions(steps=4, graph_scale=1, style_scale=1), watch=stop
        )
    assert len(calls) == 1


def test_a_model_is_loaded_with_the_averages_of_its_checkpoint(checkpoint, model):
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, parameter in model.named_parameters():
        if name in saved:
            torch.testing.assert_close(parameter, saved["model_ema." + name.replace(".", "/")])
