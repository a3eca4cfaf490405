"""Tokens of texts are those of transformers' CLIPTokenizer, whose files are written here from open_clip's merges."""

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from text_models import write_tokenizer

from ldm.graph.text_tokens import END, LENGTH, START, tokenize

PROMPTS = [
    "",
    " ",
    "a",
    "a photograph of an astronaut riding a horse",
    "A Photograph, Of AN ASTRONAUT!",
    "tabs\tand\nnew lines\r\nand   spaces ",
    "\u00a0no-break\u00a0space and\u2003em space",
    "it's they're we've I'm you'll he'd don't",
    "'s 't 're 'll",
    "1234 cats, 3.14 dogs & 50% off",
    "½ cup, ² squared, Ⅷ, ٣ and 七",
    "snow-covered mountains; (detailed:1.2), [soft|hard] {light}",
    "red_apple on/under C:\\table #1 @home $5 ^_^ ~ ` <b>",
    "<|endoftext|>",
    "before <|endoftext|> after <|startoftext|>",
    "<start_of_text> <end_of_text>",
    "&amp; &lt;tag&gt; &quot;quoted&quot;",
    "“curly quotes” and ‘single’ — dash … ellipsis",
    "cafe\u0301 and café",
    "Ångström ＦＵＬＬＷＩＤＴＨ ﬁne",
    "naïve façade, Über-cool, São Paulo, smørrebrød",
    "İstanbul ve IĞDIR, ıssız",
    "ΟΔΥΣΣΕΥΣ ΣΑΣ ς",
    "Привет, мир! Кошка на столе",
    "зеленый ё й",
    "안녕하세요 세계",
    "한국어로 쓴 아주 긴 프롬프트, 고양이와 강아지가 공원에서 논다",
    "\u1112\u1161\u11ab\u1100\u1173\u11af",  # decomposed Hangul
    "こんにちは世界、カメラ",
    "猫坐在红色的沙发上",
    "مرحبا بالعالم",
    "שלום עולם",
    "สวัสดีชาวโลก",
    "नमस्ते दुनिया",
    "😀",
    "a 🐱 cat 🐱🐱 and 👩‍👩‍👧‍👦 family 👍🏽 🇰🇷",
    "❤️ ☺︎ ♀ ✈️",
    "zero\u200bwidth \u200djoiner \ufeffmark",
    "\x00null \x07bell",
    "\ud7ff \ue000 \U0010ffff",
    "𝓕𝓪𝓷𝓬𝔂 𝕥𝕖𝕩𝕥",
    "Z̸̢͝a̵̛l̶̕g̷o",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "x" * 300,
    "!!!!!!!!!!!!????........----",
    " ".join(["word"] * 75),
    " ".join(["word"] * 76),
    " ".join(f"word{i}" for i in range(300)),
    "고양이 " * 100,
    "🐱 " * 100,
    "a very detailed oil painting of " * 20,
]


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"])
def published(request, tokenizer_files):
    """The tokenizer of transformers with a padding token, and that token's id."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tokenizer_files, pad_token=request.param)
    assert len(tokenizer) == 49408
    return tokenizer, {"<|endoftext|>": END, "!": 0}[request.param]


def published_ids(tokenizer, text: str) -> torch.Tensor:  # -> (1,77)
    given = tokenizer(text, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    return given.input_ids


def test_there_are_fifty_prompts():
    assert len(PROMPTS) >= 50


@pytest.mark.parametrize("text", PROMPTS, ids=range(len(PROMPTS)))
def test_ids_are_those_of_transformers_with_its_padding_and_its_truncation(published, text):
    tokenizer, padding = published
    if padding == 0:
        text = text.replace("!", ".")  # see the next test
    assert torch.equal(tokenize(text).ids(padding), published_ids(tokenizer, text))


@pytest.mark.parametrize("text", ["hello!", "A Photograph, Of AN ASTRONAUT!", "!!!!????"])
def test_an_exclamation_mark_is_a_word_with_either_padding_as_in_training(text, published):
    """transformers takes it for padding where "!" is the padding token; open_clip, which trained these towers, does not."""
    tokenizer, padding = published
    assert torch.equal(tokenize(text).ids(0), SimpleTokenizer()(text))
    assert torch.equal(tokenize(text).ids(padding), published_ids(tokenizer, text)) == (padding == END)


def test_the_other_padding_token_gives_other_ids(published):
    tokenizer, padding = published
    other = END if padding == 0 else 0
    assert not torch.equal(tokenize("a cat").ids(other), published_ids(tokenizer, "a cat"))


def test_words_that_do_not_fit_are_named_and_75_tokens_fit():
    assert tokenize(" ".join(["word"] * 75)).lost == ""
    tokenized = tokenize(" ".join(["word"] * 75) + " Red apple")
    assert tokenized.lost == "red apple" and len(tokenized.chunks) == 1


def test_a_word_of_which_a_part_does_not_fit_is_lost():
    assert tokenize(" ".join(["word"] * 74) + " supercalifragilistic end").lost == "supercalifragilistic end"


def test_chunks_hold_all_tokens_in_order():
    text = " ".join(f"word{i}" for i in range(100))
    tokenized = tokenize(text, chunked=True)
    ids = tokenized.ids(0)
    assert tokenized.lost == "" and ids.shape == (len(tokenized.chunks), LENGTH) and len(ids) > 3
    assert (ids[:, 0] == START).all() and (ids == END).any(dim=1).all()
    words = [int(token) for row in ids for token in row if token not in (START, END, 0)]
    assert words == [token for i in range(100) for token in tokenize(f"word{i}").chunks[0]]


def test_a_text_that_fits_is_the_same_in_chunks():
    for text in ("", "a cat", " ".join(["word"] * 75)):
        assert tokenize(text, chunked=True) == tokenize(text)


def test_half_a_surrogate_pair_is_read_as_a_replacement_character():
    assert tokenize("a \ud83d cat \udc31") == tokenize("a \ufffd cat \ufffd")
