"""Variants of one computation, measured side by side: running time, speedup, share of the machine's peak, profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ldm.profiling.timing import KindProfile, Run, Spread, count_flops, profile_by_kind, speedup, time_in_turns
from ldm.profiling.workload import Workload


@dataclass(frozen=True)
class Variant:
    """One implementation of a computation.

    Args:
        build: sets everything up and returns the function that is measured.
        precision: key of `ldm.profiling.workload.PRECISIONS`.
        peer: whether it is another project's implementation.
    """

    build: Callable[[], Run]
    precision: str = "fp32"
    peer: bool = False


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
    comparison: Comparison,
    workload: Workload,
    peaks: Mapping[str, float],
    after_run: Callable[[], object] = lambda: None,
    profiled: bool = False,
) -> list[Measurement]:
    """Measures all variants of a comparison, which are in memory at the same time.

    Args:
        peaks: the machine's FLOP/s by precision.
        after_run: called after each run, for a progress bar.
        profiled: whether to profile each variant as well.

    Raises:
        UserError: the variants' outputs differ.
    """
    variants = comparison.variants
    runs = {name: variant.build() for name, variant in variants.items()}
    if comparison.check:
        comparison.check(_outputs(runs, after_run), variants)
    operations = {}
    for name, run in runs.items():
        operations[name] = {key: count / comparison.images for key, count in count_flops(run).items()}
        after_run()
    # compiled variants have only run eagerly so far
    seconds = time_in_turns(runs, workload.repeats, workload.device, after_run, warmed_up=not workload.compiled)
    baseline, measurements = next(iter(runs)), []
    for name, variant in variants.items():
        peer = _peer_of(variant, variants)
        per_image = Spread.of(second / comparison.images for second in seconds[name])
        flops, peak = sum(operations[name].values()), peaks.get(variant.precision)
        profile = None
        if profiled:
            profile = profile_by_kind(runs[name], operations[name], workload.device)
            after_run()
        measurements.append(
            Measurement(
                comparison.name,
                name,
                variant.precision,
                per_image,
                speedup=speedup(seconds[name], seconds[baseline]) if name != baseline else None,
                speedup_over_peer=speedup(seconds[name], seconds[peer]) if peer else None,
                flops=flops or None,
                peak_share=flops / per_image.median / peak if flops and peak else None,
                profile=profile,
            )
        )
    return measurements


def _outputs(runs: Mapping[str, Run], after_run: Callable[[], object]) -> dict[str, Tensor]:
    outputs = {}
    for name, run in runs.items():
        output = run()
        assert isinstance(output, Tensor)
        outputs[name] = output.detach().float().clone()
        after_run()
    return outputs


def _peer_of(variant: Variant, variants: Mapping[str, Variant]) -> str | None:
    """The name of the peer that a variant is compared with."""
    if variant.peer:
        return None
    peers = (name for name, other in variants.items() if other.peer and other.precision == variant.precision)
    return next(peers, None)
