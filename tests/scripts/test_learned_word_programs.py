"""--words and --lora of sample.py and ddim_invert_edit.py, evaluate.py words, and export.py learned."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import open_clip
import pytest
import torch
import yaml
from personal_models import config, personalization, write_pictures
from PIL import Image
from text_models import SHAPE
from tiny import DATA

from ldm.checkpoints.saving import save_safetensors
from ldm.checkpoints.word_files import read_words, write_words
from ldm.evaluation.clip_similarity import ClipSimilarity
from ldm.graph.graph_files import write_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.models.loading import load_model
from ldm.models.personal_files import write_lora_file
from ldm.modules.encoders.modules import FrozenOpenCLIPEmbedder2
from ldm.modules.encoders.words import learned_words
from ldm.modules.global_film import CLIPGlobalEncoder
from ldm.modules.lora import lora_layers
from ldm.modules.lora_files import diffusers_lora
from ldm.util.errors import UserError
from ldm.util.images import read_image

LORA = [{"part": "unet", "rank": 2}, {"part": "text", "rank": 2}]
VISION = {"embed_dim": 24, "image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}


def with_effective_lora():
    model = personalization(lora=LORA)
    for part in (model.unet, model.text_stage_model):
        for layer in lora_layers(part).values():
            torch.nn.init.normal_(layer.lora_B, std=0.3)
    return model


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The config of a tiny model of text, a word and a LoRA for it, in the current folder."""
    monkeypatch.chdir(tmp_path)
    model = config(None)
    model["target"] = "ldm.models.diffusion.ddpm.LatentDiffusion"
    del model["params"]["words"]
    Path("model.yaml").write_text(yaml.safe_dump({"model": model, "data": DATA}))
    torch.manual_seed(0)
    write_words("cat.safetensors", {"<my-cat>": [torch.randn(2, 32)]})
    write_words("dog.bin", {"<my-cat>": [torch.randn(1, 32)]})
    trained = with_effective_lora()
    save_safetensors("style.safetensors", diffusers_lora(trained.unet, trained.text_stage_model))
    write_graphs("graph.json", [SceneGraph(("<my-cat>", "sofa"), triples=((0, "on", 1),))])
    write_graphs("source.json", [SceneGraph(("cat", "sofa"), triples=((0, "on", 1),))])
    write_pictures(Path("pictures"))
    return tmp_path


MODEL = ["--config", "model.yaml", "--device", "cpu"]
WORDS = ["--words", "cat.safetensors", "--words", "dog.bin", "--rename", "dog.bin/<my-cat>=<my-dog>"]


def pixels(path):
    return torch.tensor(list(read_image(path).getdata()))


def test_sample_py_reads_learned_words_in_prompts_with_lora_and_records_them(files, load_script, capsys):
    words = [*MODEL, "--prompt", "a photo of <my-cat> and <my-dog>", "--steps", "2"]
    for number, options in enumerate(([], WORDS, [*WORDS, "--lora", "style.safetensors:0.5"])):
        assert load_script("sample").main([*words, *options, "--outdir", str(number)]) == 0, capsys.readouterr().err
    images = [pixels(next(Path(str(number), "images").glob("*.png"))) for number in range(3)]
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[1], images[2])
    record = json.loads(Path("2/index.jsonl").read_text())
    assert record["learned_words"] == ["cat.safetensors", "dog.bin"] and record["lora"] == [["style.safetensors", 0.5]]
    assert (
        record["rename"] == [["dog.bin/<my-cat>", "<my-dog>"]]
        and "learned_words" not in Path("0/index.jsonl").read_text()
    )


def test_two_words_of_one_name_are_one_sentence(files, load_script, capsys):
    words = [*MODEL, "--prompt", "a", "--words", "cat.safetensors", "--words", "dog.bin", "--outdir", "out"]
    assert load_script("sample").main(words) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "'<my-cat>' is in cat.safetensors too" in error and "--rename" in error


def test_a_learned_word_is_a_name_like_any_other_in_graphs(files, load_script, capsys):
    words = ["--words", "cat.safetensors", "--steps", "2", *MODEL]
    assert load_script("sample").main(["--sg", "graph.json", *words, "--outdir", "sampled"]) == 0, (
        capsys.readouterr().err
    )
    edit = ["--sg", "graph.json", "--source-sg", "source.json", "--ref", "pictures/0.png", *words, "--outdir", "edited"]
    assert load_script("ddim_invert_edit").main(edit) == 0, capsys.readouterr().err
    record = json.loads(Path("edited/record.json").read_text())
    assert record["arguments"]["words"] == ["cat.safetensors"] and "<my-cat>" in json.dumps(record)


def tiny_clip():
    """Towers of a small CLIP, and open_clip's model with the same weights."""
    torch.manual_seed(0)
    vision = {key: value for key, value in VISION.items() if key != "embed_dim"}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
    model = open_clip.CLIP(24, vision, text).eval()
    image = CLIPGlobalEncoder(VISION, init="random")
    image.visual.load_state_dict(model.visual.state_dict())
    tower = FrozenOpenCLIPEmbedder2(arch=SHAPE, layer="last")
    tower.load_weights({k: v.clone() for k, v in model.state_dict().items()}, "memory")
    return ClipSimilarity(towers=(image, tower)), model


@torch.no_grad()
def test_clip_similarity_has_the_embeddings_of_open_clip(files):
    ours, theirs = tiny_clip()
    texts = ["a photo of a cat", "a dog"]
    expected = theirs.encode_text(open_clip.tokenize(texts), normalize=True)
    torch.testing.assert_close(ours.texts(texts), expected, rtol=1e-4, atol=1e-5)
    picture = read_image("pictures/0.png")
    transform = cast("Callable[[Image.Image], torch.Tensor]", open_clip.image_transform(32, is_train=False))
    expected = theirs.encode_image(transform(picture)[None], normalize=True)
    assert float((ours.images([picture]) * expected).sum()) > 0.999  # resizing differs by Pillow's rounding


@pytest.mark.slow
def test_evaluate_words_has_a_column_of_the_untrained_model(files, load_script, capsys, monkeypatch):
    clip, _ = tiny_clip()
    monkeypatch.setattr("ldm.evaluation.clip_similarity._load", lambda *_: (clip.image_tower, clip.text_tower))
    words = ["words", *MODEL, "--words", "cat.safetensors", "--pictures", "pictures", "--class-word", "cat"]
    words += ["--n", "1", "--steps", "1", "--others", "dog,car", "--outdir", "out"]
    assert load_script("evaluate").main(words) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "untrained | trained" in printed and "identity" in printed
    scores = json.loads(Path("out/report.json").read_text())["scores"]
    assert scores["untrained"]["unchanged"] == pytest.approx(1)
    assert scores["trained"]["unchanged"] == pytest.approx(1, abs=1e-4), "a word alone leaves other words as they were"
    assert scores["trained"]["identity"] != scores["untrained"]["identity"]
    words = [*words[:-2], "--lora", "style.safetensors", "--outdir", "lora"]
    assert load_script("evaluate").main(words) == 0, capsys.readouterr().err
    changed = json.loads(Path("lora/report.json").read_text())["scores"]
    assert changed["trained"]["other_words"] != changed["untrained"]["other_words"]
    assert scores["trained"]["other_words"] == pytest.approx(scores["untrained"]["other_words"], abs=1e-5)


def test_export_learned_writes_every_form_of_a_runs_words_and_lora(files, load_script, capsys):
    model = with_effective_lora()
    saved = {}
    model.on_save_checkpoint(saved)
    torch.save(saved, "run.ckpt")
    again = load_model("run.ckpt")
    assert learned_words(again.text_stage_model).keys() == {"<my-cat>"}
    for form, name in (("diffusers", "w.bin"), ("ldm", "w.pt"), ("a1111", "w.safetensors")):
        assert load_script("export").main(["learned", "--ckpt", "run.ckpt", "--words", name, "--form", form]) == 0
        (word,) = read_words(name).words.values()
        assert torch.equal(word.vectors[0], model.learned[0].vectors.detach())
    words = ["learned", "--ckpt", "run.ckpt", "--lora", "l.safetensors", "--kohya", "k.safetensors", "--peft", "peft"]
    assert load_script("export").main(words) == 0, capsys.readouterr().err
    assert Path("peft/text_encoder/adapter_config.json").is_file()
    plain = load_model(None, ["model.yaml"]).text_stage_model
    for file in ("l.safetensors", "k.safetensors", "peft/text_encoder"):
        adapted = load_model(None, ["model.yaml"], loras=[(file, 1.0)]).text_stage_model
        difference = adapted.encode("a cat") - plain.encode("a cat")
        assert difference.abs().max() > 0.1, f"{file} has no effect"


def test_a_folder_of_peft_without_lora_of_a_text_encoder_is_refused(tmp_path):
    with pytest.raises(UserError, match="use --lora or --kohya"):
        write_lora_file(personalization(lora=LORA[:1]), tmp_path / "peft", "peft")
