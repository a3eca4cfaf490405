import json
from dataclasses import replace

import pytest
import torch

from ldm.profiling import timing
from ldm.profiling.measure import Comparison, Variant, measure
from ldm.profiling.report import from_json, profile_table, speed_table, to_json
from ldm.profiling.unet import check_agreement
from ldm.profiling.workload import Workload
from ldm.util.errors import UserError


def test_a_measurement_has_time_speedups_and_share_of_the_peak(monkeypatch):
    a, b, clock = torch.randn(40, 30), torch.randn(30, 20), [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def taking(seconds):
        def product():
            clock[0] += seconds
            return a @ b

        return lambda: product

    variants = {"plain": Variant(taking(0.5)), "fast": Variant(taking(0.125)), "peer": Variant(taking(0.25), peer=True)}
    plain, fast, peer = measure(lambda _: Comparison("product", 2, variants), Workload(repeats=3), {"fp32": 1e9})
    assert plain.seconds.median == 0.25 and plain.speedup is None  # per image
    assert fast.speedup.median == 4 and fast.speedup_over_peer.median == 2 and peer.speedup_over_peer is None
    assert fast.flops == 2 * 40 * 30 * 20 / 2
    assert fast.peak_share == pytest.approx(fast.flops / fast.seconds.median / 1e9)
    assert speed_table([plain, fast]).count("\n") == 3
    values = to_json(fast)
    assert from_json(json.loads(json.dumps(values))) == fast
    assert values["group"] == "product" and values["way"] == "fast" and values["against_plain"]["median"] == 4
    assert set(values) == {
        "group", "way", "precision", "seconds", "against_plain", "against_peer", "flops", "share", "memory", "parts",
    }  # fmt: skip


def test_a_profile_accounts_for_all_the_time_and_all_flops():
    x, weight = torch.randn(200, 200), torch.randn(8, 1, 9, 9)

    def run():
        return (x @ x).exp(), torch.nn.functional.conv2d(x[None, None], weight)

    comparison = Comparison("work", 2, {"plain": Variant(lambda: run)})
    (measurement,) = measure(lambda _: comparison, Workload(repeats=1), {"fp32": 1e12}, profiled=True)
    profile = measurement.profile
    assert set(profile) == {"linear layers", "convolutions", "the rest"}
    assert sum(part.time for part in profile.values()) == pytest.approx(1)
    assert profile["linear layers"].flops == 2 * 200**3 / 2 and profile["the rest"].flops == 0
    assert profile["convolutions"].flops == 2 * 8 * 81 * 192**2 / 2
    assert from_json(json.loads(json.dumps(to_json(measurement)))) == measurement
    assert profile_table([measurement], {"fp32": 1e12}).count("\n") == 2
    assert profile_table([replace(measurement, profile=None)], {}) == ""


def test_variants_whose_outputs_differ_are_not_timed():
    outputs = {"plain": torch.ones(2), "wrong": torch.full((2,), 1.01)}
    variants = {name: Variant(lambda output=output: lambda: output) for name, output in outputs.items()}
    with pytest.raises(UserError, match="wrong"):
        measure(lambda _: Comparison("numbers", 1, variants, check_agreement), Workload(repeats=1), {})
