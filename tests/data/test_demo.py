"""The data sets of synthetic scenes: which scenes they give, and in which form."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ldm.data.demo import DemoTrain, DemoValidation
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.synthetic.worlds import WORLDS
from ldm.util.errors import ConfigError


def names(graph: SceneGraph) -> list[tuple[str, ...]]:
    return [(shape, *sorted(attributes)) for shape, attributes in zip(graph.objects, graph.attributes)]


def test_train_scenes_depend_on_seed_epoch_and_index():
    train = DemoTrain(3)
    first = train.scene(1)
    assert first == DemoTrain(3).scene(1) != train.scene(2)
    train.epoch = 1
    assert train.scene(1) != first
    assert DemoTrain(3, seed=1).scene(1) != first


def test_validation_scenes_depend_on_the_index_only():
    validation = DemoValidation(3, seed=5)
    validation.epoch = 7
    assert validation.scene(2) == DemoValidation(200).scene(2)


def test_train_and_validation_share_no_scene():
    validation, train = DemoValidation(60), DemoTrain(60)
    held_out = {str(validation.scene(index)) for index in range(60)}
    for train.epoch in range(3):
        assert not held_out & {str(train.scene(index)) for index in range(60)}


@pytest.mark.parametrize("image_size", [32, 64, 100])
def test_an_item_is_an_image_tensor_and_a_graph(image_size):
    image, graph = DemoTrain(4, image_size=image_size)[3]
    assert image.shape == (3, image_size, image_size) and image.dtype == torch.float32
    assert -1 <= image.min() < image.max() <= 1
    assert isinstance(graph, SceneGraph)


def test_an_item_shows_its_scene_and_has_as_many_boxes_as_configured():
    for boxes, share in (("all", 1), ("none", 0)):
        validation = DemoValidation(20, boxes=boxes)
        for index in range(20):
            image, graph = validation[index]
            shown = (image.permute(1, 2, 0).numpy() + 1) * 127.5
            assert np.abs(shown - np.asarray(validation.picture(index))).max() < 1
            assert sorted(names(graph)) == sorted(names(validation.scene(index)[0]))
            assert sum(box is not None for box in graph.boxes) == share * len(graph.objects)


def test_worker_processes_give_the_same_items():
    train = DemoTrain(8, seed=3)
    train.epoch = 2
    loaded = list(DataLoader(train, batch_size=None, num_workers=2))
    for index, (image, graph) in enumerate(loaded):
        assert graph == train[index][1] and torch.equal(image, train[index][0])


@pytest.mark.parametrize("options", [{}, {"apart": 0.3}])
def test_a_data_set_can_be_pickled_for_spawned_workers(options):
    train = DemoTrain(3, **options)
    assert pickle.loads(pickle.dumps(train)).scene(1) == train.scene(1)


def test_the_vocabulary_has_the_reserved_names_first():
    vocab = DemoTrain(1).vocab
    assert isinstance(vocab, Vocab)
    assert vocab.objects[0] == "__image__" and vocab.predicates[0] == "__in_image__"
    assert (len(vocab.objects), len(vocab.predicates), len(vocab.attributes)) == (4, 8, 10)


def test_max_samples_limits_the_size():
    train = DemoTrain(1000, max_samples=5)
    assert len(train) == 5
    with pytest.raises(IndexError):
        train[5]


@pytest.mark.parametrize("name, value", [("scenes", "easy"), ("boxes", "some")])
def test_an_unknown_option_value_is_an_error_that_names_both(name, value):
    with pytest.raises(ConfigError, match=f"{name} is '{value}'"):
        DemoTrain(2, **{name: value})


def test_a_reference_shows_another_scene_on_the_same_background():
    plain, with_reference = DemoTrain(30), DemoTrain(30, reference=True)
    for index in range(30):
        image, graph, reference = with_reference[index]
        assert torch.equal(image, plain[index][0]) and graph == plain[index][1]
        assert not torch.equal(image, reference)
        same = (image == reference).all(0).float().mean()
        assert same > 0.1  # of the pixels: those that neither scene covers


def test_a_data_set_without_files_has_nothing_to_report():
    assert list(DemoTrain(2).check()) == []


def test_a_lower_share_of_apart_objects_gives_more_overlaps():
    def overlaps(apart):
        scenes = DemoTrain(200, apart=apart)
        predicates = [predicate for i in range(200) for _, predicate, _ in scenes.scene(i)[0].triples]
        return sum(predicate in ("inside", "in front of") for predicate in predicates)

    assert overlaps(1.0) == 0 < overlaps(0.74) < overlaps(0.3)


def test_apart_is_an_option_of_shapes_only(monkeypatch):
    monkeypatch.setitem(WORLDS, "other", object())
    with pytest.raises(ConfigError, match="apart"):
        DemoTrain(1, scenes="other", apart=0.5)


@pytest.mark.parametrize("option, value", [("size", -1), ("image_size", 0), ("max_samples", 1.5), ("apart", 2)])
def test_an_impossible_number_is_an_error_that_names_it(option, value):
    with pytest.raises(ConfigError, match=f"DemoTrain: {option} is {value}"):
        DemoTrain(**{"size": 2, option: value})
