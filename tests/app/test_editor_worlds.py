"""What the editor takes from the world that has the model's words: a checker, and examples."""

from types import SimpleNamespace

import pytest
from paths import ROOT

from ldm.app.examples import Examples
from ldm.app.reading import find_reader_of
from ldm.graph.vocab import Vocab
from ldm.synthetic.checker import check
from ldm.synthetic.worlds import READERS

RENDERED = ROOT / "tests/data/rendered"


def model_of(vocab: Vocab) -> SimpleNamespace:
    """What examples ask of a model."""
    return SimpleNamespace(vocab=vocab, cond_stage_model=SimpleNamespace(max_objects=23))


@pytest.fixture
def folder(tmp_path):
    """Weights that ship with rendered scenes as examples."""
    (tmp_path / "examples").symlink_to(RENDERED)
    return tmp_path


@pytest.mark.parametrize("name", list(READERS))
def test_the_checker_is_that_of_the_world_with_the_model_s_words(name):
    reader = find_reader_of(READERS[name].vocab)
    assert reader is not None and reader.name == name
    assert find_reader_of(Vocab(("__image__", "dog"), ("__in_image__", "near"))) is None


def test_rendered_scenes_that_ship_are_examples_which_their_checker_reads(folder):
    vocab = READERS["rendered"].vocab
    examples, reader = Examples(model_of(vocab), folder).all, find_reader_of(vocab)
    assert list(examples) == ["scene1", "scene2", "scene3", "scene4"]
    image, graph = examples["scene3"].open()
    assert image.size == (128, 128) and reader.check(graph, image).passed
    assert check(reader.read_graph(image), image, "rendered").passed


def test_only_examples_with_the_model_s_words_are_shown(folder):
    assert list(Examples(model_of(READERS["shapes"].vocab), folder).all) == [f"drawn{n}" for n in range(1, 6)]
    assert not Examples(model_of(Vocab(("__image__", "dog"), ("__in_image__", "near"))), folder).all


def test_damaged_examples_are_left_out(tmp_path):
    (tmp_path / "example.json").write_text("{")
    (tmp_path / "example2.json").write_text('{"objects": ["circle"]}')
    (tmp_path / "example3.json").write_text('{"objects": ["circle"], "image": "missing.png"}')
    (tmp_path / "examples").mkdir()
    found = Examples(model_of(READERS["shapes"].vocab), tmp_path).all
    assert not [id for id in found if not id.startswith("drawn")]
