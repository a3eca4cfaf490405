"""The cache of latents and styles: the same training without images, shards that survive a kill, stale ones refused."""

import copy
import errno
import importlib.util
import json
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from tiny import MODEL, tiny_model
from torch.utils.data import DataLoader

import trainer
from ldm.data.cache import Cached, CacheError, read_index
from ldm.data.cache_writing import estimate, fill
from ldm.data.clevr import CLEVR
from ldm.data.coco import COCOTrain
from ldm.data.datamodule import DataModuleFromConfig
from ldm.data.demo import DemoTrain
from ldm.data.flips import Flipping, mirrored
from ldm.data.vg import VGTrain
from ldm.graph.batch import Batch, Latents, collate
from ldm.graph.scene_graph import SceneGraph, Vocab
from ldm.models.autoencoder import AutoencoderKL
from ldm.models.encoders import checksum, checksums, make_encode_function
from ldm.synthetic.shapes import VOCAB
from ldm.training.callbacks import ImageLogger, StepSeed
from ldm.util.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "cache_latents.py"
IMAGES = 6


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A preprocessed Visual Genome of noise: 6 images of two objects, one left of the other."""
    folder = tmp_path_factory.mktemp("vg")
    (folder / "images/VG_100K").mkdir(parents=True)
    numbers = np.random.default_rng(0)
    names = [f"VG_100K/{index}.png" for index in range(IMAGES)]
    for index, name in enumerate(names):
        pixels = numbers.integers(0, 256, (30, 40 + index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    VOCAB.write(folder / "vocab.json")
    arrays = {
        "image_paths": [name.encode() for name in names],
        "objects_per_image": [2] * IMAGES,
        "object_names": [[1, 2]] * IMAGES,
        "object_boxes": [[[0, 3, 10, 12], [20, 6, 12, 9]]] * IMAGES,
        "object_attributes": [[0, -1]] * 2 * IMAGES,
        "relationships_per_image": [1] * IMAGES,
        "relationship_subjects": [[0]] * IMAGES,
        "relationship_predicates": [[VOCAB.predicate_id("left of")]] * IMAGES,
        "relationship_objects": [[1]] * IMAGES,
    }
    with h5py.File(folder / "made.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return folder


def params(folder, **more):
    files = {"vocab": folder / "vocab.json", "h5_path": folder / "made.h5", "image_dir": folder / "images"}
    return {**{name: str(path) for name, path in files.items()}, "image_size": 32, **more}


def data(folder, **options):
    """The data module of that folder; its validation set is the first two images."""
    train = {"target": "ldm.data.vg.VGTrain", "params": params(folder)}
    validation = {"target": "ldm.data.vg.VGValidation", "params": params(folder, max_samples=2)}
    return DataModuleFromConfig(3, train, validation, num_workers=0, **options)


@pytest.fixture(scope="module")
def model():
    """With all that is trained at random, so that graphs and styles make a difference."""
    torch.manual_seed(1)
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def encoders_of(model):
    return make_encode_function(model.first_stage_model, model.global_stage_model), model.encoder_checksums()


@pytest.fixture
def dataset(source):
    return VGTrain(**params(source))


@pytest.fixture(scope="module")
def cache(source, model, tmp_path_factory):
    """A whole cache of both splits, in shards of 4 and 2 images."""
    folder = tmp_path_factory.mktemp("cache")
    for split, more in (("train", {}), ("validation", {"max_samples": 2})):
        filled = fill(VGTrain(**params(source, **more)), folder / split, *encoders_of(model), shard_size=4)
        assert filled.missing == 0 and filled.written == filled.images
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Training with it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_the_loss_is_that_of_the_images_within_half_precision(source, cache, model, flip):
    """To 2e-4, relative: float16 rounds by at most 2^-11, 5e-4, and many such errors average out in a loss."""
    plain, cached = data(source, flip=flip), data(source, flip=flip, cache=str(cache))
    model.train()
    for module in (plain, cached):
        module.setup()
    for epoch in (0, 1):
        loaders = [module.train_dataloader() for module in (plain, cached)]
        for loader in loaders:
            loader.position = lambda epoch=epoch: (epoch, 0)
        for seed, (pixels, latents) in enumerate(zip(*loaders, strict=True)):
            assert latents.image is None and pixels.latents is None
            assert all(torch.equal(a, b) for a, b in zip(pixels.graph, latents.graph, strict=True))
            outcomes = []
            for batch in (pixels, latents):
                torch.manual_seed(seed)
                losses, t = model.losses(batch)
                outcomes.append((losses, t))
            assert torch.equal(outcomes[0][1], outcomes[1][1])
            torch.testing.assert_close(outcomes[1][0], outcomes[0][0], rtol=2e-4, atol=0)


def test_latents_or_styles_of_another_image_would_have_been_found_out(dataset, cache, model):
    cached = Cached(dataset, cache / "train")
    batch = collate([cached[index] for index in range(IMAGES)], VOCAB)
    z, style = batch.latents

    def losses(*latents):
        each = Batch(None, batch.graph, latents=Latents(*latents))
        return torch.stack([model.losses(each, torch.Generator().manual_seed(seed))[0] for seed in range(3)]).detach()

    right = losses(z, style)
    for wrong in (losses(z.roll(1, 0), style), losses(z, style.roll(1, 0))):
        assert ((wrong - right).abs() > 2e-3 * right).float().mean() > 0.3


def test_training_never_touches_the_images(source, cache, tmp_path):
    """They are gone; the image logger's pictures come out of the latents."""
    here = tmp_path / "vg"
    shutil.copytree(source, here)
    shutil.rmtree(here / "images")
    torch.manual_seed(0)
    model = tiny_model(graph_drop=0.5, scale_by_std=True)
    model.learning_rate = 1e-3
    logger = ImageLogger(batch_frequency=1, max_images=2, log_images_kwargs={"steps": 2})
    fitting = pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[StepSeed(0), logger],
        max_steps=3,
    )
    fitting.fit(model, data(here, cache=str(cache), flip=0.5))
    assert fitting.global_step == 3 and torch.isfinite(fitting.callback_metrics["val/loss_simple"])
    pictures = {path.name.partition("_gs")[0] for path in (tmp_path / "images/train").iterdir()}
    assert pictures == {"reconstructions", "samples", "graphs"}
    z = np.load(cache / "train/00000.npy")["z"][:, 0].astype(np.float32)
    assert 0.8 < float(model.scale_factor) * z.std() < 1.25


@pytest.mark.parametrize("cached", [True, False])
def test_on_a_cache_the_encoders_leave_the_device_when_the_model_has_come_there(source, cache, tmp_path, cached):
    model, ways = tiny_model(), []
    model.learning_rate = 1e-3
    for part in (model, model.first_stage_model, model.global_stage_model):
        part.to = lambda place, part=part: ways.append((part, str(place)))
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
    fitting = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, max_steps=1, limit_val_batches=0, **quiet)
    fitting.fit(model, data(source, cache=str(cache) if cached else None))
    home = [(model.first_stage_model, "cpu"), (model.global_stage_model, "cpu")]
    assert ways == [(model, "cpu"), *(home if cached else [])]


def test_through_a_flipped_cache_one_sees_the_sets_length_words_and_epoch(dataset, cache):
    served = Flipping(Cached(dataset, cache / "train"), 0.5)
    served.epoch = 7
    assert served.epoch == dataset.epoch == 7 and served.vocab is dataset.vocab and len(served) == len(dataset)


def test_workers_give_what_the_process_itself_gives_and_a_cache_in_use_pickles(dataset, cache):
    cached = Flipping(Cached(dataset, cache / "train"), 0.5)
    alone = [cached[index] for index in range(IMAGES)]
    spawn = multiprocessing.get_context("spawn")
    loader = DataLoader(cached, batch_size=None, num_workers=1, multiprocessing_context=spawn)
    for (latents, graph), (same, other) in zip(alone, loader, strict=True):
        assert graph == other and all(torch.equal(a, b) for a, b in zip(latents, same, strict=True))
    assert len(pickle.dumps(cached)) < 10_000 + len(pickle.dumps(dataset))


def test_a_batch_of_latents_moves_pickles_and_unpacks(dataset, cache):
    cached = Cached(dataset, cache / "train")
    batch = collate([cached[0], cached[3]], dataset.vocab)
    assert batch.latents.z.shape == (2, 4, 8, 8) and batch.latents.style.shape == (2, 16)
    assert batch.latents.z.dtype == torch.float16
    for other in (pickle.loads(pickle.dumps(batch)), batch.to("cpu", non_blocking=True)):
        assert len(other) == 6 and other.image is None and other.reference is None
        assert all(torch.equal(a, b) for a, b in zip(other.latents, batch.latents, strict=True))
    assert batch.to("meta").latents.style.device.type == "meta"


def test_fewer_images_in_another_order_find_their_rows(source, cache, tmp_path):
    here = tmp_path / "vg"
    shutil.copytree(source, here)
    with h5py.File(here / "made.h5", "r+") as file:
        names = file["image_paths"][:][::-1]
        file["image_paths"][:] = names
    whole = Cached(VGTrain(**params(source)), cache / "train")
    turned = Cached(VGTrain(**params(here, max_samples=2)), cache / "train")
    assert len(turned) == 2
    assert all(torch.equal(turned[i][0].z, whole[IMAGES - 1 - i][0].z) for i in range(2))


# What is in it --------------------------------------------------------------------------------------------------------


def test_a_row_has_the_image_and_its_mirror_image(dataset, cache, model):
    cached = Cached(dataset, cache / "train")
    for index in (0, 5):
        image = dataset[index][0][None]
        for pixels, latents in ((image, cached[index][0]), (image.flip(-1), cached.mirrored_image(index))):
            wanted = model.first_stage_model.encode(pixels)[0], model.global_stage_model(pixels)[0]
            for found, exact in zip(latents, wanted, strict=True):
                torch.testing.assert_close(found.float(), exact, rtol=1e-3, atol=1e-5)
    assert (cached[0][0].z - cached.mirrored_image(0).z).abs().max() > 0.05


def test_without_mirror_images_it_is_half_as_large_and_flips_are_refused(dataset, source, cache, model, tmp_path):
    for split in ("train", "validation"):
        fill(dataset, tmp_path / split, *encoders_of(model), mirrored=False)
    whole, half = (read_index(folder / "train").row_type.itemsize for folder in (cache, tmp_path))
    assert whole - 8 == 2 * (half - 8) == 2 * 2 * (4 * 8 * 8 + 16)
    data(source, cache=str(tmp_path)).setup()
    with pytest.raises(UserError, match="--no-mirror"):
        data(source, cache=str(tmp_path), flip=0.5).setup()


def test_a_latent_beyond_half_precision_is_named(dataset, tmp_path):
    def encode(image):
        z = image[:, :, ::8, ::8] * 0
        z[(image[:, 0, 0, 0] == dataset[4][0][0, 0, 0])] = 1e5
        return Latents(z)

    with pytest.raises(CacheError, match=r"VG_100K/4.png: its z goes beyond half precision"):
        fill(dataset, tmp_path / "train", encode, {"first stage": "0"}, mirrored=False)


def test_a_model_without_image_encoder_has_a_cache_without_styles(dataset, model, tmp_path):
    parts = model.first_stage_model, None
    fill(dataset, tmp_path / "train", make_encode_function(*parts), checksums(*parts))
    latents, _ = Cached(dataset, tmp_path / "train")[0]
    assert latents.style is None and collate([(latents, dataset[0][1])], VOCAB).latents.style is None


# Mirroring ------------------------------------------------------------------------------------------------------------


def test_a_mirrored_graph_has_its_boxes_and_words_on_the_other_side():
    vocab = Vocab(("__image__", "left hand", "right hand"), ("__in_image__", "left of", "to the right of", "right of",
                  "to the left of", "above"), ("leftmost", "rightmost", "bright"))  # fmt: skip
    graph = SceneGraph(
        ("left hand", "right hand"),
        ((0.0, 0.25, 0.125, 0.5), None),
        (("leftmost", "bright"), ()),
        ((0, "left of", 1), (1, "to the right of", 0), (0, "above", 1)),
        image="a.png",
    )
    mirror = mirrored(graph, vocab)
    assert mirror.objects == ("right hand", "left hand")
    assert mirror.boxes == ((0.875, 0.25, 1.0, 0.5), None)
    assert mirror.attributes == (("rightmost", "bright"), ())
    assert mirror.triples == ((0, "right of", 1), (1, "to the left of", 0), (0, "above", 1))
    assert mirrored(mirror, vocab) == graph
    assert mirrored(graph, Vocab(vocab.objects, vocab.predicates, ("leftmost", "bright"))) is None


def test_flips_take_their_share_and_depend_on_seed_epoch_and_index_alone(dataset):
    plain = [dataset[index] for index in range(IMAGES)]

    def flips(share, seed=0):
        flipping, found = Flipping(dataset, share, seed), []
        for flipping.epoch in range(20):
            for index in range(IMAGES):
                image, graph = flipping[index]
                flipped = torch.equal(image, plain[index][0].flip(-1))
                assert flipped or torch.equal(image, plain[index][0])
                assert [t[1] for t in graph.triples] == ["right of" if flipped else "left of"]
                found.append(flipped)
        return found

    assert not any(flips(0.0)) and all(flips(1.0))
    assert 40 <= sum(flips(0.5)) <= 80
    assert flips(0.5) == flips(0.5) != flips(0.5, seed=1)


def test_an_image_whose_words_have_no_other_side_stays_as_it_is(dataset):
    dataset.vocab = Vocab(VOCAB.objects, ("__in_image__", "left of"), VOCAB.attributes)
    flipped = Flipping(dataset, 1.0)[0]
    assert torch.equal(flipped[0], dataset[0][0]) and flipped[1] == dataset[0][1]


def test_validation_is_not_flipped(source, cache):
    for options in ({}, {"cache": str(cache)}):
        module = data(source, flip=1.0, **options)
        module.setup()
        left, right = VOCAB.predicate_id("left of"), VOCAB.predicate_id("right of")
        assert set(next(iter(module.train_dataloader())).graph.triples[:, 1].tolist()) == {0, right}
        assert set(next(iter(module.val_dataloader())).graph.triples[:, 1].tolist()) == {0, left}


# Writing --------------------------------------------------------------------------------------------------------------


def test_after_a_kill_only_what_is_missing_is_encoded_and_the_outcome_is_the_same(dataset, cache, model, tmp_path):
    encode, key = encoders_of(model)
    seen = []

    def counting(image, stop_after):
        if len(seen) == stop_after:
            raise KeyboardInterrupt
        seen.append(len(image) // 2)
        return encode(image)

    options = {"shard_size": 4, "batch_size": 1}
    with pytest.raises(KeyboardInterrupt):  # one call is for the shapes, four make a shard, one is in vain
        fill(dataset, tmp_path / "train", lambda image: counting(image, 6), key, **options)
    assert sorted(contents(tmp_path / "train")) == ["00000.npy", "index.json"]
    with pytest.raises(CacheError, match="1 of 2 shards are missing.*goes on"):
        Cached(dataset, tmp_path / "train")
    whole, index = (tmp_path / "train/00000.npy").read_bytes(), read_index(tmp_path / "train")
    (tmp_path / "train/00000.npy").write_bytes(whole[:-200])  # a disk's doing, since names come last
    (tmp_path / "train/.00001.npy.123.part").write_bytes(whole[:200])  # a kill's doing
    seen.clear()
    assert fill(dataset, tmp_path / "train", lambda image: counting(image, -1), key, **options).written == IMAGES
    for shorter in (whole[:-4], whole[:60], b""):  # by less than a header, within one, and altogether
        (tmp_path / "train/00000.npy").write_bytes(shorter)
        assert [index.is_whole(tmp_path / "train", shard) for shard in index.shards] == [False, True]
    (tmp_path / "train/00000.npy").write_bytes(whole)
    seen.clear()
    (tmp_path / "train/00001.npy").unlink()
    filled = fill(dataset, tmp_path / "train", lambda image: counting(image, -1), key, **options)
    assert filled.written == 2 and seen == [1, 1, 1] and filled.missing == 0
    assert sorted(contents(tmp_path / "train")) == ["00000.npy", "00001.npy", "index.json"]
    assert filled.size == sum(path.stat().st_size for path in (tmp_path / "train").iterdir())
    mine, reference = (np.load(folder / "train/00001.npy") for folder in (tmp_path, cache))
    assert all(np.allclose(mine[name], reference[name], atol=2e-3) for name in mine.dtype.names)


def test_processes_share_the_shards_and_together_write_what_one_would(dataset, model, tmp_path):
    encode, key = encoders_of(model)
    alone = fill(dataset, tmp_path / "alone", encode, key, shard_size=2)
    first, second = (fill(dataset, tmp_path / "both", encode, key, shard_size=2, rank=rank, world=2) for rank in (0, 1))
    assert (first.written, first.missing) == (4, 1) and (second.written, second.missing) == (2, 0)
    assert contents(tmp_path / "both") == contents(tmp_path / "alone") and alone.missing == 0


def test_workers_that_read_ahead_change_nothing(dataset, model, tmp_path):
    for workers in (0, 2):
        fill(dataset, tmp_path / str(workers), *encoders_of(model), shard_size=4, batch_size=3, num_workers=workers)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


# Refusing -------------------------------------------------------------------------------------------------------------


def changed(model, part):
    other = copy.deepcopy(model)
    other.get_parameter(part).data.mul_(1.001)
    return other


@pytest.mark.parametrize(
    "part, name",
    [
        ("first_stage_model.quant_conv.weight", "first stage"),
        ("first_stage_model.encoder.conv_in.weight", "first stage"),
        ("global_stage_model.visual.proj", "image encoder"),
    ],
)
def test_a_cache_of_other_weights_is_stale_for_training_and_for_writing(source, dataset, cache, model, part, name):
    other = changed(model, part)
    other.learning_rate = 1e-3
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with pytest.raises(CacheError, match=rf"train: this cache is stale \({name}: checksum \w+ then, .* now\)"):
        pl.Trainer(accelerator="cpu", max_steps=1, **quiet).fit(other, data(source, cache=str(cache)))
    with pytest.raises(CacheError, match=rf"stale \({name}: "):
        fill(dataset, cache / "train", *encoders_of(other), shard_size=4)


@pytest.mark.parametrize("part", ["decoder.conv_in", "quantize.embedding"])
def test_a_better_decoder_leaves_a_cache_as_good_as_it_was(model, part):
    assert changed(model, f"first_stage_model.{part}.weight").encoder_checksums() == model.encoder_checksums()


def test_the_same_weights_under_other_settings_are_another_encoder(model):
    before = model.encoder_checksums()["image encoder"]
    other = copy.deepcopy(model)
    other.global_stage_model.normalize = False
    assert other.encoder_checksums()["image encoder"] != before
    plain = MODEL["params"]["global_stage_config"]
    quick = copy.deepcopy(plain)
    quick["params"]["model_name"]["quick_gelu"] = True  # another activation of the same weights
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


@pytest.mark.parametrize(
    "options, name",
    [
        ({"image_size": 64}, r"image size: 32 then, 64 now"),
        ({"max_samples": 3}, r"names: 6 images from VG_100K/0.png to VG_100K/5.png then, 3 images"),
    ],
)
def test_writing_refuses_other_images(source, cache, model, options, name):
    with pytest.raises(CacheError, match=rf"stale \({name}"):
        fill(VGTrain(**(params(source) | options)), cache / "train", *encoders_of(model), shard_size=4)


def test_writing_refuses_another_layout(dataset, cache, model):
    with pytest.raises(CacheError, match="shard size: 4 then, 5 now"):
        fill(dataset, cache / "train", *encoders_of(model), shard_size=5)
    with pytest.raises(CacheError, match="mirror images: True then, False now"):
        fill(dataset, cache / "train", *encoders_of(model), mirrored=False, shard_size=4)


def test_training_refuses_another_image_size_and_images_that_are_not_in_it(source, dataset, cache):
    with pytest.raises(CacheError, match=r"stale \(image size: 32 then, 64 now\)"):
        Cached(VGTrain(**params(source, image_size=64)), cache / "train")
    with pytest.raises(CacheError, match=r"4 of 6 images are not in it, VG_100K/2.png the first"):
        Cached(dataset, cache / "validation")


def test_a_cache_that_is_not_there_of_another_format_or_broken_says_what_to_do(dataset, cache, tmp_path):
    with pytest.raises(CacheError, match=r"test: there is no cache; .*cache_latents.py makes one \(--split test\)"):
        Cached(dataset, tmp_path / "test")
    shutil.copytree(cache / "train", tmp_path / "train")
    index = json.loads((tmp_path / "train/index.json").read_text())
    (tmp_path / "train/index.json").write_text(json.dumps({**index, "format": 0}))
    with pytest.raises(CacheError, match="stale, of format 0, not 2"):
        Cached(dataset, tmp_path / "train")
    (tmp_path / "train/index.json").write_text("{")
    with pytest.raises(CacheError, match="broken .* make it anew"):
        Cached(dataset, tmp_path / "train")


class Cropping(VGTrain):
    """Crops at random, and says nothing of it."""

    def __getitem__(self, index):
        image, graph = super().__getitem__(index)
        return image.roll(self._random(index).randrange(32), -1), graph


def test_pictures_that_are_drawn_or_cropped_anew_are_refused(source, cache, model, tmp_path):
    drawn = DemoTrain(4, 32)
    for write in (lambda: fill(drawn, tmp_path, *encoders_of(model)), lambda: Cached(drawn, cache)):
        with pytest.raises(CacheError, match="DemoTrain draws its pictures anew, which no cache can hold"):
            write()
    with pytest.raises(CacheError, match="Cropping shows other pixels .* every epoch"):
        fill(Cropping(**params(source)), tmp_path / "train", *encoders_of(model))
    assert not list(tmp_path.iterdir())


class FlippingAtTimes(VGTrain):
    """Mirrors every other image, and the first one never."""

    def __getitem__(self, index):
        image, graph = super().__getitem__(index)
        return image.flip(-1) if index and self.epoch % 2 else image, graph


def test_flips_that_leave_the_first_image_alone_are_seen(source, model, tmp_path):
    with pytest.raises(CacheError, match="FlippingAtTimes shows other pixels"):
        fill(FlippingAtTimes(**params(source)), tmp_path / "train", *encoders_of(model))


class Simple(torch.utils.data.Dataset):
    """What a cache asks of a set, and no epoch."""

    def __init__(self, dataset):
        self.whole, self.vocab, self.image_size = dataset, dataset.vocab, 32
        self.image_names, self.image_path, self.graph = dataset.image_names, dataset.image_path, dataset.graph

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        return self.whole[index]


def test_a_set_without_epochs_is_cached_and_flipped(dataset, model, tmp_path):
    fill(Simple(dataset), tmp_path / "train", *encoders_of(model), shard_size=4)
    assert Flipping(Cached(Simple(dataset), tmp_path / "train"), 1.0)[0][1].triples[0][1] == "right of"
    assert torch.equal(Flipping(Simple(dataset), 1.0)[0][0], dataset[0][0].flip(-1))


def test_a_disk_that_is_full_is_said_to_be(dataset, model, tmp_path, monkeypatch):
    def save(file, rows):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(CacheError, match=r"00000.npy: cannot be written \(No space left on device\); make room"):
        fill(dataset, tmp_path / "train", *encoders_of(model))
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["index.json"]


def test_the_datasets_are_there_to_be_examined_before_there_is_a_cache(source, tmp_path):
    module = data(source, cache=str(tmp_path / "none"))
    module.setup("check")
    assert len(module.datasets["train"]) == IMAGES and module.train_dataloader() == []
    with pytest.raises(CacheError, match="there is no cache"):
        module.setup()


def test_the_encoders_are_hashed_once_for_all_splits(source, cache, model):
    asked = []

    class Model(pl.LightningModule):
        def encoder_checksums(self):
            asked.append(True)
            return model.encoder_checksums()

    module = data(source, cache=str(cache))
    module.trainer = type("Trainer", (), {"lightning_module": Model()})
    module.setup()
    assert list(module.served) == ["train", "validation"] and len(asked) == 1


def test_a_model_that_learns_from_images_is_refused(source, cache):
    class Toy(pl.LightningModule):
        pass

    module = data(source, cache=str(cache))
    module.trainer = type("Trainer", (), {"lightning_module": Toy()})
    with pytest.raises(UserError, match="data.params.cache: Toy learns from images"):
        module.setup()


@pytest.mark.parametrize("flip", [-0.1, 1.5])
def test_a_share_of_flips_is_one(source, flip):
    with pytest.raises(UserError, match="data.params.flip"):
        data(source, flip=flip)


# The other datasets ---------------------------------------------------------------------------------------------------


def round_trip(dataset, folder, model):
    """Graphs out of a cache, and those of the images."""
    fill(dataset, folder, *encoders_of(model))
    wanted = [dataset[index][1] for index in range(len(dataset))]
    cached = Cached(dataset, folder)
    return cached, wanted


def test_real_photographs_of_visual_genome(realdata, model, tmp_path):
    folder = realdata / "vg_raw_v1.2"
    files = (folder / "reference/vocab.json", folder / "reference/train.h5", folder / "images")
    cached, wanted = round_trip(VGTrain(*files, image_size=32), tmp_path, model)
    assert [cached[index][1] for index in range(len(cached))] == wanted and len(wanted) == 6


def test_real_photographs_of_coco_need_no_image_for_their_graphs(realdata, model, tmp_path, monkeypatch):
    folder = realdata / "coco_instances_tiny_coco"
    instances = next(folder.rglob("instances*.json"))
    image_dir = next(folder.rglob("*.jpg")).parent
    dataset = COCOTrain(image_dir, instances, stuff_only=False, image_size=32, max_samples=3)
    cached, wanted = round_trip(dataset, tmp_path, model)
    monkeypatch.setattr(Image, "open", None)
    assert [cached[index][1] for index in range(len(cached))] == wanted and len(wanted) == 3


def test_clevr_renderings_need_no_image_for_their_graphs(realdata, model, tmp_path, monkeypatch):
    folder = realdata / "clevr/test"
    cached, wanted = round_trip(CLEVR(folder / "images", folder / "CLEVR_scenes.json", 32, 2), tmp_path, model)
    monkeypatch.setattr(Image, "open", None)
    assert [cached[index][1] for index in range(len(cached))] == wanted and wanted[0].boxes[0]


# The door -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def door():
    spec = importlib.util.spec_from_file_location("cache_latents", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(source, tmp_path):
    from omegaconf import OmegaConf

    train = {"target": "ldm.data.vg.VGTrain", "params": params(source)}
    section = {"target": "ldm.data.datamodule.DataModuleFromConfig"}
    section["params"] = {"batch_size": 3, "num_workers": 0, "train": train}
    path = tmp_path / "made.yaml"
    OmegaConf.save(OmegaConf.create({"model": {**MODEL, "base_learning_rate": 1e-4}, "data": section}), path)
    return path


def test_the_script_writes_a_cache_that_the_trainer_takes(door, config, tmp_path, capsys):
    words = ["--config", str(config), "--out", str(tmp_path / "cache"), "--device", "cpu", "--num-workers", "0"]
    assert door.main([*words, "--shard-size", "4"]) == 0
    out = capsys.readouterr().out
    assert "6 images in" in out and "MB" in out and "images per second" in out and "minutes" in out
    assert door.main([*words, "--shard-size", "4"]) == 0
    assert "0 of them by this process now" in capsys.readouterr().out
    run = ["--base", str(config), "-t", "--gpus", "cpu", "--logdir", str(tmp_path / "logs"), "--max_steps", "2"]
    run += [f"data.params.cache={tmp_path / 'cache'}", "lightning.trainer.enable_progress_bar=false"]
    assert trainer.main(run) == 0
    assert trainer.main([*run, "model.params.global_stage_config.params.normalize=false"]) == 2
    assert "stale (image encoder: checksum" in capsys.readouterr().err


def test_an_estimate_says_how_large_it_will_be_and_writes_nothing(dataset, source, cache, model, tmp_path):
    """The shards' own headers come on top, less than 1 kB each."""
    whole = estimate(dataset, encoders_of(model)[0], batch_size=4)
    written = sum(path.stat().st_size for path in (cache / "train").glob("*.npy"))
    assert whole.images == IMAGES and whole.seconds > 0
    assert whole.size <= written < whole.size + 1024 * len(list((cache / "train").glob("*.npy")))


def test_the_script_estimates_without_writing(door, config, tmp_path, capsys):
    assert door.main(["--config", str(config), "--out", str(tmp_path / "none"), "--device", "cpu", "--estimate"]) == 0
    assert "hours of one process" in capsys.readouterr().out and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--split", "test"], "has no data.params.test"),
        (["data.params.train.params.h5_path=nowhere.h5"], "nowhere.h5"),
        (["data.params.train.params.image_size=["], "the config does not come together"),
        (["data.params.train.params.image_size=${nowhere}"], "the config does not come together"),
        (["data.params.train.params.max_samples=0"], "data.params.train: ldm.data.vg.VGTrain found no image"),
        (["model.params.first_stage_config.params.init=null"], "first stage has no weights"),
    ],
)
def test_the_script_refuses_in_one_sentence(door, config, tmp_path, capsys, words, sentence):
    assert door.main(["--config", str(config), "--out", str(tmp_path / "cache"), "--device", "cpu", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said and said.startswith("cache_latents.py: ") and "\n" not in said


def test_a_split_that_is_null_is_none(door, config, tmp_path, capsys):
    words = ["--out", str(tmp_path / "cache"), "--device", "cpu", "--estimate", "data.params.test=null"]
    assert door.main(["--config", str(config), *words]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["train"]


def test_fewer_workers_than_none_are_refused(door, capsys):
    with pytest.raises(SystemExit) as ended:
        door.main(["--config", "any.yaml", "--out", "cache", "--num-workers", "-1"])
    assert ended.value.code == 2 and "'-1' is not a whole number from 0 on" in capsys.readouterr().err


def test_the_demo_has_no_cache(door, tmp_path, capsys):
    demo = Path(__file__).parents[2] / "configs/demo.yaml"
    assert door.main(["--config", str(demo), "--out", str(tmp_path / "cache"), "--device", "cpu"]) == 2
    assert "DemoTrain draws its pictures anew" in capsys.readouterr().err and not (tmp_path / "cache").exists()
