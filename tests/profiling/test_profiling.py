"""The speed benchmark: its numbers mean what it says, diffusers' U-Net is ours, and it runs from end to end."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.profiling import diffusers_peer, edit, sections, timing, train_step, unet
from ldm.profiling import measure as group
from ldm.profiling.measure import Group, Way, measure, peak_memory, resident_peak
from ldm.profiling.report import profiles, table
from ldm.profiling.setting import SIZES, Setting
from ldm.profiling.timing import Spread
from ldm.util.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
needs_diffusers = pytest.mark.skipif(not diffusers_peer.available(), reason="diffusers is not installed")
BODY = {
    "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [2, 1],
    "num_res_blocks": 1, "channel_mult": [1, 2, 2], "context_dim": 24,
}  # fmt: skip


def door():
    spec = importlib.util.spec_from_file_location("benchmark_door", ROOT / "scripts/benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_spread_is_the_median_and_its_quartiles():
    assert Spread.of([5, 1, 2, 4, 3]) == (3, 2, 4)


def test_ways_run_in_turns_each_round_from_another_one_on():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = timing.interleaved(runs, 3, "cpu")
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_taken_within_each_round():
    """The machine was twice as slow in the second round, which the ratio does not notice."""
    assert timing.times_as_fast([1.0, 2.0, 1.0], than=[3.0, 6.0, 3.0]) == (3, 3, 3)


def test_operations_are_counted_twice_per_product_and_also_of_what_is_compiled():
    layer, x = nn.Linear(5, 7, bias=False), torch.randn(3, 5)
    assert timing.flops(lambda: layer(x)) == {"aten.mm": 2 * 3 * 5 * 7}
    layer.compile(backend="eager")
    assert timing.flops(lambda: layer(x)) == {"aten.mm": 2 * 3 * 5 * 7}


def test_the_peak_is_a_rate_that_products_reach(monkeypatch):
    monkeypatch.setattr(timing, "LONG_ENOUGH", 0)
    assert 1e6 < timing.peak_flops(torch.float32, "cpu", 1) < 1e16


def test_a_row_tells_speed_ratio_and_share_of_the_peak(monkeypatch):
    a, b, clock = torch.randn(40, 30), torch.randn(30, 20), [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def taking(seconds):
        def product():
            clock[0] += seconds
            return a @ b

        return lambda: product

    ways = {"plain": Way(taking(0.5)), "fast": Way(taking(0.125)), "theirs": Way(taking(0.25), peer=True)}
    plain, fast, theirs = measure(Group("product", 2, ways), Setting(repeats=3), {"fp32": 1e9})
    assert plain.seconds.median == 0.25 and plain.against_plain is None  # of one of the two
    assert fast.against_plain.median == 4 and fast.against_peer.median == 2 and theirs.against_peer is None
    assert fast.flops == 2 * 40 * 30 * 20 / 2
    assert fast.share == pytest.approx(fast.flops / fast.seconds.median / 1e9)
    assert table([plain, fast]).count("\n") == 3


@pytest.mark.parametrize(
    "operation, expected",
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::_slow_conv2d_forward", "convolutions"),
        ("aten.convolution_backward", "convolutions, backward"),
        ("ConvolutionBackward0", "convolutions, backward"),
        ("aten._scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention, backward"),
        ("aten::addmm", "linear layers"),
        ("aten.mm", "linear layers"),
        ("aten::native_group_norm_backward", "norms"),
        ("aten::silu", "the rest"),
    ],
)
def test_operations_are_known_by_their_names(operation, expected):
    assert timing.kind(operation) == expected


def test_a_profile_is_of_all_the_time_and_of_all_that_was_counted():
    x, weight = torch.randn(200, 200), torch.randn(8, 1, 9, 9)

    def run():
        return (x @ x).exp(), torch.nn.functional.conv2d(x[None, None], weight)

    (row,) = measure(Group("work", 2, {"plain": Way(lambda: run)}), Setting(repeats=1), {"fp32": 1e12}, profiled=True)
    assert set(row.parts) == {"linear layers", "convolutions", "the rest"}
    assert sum(part.time for part in row.parts.values()) == pytest.approx(1)
    assert row.parts["linear layers"].flops == 2 * 200**3 / 2 and row.parts["the rest"].flops == 0
    assert row.parts["convolutions"].flops == 2 * 8 * 81 * 192**2 / 2
    shown = profiles([row], {"fp32": 1e12})
    assert shown.count("\n") == 2 and profiles([replace(row, parts=None)], {}) == ""


def test_a_profile_alone_is_of_a_step_and_of_forward_and_backward():
    assert door().parse(["--only", "profile"]).only == ("backward", "step", "profile")
    assert door().parse(["--only", "edit,profile"]).only == ("edit", "profile")


def test_ways_that_do_not_do_the_same_are_not_timed():
    ways = {"plain": Way(lambda: lambda: torch.ones(2)), "wrong": Way(lambda: lambda: torch.full((2,), 1.01))}
    with pytest.raises(UserError, match="wrong is not plain: they differ by 1.0e-02"):
        measure(Group("numbers", 1, ways, unet.agreement), Setting(repeats=1), {})


def holding(setting):
    """Ways that hold nothing, and 400 MB."""
    return Group(
        "memory", 1, {"none": Way(lambda: lambda: None), "much": Way(lambda: lambda: torch.ones(100_000_000).sum())}
    )


def test_a_peak_is_of_that_way_alone_and_not_of_the_process_that_asks():
    """To 40 MB, which is what a process's own start may vary by."""
    torch.ones(400_000_000).sum()  # 1.6 GB more than this process and that one need to begin with
    none, much = (peak_memory(holding, way, Setting()) for way in ("none", "much"))
    assert none < resident_peak() - 1e9
    assert much - none == pytest.approx(400e6, abs=40e6)


def test_a_peak_is_of_a_process_that_keeps_what_is_freed_as_training_does(monkeypatch):
    kept, threads = [], torch.get_num_threads()
    monkeypatch.setattr(group, "keep_freed_memory", lambda: kept.append(True))
    assert measure._peak(holding, "none", Setting(threads=threads)) > 0 and kept == [True]


@pytest.mark.parametrize("together", [True, False])
def test_processes_that_are_apart_begin_at_the_same_time_too(tmp_path, monkeypatch, together):
    order = []
    monkeypatch.setattr(train_step.dist, "barrier", lambda: order.append("barrier"))
    monkeypatch.setattr(train_step, "interleaved", lambda *given: order.append("timed") or {"step": [0.5, 0.5]})
    monkeypatch.setattr(train_step.torch, "set_num_threads", lambda count: None)
    assert train_step._rate(Setting(batch=1), 0, 1, f"file://{tmp_path}/meet", together) == 2
    assert order == ["barrier", "timed"]


@needs_diffusers
@pytest.mark.parametrize("heads", [{"num_head_channels": 16}, {"num_heads": 2, "legacy": False}])
def test_diffusers_unet_of_the_same_shape_gives_our_numbers_with_our_weights(heads):
    """To 1e-5; with padded tokens, and levels with and without attention."""
    params = {**BODY, **heads}
    ours = UNetModel(**params).requires_grad_(False)
    theirs = diffusers_peer.Told(diffusers_peer.like(ours, params))
    cond = Conditioning.of(torch.randn(2, 5, 24))._replace(mask=torch.tensor([[True] * 3 + [False] * 2, [True] * 5]))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 500])
    torch.testing.assert_close(theirs(x, t, cond), ours(x, t, cond), rtol=1e-5, atol=1e-5)


@needs_diffusers
def test_training_is_compared_with_diffusers_unet_on_the_same_cache():
    """Not with one that encodes the images in each step, which is here as well."""
    ways = train_step.step(Setting(precisions=("fp32", "bf16"))).ways
    first = {way.precision: name for name, way in reversed(ways.items()) if way.peer}
    assert first == {"fp32": "diffusers, cached", "bf16": "diffusers, cached, bf16"} and "diffusers" in ways
    assert torch.isfinite(train_step.step(Setting(batch=1)).ways["diffusers, cached"].build()())


@needs_diffusers
def test_an_edit_is_compared_with_the_plain_loop_on_diffusers_unet():
    """As many evaluations, of the same sizes: our adapters and one addition are what makes the counts differ, by 2 %."""
    ways = edit.edits(Setting(steps=1, precisions=("fp32", "bf16"))).ways
    assert [name for name, way in ways.items() if way.peer] == ["diffusers", "diffusers, bf16"]
    plain, theirs = (sum(timing.flops(ways[name].build()).values()) for name in ("plain", "diffusers"))
    assert theirs == pytest.approx(plain, rel=0.02)


@pytest.mark.parametrize("make", [unet.forward, unet.backward])
def test_winograds_convolutions_are_measured_where_training_has_them(make):
    names = {device: set(make(Setting(device=device, precisions=("fp32", "bf16"))).ways) for device in ("cpu", "meta")}
    assert names["cpu"] - names["meta"] == {"Winograd"} and names["meta"] < names["cpu"]


@pytest.mark.parametrize("make", [unet.forward, unet.backward])
def test_what_is_called_plain_is_the_u_net_as_it_was_written(make, monkeypatch):
    touched = []
    monkeypatch.setattr(unet, "skip_saving_inputs", lambda body: touched.append("forget"))
    monkeypatch.setattr(unet, "cast_frozen_weights", lambda dtype, body: touched.append(dtype))
    ways = make(Setting(precisions=("fp32", "bf16"))).ways
    plain = {name: way for name, way in ways.items() if "plain" in name}
    for way in plain.values():
        way.build()
    assert list(plain) == ["plain"] and not touched
    assert "contiguous, bf16" in ways


@pytest.mark.parametrize("precisions", [("fp32",), ("fp32", "bf16")])
def test_the_fused_kernel_of_a_gpu_is_one_for_half_precision(precisions):
    names = {
        device: set(unet.attention(Setting(device=device, precisions=precisions)).ways) for device in ("cpu", "cuda")
    }
    assert names["cpu"] - names["cuda"] == {"fp32 fused", "bf16, fused in fp32"} & names["cpu"]
    assert {f"{precision} in full" for precision in precisions} <= names["cuda"]


def test_a_body_that_diffusers_has_not_is_refused():
    with pytest.raises(UserError, match="coordinates"):
        diffusers_peer.config_of({**BODY, "num_heads": 2, "coordinates": 4})


@pytest.mark.parametrize("size", SIZES)
def test_each_size_has_its_configs_shapes_and_random_weights(size):
    params = Setting(size).params
    assert params["init"] == params["first_stage_config"]["params"]["init"] == "random"
    assert params["unet_config"]["params"]["model_channels"] == {"small": 32, "vg": 256, "sd1": 320}[size]


def test_the_script_writes_a_table_and_its_numbers(tmp_path, capsys):
    flags = ["--only", "optimizer,attention", "--repeats", "2", "--precision", "fp32", "--batch-size", "1"]
    assert door().main([*flags, "--device", "cpu", "--out", str(tmp_path)]) == 0
    printed, record = capsys.readouterr().out, json.loads((tmp_path / "speed.json").read_text())
    assert "| AdamW | fused |" in printed and (tmp_path / "speed.md").read_text().strip() in printed
    assert {(row["group"], row["way"]) for row in record["rows"]} >= {("AdamW", "plain"), ("AdamW", "fused")}
    assert record["peaks"]["fp32"] > 0 and record["machine"]["size"] == "small"


def test_memory_alone_is_of_a_step_and_of_an_edit():
    assert door().parse(["--only", "memory"]).only == ("step", "edit", "memory")
    assert door().parse(["--only", "edit,memory"]).only == ("edit", "memory")


def test_a_way_has_a_peak_where_memory_is_asked_for(monkeypatch):
    monkeypatch.setitem(sections.GROUPS, "step", [holding])
    monkeypatch.setitem(sections.GROUPS, "unet", [holding])
    monkeypatch.setattr(sections, "peak_memory", lambda make, way, setting: len(way))
    rows = sections.rows_of(("step", "unet", "memory"), Setting(repeats=1), {})
    assert [(row.way, row.memory) for row in rows] == [("none", 4), ("much", 4), ("none", None), ("much", None)]
    assert [row.memory for row in sections.rows_of(("step",), Setting(repeats=1), {})] == [None, None]


def test_scaling_on_a_gpu_is_said_to_be_left_out():
    assert "scaling is left out" in sections.remarks(("scaling",), Setting(device="cuda"))[0]
    assert sections.remarks(("scaling",), Setting()) == []


@pytest.mark.slow
def test_every_section_runs(tmp_path):
    flags = ["--repeats", "1", "--steps", "2", "--precision", "fp32", "--batch-size", "1", "--out", str(tmp_path)]
    assert door().main([*flags, "--device", "cpu", "--threads", "1"]) == 0
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    groups = {row["group"].split(",")[0] for row in rows}
    assert groups >= {"U-Net forward", "U-Net forward + backward", "training step", "edit", "first stage encodes"}
    peaks = [row["memory"] for row in rows if row["group"] in ("training step", "edit")]
    assert len(set(peaks)) == len(peaks)


@pytest.mark.parametrize("flags", [["--only", "nothing"], ["--repeats", "0"]])
def test_a_mistake_is_answered_in_one_sentence(flags, capsys):
    with pytest.raises(SystemExit) as exit:
        door().main(flags)
    assert exit.value.code == 2 and "error" in capsys.readouterr().err


def test_help_does_not_load_torch():
    code = (
        "import sys, runpy\ntry: runpy.run_path('scripts/benchmark.py', run_name='__main__')\nexcept SystemExit: pass\n"
    )
    code += "assert not {'torch', 'diffusers'} & set(sys.modules)"
    run = [sys.executable, "-c", code, "--help"]
    out = subprocess.run(
        run, cwd=ROOT, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    ).stdout
    assert "--only" in out
