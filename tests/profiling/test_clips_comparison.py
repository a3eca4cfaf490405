"""The benchmark of clips runs every kind of temporal layers, which are the identity at first."""

import torch

from ldm.profiling.clips import compare_clips
from ldm.profiling.workload import Workload


def test_temporal_layers_run_on_the_clip_and_change_no_bit_at_first():
    comparison = compare_clips(Workload(batch=2))
    losses = {name: variant.build()() for name, variant in comparison.variants.items()}
    kinds = ("temporal layers", "motion modules")
    assert set(losses) == {"image model", *kinds, *(f"{kind}, recompute" for kind in kinds)}
    assert len({float(loss) for loss in losses.values()}) == 1
    assert comparison.images == 2 and not torch.isnan(losses["image model"])
