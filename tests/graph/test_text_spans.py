"""The characters of a text that CLIP's tokens stand for, against the tokens themselves and the offsets of `tokenizers`."""

import gzip
import json

import pytest
from open_clip.tokenizer import SimpleTokenizer, default_bpe

from ldm.graph.text_spans import count_tokens, token_characters, token_positions
from ldm.graph.text_tokens import tokenize

TOKENIZER = SimpleTokenizer()
TEXTS = [
    "white sheep on grass, two dogs' tails",
    "",
    "A  Red\tCIRCLE &amp; a   blue square",
    "it's 1234 o'clock!!! <|endoftext|> again",
    "빨간 원 위의 파란 사각형",
    "a 🐑 near 🏳️‍🌈, naïve café",
    "cafe\u0301 e\u0301 ＦＵＬＬ width ﬁsh “quoted”",
    "İstanbul straße ẞ ΣΑΣ",
    "supercalifragilisticexpialidocious " * 40,
]


def ids(text):
    return [token for chunk in tokenize(text, chunked=True).chunks for token in chunk]


@pytest.mark.parametrize("text", TEXTS)
def test_there_are_as_many_spans_as_tokens(text):
    assert len(token_characters(text)) == len(ids(text)) == count_tokens(text) - 2


@pytest.mark.parametrize("text", TEXTS[:3] + TEXTS[4:6])
def test_the_characters_of_a_token_are_the_text_that_it_decodes_to(text):
    for token, (start, end) in zip(ids(text), token_characters(text), strict=True):
        piece = bytes(TOKENIZER.byte_decoder[c] for c in TOKENIZER.decoder[token].removesuffix("</w>"))
        assert piece in text[start:end].lower().encode()


@pytest.fixture(scope="module")
def offsets(tmp_path_factory):
    """offsets(text) of Hugging Face's tokenizer, made of open_clip's merges."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("tokenizer")
    with gzip.open(default_bpe()) as file:
        merges = file.read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    (folder / "vocab.json").write_text(json.dumps(TOKENIZER.encoder))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*files, end_of_word_suffix="</w>"))
    theirs.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFC(), tokenizers.normalizers.Replace(tokenizers.Regex(r"\s+"), " "), tokenizers.normalizers.Lowercase()]
    )  # fmt: skip
    pattern = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = tokenizers.pre_tokenizers.Split(pattern, "removed", invert=True)
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    return lambda text: theirs.encode(text).offsets


@pytest.mark.parametrize("text", [*TEXTS[:3], TEXTS[4], "unbelievably Photorealistic, 2 hats", "naïve   café\t빨간 원"])
def test_characters_are_the_offsets_of_hugging_faces_tokenizer(offsets, text):
    assert token_characters(text) == offsets(text)


def test_positions_count_from_the_start_token():
    text = "white sheep on grass"
    assert token_positions(text, [(0, 5), (6, 11), (0, 11), (15, 20)]) == [(1,), (2,), (1, 2), (4,)]


def test_a_word_of_several_tokens_has_several_positions():
    (word,) = token_positions("a photorealistic llama", [(2, 16)])
    assert list(word) == list(range(2, 2 + len(ids("photorealistic")))) and len(word) > 1


def test_words_that_are_cut_off_have_no_position():
    text = "cat " * 75 + "dog"
    dog = text.index("dog")
    assert token_positions(text, [(dog, dog + 3), (dog - 4, dog - 1)]) == [(), (75,)]


def test_in_chunks_each_chunk_has_a_start_and_an_end_token():
    text = "cat " * 75 + "dog " + "cat " * 74 + "fox"
    spans = [(0, 3), (text.index("dog"), text.index("dog") + 3), (text.index("fox"), text.index("fox") + 3)]
    positions = token_positions(text, spans, chunked=True)
    assert positions == [(1,), (77 + 1,), (2 * 77 + 1,)]
    rows = tokenize(text, chunked=True).ids(0).flatten().tolist()
    assert [rows[position] for (position,) in positions] == [ids(word)[0] for word in ("cat", "dog", "fox")]


def test_spans_survive_the_normalisation_of_the_text():
    text = "  cafe\u0301   RED\t\tİs e\u0301te\u0301 fox"
    words = [
        (text.index(word), text.index(word) + len(word)) for word in ("cafe\u0301", "RED", "e\u0301te\u0301", "fox")
    ]
    tokens = [ids(text)[position - 1] for found in token_positions(text, words) for position in found]
    assert TOKENIZER.decode(tokens).split() == ["café", "red", "été", "fox"]
