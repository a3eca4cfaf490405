"""A training step as users without a latent cache run it: photographs are read from disk, encoded and trained on."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from taming.modules.diffusionmodules.model import AttnBlock
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ldm.graph.batch import Batch, collate
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.runtime import prepare_encoders_for_training, prepare_for_training
from ldm.modules.fused_attention import FusedAttnBlock
from ldm.profiling import diffusers_peer
from ldm.profiling.measure import Comparison, Variant
from ldm.profiling.timing import Run
from ldm.profiling.train_step import LIGHTNING_PRECISIONS, make_step
from ldm.profiling.workload import Workload, use_plain_convolutions
from ldm.synthetic.shapes import VOCAB
from ldm.util.images import read_image, resize_square, to_tensor
from ldm.util.processes import available_cores

PHOTOGRAPH = (500, 375)  # pixels of most images of Visual Genome
FILES = 32
WORKERS = 4  # of the loader, as in configs/vg.yaml, if there are as many cores


def compare_real_steps(workload: Workload) -> Comparison:
    """A training step without a cache. All read the same files with as many workers, which read ahead.

    The peer is the published encoders' plain code (`use_published_code`) with diffusers' U-Net, which has no adapters, so that
    only the graph encoder is trained with it. 'as run' is what trainer.py prepares.
    """
    variants = {"plain": Variant(partial(_build_plain, workload))}
    for precision in workload.precisions:
        suffix = "" if precision == "fp32" else f", {precision}"
        variants["as run" + suffix] = Variant(partial(_build_as_run, workload, precision), precision)
        if diffusers_peer.available():
            variants["diffusers" + suffix] = Variant(partial(_build_peer, workload, precision), precision, peer=True)
    return Comparison("training step without a cache", workload.batch, variants)


def _build_plain(workload: Workload) -> Run:
    model = workload.make_model().train()
    use_plain_convolutions(model.unet)
    return make_step(model, _reader(workload), workload.device, fused=False)


def _build_as_run(workload: Workload, precision: str) -> Run:
    model = workload.make_model().train()
    prepare_for_training(model.unet, workload.device, LIGHTNING_PRECISIONS[precision])
    prepare_encoders_for_training(model, workload.device)
    return make_step(model, _reader(workload), workload.device, precision)


def _build_peer(workload: Workload, precision: str) -> Run:
    model = workload.make_model().train()
    use_published_code(model)
    diffusers_peer.replace_unet(model, workload, precision)
    return make_step(model, _reader(workload), workload.device, precision, fused=False)


def use_published_code(model: LatentDiffusion) -> None:
    """Gives the first stage taming-transformers' attention back, and CLIP's tower open_clip's, in place.

    All other layers of the encoders are taming's and open_clip's: their own code is what the peer runs.
    """
    for parent in list(model.first_stage_model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FusedAttnBlock):
                with torch.device("meta"):
                    block = AttnBlock(child.q.in_channels)
                block.norm, block.q, block.k, block.v, block.proj_out = (
                    child.norm, child.q, child.k, child.v, child.proj_out
                )  # fmt: skip
                setattr(parent, name, block)
    for layer in model.global_stage_model.modules() if model.global_stage_model is not None else ():
        if isinstance(layer, nn.MultiheadAttention):
            layer._forward_pre_hooks.clear()  # ours, which order the inputs


# Photographs --------------------------------------------------------------------------------------------------------


class Photographs(Dataset):
    """Image files in turns, without end for all that is measured, each with one scene graph."""

    def __init__(self, paths: list[Path], graph: SceneGraph, side: int):
        self.paths, self.graph, self.side = paths, graph, side

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> tuple[Tensor, SceneGraph]:
        image = read_image(self.paths[index % len(self.paths)])
        return to_tensor(resize_square(image, self.side)), self.graph


def write_photographs(folder: Path, count: int = FILES) -> list[Path]:
    """Writes JPEG files that are about as hard to decode as photographs: smooth noise with a little grain."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(PHOTOGRAPH)
        grain = rng.integers(-12, 13, (PHOTOGRAPH[1], PHOTOGRAPH[0], 3))
        Image.fromarray((np.asarray(coarse, int) + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def _reader(workload: Workload) -> Callable[[], Batch]:
    """A function that returns the next batch, on the device; workers read the following ones meanwhile."""
    folder = tempfile.TemporaryDirectory(prefix="photographs-")
    paths = write_photographs(Path(folder.name))
    _, graph, _ = workload.edit_example()
    loader = DataLoader(
        Photographs(paths, graph, workload.image_side),
        workload.batch,
        num_workers=min(WORKERS, available_cores()),
        collate_fn=partial(collate, vocab=VOCAB),
        pin_memory=workload.device.startswith("cuda"),
    )
    batches = _endless(loader, folder)
    for _ in range(loader.num_workers):  # so that the first step that is timed does not wait for workers to start
        next(batches)
    return lambda: next(batches).to(workload.device)


def _endless(loader: DataLoader, folder: tempfile.TemporaryDirectory) -> Iterator[Batch]:
    with folder:  # until nobody refers to the batches any more
        yield from itertools.chain.from_iterable(itertools.repeat(loader))
