"""The measurement of a learned name, on a word whose right row is known."""

import json
from pathlib import Path

import pytest
from paths import ROOT

from ldm.checkpoints.graph_word_files import GraphWord, write_graph_words
from ldm.models.finding import find_checkpoint
from ldm.models.loading import load_model
from ldm.modules.graph_words import initial_row, tables_digest
from ldm.util.errors import UserError

MEANING = "small red striped triangle"


@pytest.fixture
def word(tmp_path, monkeypatch):
    """A file whose row is the sum of those of the name and the attributes, which is what the encoder makes of a description."""
    monkeypatch.chdir(ROOT)
    model = load_model(find_checkpoint(weights="flat"))
    *attributes, name = MEANING.split()
    encoder, vocab = model.cond_stage_model, model.vocab
    row = initial_row(encoder, vocab, "object", name)
    for attribute in attributes:
        row = row + initial_row(encoder, vocab, "attribute", attribute)
    word = GraphWord("object", row, tables_digest(encoder))
    return str(write_graph_words(tmp_path / "word.safetensors", {"zorp": word}))


def measure(load_script, *words: str) -> int:
    return load_script("evaluate").main(["graph-words", "--n", "1", "--steps", "2", *words])


def test_a_word_with_the_descriptions_row_is_as_right_as_the_description(word, load_script, tmp_path, capsys):
    folder = tmp_path / "out"
    assert measure(load_script, "--words", word, "--means", MEANING, "--outdir", str(folder)) == 0, (
        capsys.readouterr().err
    )
    rows = {
        (Path(row["words"]).stem, row["asked"]): row
        for row in json.loads((folder / "report.json").read_text())["results"]
    }
    described, worded = rows["none", "description"], rows["word", "word"]
    assert all(worded[key] == described[key] for key in ("scenes", "thing", "others", "success"))
    assert rows["word", "scenes without it"]["same"] == "1 of 1"
    assert (folder / "sheet.png").is_file() and "the thing is right" in capsys.readouterr().out


def test_a_measurement_without_a_file_or_of_nothing_is_one_sentence(word, load_script, tmp_path, capsys):
    assert measure(load_script, "--means", MEANING, "--outdir", str(tmp_path)) == 2
    assert "name --words FILE" in capsys.readouterr().err
    assert measure(load_script, "--words", word, "--means", "heart", "--outdir", str(tmp_path)) == 2
    assert "'heart' is not among circle, square, triangle" in capsys.readouterr().err


def test_a_file_of_two_names_is_one_sentence(word, tmp_path):
    from ldm.checkpoints.graph_word_files import read_graph_words
    from ldm.evaluation.graph_words import GraphWordBenchmark
    from ldm.sampling.options import SampleOptions

    zorp = read_graph_words(word)["zorp"]
    path = str(write_graph_words(tmp_path / "two.safetensors", {"zorp": zorp, "blip": zorp}))
    benchmark = GraphWordBenchmark(MEANING, "shapes", 1, options=SampleOptions(steps=1))
    with pytest.raises(UserError, match="has 2 new names of objects"):
        benchmark.run(
            load_model(find_checkpoint(weights="flat")),
            {path: lambda: load_model(find_checkpoint(weights="flat"), words=[path])},
        )
