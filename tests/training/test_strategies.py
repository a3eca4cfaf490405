"""Two processes, with a whole model in each or with the frozen U-Net in shards: the same numbers, and the same run."""

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

from ldm.data.demo import DemoTrain
from ldm.graph.batch import collate
from ldm.models import runtime
from ldm.synthetic.shapes import VOCAB
from ldm.training.callbacks import frozen_checksums
from ldm.training.strategies import Sharded, refuse_to_shard, shard_frozen, strategy
from ldm.util.errors import ConfigError


def numbers_here(unet):
    """How many numbers of a U-Net lie in this process: frozen, trained."""
    counts = [0, 0]
    for p in unet.parameters():
        counts[p.requires_grad] += (p.to_local() if isinstance(p, DTensor) else p).numel()
    return counts


def one_of_two(rank, folder):
    """Loss, gradients, samples and checksums before and after the U-Net is divided."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    batch = collate([DemoTrain(4, 32)[i] for i in (2 * rank, 2 * rank + 1)], VOCAB)
    for precision, recompute, tolerance in ((torch.float32, True, 1e-4), (torch.bfloat16, False, 2e-2)):
        model = adapted_model()
        model.unet.use_checkpoint = recompute
        runtime.prepare_for_training(model.unet, "cpu", "bf16-mixed" if precision == torch.bfloat16 else "32")
        model.unet.to(memory_format=torch.contiguous_format)  # as shards lie
        whole, (frozen, new) = all_of_it(model, batch, precision), numbers_here(model.unet)
        shard_frozen(model.unet, init_device_mesh("cpu", (2,)))
        for _ in range(2):  # the second time finds what the first one left
            divided, here = all_of_it(model, batch, precision), numbers_here(model.unet)
            assert here[0] < 0.52 * frozen and here[1] == new
            assert divided[:2] == whole[:2]
            torch.testing.assert_close(divided[2], whole[2], rtol=0, atol=tolerance)
            assert apart(divided[3], whole[3]) < tolerance
    distributed.destroy_process_group()


def apart(ours, theirs):
    """The distance of tensors from those of the same names, as a share of their length."""
    assert ours.keys() == theirs.keys()
    away = [(ours[name] - theirs[name]).float() for name in theirs]
    return get_total_norm(away) / get_total_norm([value.float() for value in theirs.values()])


def all_of_it(model, batch, precision):
    losses, gradients = losses_and_gradients(model, batch, precision)
    torch.manual_seed(0)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        images = model.log_images(batch, n=2, steps=1)
    return dict(frozen_checksums(model)), sorted(model.state_dict()), {"losses": losses, **images}, gradients


def test_in_shards_loss_gradients_samples_and_checksums_are_those_of_the_whole(tmp_path):
    """To 1e-4, and in bf16, which rounds to 4e-3, to 2e-2: gathered weights lie elsewhere in memory, and kernels go by that."""
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)


class Record(pl.Callback):
    """Writes each process's losses, and `numbers_here` of its U-Net."""

    def __init__(self, folder: str):
        self.folder, self.losses = Path(folder), []

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer, model):
        file = self.folder / f"{trainer.global_step}_{trainer.global_rank}.pt"
        torch.save((self.losses, *numbers_here(model.unet)), file)


def run(folder, name, steps, *flags):
    """What Record wrote in each of two processes, last.ckpt, and the log folder: of a run, or of one that goes on."""
    model = {**copy.deepcopy(MODEL), "base_learning_rate": 1e-3}
    model["params"]["cosine"] = False  # which would have to know where the run ends
    callbacks = {
        "image_logger": {"params": {"batch_frequency": 2, "log_images_kwargs": {"steps": 2}}},
        "record": {"target": "test_strategies.Record", "params": {"folder": str(folder)}},
    }
    settings = {"num_sanity_val_steps": 0, "progress_bar_refresh_rate": 0}
    config = {"model": model, "data": DATA, "lightning": {"callbacks": callbacks, "trainer": settings}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    begun = list(folder.glob(f"logs/*_{name}"))
    where = ["--resume", *begun] if begun else ["--name", name, "--logdir", folder / "logs"]
    command = ["trainer.py", "--base", folder / "config.yaml", *where, "-t", "--gpus", "cpu:2", "--max_steps", steps, *flags]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, check=False, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{Path(__file__).parent}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (log,) = folder.glob(f"logs/*_{name}")
    recorded = [torch.load(folder / f"{steps}_{rank}.pt") for rank in (0, 1)]
    return recorded, torch.load(log / "checkpoints" / "last.ckpt", weights_only=True), log


@pytest.mark.slow
def test_a_run_in_shards_that_was_resumed_is_the_run_of_whole_models(tmp_path):
    """On a CPU whole models' frozen weights lie channels last, so sums come in another order: losses to 1e-5, averaged
    gradients to 1e-4. Weights to 1e-3, of which four steps move them near a tenth: where a gradient is nothing but rounding,
    Adam goes by the whole rate either way."""
    whole, expected, _ = run(tmp_path, "ddp", 4, "--strategy", "ddp")
    begun, _, _ = run(tmp_path, "fsdp", 2, "--strategy", "fsdp")
    resumed, last, log = run(tmp_path, "fsdp", 4)
    for ours, first, theirs in zip(resumed, begun, whole):
        assert len(theirs[0]) == 4
        torch.testing.assert_close(first[0] + ours[0], theirs[0], rtol=1e-5, atol=0)
        assert ours[1] < 0.52 * theirs[1] and ours[2] == theirs[2]
    assert last["global_step"] == expected["global_step"] == 4
    assert last["callbacks"]["Checks"] == expected["callbacks"]["Checks"]  # the frozen weights
    assert apart(last["state_dict"], expected["state_dict"]) < 1e-3
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (last, expected)]
    assert apart(*({number: of["exp_avg"] for number, of in state.items()} for state in states)) < 1e-4
    assert list(log.glob("images/train/samples_gs-000004*")) and list(log.glob("images/val/samples_gs-000004*"))


@pytest.mark.parametrize(
    "name, kind", [(None, DDPStrategy), ("auto", DDPStrategy), ("ddp", DDPStrategy), ("fsdp", Sharded)]
)
def test_several_processes_train_by_ours_and_one_alone_needs_none(name, kind):
    assert type(strategy(name, 2)) is kind
    assert strategy(name, 1) == "auto"


@pytest.mark.parametrize("name", ["ddp_spawn", "deepspeed_stage_2", "fsdp2"])
@pytest.mark.parametrize("processes", [1, 2])
def test_any_other_strategy_is_refused(name, processes):
    with pytest.raises(ConfigError, match=f"strategy {name}: not supported; choose ddp or fsdp"):
        strategy(name, processes)


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(ConfigError, match="Linear has none"):
        refuse_to_shard(torch.nn.Linear(2, 2), compiled=False)
    with pytest.raises(ConfigError, match="LatentDiffusion has none"):
        refuse_to_shard(adapted_model(freeze_unet=False), compiled=False)
    with pytest.raises(ConfigError, match="is not compiled"):
        refuse_to_shard(adapted_model(), compiled=True)
    refuse_to_shard(adapted_model(), compiled=False)
