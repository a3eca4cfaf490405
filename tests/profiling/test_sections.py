from dataclasses import replace
from types import SimpleNamespace

import pytest

from ldm.profiling import sections
from ldm.profiling.measure import Comparison, Variant
from ldm.profiling.visits import Visit, visit, visit_in_process
from ldm.profiling.workload import Workload


def make_comparison(workload):
    return Comparison("memory", 1, {"little": Variant(lambda: lambda: None), "much": Variant(lambda: lambda: None)})


@pytest.fixture
def chosen(monkeypatch):
    """The functions that visit variants, which here measure nothing."""
    found = []

    def measure(make, workload, peaks, after_visit, profiled, visits):
        found.append(visits)
        return sections_measure(make, workload, peaks, after_visit, profiled, fake_visit)

    def fake_visit(make, name, workload, task):
        return Visit([0.5] * task.rounds, memory=len(name))

    sections_measure = sections.measure
    monkeypatch.setattr(sections, "measure", measure)
    for section in ("step", "unet"):
        monkeypatch.setitem(sections.COMPARISONS, section, [make_comparison])
    return found


def test_variants_have_a_peak_where_the_section_memory_is_requested(chosen):
    workload = Workload(repeats=1)
    assert [m.memory for m in sections.run_section("step", workload, {}, with_memory=True)] == [6, 4]
    assert [m.memory for m in sections.run_section("unet", workload, {}, with_memory=True)] == [None, None]
    assert [m.memory for m in sections.run_section("step", workload, {})] == [None, None]
    assert sections.run_section("memory", workload, {}) == []


def test_large_variants_on_a_cpu_have_processes_of_their_own(chosen):
    small = Workload(repeats=1)
    for workload, memory in ((small, False), (small, True), (replace(small, size="vg"), False)):
        sections.run_section("step", workload, {}, memory)
    sections.run_section("step", replace(small, size="vg", device="cuda"), {}, True)
    assert chosen == [visit, visit_in_process, visit_in_process, visit]


def test_the_progress_bar_counts_every_visit(monkeypatch, chosen):
    bars = []
    bar = sections._progress_bar
    monkeypatch.setattr(sections, "_progress_bar", lambda *arguments: bars.append(bar(*arguments)) or bars[-1])
    for repeats in (1, 3):
        sections.run_section("step", Workload(repeats=repeats), {})
    assert [(bar.n, bar.total) for bar in bars] == [(2, 2), (4, 4)]


def test_scaling_is_left_out_on_a_gpu_with_a_remark():
    assert any("scaling" in remark for remark in sections.remarks(("scaling",), SimpleNamespace(device="cuda")))
    assert sections.remarks(("scaling",), Workload()) == []
