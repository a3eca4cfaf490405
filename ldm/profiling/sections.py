"""The sections of the benchmark, by name, and how each is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from tqdm import tqdm

from ldm.profiling import clips, diffusers_peer, edit, train_step, unet
from ldm.profiling.measure import Comparison, Measurement, measure
from ldm.profiling.memory import empty_process, peak_memory
from ldm.profiling.timing import peak_flops
from ldm.profiling.train_step import Scaling
from ldm.profiling.workload import PRECISIONS, Workload
from ldm.util.processes import available_cores

COMPARISONS: dict[str, list[Callable[[Workload], Comparison]]] = {
    "unet": [unet.compare_forward],
    "backward": [unet.compare_backward],
    "attention": [unet.compare_attention],
    "encoders": [train_step.compare_first_stages, train_step.compare_image_encoders],
    "step": [train_step.compare_steps],
    "optimizer": [train_step.compare_optimizers],
    "edit": [edit.compare_edits],
    "clips": [clips.compare_clips],
}
WITH_MEMORY = ("step", "edit", "clips")
WITH_PROFILE = ("unet", "backward", "step", "edit")
WITH_PEER = ("unet", "backward", "step", "edit")


def machine_peaks(precision: str, device: str) -> dict[str, float]:
    """The machine's FLOP/s by precision; that of fp32 only if `precision` is 'fp32'."""
    names = PRECISIONS if precision != "fp32" else ("fp32",)
    return {name: peak_flops(PRECISIONS[name], device) for name in names}


def run_sections(sections: Sequence[str], workload: Workload, peaks: Mapping[str, float]) -> list[Measurement]:
    """Measures the sections that are comparisons; with 'memory' or 'profile' among them, peak memory or profiles too.

    Args:
        peaks: see `machine_peaks`.
    """
    measurements = []
    for section in sections:
        with_memory = "memory" in sections and section in WITH_MEMORY
        profiled = "profile" in sections and section in WITH_PROFILE
        for make in COMPARISONS.get(section, ()):
            measurements += _run_comparison(make, workload, peaks, with_memory, profiled)
    return measurements


def _run_comparison(
    make: Callable[[Workload], Comparison],
    workload: Workload,
    peaks: Mapping[str, float],
    with_memory: bool,
    profiled: bool,
) -> list[Measurement]:
    comparison = make(workload)
    runs_per_variant = workload.repeats + 1 + bool(comparison.check) + workload.compiled + profiled + with_memory
    with _progress_bar(comparison.name, len(comparison.variants) * runs_per_variant) as bar:
        measurements = measure(comparison, workload, peaks, bar.update, profiled)
        if with_memory:
            for index, measurement in enumerate(measurements):
                memory = peak_memory(make, measurement.variant, workload)
                measurements[index] = replace(measurement, memory=memory)
                bar.update()
    return measurements


def run_scaling(workload: Workload) -> list[Scaling]:
    """Measures training on 1, 2, 4, ... processes, up to the number of cores."""
    counts = [count for count in (1, 2, 4, 8, 16) if count <= available_cores()]
    with _progress_bar("scaling", 2 * len(counts)) as bar:
        return train_step.measure_scaling(workload, counts, bar.update)


def remarks(sections: Sequence[str], workload: Workload) -> list[str]:
    """Sentences for the report: file sizes, what peaks include, and what is left out."""
    found = []
    if not diffusers_peer.available() and set(WITH_PEER) & set(sections):
        found.append(diffusers_peer.NOT_INSTALLED)
    if "step" in sections:
        found += [f"{name}: {size / 1e6:,.1f} MB" for name, size in train_step.file_sizes(workload).items()]
    if "memory" in sections and workload.device == "cpu":
        start = peak_memory(empty_process, "plain", workload)
        found.append(f"peak memory includes the {start / 1e9:.2f} GB of a process that has only started")
    if workload.device.startswith("cuda") and torch.backends.cudnn.allow_tf32:
        found.append("in fp32, convolutions round to TF32 (torch's default) and matrix products do not")
    if "scaling" in sections and workload.device != "cpu":
        found.append("scaling is left out: it measures CPU processes; use --device cpu")
    return found


def _progress_bar(description: str, total: int) -> tqdm:
    return tqdm(total=total, desc=description, unit="run", leave=False)
