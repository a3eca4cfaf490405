from types import SimpleNamespace

from ldm.profiling import sections
from ldm.profiling.measure import Comparison, Variant
from ldm.profiling.workload import Workload


def make_comparison(workload):
    return Comparison("memory", 1, {"little": Variant(lambda: lambda: None), "much": Variant(lambda: lambda: None)})


def test_variants_have_a_peak_where_the_section_memory_is_requested(monkeypatch):
    monkeypatch.setitem(sections.COMPARISONS, "step", [make_comparison])
    monkeypatch.setitem(sections.COMPARISONS, "unet", [make_comparison])
    monkeypatch.setattr(sections, "peak_memory", lambda make, variant, workload: len(variant))
    measured = sections.run_sections(("step", "unet", "memory"), Workload(repeats=1), {})
    assert [(m.variant, m.memory) for m in measured] == [("little", 6), ("much", 4), ("little", None), ("much", None)]
    assert [m.memory for m in sections.run_sections(("step",), Workload(repeats=1), {})] == [None, None]


def test_the_progress_bar_counts_every_run(monkeypatch):
    bars = []
    bar = sections._progress_bar
    monkeypatch.setattr(sections, "_progress_bar", lambda *arguments: bars.append(bar(*arguments)) or bars[-1])
    monkeypatch.setitem(sections.COMPARISONS, "step", [make_comparison])
    monkeypatch.setattr(sections, "peak_memory", lambda *arguments: 1)
    sections.run_sections(("step", "memory", "profile"), Workload(repeats=3), {})
    assert [(bar.n, bar.total) for bar in bars] == [(bars[0].total, bars[0].total)]


def test_scaling_is_left_out_on_a_gpu_with_a_remark():
    assert any("scaling" in remark for remark in sections.remarks(("scaling",), SimpleNamespace(device="cuda")))
    assert sections.remarks(("scaling",), Workload()) == []
