"""The order of samples, resuming at any batch, and the data module of published configs."""

import random
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset

from ldm.data.datamodule import DataModuleFromConfig, EpochSampler
from ldm.graph.batch import Batch
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.training.callbacks import StepSeed
from ldm.util.errors import ConfigError


class Numbers(Dataset):
    """Samples are (index, epoch, a random number that depends on seed, epoch and index)."""

    def __init__(self, length: int = 13, seed: int = 0):
        self.length, self.seed, self.epoch = length, seed, 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([index, self.epoch, random.Random(f"{self.seed}/{self.epoch}/{index}").random()])


class Scenes(Dataset):
    """Three images with a graph of one object."""

    def __init__(self, name: str = "cat"):
        self.vocab = Vocab(("__image__", name), ("__in_image__",), ())

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.full((3, 4, 4), float(index)), SceneGraph(self.vocab.objects[1:])


def config_of(dataset, **params):
    return {"target": f"{__name__}.{dataset}", "params": params}


def make_data_module(**params):
    data = DataModuleFromConfig(**{"batch_size": 2, "num_workers": 0, "train": config_of("Numbers"), **params})
    data.setup()
    return data


def indices(loader, epoch=0):
    loader.position = lambda: (epoch, 0)
    return [int(index) for batch in loader for index in batch[:, 0]]


def test_every_epoch_has_each_index_once_in_another_order():
    sampler = EpochSampler(Numbers(100), seed=3)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert list(EpochSampler(Numbers(100), seed=4)) != orders[0]


@pytest.mark.parametrize("length, world", [(12, 3), (13, 3), (2, 5)])
def test_processes_get_equally_many_indices_and_together_all_of_them(length, world):
    order = list(EpochSampler(Numbers(length), seed=1))
    shares = [list(EpochSampler(Numbers(length), 1, rank, world)) for rank in range(world)]
    count = -(-length // world)
    assert {len(share) for share in shares} == {count} and len(EpochSampler(Numbers(length), 1, 0, world)) == count
    interleaved = [index for turn in zip(*shares) for index in turn]
    assert interleaved[:length] == order and set(interleaved) == set(range(length))


def test_a_sampler_without_shuffling_has_the_same_order_in_every_epoch():
    dataset = Numbers()
    sampler = EpochSampler(dataset, shuffle=False)
    sampler.set_epoch(5)
    assert list(sampler) == list(range(13)) and dataset.epoch == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_processes_receive_the_epoch(workers):
    loader = make_data_module(num_workers=workers).train_dataloader()
    for epoch in (0, 1):
        loader.position = lambda epoch=epoch: (epoch, 0)
        rows = torch.cat(list(loader))
        assert set(rows[:, 1].tolist()) == {epoch}


def test_the_number_of_workers_does_not_change_the_batches():
    single, parallel = make_data_module().train_dataloader(), make_data_module(num_workers=2).train_dataloader()
    assert all(torch.equal(a, b) for a, b in zip(single, parallel, strict=True))


def test_a_loader_can_start_at_any_batch_and_keeps_its_length():
    loader = make_data_module().train_dataloader()
    order = indices(loader, epoch=4)
    loader.position = lambda: (4, 3)
    assert torch.cat(list(loader))[:, 0].tolist() == order[6:]
    assert len(loader) == 7


def test_the_training_set_gets_the_seed_unless_its_config_has_one():
    assert make_data_module(seed=9).datasets["train"].seed == 9
    assert make_data_module(seed=9, train=config_of("Numbers", seed=4)).datasets["train"].seed == 4
    assert make_data_module(seed=9, validation=config_of("Numbers")).datasets["validation"].seed == 0


def test_samples_with_graphs_are_collated_to_a_batch():
    data = make_data_module(train=config_of("Scenes"), validation=config_of("Scenes"))
    batch = next(iter(data.val_dataloader()))
    assert isinstance(batch, Batch) and batch.image.shape == (2, 3, 4, 4) and batch.graph.objs.tolist() == [1, 0, 1, 0]
    assert data.vocab.objects == ("__image__", "cat")


def test_an_empty_data_set_is_an_error():
    with pytest.raises(ConfigError, match="data.params.train: .*Numbers"):
        make_data_module(train=config_of("Numbers", length=0))


def test_splits_with_different_vocabularies_are_an_error():
    with pytest.raises(ConfigError, match="train, validation .*vocabularies"):
        make_data_module(train=config_of("Scenes"), validation=config_of("Scenes", name="dog"))


def test_splits_that_the_config_lacks_have_no_loader():
    data = make_data_module()
    assert data.val_dataloader() == [] and data.test_dataloader() == [] and data.vocab is None


class Recorder(pl.LightningModule):
    """Trains on the batch and noise, and records each step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.steps = torch.nn.Linear(3, 1), []

    def training_step(self, batch, batch_idx):
        loss = (self.layer(batch) - torch.randn(len(batch), 1)).square().mean()
        self.steps.append((batch.tolist(), loss.item(), self.current_epoch, batch_idx))
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
    checkpoints = pl.callbacks.ModelCheckpoint(
        tmp_path / "checkpoints", "{epoch}-{step}", save_top_k=-1, save_last=True
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[StepSeed(5), checkpoints, *callbacks],
        **limits,
    )
    data = make_data_module(validation=config_of("Numbers", length=5), seed=5)  # 7 batches make an epoch
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return model


@pytest.mark.parametrize("limits", [{"max_steps": 16}, {"max_epochs": 3}])
@pytest.mark.parametrize(
    "step, hook",
    [(5, "on_train_batch_end"), (7, "on_train_batch_end"), (12, "on_train_batch_end"), (7, "on_validation_batch_end")],
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, step, hook, limits):
    uninterrupted = fit(tmp_path, SaveAt(step, hook, tmp_path / "middle.ckpt"), **limits)
    resumed = fit(tmp_path, ckpt_path=tmp_path / "middle.ckpt", **limits)
    assert resumed.steps == uninterrupted.steps[step:]
    assert torch.equal(resumed.layer.weight, uninterrupted.layer.weight)


@pytest.mark.parametrize("limits", [{"max_steps": 16}, {"max_epochs": 3}])
def test_a_run_resumed_from_the_checkpoint_of_an_epoch_equals_the_uninterrupted_one(tmp_path, limits):
    uninterrupted = fit(tmp_path, **limits)
    resumed = fit(tmp_path, ckpt_path=tmp_path / "checkpoints" / "epoch=1-step=14.ckpt", **limits)
    assert resumed.steps == uninterrupted.steps[14:]
    assert torch.equal(resumed.layer.weight, uninterrupted.layer.weight)


def test_ten_steps_equal_five_steps_and_five_more(tmp_path):
    uninterrupted = fit(tmp_path / "uninterrupted", max_steps=10)
    first = fit(tmp_path / "parts", max_steps=5)
    second = fit(tmp_path / "parts", ckpt_path=tmp_path / "parts" / "checkpoints" / "last.ckpt", max_steps=10)
    assert first.steps + second.steps == uninterrupted.steps
    assert torch.equal(second.layer.weight, uninterrupted.layer.weight)


@pytest.mark.parametrize(
    "option, value",
    [
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("batch_size", "four"),
        ("num_workers", -1),
        ("flip", 2),
        ("flip", "often"),
    ],
)
def test_an_impossible_number_is_an_error_that_names_it(option, value):
    with pytest.raises(ConfigError, match=f"data.params.{option} is {value!r}"):
        DataModuleFromConfig(**{"batch_size": 2, option: value})
