"""The characters of a text that CLIP's tokens stand for, against open_clip's own tokens and against transformers' offsets."""

import gzip
import json

import pytest
from open_clip.tokenizer import SimpleTokenizer, default_bpe

from ldm.modules.text_spans import clip_tokenizer, count_tokens, token_characters, token_positions

TOKENIZER = SimpleTokenizer()
TEXTS = [
    "white sheep on grass, two dogs' tails",
    "",
    "A  Red\tCIRCLE &amp; a   blue square",
    "it's 1234 o'clock!!! <end_of_text> again",
    "빨간 원 위의 파란 사각형",
    "a 🐑 near 🏳️‍🌈, naïve café",
    "ＦＵＬＬ width ﬁsh “quoted” schÃ¶n",
    "İstanbul straße ẞ",
    "supercalifragilisticexpialidocious " * 40,
]


@pytest.mark.parametrize("text", TEXTS)
def test_there_are_as_many_tokens_as_open_clip_makes(text):
    assert len(token_characters(text)) == len(TOKENIZER.encode(text))
    assert count_tokens(text) == len(TOKENIZER.encode(text)) + 2


@pytest.mark.parametrize("text", TEXTS[:6])
def test_the_characters_of_a_token_are_the_text_that_it_decodes_to(text):
    for token, (start, end) in zip(TOKENIZER.encode(text), token_characters(text), strict=True):
        piece = bytes(TOKENIZER.byte_decoder[c] for c in TOKENIZER.decoder[token].removesuffix("</w>"))
        assert piece in text[start:end].lower().encode()


def test_characters_are_the_offsets_that_the_tokenizer_of_transformers_returns(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    merges = gzip.open(default_bpe()).read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    vocab = {word.replace("<start_of_text>", "<|startoftext|>"): i for word, i in TOKENIZER.encoder.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    model = tokenizers.models.BPE.from_file(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), end_of_word_suffix="</w>"
    )
    theirs = tokenizers.Tokenizer(model)
    theirs.normalizer = tokenizers.normalizers.Lowercase()
    pattern = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = tokenizers.pre_tokenizers.Split(pattern, "removed", invert=True)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [split, tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    for text in (TEXTS[0], "A tall, unbelievably Photorealistic man wearing 2 hats", "naïve café 빨간 원"):
        assert token_characters(text) == theirs.encode(text).offsets


def test_positions_count_from_the_start_token():
    text = "white sheep on grass"
    assert token_positions(text, [(0, 5), (6, 11), (0, 11), (15, 20)]) == [(1,), (2,), (1, 2), (4,)]


def test_a_word_of_several_tokens_has_several_positions():
    text = "a photorealistic llama"
    (word,) = token_positions(text, [(2, 16)])
    assert list(word) == list(range(2, 2 + len(TOKENIZER.encode("photorealistic")))) and len(word) > 1


def test_words_that_are_cut_off_have_no_position():
    text = "cat " * 75 + "dog"
    dog = text.index("dog")
    assert token_positions(text, [(dog, dog + 3), (dog - 4, dog - 1)]) == [(), (75,)]


def test_in_chunks_each_chunk_has_a_start_and_an_end_token():
    text = "cat " * 75 + "dog " + "cat " * 74 + "fox"
    spans = [(0, 3), (text.index("dog"), text.index("dog") + 3), (text.index("fox"), text.index("fox") + 3)]
    assert token_positions(text, spans, chunked=True) == [(1,), (77 + 1,), (2 * 77 + 1,)]


def test_spans_survive_repairs_of_the_text():
    text = "ﬁsh &amp; “red”   schÃ¶n CAFÉ"
    tokens = TOKENIZER.encode(text)
    words = [text.index(word) for word in ("ﬁsh", "red", "schÃ¶n", "CAFÉ")]
    spans = [(start, start + length) for start, length in zip(words, (3, 3, 6, 4))]
    decoded = [TOKENIZER.decode([tokens[i - 1] for i in found]).strip() for found in token_positions(text, spans)]
    assert decoded == ["fish", "red", "schön", "café"]


def test_the_tokenizer_is_read_once():
    assert clip_tokenizer() is clip_tokenizer()
