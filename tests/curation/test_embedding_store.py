"""Embeddings on disk: made once, resumed after a kill, shared by processes, remade for changed files."""

import os
import threading

import numpy as np
import pytest
from omegaconf import OmegaConf
from pile import picture, save, write_pile

from ldm.curation.errors import CurationError
from ldm.curation.measures import measure
from ldm.curation.pictures import read_pictures
from ldm.curation.store import embed
from ldm.curation.towers import PixelTower, load_tower
from ldm.util.files import digest


class CountingTower(PixelTower):
    """Counts what it embeds, and fails after some batches, as if it were killed."""

    def __init__(self, fails_after: int | None = None):
        super().__init__()
        self.embedded, self.batches, self.fails_after = 0, 0, fails_after

    def __call__(self, images, pictures=()):
        self.batches += 1
        if self.fails_after is not None and self.batches > self.fails_after:
            raise KeyboardInterrupt
        self.embedded += len(images)
        return super().__call__(images, pictures)


@pytest.fixture
def pile(tmp_path):
    write_pile(tmp_path / "pile", 10)
    return read_pictures([str(tmp_path / "pile")])


def test_records_hold_unit_embeddings_checksums_and_measures(pile, tmp_path):
    records = embed(pile, tmp_path / "store", PixelTower(), shard_size=4)
    lengths = np.linalg.norm(records["embedding"].astype(np.float32), axis=1)
    assert len(records) == 10 and lengths == pytest.approx(np.ones(10), abs=1e-3)
    assert bytes(records["checksum"][7]).hex() == digest(pile[7].path)
    expected = measure(picture(7))
    assert int(records["hash"][7]) == expected.hash and tuple(records["size"][7]) == (96, 96)
    assert np.array_equal(records.thumbnail(7), expected.thumbnail)


def test_a_killed_embedding_goes_on_with_the_next_shard(pile, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        embed(pile, tmp_path / "store", CountingTower(fails_after=2), shard_size=3)
    tower = CountingTower()
    resumed = embed(pile, tmp_path / "store", tower, shard_size=3)
    assert tower.embedded == 10 - 2 * 3
    whole = embed(pile, tmp_path / "other", PixelTower(), shard_size=3)
    assert np.array_equal(resumed["embedding"], whole["embedding"])
    assert not list((tmp_path / "store").glob(".*"))


def test_pictures_that_are_there_already_are_not_embedded_again(pile, tmp_path):
    embed(pile[:6], tmp_path / "store", PixelTower(), shard_size=4)
    save(picture(50), pile[2].path)  # another picture under the same name
    os.utime(pile[2].path, ns=(1, 1))
    tower = CountingTower()
    records = embed(pile, tmp_path / "store", tower, shard_size=5)
    assert tower.embedded == 1 + 4
    assert int(records["hash"][2]) == measure(picture(50)).hash


def test_two_processes_write_what_one_writes(pile, tmp_path):
    embed([], tmp_path / "two", PixelTower())  # threads would write tower.json under one temporary name
    arguments = [(pile, tmp_path / "two", PixelTower(), rank, 2, 3) for rank in (0, 1)]
    threads = [threading.Thread(target=embed, args=each, daemon=True) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    one = embed(pile, tmp_path / "one", PixelTower(), shard_size=3)
    tower = CountingTower()
    two = embed(pile, tmp_path / "two", tower, shard_size=3)
    assert tower.embedded == 0 and np.array_equal(one["embedding"], two["embedding"])


def test_a_broken_and_a_missing_picture_have_no_size(pile, tmp_path):
    pile[1].path.write_bytes(b"no picture")
    pile[2].path.unlink()
    records = embed(pile, tmp_path / "store", PixelTower())
    assert (records["size"][[1, 2]] == 0).all() and (records["embedding"][[1, 2]] == 0).all()
    assert (records["size"][3:] == 96).all()


def test_a_damaged_shard_is_written_again(pile, tmp_path):
    embed(pile, tmp_path / "store", PixelTower(), shard_size=5)
    next((tmp_path / "store").glob("*.npy")).write_bytes(b"\x93NUMPY")
    tower = CountingTower()
    assert len(embed(pile, tmp_path / "store", tower, shard_size=5)) == 10 and tower.embedded == 5


def test_a_store_of_another_tower_is_refused(pile, tmp_path):
    embed(pile[:1], tmp_path / "store", PixelTower())
    other = PixelTower()
    other.checksum = "0" * 64
    with pytest.raises(CurationError, match="another tower"):
        embed(pile[:1], tmp_path / "store", other)


def test_the_tower_of_a_config_embeds_each_picture_as_its_encoder_does():
    model = {"embed_dim": 8, "image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
    section = {"target": "ldm.modules.global_film.CLIPGlobalEncoder", "params": {"model_name": model, "init": "random"}}
    tower = load_tower(None, None, OmegaConf.create({"model": {"params": {"global_stage_config": section}}}))
    images = [picture(0), picture(1, (60, 90))]
    together = tower(images)
    assert together.shape == (2, 8) and tower.width == 8 and len(tower.checksum) == 64
    np.testing.assert_allclose(together[1], tower(images[1:])[0], atol=1e-5)


def test_a_config_without_a_tower_and_an_unknown_tower_are_errors():
    with pytest.raises(CurationError, match="no image tower"):
        load_tower(None, None, OmegaConf.create({"model": {"params": {}}}))
    with pytest.raises(CurationError, match="neither OpenAI nor open_clip"):
        load_tower("ViT-Z", None, None)
