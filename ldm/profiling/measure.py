"""Variants of one computation, measured side by side: running time, speedup, share of the machine's peak, profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ldm.profiling import visits
from ldm.profiling.timing import KindProfile, Run, Spread, speedup
from ldm.profiling.visits import Task, Visit
from ldm.profiling.workload import Workload


@dataclass(frozen=True)
class Variant:
    """One implementation of a computation.

    Args:
        build: sets everything up and returns the function that is measured.
        precision: key of `ldm.profiling.workload.PRECISIONS`.
        peer: whether it is another project's implementation.
        warm_up: runs that are neither timed nor counted, after the first one: CUDA graphs are recorded in the second.
    """

    build: Callable[[], Run]
    precision: str = "fp32"
    peer: bool = False
    warm_up: int = 0


@dataclass(frozen=True)
class Comparison:
    """Variants of one computation. The first is the baseline; the first peer of a precision is the peer to compare with.

    Args:
        name: of the computation.
        images: number of images that one run processes.
        variants: by name.
        check: raises UserError where the variants' outputs differ; None where they are not compared.
    """

    name: str
    images: int
    variants: dict[str, Variant]
    check: Callable[[dict[str, Tensor], dict[str, Variant]], None] | None = None


@dataclass(frozen=True)
class Measurement:
    """What was measured of a variant.

    Args:
        comparison, variant, precision: names.
        seconds: per image.
        speedup: over the baseline; None for the baseline.
        speedup_over_peer: over the peer in the same precision, where there is one.
        flops: per image; None where none are counted.
        peak_share: FLOP/s as a share of the machine's peak in this precision.
        memory: peak in bytes, where it was measured.
        profile: by kind of operation, FLOPs per image, where it was measured.
    """

    comparison: str
    variant: str
    precision: str
    seconds: Spread
    speedup: Spread | None = None
    speedup_over_peer: Spread | None = None
    flops: float | None = None
    peak_share: float | None = None
    memory: int | None = None
    profile: dict[str, KindProfile] | None = None


def measure(
    make: Callable[[Workload], Comparison],
    workload: Workload,
    peaks: Mapping[str, float],
    after_visit: Callable[[], object] = lambda: None,
    profiled: bool = False,
    visit: Callable[[Callable[[Workload], Comparison], str, Workload, Task], Visit] = visits.visit,
) -> list[Measurement]:
    """Measures all variants of a comparison, one at a time.

    Args:
        make: returns the comparison; importable if `visit` starts processes.
        peaks: the machine's FLOP/s by precision.
        after_visit: called after each visit of a variant, for a progress bar.
        profiled: whether to profile each variant as well.
        visit: `visits.visit` or `visits.visit_in_process`.

    Raises:
        UserError: the variants' outputs differ.
    """
    comparison = make(workload)
    variants = comparison.variants
    first: dict[str, Visit] = {}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    memory: dict[str, int | None] = {}
    for number, (rounds, order) in enumerate(visits.passes(workload.repeats, variants)):
        for name in order:
            task = Task(rounds, details=number == 0, profiled=profiled and number == 0)
            found = visit(make, name, workload, task)
            first.setdefault(name, found)
            seconds[name] += found.seconds
            memory[name] = found.memory
            after_visit()
        if comparison.check and number == 0:
            comparison.check(_outputs(first), variants)
    return [_measurement(name, comparison, seconds, first[name], memory[name], peaks) for name in variants]


def _measurement(
    name: str,
    comparison: Comparison,
    seconds: Mapping[str, list[float]],
    first: Visit,
    memory: int | None,
    peaks: Mapping[str, float],
) -> Measurement:
    variant, baseline = comparison.variants[name], next(iter(comparison.variants))
    peer = _peer_of(variant, comparison.variants)
    per_image = Spread.of(second / comparison.images for second in seconds[name])
    flops, peak = sum(first.operations.values()) / comparison.images, peaks.get(variant.precision)
    return Measurement(
        comparison.name,
        name,
        variant.precision,
        per_image,
        speedup=speedup(seconds[name], seconds[baseline]) if name != baseline else None,
        speedup_over_peer=speedup(seconds[name], seconds[peer]) if peer else None,
        flops=flops or None,
        peak_share=flops / per_image.median / peak if flops and peak else None,
        memory=memory,
        profile=first.profile,
    )


def _outputs(found: Mapping[str, Visit]) -> dict[str, Tensor]:
    outputs = {name: each.output for name, each in found.items() if each.output is not None}
    assert len(outputs) == len(found)
    return outputs


def _peer_of(variant: Variant, variants: Mapping[str, Variant]) -> str | None:
    """The name of the peer that a variant is compared with."""
    if variant.peer:
        return None
    peers = (name for name, other in variants.items() if other.peer and other.precision == variant.precision)
    return next(peers, None)
