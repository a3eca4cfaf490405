"""The cases of training: a step with and without a cache, the frozen encoders, the optimizer, several processes."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ldm.graph.batch import Batch
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.runtime import keep_freed_memory, prepare_for_training
from ldm.profiling import diffusers_peer
from ldm.profiling.measure import Group, Way
from ldm.profiling.setting import PRECISIONS, Setting, without_forgetting
from ldm.profiling.timing import interleaved
from ldm.util.processes import end_with_parent


def step(setting: Setting) -> Group:
    """Loss, gradients and optimizer. 'plain' encodes the images each time, in float32 and torch's own layout and optimizer;
    diffusers' U-Net stands in its place and trains the graph encoder alone, as it has no adapters; the one to be compared
    with has the cache too."""
    models: dict[str, LatentDiffusion] = {}

    def model(kind: str, change: Callable[[LatentDiffusion], None]) -> LatentDiffusion:
        if kind not in models:
            models[kind] = setting.model(encoders=next(iter(models.values()), None)).train()
            change(models[kind])
        return models[kind]

    def plain(cached: bool) -> Callable[[], Tensor]:
        own = model("plain", lambda it: without_forgetting(it.unet))
        return train(own, _batch(setting, own, cached), setting.device, fused=False)

    def ours(precision: str, compiled: bool = False, recompute: bool = False) -> Callable[[], Tensor]:
        mixed = "bf16-mixed" if precision == "bf16" else "32"

        def change(it: LatentDiffusion) -> None:
            it.unet.use_checkpoint = recompute
            prepare_for_training(it.unet, setting.device, mixed, compiled)

        own = model(f"{precision} {compiled} {recompute}", change)
        return train(own, _batch(setting, own, cached=True), setting.device, precision)

    def theirs(precision: str, cached: bool) -> Callable[[], Tensor]:
        own = model(f"diffusers {precision}", lambda it: diffusers_peer.take_over(it, setting, precision))
        return train(own, _batch(setting, own, cached), setting.device, precision, fused=False)

    ways = {"plain": Way(partial(plain, False)), "plain, cached": Way(partial(plain, True))}
    for precision in setting.precisions:
        end = "" if precision == "fp32" else f", {precision}"
        ways["fast, cached" + end] = Way(partial(ours, precision), precision)
        ways["fast, cached, recompute" + end] = Way(partial(ours, precision, recompute=True), precision)
        if setting.compiled:
            ways["fast, cached, compiled" + end] = Way(partial(ours, precision, True), precision)
        if diffusers_peer.available():
            ways["diffusers, cached" + end] = Way(partial(theirs, precision, True), precision, peer=True)
            ways["diffusers" + end] = Way(partial(theirs, precision, False), precision, peer=True)
    return Group("training step", setting.batch, ways)


def train(
    model: LatentDiffusion, batch: Batch, device: str, precision: str = "fp32", fused: bool = True
) -> Callable[[], Tensor]:
    """A function that does one step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=model.learning_rate, fused=fused)

    def run() -> Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model.losses(batch)[0].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return run


def sizes(setting: Setting) -> dict[str, int]:
    """Bytes of what a run trains: exported, and in a checkpoint to go on from (weights, their average, two moments)."""
    trained = {name: p.detach() for name, p in setting.model().named_parameters() if p.requires_grad}
    exported = len(save({name: value.half() for name, value in trained.items()}))
    return {"adapters, exported": exported, "checkpoint to resume": 4 * sum(value.nbytes for value in trained.values())}


def first_stage(setting: Setting) -> Group:
    return _encoder("first stage encodes", setting, lambda model: (model.first_stage_model, "encode"))


def image_encoder(setting: Setting) -> Group:
    return _encoder("CLIP encodes", setting, lambda model: (model.global_stage_model, "forward"))


def _encoder(name: str, setting: Setting, choose: Callable) -> Group:
    image = setting.batch_of_images().image

    def run(layout: torch.memory_format, precision: str) -> Callable[[], Tensor]:
        part, method = choose(setting.model())
        part = part.to(PRECISIONS[precision], memory_format=layout)
        return lambda: torch.no_grad()(getattr(part, method))(image.to(PRECISIONS[precision]))

    ways = {}
    for precision in setting.precisions:
        end = "" if precision == "fp32" else f", {precision}"
        ways["plain" + end] = Way(partial(run, torch.contiguous_format, precision), precision)
        ways["channels last" + end] = Way(partial(run, torch.channels_last, precision), precision)
    return Group(name, setting.batch, ways)


def optimizer(setting: Setting) -> Group:
    """One AdamW step of all that is trained."""

    def run(**options: bool) -> Callable[[], object]:
        shapes = [p.shape for p in setting.model().parameters() if p.requires_grad]
        parameters = [nn.Parameter(torch.randn(shape, device=setting.device)) for shape in shapes]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        return torch.optim.AdamW(parameters, **options).step

    ways = {"plain": Way(run), "for each": Way(partial(run, foreach=True)), "fused": Way(partial(run, fused=True))}
    return Group("AdamW", 1, ways)


def scaling(
    setting: Setting, counts: list[int], tick: Callable[[], object] = lambda: None
) -> list[tuple[int, float, float]]:
    """(processes, images per second of those that train one model, and of as many that know nothing of each other), each
    process a thread."""
    rows = []
    for count in counts:
        rates = []
        for together in (True, False):
            with tempfile.TemporaryDirectory() as folder, _pool(count) as pool:
                jobs = [(setting, rank, count, f"file://{folder}/meet", together) for rank in range(count)]
                rates.append(sum(pool.map(_rate, *zip(*jobs))))
            tick()
        rows.append((count, *rates))
    return rows


def _pool(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), end_with_parent)


def _rate(setting: Setting, rank: int, world: int, meet: str, together: bool) -> float:
    """Images per second of this process, in the same seconds as the others whether they learn together or not."""
    torch.set_num_threads(1)
    keep_freed_memory()
    model = setting.model().train()
    prepare_for_training(model.unet, "cpu", lean=True)  # as training has it in several processes
    batch = _batch(setting, model, cached=True)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
    if not together:
        run = train(model, batch, "cpu")
    else:
        learned = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
        model.forward = lambda batch: model.losses(batch)[0].mean()
        replica = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

        def run() -> None:
            replica(batch).backward()
            learned.step()
            learned.zero_grad()

    dist.barrier()
    seconds = interleaved({"step": run}, setting.repeats, "cpu")["step"]
    dist.destroy_process_group()
    return setting.batch * len(seconds) / sum(seconds)


def _batch(setting: Setting, model: LatentDiffusion, cached: bool) -> Batch:
    return setting.batch_of_latents(model) if cached else setting.batch_of_images()
