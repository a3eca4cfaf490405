"""Vectors of learned words: where they stand in a text, which are read, and that nothing waits for a GPU."""

import pytest
import torch

from ldm.graph.text_tokens import END, VOCABULARY
from ldm.modules.learned_words import LearnedWords
from ldm.util.errors import UserError


@pytest.fixture
def words():
    learned = LearnedWords(4)
    learned.add("<a-thing-of-three>", torch.eye(4)[:3])
    learned.add("<a-thing-of-one>", torch.full((1, 4), 2.0))
    return learned


def ids_of(words):
    three, one = words.words.values()
    return torch.tensor([[5, *three, 7, *one, END, END], [5, 6, 7, 8, 9, END, END, END]])


def test_each_vector_stands_where_its_id_does(words):
    ids = ids_of(words)
    is_learned, rows = words.places(ids)
    spliced = words.splice(torch.zeros(2, 8, 4), is_learned, rows)
    expected = torch.zeros(2, 8, 4)
    expected[0, 1:4], expected[0, 5] = torch.eye(4)[:3], 2.0
    assert torch.equal(spliced, expected) and torch.equal(is_learned, ids >= VOCABULARY)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_vectors_that_are_not_in_use_are_left_out_and_the_rest_moves_up(words, count):
    words.in_use.fill_(count)
    three, one = words.words.values()
    kept = [5, *three[: count or 3], 7, *one, END, END]
    found = words.shorten(ids_of(words))
    assert found[0].tolist() == kept + [END] * (8 - len(kept))
    assert torch.equal(found[1], ids_of(words)[1])


def test_finding_words_reads_no_value_from_the_device(words):
    ids = ids_of(words).to("meta")  # a device without values to read
    words.to("meta")
    assert words.shorten(ids).shape == ids.shape
    assert [part.shape for part in words.places(ids)] == [ids.shape] * 2


def test_a_word_of_another_text_encoder_is_named(words):
    with pytest.raises(UserError, match="<a-thing-of-three>"):
        LearnedWords(4).places(ids_of(words))
