"""The sentence encoder of the extra `words`, on words whose answer is known."""

import numpy as np
import pytest

from ldm.graph import SceneGraph, Vocab
from ldm.synthetic.shapes.scenes import VOCAB
from ldm.words import OpenWords, load_encoder
from ldm.words import sentence_encoder as module
from ldm.words.policy import Outcome

pytestmark = pytest.mark.skipif(not module.is_installed(), reason="needs pip install -e '.[words]'")


@pytest.fixture(scope="module")
def encoder():
    return load_encoder()


def test_embeddings_have_length_one_and_do_not_depend_on_the_other_texts(encoder):
    fresh = module.UniversalEncoder()
    together = encoder.encode(["sheep", "말", "man riding horse"])
    assert together.shape == (3, 512) and np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(fresh.encode(["말"])[0], together[1], atol=1e-5)


def test_the_korean_for_sheep_is_nearer_to_it_than_to_other_names(encoder):
    sheep, horse, chair, korean = encoder.encode(["sheep", "horse", "chair", "양"])
    assert korean @ sheep > max(korean @ horse, korean @ chair)


def test_a_korean_graph_is_read_in_the_words_of_flat_shapes():
    graph = SceneGraph(("원", "네모"), attributes=(("작은", "빨간"), ("파란",)), triples=((0, "왼쪽에", 1),))
    named = graph.validate(VOCAB, resolve=OpenWords(VOCAB).of(graph))
    assert named == SceneGraph(
        ("circle", "square"), attributes=(("small", "red"), ("blue",)), triples=((0, "left of", 1),)
    )


def test_a_graph_decides_what_a_korean_homonym_means():
    vocab = Vocab(("__image__", "man", "grass", "paper", "horse", "word"), ("__in_image__", "riding", "on"))
    words = OpenWords(vocab)
    assert words.read("object", "말").outcome is Outcome.ASK
    ridden = SceneGraph(("남자", "말"), triples=((0, "타고 있는", 1),))
    assert words.name_graph(ridden)[0].named.objects == ("man", "horse")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "MODULE", "no_such_module")
    load_encoder.cache_clear()
    try:
        with pytest.raises(Exception, match=r"pip install -e '\.\[words\]'"):
            load_encoder()
    finally:
        load_encoder.cache_clear()
