"""Images of texts: whole small pipelines of diffusers give the same latents, and sample.py takes LDM's flags."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from paths import ROOT
from PIL import Image
from safetensors.torch import save_file
from text_models import QUICK, SHAPE, ldm_clip_keys, text_model, write_tokenizer
from tiny import DATA, MODEL

sys.path.append(str(ROOT / "tests" / "checkpoints"))
from diffusers_models import KL, SD2, SDXL, UNET, kl_ddconfig, unet_params

from ldm.graph.text_tokens import END
from ldm.graph.vocab import OpenVocab
from ldm.sampling.text_options import Prompt, TextOptions, read_prompts
from ldm.sampling.text_to_image import sample_latents, sample_texts
from ldm.util.config import instantiate_from_config
from ldm.util.errors import UserError

PROMPTS = ["a cat on a red sofa", "고양이, word " * 40]
NEGATIVE = "blurry, low quality"
ENCODERS = "ldm.modules.encoders.modules."
KINDS = {
    "SD 1": (UNET | {"cross_attention_dim": 32}, "FrozenCLIPEmbedder", {"version": QUICK}),
    "SD 2": (SD2 | {"cross_attention_dim": 32}, "FrozenOpenCLIPEmbedder", {"arch": SHAPE, "layer": "penultimate"}),
    "SDXL": (
        SDXL
        | {
            "cross_attention_dim": 64,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 24 + 6 * 256,
        },
        "SDXLTextEncoder",
        {"first": {"version": QUICK, "layer_idx": 2}, "second": {"arch": SHAPE}},
    ),
}
SCHEDULES = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def diffusers_pipeline(kind: str, scheduler, tokenizers: Path):
    """A pipeline of diffusers with small random networks."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    parts = {
        "unet": diffusers.UNet2DConditionModel(**KINDS[kind][0]).eval(),
        "vae": diffusers.AutoencoderKL(**KL).eval(),
        "scheduler": scheduler,
    }
    first = {"SD 2": {"hidden_act": "gelu", "num_hidden_layers": 2}}.get(kind, {"hidden_act": "quick_gelu"})
    padding = "!" if kind == "SD 2" else "<|endoftext|>"

    def tokenizer(pad: str):
        return transformers.CLIPTokenizer.from_pretrained(tokenizers, pad_token=pad, model_max_length=77)

    parts |= {"text_encoder": text_model(**first), "tokenizer": tokenizer(padding)}
    if kind == "SDXL":
        second = text_model("CLIPTextModelWithProjection", seed=1, hidden_act="gelu")
        parts |= {"text_encoder_2": second, "tokenizer_2": tokenizer("!")}
        return diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return diffusers.StableDiffusionPipeline(**parts, **none)


def latent_diffusion(kind: str, folder, **changes):
    """This project's model of the same architecture; what the folder states is open in its config."""
    unet, encoder, arguments = KINDS[kind]
    config = copy.deepcopy(MODEL)
    config["params"] = {
        "image_size": 8,
        "ckpt_path": None if folder is None else str(folder),
        "init": "random" if folder is None else None,
        "freeze_unet": True,
        "unet_config": {**MODEL["params"]["unet_config"], "params": unet_params(unet)},
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {"embed_dim": 4, "ddconfig": kl_ddconfig(KL), "init": "random" if folder is None else None},
        },
        "text_stage_config": {
            "target": ENCODERS + encoder,
            "params": arguments | ({"init": "random"} if folder is None else {}),
        },
        "timestep_spacing": None if folder is None else "published",
        **changes,
    }
    model = instantiate_from_config(config).eval().requires_grad_(False)
    model.vocab, model.config = OpenVocab(), {"model": config, "data": copy.deepcopy(DATA)}
    return model


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizers"))


def scheduler_of(name: str, **changes):
    diffusers = pytest.importorskip("diffusers")
    if name == "ddim":
        return diffusers.DDIMScheduler(
            **SCHEDULES, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **changes
        )
    return diffusers.DPMSolverMultistepScheduler(**SCHEDULES, **changes)


def run_theirs(pipeline, noise, steps: int, negative) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"negative_prompt": None if negative is None else [negative] * len(PROMPTS)}
    with torch.no_grad():
        return pipeline(
            PROMPTS,
            height=16,
            width=16,
            num_inference_steps=steps,
            guidance_scale=5.0,
            latents=noise,
            output_type="latent",
            **arguments,
        ).images


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_a_whole_pipeline_of_diffusers_gives_the_same_latents(kind, sampler, tokenizers, tmp_path):
    prediction = {"prediction_type": "v_prediction"} if kind == "SD 2" else {}
    pipeline = diffusers_pipeline(kind, scheduler_of(sampler, **prediction), tokenizers)
    pipeline.save_pretrained(tmp_path)
    model = latent_diffusion(kind, tmp_path)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    prompts = [Prompt(text) for text in PROMPTS]
    for negative in (None, NEGATIVE) if kind == "SDXL" else (NEGATIVE,):
        options = TextOptions(steps=4, sampler=sampler, scale=5.0, negative=negative or "")
        theirs = run_theirs(pipeline, noise, 4, negative)
        ours = sample_latents(model, prompts, noise, options)
        assert error(ours, theirs) < 1e-4
        # Control: without the published text encoder's padding the latents are others.
        tower = model.text_stage_model.towers()[0]
        tower.padding = 0 if tower.padding == END else END
        assert error(sample_latents(model, prompts, noise, options), theirs) > 1e-3
        tower.padding = 0 if tower.padding == END else END


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return latent_diffusion("SD 1", None)


def test_an_image_depends_on_its_own_prompt_and_seed_alone(model):
    options = TextOptions(steps=2)
    prompts = [Prompt("a cat"), Prompt("a dog"), Prompt("a fox", "blurry")]
    together = sample_texts(model, prompts, [1, 2, 3], options)
    alone = sample_texts(model, prompts[2:], [3], options)
    assert together[2].tobytes() == alone[0].tobytes() != together[0].tobytes()
    assert sample_texts(model, prompts[:1], [2], options)[0].tobytes() != together[0].tobytes()


def test_height_and_width_are_those_of_the_options(model):
    (image,) = sample_texts(model, [Prompt("a cat")], [1], TextOptions(steps=1, height=24, width=32))
    assert image.size == (32, 24)
    with pytest.raises(UserError, match="height 26: this model takes multiples of 4; choose 24"):
        sample_texts(model, [Prompt("a cat")], [1], TextOptions(steps=1, height=26))


def test_a_long_prompt_is_cut_or_read_in_chunks(model, caplog):
    prompt = [Prompt("cat " * 80 + "dog")]
    cut = sample_texts(model, prompt, [1], TextOptions(steps=2))
    assert "lost: cat cat cat cat cat dog" in caplog.text
    same = sample_texts(model, [Prompt("cat " * 80 + "fox")], [1], TextOptions(steps=2))
    assert cut[0].tobytes() == same[0].tobytes()
    chunked = sample_texts(model, prompt, [1], TextOptions(steps=2, long_prompt="chunk"))
    assert chunked[0].tobytes() != cut[0].tobytes()


def test_scale_one_is_the_conditional_prediction_without_negative(model):
    images = [
        sample_texts(model, [Prompt("a cat", negative)], [1], TextOptions(steps=2, scale=1.0))[0].tobytes()
        for negative in ("", "blurry")
    ]
    assert images[0] == images[1]


def test_quick_decode_uses_the_tiny_autoencoder_of_the_config(model):
    with pytest.raises(UserError, match="--quick-decode: this model's config names no tiny autoencoder"):
        sample_texts(model, [Prompt("a cat")], [1], TextOptions(steps=1, quick_decode=True))
    tiny = {"target": "ldm.models.tiny_autoencoder.TinyAutoencoder", "params": {"init": "random"}}
    torch.manual_seed(0)
    quick = latent_diffusion("SD 1", None, preview_config=tiny)
    (image,) = sample_texts(quick, [Prompt("a cat")], [1], TextOptions(steps=1, quick_decode=True))
    assert image.size == (64, 64)  # eight pixels per latent, where this model's own first stage has two
    z = torch.randn(1, 4, 8, 8)
    assert torch.equal(quick.preview(z), quick.preview_model.decode(z))


def test_a_tiny_autoencoder_as_first_stage_has_a_scale_factor_of_one():
    tiny = {"target": "ldm.models.tiny_autoencoder.TinyAutoencoder", "params": {"init": "random"}}
    model = latent_diffusion("SD 1", None, first_stage_config=tiny, defaults={"scale_factor": 0.18215})
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    assert model.scale_factor == 1 and torch.equal(model.encode(image), model.first_stage_model.encode(image))
    with pytest.raises(ValueError, match="a tiny autoencoder scales its latents itself"):
        latent_diffusion("SD 1", None, first_stage_config=tiny, scale_factor=0.18215)


def test_the_text_encoder_may_stand_where_stable_diffusions_own_configs_have_it():
    text = {"target": ENCODERS + "FrozenCLIPEmbedder", "params": {"version": QUICK, "init": "random"}}
    keys = {"cond_stage_key": "txt", "first_stage_key": "jpg", "cond_stage_trainable": False}
    model = latent_diffusion("SD 1", None, text_stage_config=None, cond_stage_config=text, **keys)
    assert model.text_stage_model.encode("a cat").shape == (1, 77, 32)


def test_files_of_prompts_are_read_and_mistakes_name_their_line(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('"a cat"\n\n{"prompt": "고양이", "negative": "", "seed": 3}\n', encoding="utf-8")
    assert read_prompts(path) == [Prompt("a cat"), Prompt("고양이", "", 3)]
    for text, words in (
        ("", "contains no prompts"),
        ("a cat", "line 1: not JSON"),
        ("3", "line 1: a prompt is a text in quotes"),
        ('{"text": "a cat"}', "line 1: a prompt is a text in quotes"),
        ('{"prompt": "a", "negativ": "b"}', "unknown key 'negativ'; did you mean 'negative'"),
        ('"a"\n{"prompt": 3}', "line 2: prompt takes a text, not 3"),
        ('{"prompt": "a", "seed": true}', "seed takes a whole number, not true"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            read_prompts(path)


@pytest.fixture
def script(load_script, monkeypatch, model):
    """sample.py on the tiny model, whose weights are in no file."""
    import ldm.models.loading

    monkeypatch.setattr(ldm.models.loading, "load_model", lambda *_: model)
    return load_script("sample")


def run(script, capsys, *words) -> tuple[int, str]:
    code = script.main([*map(str, words), "--config", "configs/sd1_vg.yaml", "--device", "cpu"])
    return code, capsys.readouterr().err


def test_ldms_flags_sample_images_and_the_same_command_completes_them(script, capsys, tmp_path):
    out = tmp_path / "out"
    words = ["--prompt", "a cat", "--negative", "blurry", "--scale", "3", "--n_samples", "2", "--H", "24", "--W", "16"]
    words += ["--ddim_steps", "2", "--outdir", out]
    assert run(script, capsys, *words)[0] == 0
    images = sorted((out / "images").iterdir())
    assert len(images) == 2 and Image.open(images[0]).size == (16, 24)
    record = json.loads((out / "index.jsonl").read_text().splitlines()[1])
    wanted = {"prompt": "a cat", "negative": "blurry", "scale": 3.0, "steps": 2, "height": 24, "width": 16, "repeat": 1}
    assert wanted.items() <= record.items() and (out / "sheet.png").is_file()
    first, second = (path.read_bytes() for path in images)
    assert first != second
    images[1].unlink()
    assert run(script, capsys, *words)[0] == 0
    assert images[0].read_bytes() == first and images[1].read_bytes() == second


def test_a_file_of_prompts_samples_each_and_a_seed_of_its_own_is_independent_of_its_place(script, capsys, tmp_path):
    line = '{"prompt": "a fox", "seed": 5}'
    (tmp_path / "two.jsonl").write_text(f'"a cat \\ud83d"\n{line}\n')
    (tmp_path / "one.jsonl").write_text(line)
    for name in ("two", "one"):
        words = ["--prompts", tmp_path / f"{name}.jsonl", "--steps", "2", "--outdir", tmp_path / name]
        assert run(script, capsys, *words)[0] == 0
    assert Image.open(tmp_path / "two/images/000001_00.png").tobytes() == (
        Image.open(tmp_path / "one/images/000000_00.png").tobytes()
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "a", "--plms"], "--plms: PLMS is not available; use --sampler dpm++"),
        (["--prompt", "a", "--graph-scale", "2"], "--graph-scale is for graphs; with --prompt use --scale"),
        (["--prompt", "a", "--n-per-graph", "2"], "--n-per-graph is for graphs; with --prompt use --n_samples"),
        (["--sg", "g.json", "--scale", "2"], "--scale is for texts; with --sg and --split use --graph-scale"),
        (["--prompt", "a", "--n", "2"], "--n 2: there are only 1 prompts"),
        (["--prompts", "none.jsonl"], "none.jsonl: cannot be read"),
        (["--prompt", "a", "--H", "30"], "height 30: this model takes multiples of 4"),
    ],
)
def test_mistakes_are_one_sentence(script, capsys, tmp_path, words, message):
    code, text = run(script, capsys, *words, "--outdir", tmp_path)
    assert code == 2 and message in text and len(text.splitlines()) == 1


def test_a_file_of_the_whole_model_needs_its_config_and_no_data(load_script, capsys, tmp_path):
    """Stable Diffusion's layout in one file, as --ckpt; the data set that the config names is not there."""
    torch.manual_seed(0)
    whole, text = latent_diffusion("SD 1", None), text_model(hidden_act="quick_gelu")
    state = {f"model.diffusion_model.{key}": value for key, value in whole.unet.state_dict().items()}
    state |= {f"first_stage_model.{key}": value for key, value in whole.first_stage_model.state_dict().items()}
    state |= ldm_clip_keys(text) | {"betas": whole.schedule.betas.float(), "scale_factor": torch.tensor(0.18215)}
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "v1.safetensors")
    config = copy.deepcopy(whole.config)
    params = config["model"]["params"]
    params["text_stage_config"]["params"] = {"version": QUICK}
    for part in (params, params["first_stage_config"]["params"]):
        part["init"] = None
    config["data"]["params"]["train"] = {"target": "ldm.data.vg.VGTrain", "params": {"vocab": "missing.json"}}
    OmegaConf.save(OmegaConf.create(config), tmp_path / "v1.yaml")
    words = ["--ckpt", tmp_path / "v1.safetensors", "--config", tmp_path / "v1.yaml", "--device", "cpu"]
    words += ["--prompt", "a cat", "--steps", "2", "--outdir", tmp_path / "out", "--n_samples", "1"]
    assert load_script("sample").main([*map(str, words)]) == 0
    printed = capsys.readouterr().out
    assert "text_encoder: " in printed and "1 images in" in printed
    assert (tmp_path / "out/images/000000_00.png").is_file()


def test_a_model_without_text_encoder_says_so():
    from tiny import tiny_model

    with pytest.raises(UserError, match="no text encoder .text_stage_config.: sample from graphs with --sg"):
        sample_texts(tiny_model().eval(), [Prompt("a cat")], [1])
