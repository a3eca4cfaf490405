"""Options that clips do not have are refused, each in a sentence, before anything is loaded."""

import importlib
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
BOARD = "data/flat/storyboard.json"


@pytest.fixture
def run(monkeypatch, capsys):
    """run(program, *words) returns the program's sentence."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))

    def run(program: str, *words: str) -> str:
        assert importlib.import_module(program).main([*words]) == 2
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("words", [("--words", "open"), ("--n", "2"), ("--lora", "a.safetensors"), ("--outdir", "a")])
def test_a_storyboard_takes_no_option_of_images(run, words):
    assert f"{words[0]} is for images; with the storyboard {BOARD}" in run("sample", "--sg", BOARD, *words)


@pytest.mark.parametrize("words", [("--words", "open"), ("--precision", "fp16"), ("--low-memory",), ("--n", "2")])
def test_the_edit_of_a_clip_takes_no_option_of_photographs(run, tmp_path, words):
    path = str(tmp_path / "clip.webp")
    first, *others = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    first.save(path, save_all=True, append_images=others)
    sentence = run("ddim_invert_edit", "--ref", path, "--source-sg", BOARD, "--sg", BOARD, *words)
    assert words[0] in sentence and "leave" in sentence


def test_a_graph_takes_no_option_of_clips(run):
    assert "--first is for storyboards" in run("sample", "--sg", "data/flat/example.json", "--first", "a.png")
