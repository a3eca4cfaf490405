"""Byte pairs of words are those of open_clip's own tokenizer."""

from graph_examples import repeatable
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from ldm.graph.byte_pairs import clip_vocabulary, split_word

TOKENIZER = SimpleTokenizer()


def test_the_vocabulary_is_open_clips_without_the_special_tokens():
    known = dict(TOKENIZER.encoder)
    assert [known.pop(special) for special in ("<start_of_text>", "<end_of_text>")] == [49406, 49407]
    assert clip_vocabulary().ids == known


@repeatable
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_pieces_of_any_text_are_open_clips(text):
    characters = "".join(TOKENIZER.byte_encoder[byte] for byte in text.encode())
    assert split_word(text) == TOKENIZER.bpe(characters).split(" ")


@repeatable
@given(st.text("abolnst", min_size=1, max_size=30))
def test_pieces_of_texts_with_many_merges_are_open_clips(text):
    assert split_word(text) == TOKENIZER.bpe(text).split(" ")
