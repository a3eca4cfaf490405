"""Writing a latent cache: contents of the records, resuming, several processes, and data sets that cannot be cached."""

import errno
import io
import multiprocessing
import os
import shutil
import signal

import h5py
import numpy as np
import pytest
import torch
from noise_vg import IMAGES, encoders_of, vg_params

from ldm.data.cache import CachedDataset, CacheError, read_index
from ldm.data.cache_writing import estimate_cache, write_cache
from ldm.data.demo import DemoTrain
from ldm.data.flips import RandomFlipDataset
from ldm.data.vg import VGTrain
from ldm.graph.batch import Latents, collate
from ldm.models.encoders import checksums, make_encode_function
from ldm.synthetic.shapes import VOCAB
from ldm.util.files import atomic_write


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_record_holds_the_latents_of_the_image_and_of_its_mirror_image(dataset, cache, model):
    cached = CachedDataset(dataset, cache / "train")
    for index in (0, 5):
        image = dataset[index][0][None]
        for pixels, latents in ((image, cached[index][0]), (image.flip(-1), cached.flipped_image(index))):
            expected = model.first_stage_model.encode(pixels)[0], model.global_stage_model(pixels)[0]
            for found, exact in zip(latents[:2], expected, strict=True):
                torch.testing.assert_close(found.float(), exact, rtol=1e-3, atol=1e-5)
    assert (cached[0][0].z - cached.flipped_image(0).z).abs().max() > 0.05


def test_a_model_without_image_encoder_gets_a_cache_without_styles(dataset, model, tmp_path):
    encoders = model.first_stage_model, None
    write_cache(dataset, tmp_path / "train", make_encode_function(*encoders), checksums(*encoders))
    latents, _ = CachedDataset(dataset, tmp_path / "train")[0]
    assert latents.style is None and collate([(latents, dataset[0][1])], VOCAB).latents.style is None


def test_a_latent_that_float16_cannot_represent_is_an_error(dataset, tmp_path):
    def encode(image):
        z = image[:, :, ::8, ::8] * 0
        z[(image[:, 0, 0, 0] == dataset[4][0][0, 0, 0])] = 1e5
        return Latents(z)

    with pytest.raises(CacheError, match=r"VG_100K/4.png: its z .*float16"):
        write_cache(dataset, tmp_path / "train", encode, {"first stage": "0"}, mirrored=False)


def test_writing_resumes_after_an_interruption_and_gives_the_same_cache(dataset, cache, model, tmp_path):
    encode, key = encoders_of(model)
    calls = []  # number of images, mirror images apart

    def counting(image, stop_after=-1):
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(len(image) // 2)
        return encode(image)

    folder, options = tmp_path / "train", {"shard_size": 4, "batch_size": 1}
    with pytest.raises(KeyboardInterrupt):  # one call determines the shapes, four make a shard, the last one is lost
        write_cache(dataset, folder, lambda image: counting(image, 6), key, **options)
    assert sorted(contents(folder)) == ["00000.npy", "index.json"]
    with pytest.raises(CacheError, match="1 of 2 shards are missing or damaged"):
        CachedDataset(dataset, folder)
    complete, index = (folder / "00000.npy").read_bytes(), read_index(folder)
    (folder / "00000.npy").write_bytes(complete[:-200])  # as after a failure of the disk
    (folder / ".00001.npy.123.part").write_bytes(complete[:200])  # as after a kill, of earlier versions and of this one
    (folder / ".00001.123.part.npy").write_bytes(complete[:200])
    calls.clear()
    assert write_cache(dataset, folder, counting, key, **options).written == IMAGES
    for shorter in (complete[:-4], complete[:60], b""):  # cut within the data, cut within the header, empty
        (folder / "00000.npy").write_bytes(shorter)
        assert [index.is_complete(folder, shard) for shard in index.shards] == [False, True]
    (folder / "00000.npy").write_bytes(complete)
    calls.clear()
    (folder / "00001.npy").unlink()
    result = write_cache(dataset, folder, counting, key, **options)
    assert result.written == 2 and calls == [1, 1, 1] and result.missing == 0
    assert sorted(contents(folder)) == ["00000.npy", "00001.npy", "index.json"]
    assert result.size == sum(path.stat().st_size for path in folder.iterdir())
    resumed, reference = (np.load(each / "train/00001.npy") for each in (tmp_path, cache))
    assert all(np.allclose(resumed[name], reference[name], atol=2e-3) for name in resumed.dtype.names)


def test_processes_that_share_the_shards_write_the_same_cache_as_one(dataset, model, tmp_path):
    encode, key = encoders_of(model)
    alone = write_cache(dataset, tmp_path / "alone", encode, key, shard_size=2)
    first, second = (
        write_cache(dataset, tmp_path / "both", encode, key, shard_size=2, rank=rank, world=2) for rank in (0, 1)
    )
    assert (first.written, first.missing) == (4, 1) and (second.written, second.missing) == (2, 0)
    assert contents(tmp_path / "both") == contents(tmp_path / "alone") and alone.missing == 0


def test_worker_processes_do_not_change_the_cache(dataset, model, tmp_path):
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        write_cache(dataset, folder, *encoders_of(model), shard_size=4, batch_size=3, num_workers=workers)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


def test_an_estimate_is_the_size_of_the_cache_without_headers(dataset, cache, model):
    """The header of a shard is smaller than 1 kB."""
    estimate = estimate_cache(dataset, encoders_of(model)[0], batch_size=4)
    shards = list((cache / "train").glob("*.npy"))
    written = sum(path.stat().st_size for path in shards)
    assert estimate.images == IMAGES and estimate.seconds > 0
    assert estimate.size <= written < estimate.size + 1024 * len(shards)


def test_a_full_disk_is_reported_and_leaves_no_partial_shard(dataset, model, tmp_path, monkeypatch):
    def save(file, records):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(CacheError, match=r"00000.npy: .*No space left"):
        write_cache(dataset, tmp_path / "train", *encoders_of(model))
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["index.json"]


def damaged_shards(complete: bytes) -> dict[str, bytes]:
    """Shards whose header or length is damaged, by what is wrong with them."""
    header, data = complete[:192], complete[192:]
    archive = io.BytesIO()
    np.savez(archive, a=np.zeros(3))
    return {
        "unbalanced brackets": header.replace(b"(2, 4, 8, 8)", b"(2, 4,((, 8)") + data,
        "another shape": header.replace(b"'shape': (4,)", b"'shape': (3,)") + data,
        "a huge shape": header.replace(b"'shape': (4,), }      ", b"'shape': (4000000,), }") + data,
        "another type": header.replace(b"<f2", b"<i2") + data,
        "objects": header.replace(b"'<i4'", b"'|O4'") + data,
        "no header": b"\x93NUMPY\x01\x00\xff\xff" + data,
        "another version": complete[:6] + b"\x09" + complete[7:],
        "bytes that are no text": header[:20] + b"\xff" * 40 + header[60:] + data,
        "an archive": archive.getvalue(),
        "a short file": complete[:-3],
    }


def test_damaged_shards_are_not_used_and_made_anew(noise_vg, model, tmp_path):
    dataset = VGTrain(**vg_params(noise_vg, max_samples=4))
    folder, options = tmp_path / "train", {"shard_size": 4, "batch_size": 4}
    write_cache(dataset, folder, *encoders_of(model), **options)
    complete = (folder / "00000.npy").read_bytes()
    for what, content in damaged_shards(complete).items():
        assert content != complete, what
        (folder / "00000.npy").write_bytes(content)
        with pytest.raises(CacheError, match="1 of 1 shards are missing or damaged"):
            CachedDataset(dataset, folder)
        assert write_cache(dataset, folder, *encoders_of(model), **options).written == 4, what
        assert (folder / "00000.npy").read_bytes() == complete, what


def test_the_bad_shard_is_damaged(cache, bad_inputs, tmp_path):
    shutil.copytree(cache / "train", tmp_path / "train")
    shutil.copy(bad_inputs / "cache/cache_00001_bad_header.npy", tmp_path / "train/00001.npy")
    with pytest.raises(CacheError, match="00001.npy: missing or damaged"):
        read_index(tmp_path / "train").open_shard(tmp_path / "train", 1)


def test_a_shard_that_vanishes_during_training_is_one_sentence(dataset, cache, tmp_path):
    shutil.copytree(cache / "train", tmp_path / "train")
    cached = CachedDataset(dataset, tmp_path / "train")
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(CacheError, match=r"^[^\n]*00000.npy: missing or damaged[^\n]*$"):
        cached[0]


def test_a_folder_that_vanishes_or_cannot_be_is_one_sentence(dataset, model, tmp_path):
    encode, key = encoders_of(model)

    def vanish(image):
        shutil.rmtree(tmp_path / "train", ignore_errors=True)
        return encode(image)

    with pytest.raises(CacheError, match=r"^[^\n]*index.json: vanished[^\n]*$"):
        write_cache(dataset, tmp_path / "train", vanish, key, shard_size=2)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file/train", tmp_path / "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(CacheError, match=r"^[^\n]*cannot be written[^\n]*$"):
            write_cache(dataset, folder, encode, key)


def _die_while_writing(path):
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_files_that_a_killed_run_left_behind_are_removed_before_the_cache_is_complete(dataset, model, tmp_path):
    (tmp_path / "train").mkdir()
    arguments = (tmp_path / "train/00000.npy",)
    process = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=arguments)
    process.start()
    process.join()
    assert len(list((tmp_path / "train").iterdir())) == 1
    result = write_cache(dataset, tmp_path / "train", *encoders_of(model), shard_size=2, rank=0, world=2)
    assert result.missing == 1
    assert sorted(contents(tmp_path / "train")) == ["00000.npy", "00002.npy", "index.json"]


@pytest.mark.parametrize("name", ["a b.png", "한국 사진.png", os.fsdecode(b"\xff\xfe.png")])
def test_images_with_names_of_any_bytes_can_be_cached(noise_vg, model, tmp_path, name):
    shutil.copytree(noise_vg, tmp_path / "vg")
    (tmp_path / "vg/images/VG_100K/0.png").rename(tmp_path / "vg/images/VG_100K" / name)
    with h5py.File(tmp_path / "vg/made.h5", "a") as file:
        paths = [b"VG_100K/" + os.fsencode(name), *file["image_paths"][1:]]
        del file["image_paths"]
        file["image_paths"] = paths
    dataset = VGTrain(**vg_params(tmp_path / "vg"))
    write_cache(dataset, tmp_path / name, *encoders_of(model), shard_size=4)
    assert CachedDataset(dataset, tmp_path / name)[0][1] == dataset[0][1]


@pytest.mark.parametrize("options, field", [({"image_size": 64}, "image size"), ({"max_samples": 3}, "names")])
def test_a_cache_of_other_images_is_not_overwritten(noise_vg, cache, model, options, field):
    with pytest.raises(CacheError, match=rf"stale \({field}"):
        write_cache(VGTrain(**vg_params(noise_vg, **options)), cache / "train", *encoders_of(model), shard_size=4)


def test_a_cache_of_another_layout_is_not_overwritten(dataset, cache, model):
    with pytest.raises(CacheError, match=r"stale \(shard size: 4 .* 5"):
        write_cache(dataset, cache / "train", *encoders_of(model), shard_size=5)
    with pytest.raises(CacheError, match=r"stale \(mirror images: True .* False"):
        write_cache(dataset, cache / "train", *encoders_of(model), mirrored=False, shard_size=4)


class RandomCrops(VGTrain):
    """Changes the pixels in every epoch, as random crops do."""

    def __getitem__(self, index):
        image, graph = super().__getitem__(index)
        return image.roll(self._rng(index).randrange(32), -1), graph


class FlipsInOddEpochs(VGTrain):
    """Flips all images but the first in every other epoch."""

    def __getitem__(self, index):
        image, graph = super().__getitem__(index)
        return image.flip(-1) if index and self.epoch % 2 else image, graph


@pytest.mark.parametrize("kind", [RandomCrops, FlipsInOddEpochs])
def test_images_that_change_with_the_epoch_cannot_be_cached(noise_vg, model, tmp_path, kind):
    dataset = kind(**vg_params(noise_vg))
    dataset.epoch = 5
    with pytest.raises(CacheError, match=f"{kind.__name__} .*every epoch"):
        write_cache(dataset, tmp_path / "train", *encoders_of(model))
    assert not list(tmp_path.iterdir()) and dataset.epoch == 5


def test_generated_images_cannot_be_cached(cache, model, tmp_path):
    generated = DemoTrain(4, 32)
    for use in (
        lambda: write_cache(generated, tmp_path, *encoders_of(model)),
        lambda: CachedDataset(generated, cache),
    ):
        with pytest.raises(CacheError, match="DemoTrain .*cannot be cached"):
            use()
    assert not list(tmp_path.iterdir())


class MinimalDataset(torch.utils.data.Dataset):
    """Has the members of ImageFileDataset only, and no epoch."""

    def __init__(self, dataset):
        self.dataset, self.vocab, self.image_size = dataset, dataset.vocab, 32
        self.image_names, self.image_path, self.graph = dataset.image_names, dataset.image_path, dataset.graph

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]


def test_a_data_set_without_epochs_can_be_cached_and_flipped(dataset, model, tmp_path):
    minimal = MinimalDataset(dataset)
    write_cache(minimal, tmp_path / "train", *encoders_of(model), shard_size=4)
    assert RandomFlipDataset(CachedDataset(minimal, tmp_path / "train"), 1.0)[0][1].triples[0][1] == "right of"
    assert torch.equal(RandomFlipDataset(minimal, 1.0)[0][0], dataset[0][0].flip(-1))
