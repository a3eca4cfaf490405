"""Variants of training: a step with and without a latent cache, the frozen encoders, the optimizer, several processes."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ldm.graph.batch import Batch
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.runtime import keep_freed_memory, prepare_for_training
from ldm.profiling import diffusers_peer
from ldm.profiling.measure import Comparison, Variant
from ldm.profiling.timing import Run, time_in_turns
from ldm.profiling.workload import PRECISIONS, Workload, use_plain_convolutions
from ldm.util.processes import end_with_parent

LIGHTNING_PRECISIONS = {"fp32": "32", "bf16": "bf16-mixed"}

# A step -------------------------------------------------------------------------------------------------------------


def compare_steps(workload: Workload) -> Comparison:
    """A training step: loss, gradients and optimizer.

    'plain' encodes the images in each step, in float32 and with torch's own memory layout and optimizer. diffusers' U-Net
    has no adapters, so that only the graph encoder is trained with it; the peer to compare with uses the latent cache too.
    """
    plain = partial(_build_plain, workload)
    variants = {
        "plain": Variant(partial(plain, cached=False)),
        "plain, cached": Variant(partial(plain, cached=True)),
    }
    for precision in workload.precisions:
        suffix = "" if precision == "fp32" else f", {precision}"
        fast = partial(_build_fast, workload, precision)
        variants["fast, cached" + suffix] = Variant(fast, precision)
        variants["fast, cached, recompute" + suffix] = Variant(partial(fast, recompute=True), precision)
        if workload.device.startswith("cuda"):
            variants["fast, cached, CUDA graphs" + suffix] = Variant(partial(fast, graphs=True), precision, warm_up=1)
        if workload.compiled:
            variants["fast, cached, compiled" + suffix] = Variant(partial(fast, compiled=True), precision)
        if diffusers_peer.available():
            peer = partial(_build_diffusers, workload, precision)
            variants["diffusers, cached" + suffix] = Variant(partial(peer, cached=True), precision, peer=True)
            variants["diffusers" + suffix] = Variant(partial(peer, cached=False), precision, peer=True)
    return Comparison("training step", workload.batch, variants)


def _build_plain(workload: Workload, cached: bool) -> Run:
    model = workload.make_model().train()
    use_plain_convolutions(model.unet)
    return make_step(model, _batch(workload, model, cached), workload.device, fused=False)


def _build_fast(
    workload: Workload, precision: str, compiled: bool = False, recompute: bool = False, graphs: bool = False
) -> Run:
    model = workload.make_model().train()
    model.unet.use_checkpoint = recompute
    prepare_for_training(model.unet, workload.device, LIGHTNING_PRECISIONS[precision], compiled, graphs=graphs)
    return make_step(model, _batch(workload, model, cached=True), workload.device, precision)


def _build_diffusers(workload: Workload, precision: str, cached: bool) -> Run:
    model = workload.make_model().train()
    diffusers_peer.replace_unet(model, workload, precision)
    return make_step(model, _batch(workload, model, cached), workload.device, precision, fused=False)


def _batch(workload: Workload, model: LatentDiffusion, cached: bool) -> Batch:
    return workload.batch_of_latents(model) if cached else workload.batch_of_images()


def make_step(
    model: LatentDiffusion,
    batch: Batch | Callable[[], Batch],
    device: str,
    precision: str = "fp32",
    fused: bool = True,
) -> Callable[[], Tensor]:
    """A function that trains a model for one step and returns the loss.

    Args:
        batch: of every step, or a function that returns that of the next one.
        fused: whether AdamW runs as one kernel.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=model.learning_rate, fused=fused)

    def run() -> Tensor:
        given = batch if isinstance(batch, Batch) else batch()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model.losses(given)[0].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()  # a step that is kept alive could not be followed by one that is recorded as a CUDA graph

    return run


def file_sizes(workload: Workload) -> dict[str, int]:
    """Bytes of the exported adapters, and of a checkpoint for resuming (weights, their average, two moments)."""
    trainable = {name: p.detach() for name, p in workload.make_model().named_parameters() if p.requires_grad}
    exported = len(save({name: value.half() for name, value in trainable.items()}))
    return {
        "adapters, exported": exported,
        "checkpoint to resume": 4 * sum(value.nbytes for value in trainable.values()),
    }


# Its parts ----------------------------------------------------------------------------------------------------------


def compare_first_stages(workload: Workload) -> Comparison:
    """The first stage's encoder."""
    return _compare_layouts(
        "first stage encodes",
        workload,
        lambda model: model.first_stage_model,
        lambda module, image: module.encode(image),
    )


def compare_image_encoders(workload: Workload) -> Comparison:
    """CLIP's image encoder."""
    return _compare_layouts(
        "CLIP encodes", workload, lambda model: model.global_stage_model, lambda module, image: module(image)
    )


def _compare_layouts(
    name: str,
    workload: Workload,
    part_of: Callable[[LatentDiffusion], nn.Module],
    encode: Callable[[nn.Module, Tensor], Tensor],
) -> Comparison:
    image = workload.batch_of_images().image

    def build(layout: torch.memory_format, precision: str) -> Callable[[], Tensor]:
        module = part_of(workload.make_model()).to(PRECISIONS[precision], memory_format=layout)
        return lambda: torch.no_grad()(encode)(module, image.to(PRECISIONS[precision]))

    variants = {}
    for precision in workload.precisions:
        suffix = "" if precision == "fp32" else f", {precision}"
        variants["plain" + suffix] = Variant(partial(build, torch.contiguous_format, precision), precision)
        variants["channels last" + suffix] = Variant(partial(build, torch.channels_last, precision), precision)
    return Comparison(name, workload.batch, variants)


def compare_optimizers(workload: Workload) -> Comparison:
    """A step of AdamW over all trainable parameters."""

    def build(**options: bool) -> Callable[[], object]:
        shapes = [p.shape for p in workload.make_model().parameters() if p.requires_grad]
        parameters = [nn.Parameter(torch.randn(shape, device=workload.device)) for shape in shapes]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        return torch.optim.AdamW(parameters, **options).step

    variants = {
        "plain": Variant(build),
        "for each": Variant(partial(build, foreach=True)),
        "fused": Variant(partial(build, fused=True)),
    }
    return Comparison("AdamW", 1, variants)


# Several processes --------------------------------------------------------------------------------------------------


class Scaling(NamedTuple):
    """Throughput of several CPU processes with one thread each.

    Args:
        processes: their number.
        images_per_second: of data-parallel training, all processes together.
        apart: images/s of as many unsynchronized training runs.
    """

    processes: int
    images_per_second: float
    apart: float


def measure_scaling(
    workload: Workload, counts: Sequence[int], after_run: Callable[[], object] = lambda: None
) -> list[Scaling]:
    """Measures the throughput for each number of processes."""
    results = []
    for count in counts:
        rates = []
        for synchronized in (True, False):
            with tempfile.TemporaryDirectory() as folder, _process_pool(count) as pool:
                jobs = [(workload, rank, count, f"file://{folder}/rendezvous", synchronized) for rank in range(count)]
                rates.append(sum(pool.map(_images_per_second, *zip(*jobs))))
            after_run()
        results.append(Scaling(count, *rates))
    return results


def _process_pool(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), end_with_parent)


def _images_per_second(workload: Workload, rank: int, count: int, rendezvous: str, synchronized: bool) -> float:
    """Throughput of this process; all processes start at the same time, whether their gradients are synchronized or not."""
    torch.set_num_threads(1)
    keep_freed_memory()
    model = workload.make_model().train()
    prepare_for_training(model.unet, "cpu", lean=True)  # as in training with several processes
    batch = workload.batch_of_latents(model)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=count)
    step = _make_parallel_step(model, batch) if synchronized else make_step(model, batch, "cpu")
    dist.barrier()
    seconds = time_in_turns({"step": step}, workload.repeats, "cpu")["step"]
    dist.destroy_process_group()
    return workload.batch * len(seconds) / sum(seconds)


class _Losses(nn.Module):
    """A model whose forward pass is its training loss, as DistributedDataParallel needs it."""

    def __init__(self, model: LatentDiffusion):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self.model.losses(batch)[0].mean()


def _make_parallel_step(model: LatentDiffusion, batch: Batch) -> Callable[[], None]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    replica = DistributedDataParallel(_Losses(model), broadcast_buffers=False, gradient_as_bucket_view=True)

    def run() -> None:
        replica(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run
