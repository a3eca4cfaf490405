"""One variant at a time: each is built, run and freed, in a process of its own or in this one.

All variants of a comparison together would not fit into memory. So that other load on the machine affects all alike, each is
visited twice, in the second pass in the opposite order, and rounds of the same number are compared.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ldm.models.runtime import keep_freed_memory
from ldm.profiling import memory
from ldm.profiling.timing import KindProfile, count_flops, profile_by_kind, time_in_turns
from ldm.util.errors import UserError
from ldm.util.processes import end_with_parent

if TYPE_CHECKING:  # a process that measures imports no more than its variant needs
    from ldm.profiling.measure import Comparison
    from ldm.profiling.workload import Workload

    Make = Callable[[Workload], Comparison]

PASSES = 2


@dataclass(frozen=True)
class Task:
    """What to measure in a visit.

    Args:
        rounds: number of timed runs.
        details: whether to keep the output and to count operations, too, which the first visit does.
        profiled: whether to profile a run.
    """

    rounds: int
    details: bool = True
    profiled: bool = False


@dataclass(frozen=True)
class Visit:
    """What was measured of a variant.

    Attributes:
        seconds: of each round.
        memory: peak in bytes: of a process of its own, or of a GPU; None in a process that does other things.
        output: on the CPU in float32; None if the comparison does not check outputs.
        operations: FLOPs by operation.
        profile: by kind of operation, with FLOPs; None if it was not wanted.
    """

    seconds: list[float]
    memory: int | None = None
    output: Tensor | None = None
    operations: dict[str, int] = field(default_factory=dict)
    profile: dict[str, KindProfile] | None = None


def passes(repeats: int, names: Iterable[str]) -> list[tuple[int, Sequence[str]]]:
    """The rounds of each pass, and the names in its order."""
    names = list(names)
    rounds = [repeats - repeats // PASSES, repeats // PASSES]
    return [(count, order) for count, order in zip(rounds, (names, names[::-1])) if count]


def visit(make: Make, name: str, workload: Workload, task: Task, alone: bool = False) -> Visit:
    """Visits a variant in this process.

    Args:
        make: returns the comparison.
        alone: whether this process does nothing else, so that its memory is the variant's.
    """
    found = _visit(make(workload), name, workload, task)
    others = memory.remaining(workload.device)  # such as the weights on a GPU that all variants copy
    counted = found.memory is not None and (alone or workload.device.startswith("cuda"))
    return replace(found, memory=found.memory - others if counted else None)


def _visit(comparison: Comparison, name: str, workload: Workload, task: Task) -> Visit:
    device = workload.device
    memory.start_counting(device)
    variant = comparison.variants[name]
    run = variant.build()
    outputs, operations, profile = [], {}, None
    if task.details:
        operations = count_flops(lambda: outputs.append(run()))
    if not task.details or workload.compiled:  # a compiled variant runs eagerly while operations are counted
        run()
    for _ in range(variant.warm_up):
        run()
    seconds = time_in_turns({name: run}, task.rounds, device, warmed_up=True)[name]
    peak = memory.peak_since_start(device)
    if task.profiled:
        per_image = {key: count / comparison.images for key, count in operations.items()}
        profile = profile_by_kind(run, per_image, device)
    output = outputs[0].detach().float().cpu().clone() if outputs and comparison.check else None
    return Visit(seconds, peak, output, operations, profile)


def visit_in_process(make: Make, name: str, workload: Workload, task: Task) -> Visit:
    """Visits a variant in a process of its own.

    Args:
        make: importable function that returns the comparison.

    Raises:
        UserError: the process was killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        try:
            return pool.submit(_visit_as_process, make, name, workload, task).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{name}: the process that measured it was killed, most likely for lack of memory: choose a lower "
                "--batch-size; --resume goes on from what is written"
            ) from error


def peak_of_start(workload: Workload) -> int:
    """Peak memory, in bytes, of a process that has only started."""
    peak = visit_in_process(_nothing, "plain", workload, Task(1, details=False)).memory
    assert peak is not None
    return peak


def _nothing(workload: Workload) -> Comparison:
    from ldm.profiling.measure import Comparison, Variant

    return Comparison("start", 1, {"plain": Variant(lambda: lambda: None)})


def _visit_as_process(make: Make, name: str, workload: Workload, task: Task) -> Visit:
    torch.set_num_threads(workload.threads)
    if workload.device == "cpu":
        keep_freed_memory()  # as in training
    return visit(make, name, workload, task, alone=True)
