"""Drawn scenes that are the same in every epoch, and a cache of their latents."""

import pytest
import torch
from tiny import tiny_model

from ldm.data.cache import CachedDataset, CacheError, require_image_files
from ldm.data.cache_writing import write_cache
from ldm.data.demo import DemoFixed, DemoTrain
from ldm.models.encoders import make_encode_function
from ldm.synthetic.checker import check, read_scene
from ldm.util.images import to_image


def fixed(size=6, **params):
    return DemoFixed(size, 64, **params)


def test_pictures_stay_and_graphs_are_told_anew_in_every_epoch():
    scenes = fixed(reference=True)
    first = [scenes[i] for i in range(6)]
    scenes.epoch = 1
    second = [scenes[i] for i in range(6)]
    for (picture, _, reference), (same, _, same_reference) in zip(first, second):
        assert torch.equal(picture, same) and torch.equal(reference, same_reference)
    assert any(graph != other for (_, graph, _), (_, other, _) in zip(first, second))


def test_every_graph_is_true_of_its_picture():
    scenes = fixed(boxes="all")
    for i in range(4):
        picture, graph = scenes[i]
        assert check(graph, read_scene("shapes", to_image(picture)), "shapes").passed


def test_the_two_scenes_of_a_pair_differ_and_have_one_background():
    scenes = fixed(7, reference=True)
    assert [scenes.style_reference(i) for i in range(7)] == [1, 0, 3, 2, 5, 4, 6]
    for i in range(6):
        (graph, background), (other, same) = scenes.scene(i), scenes.scene(scenes.style_reference(i))
        assert background == same and graph != other
        assert torch.equal(scenes[i][2], scenes[i ^ 1][0])
    assert scenes.scene(0)[1] != scenes.scene(2)[1]


def test_other_seeds_are_other_scenes_and_a_smaller_set_is_the_beginning_of_a_larger_one():
    assert fixed(seed=1).scene(0) != fixed(seed=0).scene(0)
    assert fixed(seed=1).image_names()[0] != fixed(seed=0).image_names()[0]
    assert fixed(4).image_names() == fixed(6).image_names()[:4]
    assert torch.equal(fixed(4)[3][0], fixed(6)[3][0])
    assert fixed(apart=0.1).image_names() != fixed(apart=0.9).image_names()
    with pytest.raises(IndexError):
        fixed(4).scene(4)


def test_scenes_prepared_by_several_processes_are_those_generated_one_by_one(monkeypatch):
    monkeypatch.setattr("ldm.data.demo.PREPARED_ALONE", 0)
    prepared, plain = fixed(), fixed()
    prepared.prepare()
    assert prepared._prepared and not plain._prepared
    assert [prepared.scene(i) for i in range(6)] == [plain.scene(i) for i in range(6)]


def test_a_cache_holds_their_latents_and_styles(tmp_path):
    torch.manual_seed(0)
    model = tiny_model()
    encode = make_encode_function(model.first_stage_model, model.global_stage_model)
    scenes = DemoFixed(6, 32, reference=True)
    write_cache(scenes, tmp_path / "train", encode, {}, mirrored=False)
    cached = CachedDataset(DemoFixed(4, 32, reference=True), tmp_path / "train")
    for i in range(4):
        picture, graph, reference = scenes[i]
        latents, same_graph = cached[i]
        assert same_graph == graph
        torch.testing.assert_close(latents.z, encode(picture[None]).z[0].half())
        torch.testing.assert_close(latents.style, encode(reference[None]).style[0].half())
    with pytest.raises(CacheError, match="stale"):
        CachedDataset(DemoFixed(4, 32, seed=5), tmp_path / "train")


def test_scenes_that_change_with_the_epoch_are_not_cached():
    with pytest.raises(CacheError, match="DemoTrain has no image files"):
        require_image_files(DemoTrain(4))
