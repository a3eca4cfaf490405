"""Exported weights are complete, in half precision where that is safe, and load again through a config."""

import copy
import json

import pytest
import safetensors
import torch
from safetensors.torch import load_file
from tiny import DATA, MODEL, randomize_trainable, tiny_model

from ldm.checkpoints.loading import load_part
from ldm.checkpoints.reading import CheckpointError
from ldm.checkpoints.saving import save_safetensors
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.export import export_adapters, export_part, select_ema_weights, to_half
from ldm.models.loading import load_model
from ldm.modules.conditioning import Conditioning
from ldm.synthetic.shapes import VOCAB
from ldm.util.config import instantiate_from_config
from ldm.util.errors import ConfigError

IMAGE_ENCODER = MODEL["params"]["global_stage_config"]
PRETRAINING = {
    "target": "ldm.models.pretraining.GraphImagePretraining",
    "params": {
        "train_image": True,
        "image_config": IMAGE_ENCODER,
        "graph_config": MODEL["params"]["cond_stage_config"],
        "decoder_heads": 2,
        "decoder_dim_head": 8,
    },
}
PLAIN_UNET = {key: None for key in ("film_embedding_dim", "lora_rank")}
UNET = {
    "target": MODEL["params"]["unet_config"]["target"],
    "params": {**MODEL["params"]["unet_config"]["params"], "box_bias": True},
}


def after_training(model):
    """The model with other trainable parameters, and with an EMA that differs from them and from the initial ones."""
    randomize_trainable(model, std=0.05)
    if isinstance(model, LatentDiffusion) and model.model_ema is not None:
        model.model_ema.update(model)
    return model


def save_checkpoint(model, path):
    saved = {}
    model.on_save_checkpoint(saved)
    torch.save(saved, path)
    return path


def trained_model(config, **changes):
    """A model of this config as after training, with its config and vocabulary."""
    config = copy.deepcopy(config)
    config["params"].update(changes)
    model = instantiate_from_config(config)
    model.config, model.vocab = {"model": config, "data": copy.deepcopy(DATA)}, VOCAB
    return after_training(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints and exports of each kind of run: vq, pretraining, backbone (a whole U-Net), adapters on these three."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    save_checkpoint(trained_model(MODEL["params"]["first_stage_config"], init=None), folder / "vq.ckpt")
    save_checkpoint(trained_model(PRETRAINING), folder / "pretraining.ckpt")
    body = {"target": UNET["target"], "params": {**UNET["params"], **PLAIN_UNET}}
    backbone = tiny_model(freeze_unet=False, unet_config=body, global_stage_config=None)
    save_checkpoint(after_training(backbone), folder / "backbone.ckpt")
    for part, run, name in (
        ("first_stage", "vq", "vq"),
        ("image_tower", "pretraining", "image_tower"),
        ("unet", "backbone", "backbone"),
    ):
        export_part(part, folder / f"{run}.ckpt", folder / f"{name}.safetensors")
    save_checkpoint(after_training(tiny_model(**params_with_files(folder))), folder / "adapters.ckpt")
    export_adapters(folder / "adapters.ckpt", folder / "adapters.safetensors")
    return folder


def params_with_files(folder):
    """Parameters of a LatentDiffusion whose frozen parts are files."""
    first_stage, image_encoder = copy.deepcopy(MODEL["params"]["first_stage_config"]), copy.deepcopy(IMAGE_ENCODER)
    first_stage["params"] |= {"init": None, "ckpt_path": f"{folder}/vq.safetensors"}
    image_encoder["params"] |= {"init": None, "pretrained": f"{folder}/image_tower.safetensors"}
    return {
        "init": None,
        "ckpt_path": f"{folder}/backbone.safetensors",
        "unet_config": UNET,
        "first_stage_config": first_stage,
        "global_stage_config": image_encoder,
    }


def ema_weights(path):
    return select_ema_weights(torch.load(path, weights_only=True)["state_dict"])


def assert_equal_in_half_precision(found, original):
    torch.testing.assert_close(found, original, rtol=2**-11, atol=1e-7)


def test_each_exported_part_loads_through_a_config(folder):
    model = tiny_model(**params_with_files(folder))  # a missing or unexpected key would raise
    loaded = model.state_dict()
    runs = {
        "vq": ("", "first_stage_model."),
        "pretraining": ("image_model.", "global_stage_model."),
        "backbone": ("", ""),
    }
    for run, (beginning, place) in runs.items():
        if run == "backbone":
            beginning = place = "model.diffusion_model."
        weights = {
            name: value for name, value in ema_weights(folder / f"{run}.ckpt").items() if name.startswith(beginning)
        }
        assert weights
        for name, value in weights.items():
            name = place + name.removeprefix(beginning)
            assert loaded[name].dtype == torch.float32
            assert_equal_in_half_precision(loaded[name], value)


def test_new_adapters_on_an_exported_unet_are_the_identity(folder):
    adapted = tiny_model(**params_with_files(folder)).unet.eval()
    plain = instantiate_from_config({"target": UNET["target"], "params": {**UNET["params"], **PLAIN_UNET}}).eval()
    load_part(plain, folder / "backbone.safetensors", "unet", optional=())
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    cond = Conditioning.from_tokens(torch.randn(2, 5, 32))
    with torch.no_grad():
        assert torch.equal(adapted(x, t, cond), plain(x, t, cond))


def test_a_unet_is_exported_without_its_adapters(tmp_path):
    run = save_checkpoint(after_training(tiny_model(freeze_unet=False)), tmp_path / "run.ckpt")
    names = export_part("unet", run, tmp_path / "unet.safetensors")
    assert names and not any("film" in name or "lora" in name for name in names)
    file = load_file(tmp_path / "unet.safetensors")
    assert set(file) == set(names)
    assert file["scale_factor"] == ema_weights(run)["scale_factor"]


@pytest.mark.parametrize("part, run", [("unet", "adapters"), ("first_stage", "pretraining"), ("image_tower", "vq")])
def test_a_part_that_the_run_did_not_train_is_refused(folder, tmp_path, part, run):
    with pytest.raises(CheckpointError, match=f"{run}.ckpt: did not train the .*{part}"):
        export_part(part, folder / f"{run}.ckpt", tmp_path / "part.safetensors")
    assert not (tmp_path / "part.safetensors").exists()


def test_a_model_loads_from_exported_adapters_and_the_files_in_its_config(folder):
    original, exported = (load_model(folder / f"adapters.{ending}") for ending in ("ckpt", "safetensors"))
    assert exported.vocab == original.vocab == VOCAB and exported.config == original.config
    assert exported.model_ema is None
    weights = exported.state_dict()
    for name, value in original.state_dict().items():
        if not name.startswith("model_ema."):
            assert weights[name].dtype == value.dtype
            assert_equal_in_half_precision(weights[name], value)


def test_exported_adapters_are_the_trained_parameters_and_the_scale_factor(folder):
    file = load_file(folder / "adapters.safetensors")
    assert set(file) == {name for name, p in tiny_model().named_parameters() if p.requires_grad} | {
        "scale_factor",
        *(name for name in file if "box_bias" in name),
    }
    assert any("box_bias" in name for name in file)


def test_only_large_tensors_within_range_are_cast_to_half_precision():
    assert to_half("weight", torch.ones(4, 4)).dtype == torch.float16
    for name, value in (
        ("scale_factor", torch.tensor(0.18215)),
        ("norm.bias", torch.ones(4)),
        ("quantize.embedding.weight", torch.ones(4, 4)),
        ("weight", torch.full((4, 4), 1e5)),  # beyond float16
    ):
        assert to_half(name, value).dtype == torch.float32
    assert to_half("ids", torch.ones(4, 4, dtype=torch.long)).dtype == torch.long


def test_a_config_in_a_file_cannot_name_foreign_code(folder, tmp_path):
    state, config = load_file(folder / "adapters.safetensors"), copy.deepcopy(tiny_model().config)
    for place in (config["model"], config["data"]["params"]["train"]):
        right, place["target"] = place["target"], "os.system"
        metadata = {"ldm": json.dumps({"config": config, "vocab": VOCAB.to_json()})}
        save_safetensors(tmp_path / "malicious.safetensors", state, metadata)
        with pytest.raises(ConfigError, match="os.system"):
            load_model(tmp_path / "malicious.safetensors")
        place["target"] = right


@pytest.mark.parametrize("text", ["{", "[]", '{"config": [], "vocab": {}}', '{"config": {}}'])
def test_damaged_metadata_is_refused_by_name(folder, tmp_path, text):
    state = load_file(folder / "adapters.safetensors")
    save_safetensors(tmp_path / "broken.safetensors", state, {"ldm": text})
    with pytest.raises(CheckpointError, match="broken.safetensors.*metadata"):
        load_model(tmp_path / "broken.safetensors")


def test_adapters_of_another_size_are_refused(folder, tmp_path):
    state = load_file(folder / "adapters.safetensors")
    with safetensors.safe_open(folder / "adapters.safetensors", "pt") as file:
        metadata = file.metadata()
    state["null_tokens"] = state["null_tokens"][..., :5]
    save_safetensors(tmp_path / "other.safetensors", state, metadata)
    with pytest.raises(CheckpointError, match="null_tokens"):
        load_model(tmp_path / "other.safetensors")


def test_the_script_also_writes_the_lora_layers_in_pefts_layout(folder, load_script, tmp_path, capsys):
    out, peft = tmp_path / "adapters.safetensors", tmp_path / "peft"
    options = ["--ckpt", str(folder / "adapters.ckpt"), "--out", str(out), "--peft", str(peft)]
    assert load_script("export").main(["adapters", *options]) == 0
    assert out.read_bytes() == (folder / "adapters.safetensors").read_bytes()  # the same in every export
    unet = load_model(out).unet
    ours = {f"base_model.model.{name}.weight" for name, _ in unet.named_parameters() if "lora_" in name}
    assert set(load_file(peft / "adapter_model.safetensors")) == ours
    assert json.loads((peft / "adapter_config.json").read_text())["r"] == 2
    assert str(out) in capsys.readouterr().out


def test_peft_loads_the_exported_lora_layers_and_computes_the_same(folder, load_script, tmp_path):
    peft = pytest.importorskip("peft")
    options = [
        "--ckpt",
        str(folder / "adapters.ckpt"),
        "--out",
        str(tmp_path / "a.safetensors"),
        "--peft",
        str(tmp_path),
    ]
    assert load_script("export").main(["adapters", *options]) == 0
    adapted = load_model(tmp_path / "a.safetensors").unet
    base = instantiate_from_config({"target": UNET["target"], "params": {**UNET["params"], "lora_rank": None}}).eval()
    base.load_state_dict({name: value for name, value in adapted.state_dict().items() if "lora_" not in name})
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    cond = Conditioning.from_tokens(torch.randn(2, 5, 32), style=torch.randn(2, 16))
    with torch.no_grad():
        plain, expected = base(x, t, cond), adapted(x, t, cond)
        loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()  # changes the base model in place
        torch.testing.assert_close(loaded(x, t, cond), expected)
    assert not torch.allclose(plain, expected)


def test_the_script_writes_lora_for_diffusers_and_kohyas_programs_too(folder, load_script, tmp_path, capsys):
    names = [
        "a.safetensors",
        "peft/pytorch_lora_weights.safetensors",
        "peft/adapter_model.safetensors",
        "k.safetensors",
    ]
    out, diffusers, peft, kohya = (tmp_path / name for name in names)
    options = ["--ckpt", str(folder / "adapters.ckpt"), "--out", str(out), "--peft", str(tmp_path / "peft")]
    assert load_script("export").main(["adapters", *options, "--kohya", str(kohya)]) == 0
    printed = capsys.readouterr().out
    assert all(str(path) in printed for path in (out, diffusers, peft, kohya))
    count = len(load_file(peft))
    assert len(load_file(diffusers)) == count and len(load_file(kohya)) == count * 3 / 2
    assert all(key.startswith("unet.") and "_blocks." in key or "mid_block." in key for key in load_file(diffusers))
    plain = load_model(out)
    for path in (diffusers, peft.parent, kohya):  # the same LoRA once more: as alpha / rank is 1, its product twice
        twice = load_model(out, loras=[(path, 1.0)])
        name = next(name for name, _ in plain.unet.named_parameters() if name.endswith("to_k.lora_A"))
        layer, added = (model.unet.get_submodule(name.removesuffix(".lora_A")) for model in (plain, twice))
        torch.testing.assert_close(added.weight - layer.weight, layer.lora_B @ layer.lora_A, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["unet", "--run", "nowhere", "--out", "x.safetensors"], "nowhere"),
        (["unet", "--ckpt", "nowhere.ckpt", "--out", "x.safetensors"], "nowhere.ckpt"),
        (["adapters", "--ckpt", __file__, "--out", "x.safetensors"], "not a checkpoint of trainer.py"),
        (
            ["manifest", "nowhere.safetensors", "--command", "c", "--seed", "1", "--minutes", "2", "--cores", "2"],
            "nowhere.safetensors",
        ),
    ],
)
def test_a_mistake_in_the_options_is_one_line_and_exit_code_2(
    load_script, tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    assert load_script("export").main(arguments) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and words in errors[0]
    assert not any(tmp_path.iterdir())
