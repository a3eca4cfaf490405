"""Reading a latent cache: training on it gives the same losses without images, and stale caches are errors."""

import copy
import json
import multiprocessing
import pickle
import shutil
import unicodedata

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from noise_vg import IMAGES, QUIET, data_module, encoders_of, vg_params
from PIL import Image
from tiny import MODEL, tiny_model
from torch.utils.data import DataLoader

from ldm.data.cache import CachedDataset, CacheError, read_index
from ldm.data.cache_writing import write_cache
from ldm.data.clevr import CLEVR
from ldm.data.coco import COCOTrain
from ldm.data.flips import RandomFlipDataset
from ldm.data.vg import VGTrain
from ldm.graph.batch import Batch, Latents, collate
from ldm.models.autoencoder import AutoencoderKL
from ldm.models.encoders import checksum
from ldm.synthetic.shapes import VOCAB
from ldm.training.callbacks import ImageLogger, StepSeed
from ldm.util.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, on numpy 2

# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_losses_on_cached_latents_equal_those_on_images_up_to_float16(noise_vg, cache, model, flip):
    """To a relative error of 2e-4: rounding errors of float16 are at most 2^-11 = 5e-4 and average out in a loss."""
    modules = data_module(noise_vg, flip=flip), data_module(noise_vg, flip=flip, cache=str(cache))
    model.train()
    for module in modules:
        module.setup()
    for epoch in (0, 1):
        loaders = [module.train_dataloader() for module in modules]
        for loader in loaders:
            loader.position = lambda epoch=epoch: (epoch, 0)
        for seed, (pixels, latents) in enumerate(zip(*loaders, strict=True)):
            assert latents.image is None and pixels.latents is None
            assert all(torch.equal(a, b) for a, b in zip(pixels.graph, latents.graph, strict=True))
            results = []
            for batch in (pixels, latents):
                torch.manual_seed(seed)
                results.append(model.losses(batch))
            (expected, timesteps), (losses, same_timesteps) = results
            assert torch.equal(timesteps, same_timesteps)
            torch.testing.assert_close(losses, expected, rtol=2e-4, atol=0)


def test_latents_or_styles_of_another_image_change_the_loss(dataset, cache, model):
    """So the comparison above would detect them."""
    cached = CachedDataset(dataset, cache / "train")
    batch = collate([cached[index] for index in range(IMAGES)], VOCAB)
    z, style = batch.latents[:2]

    def losses(*latents):
        exchanged = Batch(None, batch.graph, latents=Latents(*latents))
        return torch.stack(
            [model.losses(exchanged, torch.Generator().manual_seed(seed))[0] for seed in range(3)]
        ).detach()

    right = losses(z, style)
    for wrong in (losses(z.roll(1, 0), style), losses(z, style.roll(1, 0))):
        assert ((wrong - right).abs() > 2e-3 * right).float().mean() > 0.3


def test_training_on_a_cache_needs_no_image_file(noise_vg, cache, tmp_path):
    """The image logger decodes the latents."""
    folder = tmp_path / "vg"
    shutil.copytree(noise_vg, folder)
    shutil.rmtree(folder / "images")
    torch.manual_seed(0)
    model = tiny_model(graph_drop=0.5, scale_by_std=True)
    model.learning_rate = 1e-3
    logger = ImageLogger(batch_frequency=2, max_images=1, log_images_kwargs={"steps": 1})
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        use_distributed_sampler=False,
        callbacks=[StepSeed(0), logger],
        max_steps=2,
        **QUIET,
    )
    trainer.fit(model, data_module(folder, cache=str(cache), flip=0.5))
    assert trainer.global_step == 2 and torch.isfinite(trainer.callback_metrics["val/loss_simple"])
    pictures = {path.name.partition("_gs")[0] for path in (tmp_path / "images/train").iterdir()}
    assert pictures == {"reconstructions", "samples", "graphs"}
    z = np.load(cache / "train/00000.npy")["z"][:, 0].astype(np.float32)
    assert 0.8 < float(model.scale_factor) * z.std() < 1.25


@pytest.mark.parametrize("cached", [True, False])
def test_with_a_cache_the_encoders_return_to_the_cpu_after_the_model_moved(noise_vg, cache, tmp_path, cached):
    model, moves = tiny_model(), []
    model.learning_rate = 1e-3
    for part in (model, model.first_stage_model, model.global_stage_model):
        part.to = lambda device, part=part: moves.append((part, str(device)))
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, max_steps=1, limit_val_batches=0, **QUIET)
    trainer.fit(model, data_module(noise_vg, cache=str(cache) if cached else None))
    back = [(model.first_stage_model, "cpu"), (model.global_stage_model, "cpu")]
    assert moves == [(model, "cpu"), *(back if cached else [])]


def test_worker_processes_give_the_same_samples_and_an_open_cache_can_be_pickled(dataset, cache):
    cached = RandomFlipDataset(CachedDataset(dataset, cache / "train"), 0.5)
    samples = [cached[index] for index in range(IMAGES)]
    spawn = multiprocessing.get_context("spawn")
    loader = DataLoader(cached, batch_size=None, num_workers=1, multiprocessing_context=spawn)
    for (latents, graph), (other_latents, other_graph) in zip(samples, loader, strict=True):
        assert graph == other_graph
        assert all(torch.equal(a, b) for a, b in zip(latents[:2], other_latents[:2], strict=True))
    assert len(pickle.dumps(cached)) < 10_000 + len(pickle.dumps(dataset))


def test_a_batch_of_latents_can_be_moved_pickled_and_unpacked(dataset, cache):
    cached = CachedDataset(dataset, cache / "train")
    batch = collate([cached[0], cached[3]], dataset.vocab)
    assert batch.latents.z.shape == (2, 4, 8, 8) and batch.latents.style.shape == (2, 16)
    assert batch.latents.z.dtype == torch.float16
    for other in (pickle.loads(pickle.dumps(batch)), batch.to("cpu", non_blocking=True)):
        assert len(other) == 6 and other.image is None and other.reference is None
        assert all(torch.equal(a, b) for a, b in zip(other.latents[:2], batch.latents[:2], strict=True))
    assert batch.to("meta").latents.style.device.type == "meta"


def test_records_are_found_by_name_for_fewer_images_in_another_order(noise_vg, cache, tmp_path):
    folder = tmp_path / "vg"
    shutil.copytree(noise_vg, folder)
    with h5py.File(folder / "made.h5", "r+") as file:
        names = file["image_paths"][:][::-1]
        file["image_paths"][:] = names
    cached = CachedDataset(VGTrain(**vg_params(noise_vg)), cache / "train")
    reversed_order = CachedDataset(VGTrain(**vg_params(folder, max_samples=2)), cache / "train")
    assert len(reversed_order) == 2
    assert all(torch.equal(reversed_order[i][0].z, cached[IMAGES - 1 - i][0].z) for i in range(2))


def test_a_cache_without_mirror_images_has_half_the_size_and_excludes_flips(dataset, noise_vg, cache, model, tmp_path):
    for split in ("train", "validation"):
        write_cache(dataset, tmp_path / split, *encoders_of(model), mirrored=False)
    full, half = (read_index(folder / "train").record_type.itemsize for folder in (cache, tmp_path))
    assert full - 8 == 2 * (half - 8) == 2 * 2 * (4 * 8 * 8 + 16)
    data_module(noise_vg, cache=str(tmp_path)).setup()
    with pytest.raises(UserError, match="--no-mirror"):
        data_module(noise_vg, cache=str(tmp_path), flip=0.5).setup()


# Stale, missing and broken caches -------------------------------------------------------------------------------------


def with_changed_weights(model, name):
    other = copy.deepcopy(model)
    other.get_parameter(name).data.mul_(1.001)
    return other


@pytest.mark.parametrize(
    "parameter, encoder",
    [
        ("first_stage_model.quant_conv.weight", "first stage"),
        ("first_stage_model.encoder.conv_in.weight", "first stage"),
        ("global_stage_model.visual.proj", "image encoder"),
    ],
)
def test_a_cache_of_other_weights_is_stale_for_training_and_writing(
    noise_vg, dataset, cache, model, parameter, encoder
):
    other = with_changed_weights(model, parameter)
    other.learning_rate = 1e-3
    with pytest.raises(CacheError, match=rf"train: .*stale \({encoder}: checksum"):
        pl.Trainer(accelerator="cpu", max_steps=1, **QUIET).fit(other, data_module(noise_vg, cache=str(cache)))
    with pytest.raises(CacheError, match=rf"stale \({encoder}: checksum"):
        write_cache(dataset, cache / "train", *encoders_of(other), shard_size=4)


def test_a_model_without_image_encoder_trains_on_a_cache_with_styles_but_not_the_other_way_round(
    noise_vg, dataset, cache, model, tmp_path
):
    def fit(each, folder):
        each.learning_rate = 1e-3
        trainer = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, max_steps=1, **QUIET)
        trainer.fit(each, data_module(noise_vg, cache=str(folder)))
        return trainer.global_step

    without = tiny_model(global_stage_config=None)
    without.first_stage_model.load_state_dict(model.first_stage_model.state_dict())
    assert fit(without, cache) == 1
    for split in ("train", "validation"):
        write_cache(dataset, tmp_path / "plain" / split, *encoders_of(without), shard_size=4)
    assert fit(without, tmp_path / "plain") == 1
    with pytest.raises(CacheError, match=r"stale \(image encoder: absent when it was written"):
        fit(copy.deepcopy(model), tmp_path / "plain")


@pytest.mark.parametrize("part", ["decoder.conv_in", "quantize.embedding"])
def test_another_decoder_does_not_make_a_cache_stale(model, part):
    other = with_changed_weights(model, f"first_stage_model.{part}.weight")
    assert other.encoder_checksums() == model.encoder_checksums()


def test_the_same_weights_with_other_settings_have_another_checksum(model):
    before = model.encoder_checksums()["image encoder"]
    other = copy.deepcopy(model)
    other.global_stage_model.normalize = False
    assert other.encoder_checksums()["image encoder"] != before
    plain = MODEL["params"]["global_stage_config"]
    quick = copy.deepcopy(plain)
    quick["params"]["model_name"]["quick_gelu"] = True  # another activation function
    towers = [tiny_model(global_stage_config=config).global_stage_model for config in (plain, quick)]
    assert all(torch.equal(a, b) for a, b in zip(towers[0].parameters(), towers[1].parameters(), strict=True))
    assert checksum(towers[0]) != checksum(towers[1])
    for setting in ({"head_width": 8}, {"pool_type": "avg"}):
        other = copy.deepcopy(plain)
        other["params"]["model_name"] |= setting
        tower = tiny_model(global_stage_config=other).global_stage_model
        assert {name: value.shape for name, value in tower.state_dict().items()} == {
            name: value.shape for name, value in towers[0].state_dict().items()
        }
        tower.load_state_dict(towers[0].state_dict())
        assert checksum(tower) != checksum(towers[0]), setting
    ddconfig = MODEL["params"]["first_stage_config"]["params"]["ddconfig"]
    gaussian = AutoencoderKL(embed_dim=4, ddconfig={**ddconfig, "double_z": True}, init="random")
    assert checksum(gaussian) != model.encoder_checksums()["first stage"]


def test_a_cache_of_another_image_size_or_without_some_images_is_stale(noise_vg, dataset, cache):
    with pytest.raises(CacheError, match=r"stale \(image size: 32 .* 64"):
        CachedDataset(VGTrain(**vg_params(noise_vg, image_size=64)), cache / "train")
    with pytest.raises(CacheError, match=r"stale \(4 of 6 images .*VG_100K/2.png"):
        CachedDataset(dataset, cache / "validation")


def test_a_missing_broken_or_outdated_index_is_an_error(dataset, cache, tmp_path):
    with pytest.raises(CacheError, match=r"test: .*cache_latents.py --split test"):
        CachedDataset(dataset, tmp_path / "test")
    shutil.copytree(cache / "train", tmp_path / "train")
    index = json.loads((tmp_path / "train/index.json").read_text())
    (tmp_path / "train/index.json").write_text(json.dumps({**index, "format": 0}))
    with pytest.raises(CacheError, match=r"stale \(format 0"):
        CachedDataset(dataset, tmp_path / "train")
    (tmp_path / "train/index.json").write_text("{")
    with pytest.raises(CacheError, match="broken"):
        CachedDataset(dataset, tmp_path / "train")


@pytest.mark.parametrize(
    "change",
    [
        {"shard_size": 0},
        {"shard_size": "4"},
        {"image_size": None},
        {"names": "abc"},
        {"names": [1]},
        {"encoders": ["a"]},
        {"row": []},
        {"row": [["size", "<i4", [2]]]},
        {"row": [["size", "<i4", [2]], ["z", "|O", [2, 4, 4, 4]]]},
        {"row": [["size", "<i4", [2]], ["z", "(((", [2, 4, 4, 4]]]},
        {"row": [["size", "<i4", [2]], ["z", "<f2", [2, 10**30]]]},
        {"row": 5},
        {"more": 1},
    ],
)
def test_an_index_with_an_impossible_field_is_one_sentence(cache, tmp_path, change):
    data = json.loads((cache / "train/index.json").read_text()) | change
    (tmp_path / "index.json").write_text(json.dumps(data))
    with pytest.raises(CacheError, match=r"^[^\n]*index.json: broken[^\n]*$"):
        read_index(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"5", b"[]", b"null", b"[" * 100_000, b'{"format": 2}', b""])
def test_an_index_that_is_none_is_one_sentence(tmp_path, content):
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(CacheError, match=r"^[^\n]*index.json: broken[^\n]*$"):
        read_index(tmp_path)


def test_records_are_found_by_name_whatever_its_unicode_form(noise_vg, cache, tmp_path):
    shutil.copytree(cache / "train", tmp_path / "train")
    data = json.loads((cache / "train/index.json").read_text())
    data["names"][0] = unicodedata.normalize("NFD", "VG_100K/caf\u00e9.png")
    (tmp_path / "train/index.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(data).encode())
    with h5py.File(shutil.copy(noise_vg / "made.h5", tmp_path), "a") as file:
        paths = ["VG_100K/caf\u00e9.png".encode(), *file["image_paths"][1:]]
        del file["image_paths"]
        file["image_paths"] = paths
    dataset = VGTrain(**vg_params(noise_vg, h5_path=str(tmp_path / "made.h5")))
    assert CachedDataset(dataset, tmp_path / "train").rows.tolist() == list(range(IMAGES))


def test_an_index_of_format_2_keeps_its_keys(cache):
    """Caches that exist must stay readable."""
    index = json.loads((cache / "train/index.json").read_text())
    assert index.keys() == {"encoders", "image_size", "shard_size", "row", "names", "format"} and index["format"] == 2
    assert index["row"] == [["size", "<i4", [2]], ["z", "<f2", [2, 4, 8, 8]], ["style", "<f2", [2, 16]]]


# The data module ------------------------------------------------------------------------------------------------------


def test_the_data_sets_can_be_checked_before_the_cache_exists(noise_vg, tmp_path):
    module = data_module(noise_vg, cache=str(tmp_path / "none"))
    module.setup("check")
    assert len(module.datasets["train"]) == IMAGES and module.train_dataloader() == []
    with pytest.raises(CacheError, match="no cache"):
        module.setup()


def test_the_encoders_are_hashed_once_for_all_splits(noise_vg, cache, model):
    calls = []

    class Model(pl.LightningModule):
        def encoder_checksums(self):
            calls.append(True)
            return model.encoder_checksums()

    module = data_module(noise_vg, cache=str(cache))
    module.trainer = type("Trainer", (), {"lightning_module": Model()})
    module.setup()
    assert list(module.loader_datasets) == ["train", "validation"] and len(calls) == 1


def test_a_model_that_trains_on_images_cannot_use_a_cache(noise_vg, cache):
    class Toy(pl.LightningModule):
        pass

    module = data_module(noise_vg, cache=str(cache))
    module.trainer = type("Trainer", (), {"lightning_module": Toy()})
    with pytest.raises(UserError, match="data.params.cache: Toy"):
        module.setup()


# Other data sets ------------------------------------------------------------------------------------------------------


def graphs_from_images_and_cache(dataset, folder, model):
    """The graphs of a data set, and the data set read from a cache that is written to `folder`."""
    write_cache(dataset, folder, *encoders_of(model))
    return [dataset[index][1] for index in range(len(dataset))], CachedDataset(dataset, folder)


def test_a_cache_of_real_visual_genome_has_the_same_graphs(realdata, model, tmp_path):
    folder = realdata / "vg_raw_v1.2"
    files = (folder / "reference/vocab.json", folder / "reference/train.h5", folder / "images")
    graphs, cached = graphs_from_images_and_cache(VGTrain(*files, image_size=32), tmp_path, model)
    assert [cached[index][1] for index in range(len(cached))] == graphs and len(graphs) == 6


def test_a_cache_of_real_coco_gives_graphs_without_opening_images(realdata, model, tmp_path, monkeypatch):
    folder = realdata / "coco_instances_tiny_coco"
    instances = next(folder.rglob("instances*.json"))
    image_dir = next(folder.rglob("*.jpg")).parent
    dataset = COCOTrain(image_dir, instances, stuff_only=False, image_size=32, max_samples=3)
    graphs, cached = graphs_from_images_and_cache(dataset, tmp_path, model)
    monkeypatch.setattr(Image, "open", None)
    assert [cached[index][1] for index in range(len(cached))] == graphs and len(graphs) == 3


def test_a_cache_of_real_clevr_gives_graphs_without_opening_images(realdata, model, tmp_path, monkeypatch):
    folder = realdata / "clevr/test"
    dataset = CLEVR(folder / "images", folder / "CLEVR_scenes.json", 32, 2)
    graphs, cached = graphs_from_images_and_cache(dataset, tmp_path, model)
    monkeypatch.setattr(Image, "open", None)
    assert [cached[index][1] for index in range(len(cached))] == graphs and graphs[0].boxes[0]
