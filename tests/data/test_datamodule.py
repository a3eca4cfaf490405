import random
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset

from ldm.data.datamodule import DataModuleFromConfig, EpochSampler
from ldm.graph.batch import Batch
from ldm.graph.scene_graph import SceneGraph, Vocab
from ldm.training.callbacks import StepSeed
from ldm.util.errors import ConfigError


class Numbers(Dataset):
    """[index, epoch, a random draw] as the training sets make them."""

    def __init__(self, length: int = 13, seed: int = 0):
        self.length, self.seed, self.epoch = length, seed, 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([index, self.epoch, random.Random(f"{self.seed}/{self.epoch}/{index}").random()])


class Scenes(Dataset):
    vocab = Vocab(("__image__", "cat"), ("__in_image__",), ())

    def __init__(self, name: str = "cat"):
        self.vocab = Vocab(("__image__", name), ("__in_image__",), ())

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.full((3, 4, 4), float(index)), SceneGraph(self.vocab.objects[1:])


def of(dataset, **params):
    return {"target": f"{__name__}.{dataset}", "params": params}


def module(**params):
    data = DataModuleFromConfig(**{"batch_size": 2, "num_workers": 0, "train": of("Numbers"), **params})
    data.setup()
    return data


def indices(loader, epoch=0):
    loader.position = lambda: (epoch, 0)
    return [int(index) for batch in loader for index in batch[:, 0]]


def test_an_epoch_holds_every_index_once_in_an_order_of_its_own():
    sampler = EpochSampler(Numbers(100), seed=3)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert list(EpochSampler(Numbers(100), seed=4)) != orders[0]


@pytest.mark.parametrize("length, world", [(12, 3), (13, 3), (2, 5)])
def test_processes_share_an_epoch_evenly_and_leave_nothing_out(length, world):
    whole = list(EpochSampler(Numbers(length), seed=1))
    shares = [list(EpochSampler(Numbers(length), 1, rank, world)) for rank in range(world)]
    each = -(-length // world)
    assert {len(share) for share in shares} == {each} and len(EpochSampler(Numbers(length), 1, 0, world)) == each
    in_turn = [index for turn in zip(*shares) for index in turn]
    assert in_turn[:length] == whole and set(in_turn) == set(range(length))


def test_a_sampler_that_does_not_shuffle_is_the_same_in_every_epoch():
    dataset = Numbers()
    sampler = EpochSampler(dataset, shuffle=False)
    sampler.set_epoch(5)
    assert list(sampler) == list(range(13)) and dataset.epoch == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_know_the_epoch(workers):
    loader = module(num_workers=workers).train_dataloader()
    for epoch in (0, 1):
        loader.position = lambda: (epoch, 0)
        rows = torch.cat(list(loader))
        assert set(rows[:, 1].tolist()) == {epoch}


def test_workers_do_not_change_what_is_read():
    alone, helped = module().train_dataloader(), module(num_workers=2).train_dataloader()
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_a_loader_can_begin_at_any_batch_and_keeps_its_length():
    loader = module().train_dataloader()
    whole = indices(loader, epoch=4)
    loader.position = lambda: (4, 3)
    assert torch.cat(list(loader))[:, 0].tolist() == whole[6:]
    assert len(loader) == 7


def test_the_seed_reaches_the_training_set_unless_its_config_has_one():
    assert module(seed=9).datasets["train"].seed == 9
    assert module(seed=9, train=of("Numbers", seed=4)).datasets["train"].seed == 4
    assert module(seed=9, validation=of("Numbers")).datasets["validation"].seed == 0


def test_scenes_come_as_batches_of_graphs():
    data = module(train=of("Scenes"), validation=of("Scenes"))
    batch = next(iter(data.val_dataloader()))
    assert isinstance(batch, Batch) and batch.image.shape == (2, 3, 4, 4) and batch.graph.objs.tolist() == [1, 0, 1, 0]
    assert data.vocab.objects == ("__image__", "cat")


def test_an_empty_dataset_is_refused():
    with pytest.raises(ConfigError, match="data.params.train: .*Numbers found no image"):
        module(train=of("Numbers", length=0))


def test_splits_with_different_vocabularies_are_refused():
    with pytest.raises(ConfigError, match="train, validation must have the same vocabulary"):
        module(train=of("Scenes"), validation=of("Scenes", name="dog"))


def test_splits_that_are_not_configured_are_empty():
    data = module()
    assert data.val_dataloader() == [] and data.test_dataloader() == [] and data.vocab is None


class Recorder(pl.LightningModule):
    """Learns from the batch and from noise, and writes down what it saw."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.seen = torch.nn.Linear(3, 1), []

    def training_step(self, batch, batch_idx):
        loss = (self.layer(batch) - torch.randn(len(batch), 1)).square().mean()
        self.seen.append((batch.tolist(), loss.item(), self.current_epoch, batch_idx))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val", self.layer(batch).mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-2)


class SaveAt(pl.Callback):
    def __init__(self, step: int, hook: str, path: Path):
        setattr(self, hook, lambda trainer, *_: trainer.global_step == step and trainer.save_checkpoint(path))


def fit(tmp_path, *callbacks, ckpt_path=None, **limits):
    model = Recorder()
    checkpoints = pl.callbacks.ModelCheckpoint(tmp_path / "kept", "{epoch}-{step}", save_top_k=-1, save_last=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[StepSeed(5), checkpoints, *callbacks],
        **limits,
    )
    data = module(validation=of("Numbers", length=5), seed=5)  # 7 batches make an epoch
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return model


@pytest.mark.parametrize("limits", [{"max_steps": 16}, {"max_epochs": 3}])
@pytest.mark.parametrize(
    "step, hook",
    [(5, "on_train_batch_end"), (7, "on_train_batch_end"), (12, "on_train_batch_end"), (7, "on_validation_batch_end")],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, step, hook, limits):
    straight = fit(tmp_path, SaveAt(step, hook, tmp_path / "middle.ckpt"), **limits)
    resumed = fit(tmp_path, ckpt_path=tmp_path / "middle.ckpt", **limits)
    assert resumed.seen == straight.seen[step:]
    assert torch.equal(resumed.layer.weight, straight.layer.weight)


@pytest.mark.parametrize("limits", [{"max_steps": 16}, {"max_epochs": 3}])
def test_a_run_resumed_from_an_epochs_checkpoint_is_the_uninterrupted_one(tmp_path, limits):
    straight = fit(tmp_path, **limits)
    resumed = fit(tmp_path, ckpt_path=tmp_path / "kept" / "epoch=1-step=14.ckpt", **limits)
    assert resumed.seen == straight.seen[14:]
    assert torch.equal(resumed.layer.weight, straight.layer.weight)


def test_ten_steps_are_five_steps_and_five_more(tmp_path):
    straight = fit(tmp_path / "straight", max_steps=10)
    first = fit(tmp_path / "parts", max_steps=5)
    second = fit(tmp_path / "parts", ckpt_path=tmp_path / "parts" / "kept" / "last.ckpt", max_steps=10)
    assert first.seen + second.seen == straight.seen
    assert torch.equal(second.layer.weight, straight.layer.weight)
