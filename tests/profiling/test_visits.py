"""Light imports only: the measured processes import this module."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from ldm.profiling import memory, visits
from ldm.profiling.memory import peak_resident_memory
from ldm.profiling.visits import Task, visit, visit_in_process
from ldm.util.errors import UserError

WORKLOAD = SimpleNamespace(device="cpu", threads=1, compiled=False)
ONCE = Task(1, details=False)


def make_comparison(workload):
    """Variants that allocate nothing, 400 MB, or more than there is, which ends their process."""
    builders = {
        "nothing": lambda: lambda: None,
        "400 MB": lambda: lambda: torch.ones(100_000_000).sum(),
        "too much": lambda: lambda: os.kill(os.getpid(), signal.SIGKILL),
    }
    variants = {name: SimpleNamespace(build=build, warm_up=0) for name, build in builders.items()}
    return SimpleNamespace(variants=variants, check=None, images=1)


def test_the_peak_is_that_of_a_process_of_its_own():
    """To 40 MB, by which the memory of a starting process varies."""
    torch.ones(400_000_000).sum()  # 1.6 GB in this process
    with ThreadPoolExecutor(2) as pool:
        measure = pool.map(lambda name: visit_in_process(make_comparison, name, WORKLOAD, ONCE), ("nothing", "400 MB"))
        nothing, much = (each.memory for each in measure)
    assert nothing < peak_resident_memory() - 1e9
    assert abs(much - nothing - 400e6) < 40e6


def test_a_process_that_is_killed_is_reported_in_one_sentence():
    with pytest.raises(UserError, match="too much: the process .* was killed, .*--batch-size.*--resume"):
        visit_in_process(make_comparison, "too much", WORKLOAD, ONCE)


def test_a_process_that_measures_keeps_freed_memory_as_training_does(monkeypatch):
    calls = []
    monkeypatch.setattr(visits, "keep_freed_memory", lambda: calls.append(True))
    workload = SimpleNamespace(device="cpu", threads=torch.get_num_threads(), compiled=False)
    assert visits._visit_as_process(make_comparison, "nothing", workload, ONCE).memory > 0 and calls == [True]


@pytest.mark.parametrize("details, warm_up, expected", [(True, 0, 3), (False, 0, 3), (True, 1, 4), (False, 1, 4)])
def test_a_variant_runs_once_and_for_its_warm_up_before_it_is_timed(details, warm_up, expected):
    calls = []
    variant = SimpleNamespace(build=lambda: lambda: calls.append(True), warm_up=warm_up)
    comparison = SimpleNamespace(variants={"counted": variant}, check=None, images=1)
    found = visit(lambda workload: comparison, "counted", WORKLOAD, Task(2, details))
    assert len(calls) == expected and len(found.seconds) == 2


def test_a_visit_in_this_process_says_nothing_about_its_memory():
    assert visit(make_comparison, "nothing", WORKLOAD, ONCE).memory is None


def test_the_peak_of_a_gpu_is_what_a_variant_allocates_beyond_what_stays(monkeypatch):
    """What stays are the weights that all variants copy."""
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 175)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)
    workload = SimpleNamespace(device="cuda:0", threads=1, compiled=False)
    assert visit(make_comparison, "nothing", workload, ONCE).memory == 75 and calls == ["cuda:0"]
    assert memory.remaining("cpu") == 0


def test_only_one_variant_is_there_at_a_time():
    alive, most = [], []

    class Held:
        def __init__(self):
            alive.append(self)
            most.append(len(alive))

        def __call__(self):
            return None

    def make(workload):
        def build():
            held = Held()
            return lambda: (held(), alive.clear())[0]  # the list would keep it

        return SimpleNamespace(variants={"a": SimpleNamespace(build=build, warm_up=0)}, check=None, images=1)

    for _ in range(3):
        visit(make, "a", WORKLOAD, Task(2))
    assert most == [1, 1, 1]


@pytest.mark.parametrize(
    "repeats, expected", [(1, [(1, "abc")]), (2, [(1, "abc"), (1, "cba")]), (5, [(3, "abc"), (2, "cba")])]
)
def test_the_second_pass_has_the_opposite_order_and_the_rest_of_the_rounds(repeats, expected):
    assert [(count, "".join(order)) for count, order in visits.passes(repeats, "abc")] == expected
