"""The sections of the benchmark, by name, and how each is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from tqdm import tqdm

from ldm.profiling import clips, diffusers_peer, edit, real_step, train_step, unet
from ldm.profiling.measure import Comparison, Measurement, measure
from ldm.profiling.timing import peak_flops
from ldm.profiling.train_step import Scaling
from ldm.profiling.visits import passes, peak_of_start, visit, visit_in_process
from ldm.profiling.workload import PRECISIONS, Workload
from ldm.util.processes import available_cores

COMPARISONS: dict[str, list[Callable[[Workload], Comparison]]] = {
    "unet": [unet.compare_forward],
    "backward": [unet.compare_backward],
    "attention": [unet.compare_attention],
    "encoders": [train_step.compare_first_stages, train_step.compare_image_encoders],
    "step": [train_step.compare_steps],
    "images": [real_step.compare_real_steps],
    "optimizer": [train_step.compare_optimizers],
    "edit": [edit.compare_edits],
    "clips": [clips.compare_clips],
}
WITH_MEMORY = ("step", "images", "edit", "clips")
WITH_PROFILE = ("unet", "backward", "step", "images", "edit")
WITH_PEER = ("unet", "backward", "step", "images", "edit")


def machine_peaks(precision: str, device: str) -> dict[str, float]:
    """The machine's FLOP/s by precision; that of fp32 only if `precision` is 'fp32'."""
    names = PRECISIONS if precision != "fp32" else ("fp32",)
    return {name: peak_flops(PRECISIONS[name], device) for name in names}


def run_section(
    section: str, workload: Workload, peaks: Mapping[str, float], with_memory: bool = False, profiled: bool = False
) -> list[Measurement]:
    """Measures a section that is a comparison, one variant at a time; others have no measurements.

    On a CPU each variant has a process of its own, except small ones whose memory is not measured.

    Args:
        peaks: see `machine_peaks`.
        with_memory: whether the section 'memory' is wanted.
        profiled: whether the section 'profile' is wanted.
    """
    with_memory = with_memory and section in WITH_MEMORY
    profiled = profiled and section in WITH_PROFILE
    apart = workload.device == "cpu" and (with_memory or workload.size != "small")
    measurements = []
    for make in COMPARISONS.get(section, ()):
        comparison = make(workload)
        visits = sum(len(order) for _, order in passes(workload.repeats, comparison.variants))
        with _progress_bar(comparison.name, visits) as bar:
            found = measure(make, workload, peaks, bar.update, profiled, visit_in_process if apart else visit)
        measurements += found if with_memory else [replace(each, memory=None) for each in found]
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
        start = peak_of_start(workload)
        found.append(f"peak memory includes the {start / 1e9:.2f} GB of a process that has only started")
    if workload.device.startswith("cuda") and torch.backends.cudnn.allow_tf32:
        found.append("in fp32, convolutions round to TF32 (torch's default) and matrix products do not")
    if "scaling" in sections and workload.device != "cpu":
        found.append("scaling is left out: it measures CPU processes; use --device cpu")
    return found


def _progress_bar(description: str, total: int) -> tqdm:
    return tqdm(total=total, desc=description, unit="visit", leave=False)
