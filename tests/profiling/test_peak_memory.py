"""Light imports only: the measured processes import this module."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import torch

from ldm.profiling import memory
from ldm.profiling.memory import peak_memory, peak_resident_memory

WORKLOAD = SimpleNamespace(device="cpu", threads=1)


def make_comparison(workload):
    """Variants that allocate nothing, and 400 MB."""
    builders = {"nothing": lambda: lambda: None, "400 MB": lambda: lambda: torch.ones(100_000_000).sum()}
    return SimpleNamespace(variants={name: SimpleNamespace(build=build) for name, build in builders.items()})


def test_the_peak_is_that_of_a_process_of_its_own():
    """To 40 MB, by which the memory of a starting process varies."""
    torch.ones(400_000_000).sum()  # 1.6 GB in this process
    with ThreadPoolExecutor(2) as pool:
        measure = pool.map(lambda variant: peak_memory(make_comparison, variant, WORKLOAD), ("nothing", "400 MB"))
        nothing, much = measure
    assert nothing < peak_resident_memory() - 1e9
    assert abs(much - nothing - 400e6) < 40e6


def test_a_measured_process_keeps_freed_memory_as_training_does(monkeypatch):
    calls = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: calls.append(True))
    threads = torch.get_num_threads()
    workload = SimpleNamespace(device="cpu", threads=threads)
    assert memory._run_and_measure(make_comparison, "nothing", workload) > 0 and calls == [True]


def test_the_peak_of_a_gpu_is_what_a_variant_allocates_beyond_what_is_there(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 175)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)
    workload = SimpleNamespace(device="cuda:0", threads=1)
    assert peak_memory(make_comparison, "nothing", workload) == 75 and calls == ["cuda:0"]
