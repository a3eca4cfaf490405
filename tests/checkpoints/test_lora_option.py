"""--lora of the programs that edit and sample."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from lora_files import pair
from safetensors.torch import save_file

from ldm.graph.graph_files import write_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.models.loading import load_model
from ldm.util.lora_option import path_and_scale

LAYER = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def lora(tmp_path, monkeypatch):
    """A LoRA of the tiny model, in the current folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    state = {key: torch.randn_like(value) for key, value in pair(LAYER, (2, 32), (32, 2)).items()}
    save_file(state, "style.safetensors")
    write_graphs("graph.json", [SceneGraph(("circle", "square"), triples=((0, "left of", 1),))])
    return "style.safetensors"


@pytest.mark.parametrize(
    "text, expected", [("a.pt", ["a.pt", 1.0]), ("a.pt:0.5", ["a.pt", 0.5]), ("a:-1", ["a", -1.0])]
)
def test_the_scale_follows_the_last_colon(text, expected):
    assert path_and_scale(text) == expected


def test_a_colon_in_the_name_of_a_file_belongs_to_the_name(tmp_path):
    (tmp_path / "a:2").touch()
    assert path_and_scale(f"{tmp_path}/a:2") == [f"{tmp_path}/a:2", 1.0]
    assert path_and_scale(f"{tmp_path}/a:2:3") == [f"{tmp_path}/a:2", 3.0]


@pytest.mark.parametrize("text", ["a.pt:", "a.pt:x", "a.pt:nan", "a.pt:inf"])
def test_a_scale_that_is_no_number_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="not a number"):
        path_and_scale(text)


def test_several_loras_add_up(lora, checkpoint):
    plain, twice, once = (load_model(checkpoint, loras=given) for given in ([], [(lora, 0.5)] * 2, [(lora, 1.0)]))
    name = "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    weights = [model.unet.get_parameter(name) for model in (plain, twice, once)]
    torch.testing.assert_close(weights[1], weights[2])
    assert not torch.allclose(weights[0], weights[2])


@pytest.mark.parametrize("program", ["sample", "ddim_invert_edit"])
def test_both_programs_use_a_lora_and_record_it(lora, checkpoint, load_script, capsys, program):
    words = ["--sg", "graph.json", "--ckpt", str(checkpoint), "--device", "cpu", "--steps", "2"]
    for number, option in enumerate(([], ["--lora", f"{lora}:0.5"])):
        assert load_script(program).main([*words, *option, "--outdir", str(number)]) == 0
    assert "LoRA: 1 layers" in capsys.readouterr().out
    if program == "sample":
        assert '"lora": [["style.safetensors", 0.5]]' in Path("1/index.jsonl").read_text()
        assert "lora" not in Path("0/index.jsonl").read_text()
    else:
        assert json.loads(Path("1/record.json").read_text())["arguments"]["lora"] == [[lora, 0.5]]


@pytest.mark.parametrize("program", ["sample", "ddim_invert_edit"])
def test_a_lora_that_is_missing_is_one_sentence_and_exit_code_2(lora, checkpoint, load_script, capsys, program):
    words = ["--sg", "graph.json", "--ckpt", str(checkpoint), "--device", "cpu", "--lora", "nowhere.safetensors"]
    assert load_script(program).main([*words, "--outdir", "out"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and "nowhere.safetensors: there is no such file" in errors[0]
