"""trainer.py trains names of graphs, and the programs then take their file with --words."""

import copy
import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tiny import MODEL

import trainer
from ldm.checkpoints.graph_word_files import read_graph_words
from ldm.models.export import export_adapters
from ldm.models.loading import load_model
from ldm.modules.nsg_encoder import NSGEncoder

PICTURES = {"objects": ["zorp", "circle"], "boxes": [[0.1, 0.1, 0.5, 0.5], None], "relationships": [[0, "left of", 1]]}


@pytest.fixture
def files(checkpoint, tmp_path, monkeypatch):
    """A folder with adapters, annotated pictures, and the config of a run."""
    monkeypatch.chdir(tmp_path)
    export_adapters(checkpoint, "adapters.safetensors")
    Path("pictures").mkdir()
    for number in range(2):
        Image.new("RGB", (32, 32), (90 * number, 40, 0)).save(f"pictures/{number}.png")
        Path(f"pictures/{number}.json").write_text(json.dumps(PICTURES))
    params = copy.deepcopy(MODEL["params"]) | {
        "adapters": "adapters.safetensors",
        "words": [{"word": "zorp", "init": "square"}],
    }
    data = {"image_size": 32, "data_root": "pictures", "repeats": 4}
    data |= {"vocabulary": "${model.params.adapters}", "words": "${model.params.words}"}
    values = {
        "model": {
            "target": "ldm.models.diffusion.graph_words.GraphWords",
            "base_learning_rate": 0.01,
            "params": params,
        },
        "data": {
            "target": "ldm.data.datamodule.DataModuleFromConfig",
            "params": {
                "batch_size": 2,
                "num_workers": 0,
                "flip": 0.5,
                "train": {"target": "ldm.data.annotated.AnnotatedPictures", "params": data},
            },
        },
        "lightning": {
            "callbacks": {"graph_words": {"target": "ldm.training.graph_words.GraphWordFile"}, "image_logger": None},
            "trainer": {"max_steps": 4, "progress_bar_refresh_rate": 0},
        },
    }
    Path("words.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def run(*flags: str) -> Path:
    """Trains; returns the log folder."""
    before = set(Path("logs").glob("*"))
    assert trainer.main(["-t", "--gpus", "cpu", *flags]) == 0
    return next(iter(set(Path("logs").glob("*")) - before), Path())


def test_a_run_writes_the_file_and_loads_as_a_model_that_knows_the_word(files, capsys):
    folder = run("--base", "words.yaml")
    (word,) = read_graph_words(folder / "learned/graph_words.safetensors").values()
    model = load_model(folder)
    assert isinstance(model.cond_stage_model, NSGEncoder) and model.cond_stage_model.name.added is not None
    assert torch.equal(model.cond_stage_model.name.added[0], word.row) and model.vocab.object_id("zorp") == 4
    assert "graph encoder" in capsys.readouterr().out


def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(files):
    whole = run("--base", "words.yaml")
    half = run("--base", "words.yaml", "--max_steps", "2", "model.params.cosine=false")
    assert whole != half
    straight = run("--base", "words.yaml", "model.params.cosine=false")
    run("--resume", str(half), "--max_steps", "4")
    rows = [read_graph_words(folder / "learned/graph_words.safetensors")["zorp"].row for folder in (half, straight)]
    assert torch.equal(*rows)


def test_flags_of_textual_inversion_name_word_start_and_pictures(files):
    for path in Path("pictures").glob("*.json"):
        path.write_text(path.read_text().replace("zorp", "blip"))
    Path("pictures").rename("blips")
    words = ["--placeholder_string", "blip", "--init_word", "circle", "--data_root", "blips"]
    folder = run("--base", "words.yaml", *words)
    assert read_graph_words(folder / "learned/graph_words.safetensors").keys() == {"blip"}


def test_sample_and_edit_take_the_file_and_record_it(files, load_script, capsys):
    learned = str(run("--base", "words.yaml") / "learned/graph_words.safetensors")
    Path("graph.json").write_text(json.dumps(PICTURES))
    Path("source.json").write_text(json.dumps({**PICTURES, "objects": ["square", "circle"]}))
    words = ["--ckpt", "adapters.safetensors", "--words", learned, "--steps", "2"]
    assert load_script("sample").main(["--sg", "graph.json", *words, "--outdir", "out"]) == 0, capsys.readouterr().err
    assert json.loads(Path("out/index.jsonl").read_text().splitlines()[0])["graph"]["objects"] == ["zorp", "circle"]
    edit = ["--sg", "graph.json", "--source-sg", "source.json", "--ref", "pictures/0.png", *words, "--outdir", "edited"]
    assert load_script("ddim_invert_edit").main(edit) == 0, capsys.readouterr().err
    assert "zorp" in Path("edited/record.json").read_text()
    without = ["--sg", "graph.json", *words[:2], "--outdir", "none"]
    assert (
        load_script("sample").main(without) == 2 and "object 'zorp' is not in the vocabulary" in capsys.readouterr().err
    )


def test_a_run_with_lora_is_the_model_itself_and_writes_no_file_that_would_lack_it(files, load_script, capsys):
    folder = run(
        "--base",
        "words.yaml",
        "model.params.lora=[{part: unet, targets: [resnets], rank: 2}]",
        "model.params.lora_rate=0.001",
    )
    assert not (folder / "learned").exists()
    Path("graph.json").write_text(json.dumps(PICTURES))
    words = ["--run", str(folder), "--sg", "graph.json", "--steps", "2", "--outdir", "out"]
    assert load_script("sample").main(words) == 0, capsys.readouterr().err
