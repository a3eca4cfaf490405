"""Two processes, each with the whole model or with a share of the frozen U-Net weights: the same numbers, the same run."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from paths import ROOT
from pytorch_lightning.strategies import DDPStrategy
from tiny import DATA, MODEL, adapted_model, losses_and_gradients
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from toy_run import PYTHONPATH

from ldm.data.demo import DemoTrain
from ldm.graph.batch import collate
from ldm.models import runtime
from ldm.synthetic.shapes import VOCAB
from ldm.training.callbacks import frozen_checksums
from ldm.training.strategies import Sharded, refuse_to_shard, shard_frozen, strategy
from ldm.util.errors import ConfigError


def local_parameter_counts(unet):
    """How many numbers of a U-Net this process holds: frozen, trained."""
    counts = [0, 0]
    for p in unet.parameters():
        counts[p.requires_grad] += (p.to_local() if isinstance(p, DTensor) else p).numel()
    return counts


def relative_distance(ours, theirs):
    """Norm of the difference of two {name: tensor}, relative to the norm of `theirs`."""
    assert ours.keys() == theirs.keys()
    differences = [(ours[name] - theirs[name]).float() for name in theirs]
    return get_total_norm(differences) / get_total_norm([value.float() for value in theirs.values()])


def results(model, batch, precision):
    """Checksums, keys, losses with sampled images, and gradients of a model."""
    losses, gradients = losses_and_gradients(model, batch, precision)
    torch.manual_seed(0)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        images = model.log_images(batch, n=2, steps=1)
    return dict(frozen_checksums(model)), sorted(model.state_dict()), {"losses": losses, **images}, gradients


def compare_sharded_with_whole(rank, folder):
    """One of two processes: results before sharding, and twice after it, since the first pass changes the state."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    batch = collate([DemoTrain(4, 32)[i] for i in (2 * rank, 2 * rank + 1)], VOCAB)
    for precision, recompute, tolerance in ((torch.float32, True, 1e-4), (torch.bfloat16, False, 2e-2)):
        model = adapted_model()
        model.unet.use_checkpoint = recompute
        runtime.prepare_for_training(model.unet, "cpu", "bf16-mixed" if precision == torch.bfloat16 else "32")
        model.unet.to(memory_format=torch.contiguous_format)  # as shards are stored
        expected, (frozen, trained) = results(model, batch, precision), local_parameter_counts(model.unet)
        shard_frozen(model.unet, init_device_mesh("cpu", (2,)))
        for _ in range(2):
            sharded, counts = results(model, batch, precision), local_parameter_counts(model.unet)
            assert counts[0] < 0.52 * frozen and counts[1] == trained
            assert sharded[:2] == expected[:2]
            torch.testing.assert_close(sharded[2], expected[2], rtol=0, atol=tolerance)
            assert relative_distance(sharded[3], expected[3]) < tolerance
    distributed.destroy_process_group()


def test_a_sharded_model_has_the_losses_gradients_samples_and_checksums_of_the_whole_model(tmp_path):
    """To 1e-4, and to 2e-2 in bf16, which rounds to 4e-3: gathered weights have other addresses, which kernels depend on.

    One subprocess imports everything and then forks the two, since spawned ones would each import it. The process of pytest
    cannot fork them once a test has used autograd.
    """
    process = subprocess.run(
        [sys.executable, __file__, tmp_path],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{PYTHONPATH}", "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr


class Record(pl.Callback):
    """Writes the losses of each process, and `local_parameter_counts` of its U-Net."""

    def __init__(self, folder: str):
        self.folder, self.losses = Path(folder), []

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer, model):
        file = self.folder / f"{trainer.global_step}_{trainer.global_rank}.pt"
        torch.save((self.losses, *local_parameter_counts(model.unet)), file)


def train_two_processes(folder, name, steps, *flags):
    """Starts a run, or resumes the one of that name: the records of both processes, last.ckpt, and the log folder."""
    model = {**copy.deepcopy(MODEL), "base_learning_rate": 1e-3}
    model["params"]["cosine"] = False  # a cosine schedule would depend on the number of steps
    callbacks = {
        "image_logger": {"params": {"batch_frequency": 2, "log_images_kwargs": {"steps": 2}}},
        "record": {"target": "test_strategies.Record", "params": {"folder": str(folder)}},
    }
    settings = {"num_sanity_val_steps": 0, "progress_bar_refresh_rate": 0}
    config = {"model": model, "data": DATA, "lightning": {"callbacks": callbacks, "trainer": settings}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    runs = list(folder.glob(f"logs/*_{name}"))
    place = ["--resume", *runs] if runs else ["--name", name, "--logdir", folder / "logs"]
    flags = ["--base", folder / "config.yaml", *place, "-t", "--gpus", "cpu:2", "--max_steps", steps, *flags]
    process = subprocess.run(
        [sys.executable, "trainer.py", *map(str, flags)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0 and process.stderr == "", process.stderr
    (log,) = folder.glob(f"logs/*_{name}")
    records = [torch.load(folder / f"{steps}_{rank}.pt") for rank in (0, 1)]
    return records, torch.load(log / "checkpoints" / "last.ckpt", weights_only=True), log


@pytest.mark.slow
def test_a_sharded_run_that_was_resumed_equals_a_ddp_run(tmp_path):
    """Losses to 1e-5 and averaged gradients to 1e-4, since DDP keeps frozen weights channels-last on a CPU and so sums in
    another order. Weights to 1e-3, where four steps change them by almost a tenth: if a gradient is rounding noise only,
    Adam still steps by the whole learning rate."""
    whole, expected, _ = train_two_processes(tmp_path, "ddp", 4, "--strategy", "ddp")
    begun, _, _ = train_two_processes(tmp_path, "fsdp", 2, "--strategy", "fsdp")
    resumed, last, log = train_two_processes(tmp_path, "fsdp", 4)
    for ours, first, theirs in zip(resumed, begun, whole):
        assert len(theirs[0]) == 4
        torch.testing.assert_close(first[0] + ours[0], theirs[0], rtol=1e-5, atol=0)
        assert ours[1] < 0.52 * theirs[1] and ours[2] == theirs[2]
    assert last["global_step"] == expected["global_step"] == 4
    assert last["callbacks"]["Checks"] == expected["callbacks"]["Checks"]  # checksums of the frozen weights
    assert relative_distance(last["state_dict"], expected["state_dict"]) < 1e-3
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (last, expected)]
    averages = [{number: moments["exp_avg"] for number, moments in state.items()} for state in states]
    assert relative_distance(*averages) < 1e-4
    assert list(log.glob("images/train/samples_gs-000004*")) and list(log.glob("images/val/samples_gs-000004*"))


STRATEGIES = [(None, DDPStrategy), ("auto", DDPStrategy), ("ddp", DDPStrategy), ("fsdp", Sharded)]


@pytest.mark.parametrize("name, kind", STRATEGIES)
def test_a_strategy_is_used_for_several_processes_only(name, kind):
    assert type(strategy(name, 2)) is kind
    assert strategy(name, 1) == "auto"


@pytest.mark.parametrize("name", ["ddp_spawn", "deepspeed_stage_2", "fsdp2"])
@pytest.mark.parametrize("processes", [1, 2])
def test_other_strategies_are_refused(name, processes):
    with pytest.raises(ConfigError, match=name):
        strategy(name, processes)


def test_only_a_frozen_u_net_that_is_not_compiled_can_be_sharded():
    model = adapted_model()
    refuse_to_shard(model, compiled=False)
    with pytest.raises(ConfigError, match="compile"):
        refuse_to_shard(model, compiled=True)
    for other in (torch.nn.Linear(2, 2), adapted_model(freeze_unet=False)):
        with pytest.raises(ConfigError, match=type(other).__name__):
            refuse_to_shard(other, compiled=False)


if __name__ == "__main__":
    torch.multiprocessing.start_processes(compare_sharded_with_whole, (sys.argv[1],), nprocs=2, start_method="fork")
