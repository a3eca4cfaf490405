"""Random flips of images together with their graphs."""

import pytest
import torch
from noise_vg import IMAGES, data_module

from ldm.data.cache import CachedDataset
from ldm.data.flips import RandomFlipDataset, mirror_graph
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.synthetic.shapes import VOCAB
from ldm.util.errors import UserError


def test_a_mirrored_graph_has_boxes_and_words_of_the_other_side():
    vocab = Vocab(
        ("__image__", "left hand", "right hand"),
        ("__in_image__", "left of", "to the right of", "right of", "to the left of", "above"),
        ("leftmost", "rightmost", "bright"),
    )
    graph = SceneGraph(
        ("left hand", "right hand"),
        ((0.0, 0.25, 0.125, 0.5), None),
        (("leftmost", "bright"), ()),
        ((0, "left of", 1), (1, "to the right of", 0), (0, "above", 1)),
        image="a.png",
    )
    mirrored = mirror_graph(graph, vocab)
    assert mirrored.objects == ("right hand", "left hand")
    assert mirrored.boxes == ((0.875, 0.25, 1.0, 0.5), None)
    assert mirrored.attributes == (("rightmost", "bright"), ())
    assert mirrored.triples == ((0, "right of", 1), (1, "to the left of", 0), (0, "above", 1))
    assert mirror_graph(mirrored, vocab) == graph
    assert mirror_graph(graph, Vocab(vocab.objects, vocab.predicates, ("leftmost", "bright"))) is None


def test_flips_have_their_probability_and_depend_on_seed_epoch_and_index_only(dataset):
    originals = [dataset[index] for index in range(IMAGES)]

    def flips(probability, seed=0):
        flipping, results = RandomFlipDataset(dataset, probability, seed), []
        for flipping.epoch in range(20):
            for index in range(IMAGES):
                image, graph = flipping[index]
                flipped = torch.equal(image, originals[index][0].flip(-1))
                assert flipped or torch.equal(image, originals[index][0])
                assert [t[1] for t in graph.triples] == ["right of" if flipped else "left of"]
                results.append(flipped)
        return results

    assert not any(flips(0.0)) and all(flips(1.0))
    assert 40 <= sum(flips(0.5)) <= 80
    assert flips(0.5) == flips(0.5) != flips(0.5, seed=1)


def test_an_image_is_not_flipped_if_the_vocabulary_lacks_the_opposite_word(dataset):
    dataset.vocab = Vocab(VOCAB.objects, ("__in_image__", "left of"), VOCAB.attributes)
    image, graph = RandomFlipDataset(dataset, 1.0)[0]
    assert torch.equal(image, dataset[0][0]) and graph == dataset[0][1]


def test_validation_images_are_not_flipped(noise_vg, cache):
    for options in ({}, {"cache": str(cache)}):
        module = data_module(noise_vg, flip=1.0, **options)
        module.setup()
        left, right = VOCAB.predicate_id("left of"), VOCAB.predicate_id("right of")
        assert set(next(iter(module.train_dataloader())).graph.triples[:, 1].tolist()) == {0, right}
        assert set(next(iter(module.val_dataloader())).graph.triples[:, 1].tolist()) == {0, left}


def test_a_wrapped_cache_shares_length_vocabulary_and_epoch_with_the_data_set(dataset, cache):
    wrapped = RandomFlipDataset(CachedDataset(dataset, cache / "train"), 0.5)
    wrapped.epoch = 7
    assert wrapped.epoch == dataset.epoch == 7 and wrapped.vocab is dataset.vocab and len(wrapped) == len(dataset)


@pytest.mark.parametrize("flip", [-0.1, 1.5])
def test_a_flip_probability_outside_of_0_to_1_is_an_error(noise_vg, flip):
    with pytest.raises(UserError, match="data.params.flip"):
        data_module(noise_vg, flip=flip)
