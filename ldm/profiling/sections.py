"""The sections of a benchmark by their names, and what each of them measures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tqdm import tqdm

from ldm.profiling import diffusers_peer, edit, train_step, unet
from ldm.profiling.measure import Row, measure, nothing, peak_memory
from ldm.profiling.setting import PRECISIONS, Setting
from ldm.profiling.timing import peak_flops

GROUPS = {
    "unet": [unet.forward],
    "backward": [unet.backward],
    "attention": [unet.attention],
    "encoders": [train_step.first_stage, train_step.image_encoder],
    "step": [train_step.step],
    "optimizer": [train_step.optimizer],
    "edit": [edit.edits],
}
WITH_PEAKS = ("step", "edit")
WITH_PROFILES = ("unet", "backward", "step", "edit")
WITH_PEERS = ("unet", "backward", "step", "edit")


def machine_peaks(precision: str, device: str) -> dict[str, float]:
    """FLOP/s by precision: always, unless there is nothing to be compared with them."""
    names = PRECISIONS if precision != "fp32" else ("fp32",)
    return {name: peak_flops(PRECISIONS[name], device) for name in names}


def rows_of(sections: Sequence[str], setting: Setting, peaks: Mapping[str, float]) -> list[Row]:
    """Of those sections that are groups of ways, in their order; with 'memory' among them, each way's peak as well, and
    with 'profile' its parts."""
    rows = []
    for section in sections:
        for make in GROUPS.get(section, ()):
            group = make(setting)
            peaked = group.ways if "memory" in sections and section in WITH_PEAKS else ()
            profiled = "profile" in sections and section in WITH_PROFILES
            rounds = setting.repeats + 1 + bool(group.agree) + setting.compiled + profiled
            with bar(group.name, len(group.ways) * rounds + len(peaked)) as ticks:
                for row in measure(group, setting, peaks, ticks.update, profiled):
                    if row.way in peaked:
                        row = replace(row, memory=peak_memory(make, row.way, setting))
                        ticks.update()
                    rows.append(row)
    return rows


def scaling(setting: Setting) -> list[tuple[int, float, float]]:
    """training.scaling of as many processes as there are cores, at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = [count for count in (1, 2, 4, 8, 16) if count <= cores]
    with bar("scaling", 2 * len(counts)) as ticks:
        return train_step.scaling(setting, counts, ticks.update)


def remarks(sections: Sequence[str], setting: Setting) -> list[str]:
    """What goes with the rows: sizes, what peaks include, and what is left out here."""
    found = []
    if not diffusers_peer.available() and set(WITH_PEERS) & set(sections):
        found.append(diffusers_peer.INSTALL)
    if "step" in sections:
        found += [f"{name}: {size / 1e6:,.1f} MB" for name, size in train_step.sizes(setting).items()]
    if "memory" in sections:
        found.append(
            f"peaks include {peak_memory(nothing, 'plain', setting) / 1e9:.2f} GB that a process has at its start"
        )
    if "scaling" in sections and setting.device != "cpu":
        found.append("scaling is left out: it is of CPU processes, so measure it with --device cpu")
    return found


def bar(what: str, total: int) -> tqdm:
    return tqdm(total=total, desc=what, unit="run", leave=False)
