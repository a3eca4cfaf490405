"""Weights out of a run and back: halved, whole, and read as a config reads them, with nothing in them run."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file
from tiny import DATA, MODEL, tiny_model

from ldm.checkpoints.loading import CheckpointError, load_part, save_safetensors
from ldm.models.export import averages, export_adapters, export_part, halved
from ldm.models.loading import load_model
from ldm.modules.conditioning import Conditioning
from ldm.synthetic.shapes import VOCAB
from ldm.util.config import instantiate_from_config
from ldm.util.errors import ConfigError

TOWER = MODEL["params"]["global_stage_config"]
STAGE_1 = {
    "target": "ldm.models.pretraining.GraphImagePretraining",
    "params": {
        "train_image": True,
        "image_config": TOWER,
        "graph_config": MODEL["params"]["cond_stage_config"],
        "decoder_heads": 2,
        "decoder_dim_head": 8,
    },
}
PLAIN_UNET = {key: None for key in ("film_embedding_dim", "lora_rank")}
UNET = {"target": MODEL["params"]["unet_config"]["target"],
        "params": {**MODEL["params"]["unet_config"]["params"], "box_bias": True}}  # fmt: skip


def moved(model):
    """The model with all that it trains moved, and its averages half as far."""
    with torch.no_grad():
        for index, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            generator = torch.Generator().manual_seed(index)
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    if getattr(model, "model_ema", None) is not None:
        model.model_ema.update(model)
    return model


def checkpoint_of(model, path):
    saved = {}
    model.on_save_checkpoint(saved)
    torch.save(saved, path)
    return path


def of_config(config, **changes):
    """A model of this config that could have been trained, with the config and the vocabulary in it."""
    config = copy.deepcopy(config)
    config["params"].update(changes)
    model = instantiate_from_config(config)
    model.config, model.vocab = {"model": config, "data": copy.deepcopy(DATA)}, VOCAB
    return moved(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of all kinds of run: vq, stage_1, backbone (a whole U-Net), adapters on files of the first three."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    checkpoint_of(of_config(MODEL["params"]["first_stage_config"], init=None), folder / "vq.ckpt")
    checkpoint_of(of_config(STAGE_1), folder / "stage_1.ckpt")
    body = {"target": UNET["target"], "params": {**UNET["params"], **PLAIN_UNET}}
    backbone = tiny_model(freeze_unet=False, unet_config=body, global_stage_config=None)
    checkpoint_of(moved(backbone), folder / "backbone.ckpt")
    for part, run, name in (
        ("first_stage", "vq", "vq"), ("image_tower", "stage_1", "image_tower"), ("unet", "backbone", "backbone")
    ):  # fmt: skip
        export_part(part, folder / f"{run}.ckpt", folder / f"{name}.safetensors")
    checkpoint_of(moved(tiny_model(**on_parts_in(folder))), folder / "adapters.ckpt")
    export_adapters(folder / "adapters.ckpt", folder / "adapters.safetensors")
    return folder


def on_parts_in(folder):
    """Parameters of a LatentDiffusion whose frozen parts are files."""
    first_stage, tower = copy.deepcopy(MODEL["params"]["first_stage_config"]), copy.deepcopy(TOWER)
    first_stage["params"] |= {"init": None, "ckpt_path": f"{folder}/vq.safetensors"}
    tower["params"] |= {"init": None, "pretrained": f"{folder}/image_tower.safetensors"}
    return {
        "init": None,
        "ckpt_path": f"{folder}/backbone.safetensors",
        "unet_config": UNET,
        "first_stage_config": first_stage,
        "global_stage_config": tower,
    }


def trained(path):
    return averages(torch.load(path, weights_only=True)["state_dict"])


def assert_halved(found, original):
    """Equal to within float16's eleven bits."""
    torch.testing.assert_close(found, original, rtol=2**-11, atol=1e-7)


def test_a_config_reads_each_whole_part_back(folder):
    model = tiny_model(**on_parts_in(folder))  # strict: a key missing or unexpected would raise
    whole = model.state_dict()
    runs = {"vq": ("", "first_stage_model."), "stage_1": ("image_model.", "global_stage_model."), "backbone": ("", "")}
    for run, (beginning, place) in runs.items():
        if run == "backbone":
            beginning = place = "model.diffusion_model."
        weights = {name: value for name, value in trained(folder / f"{run}.ckpt").items() if name.startswith(beginning)}
        assert weights
        for name, value in weights.items():
            name = place + name.removeprefix(beginning)
            assert whole[name].dtype == torch.float32
            assert_halved(whole[name], value)


def test_adapters_on_an_exported_body_begin_as_the_identity(folder):
    adapted = tiny_model(**on_parts_in(folder)).unet.eval()
    plain = instantiate_from_config({"target": UNET["target"], "params": {**UNET["params"], **PLAIN_UNET}}).eval()
    load_part(plain, folder / "backbone.safetensors", "unet", ours=())
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    cond = Conditioning.of(torch.randn(2, 5, 32))
    with torch.no_grad():
        assert torch.equal(adapted(x, t, cond), plain(x, t, cond))


def test_a_body_is_exported_without_the_adapters_on_it(tmp_path):
    run = checkpoint_of(moved(tiny_model(freeze_unet=False)), tmp_path / "run.ckpt")
    names = export_part("unet", run, tmp_path / "unet.safetensors")
    assert names and not any("film" in name or "lora" in name for name in names)
    file = load_file(tmp_path / "unet.safetensors")
    assert set(file) == set(names)
    assert file["scale_factor"] == trained(run)["scale_factor"]


@pytest.mark.parametrize("part, run", [("unet", "adapters"), ("first_stage", "stage_1"), ("image_tower", "vq")])
def test_a_part_that_a_run_did_not_train_is_refused(folder, tmp_path, part, run):
    with pytest.raises(CheckpointError, match=f"{run}.ckpt: .*(did not train the whole|trained no) {part}"):
        export_part(part, folder / f"{run}.ckpt", tmp_path / "part.safetensors")
    assert not (tmp_path / "part.safetensors").exists()


def test_a_model_comes_back_from_its_adapters_and_the_files_that_its_config_names(folder):
    exact, halved = (load_model(folder / f"adapters.{ending}") for ending in ("ckpt", "safetensors"))
    assert halved.vocab == exact.vocab == VOCAB and halved.config == exact.config and halved.model_ema is None
    weights = halved.state_dict()
    for name, value in exact.state_dict().items():
        if not name.startswith("model_ema."):
            assert weights[name].dtype == value.dtype
            assert_halved(weights[name], value)


def test_adapters_are_all_that_was_trained_and_the_scale_of_the_latents(folder):
    file = load_file(folder / "adapters.safetensors")
    assert set(file) == {name for name, p in tiny_model().named_parameters() if p.requires_grad} | {
        "scale_factor", *(name for name in file if "box_bias" in name)
    }  # fmt: skip
    assert any("box_bias" in name for name in file)


def test_what_is_large_is_stored_in_half_and_what_is_delicate_is_not():
    assert halved("weight", torch.ones(4, 4)).dtype == torch.float16
    for name, value in (
        ("scale_factor", torch.tensor(0.18215)),
        ("norm.bias", torch.ones(4)),
        ("quantize.embedding.weight", torch.ones(4, 4)),
        ("weight", torch.full((4, 4), 1e5)),  # beyond float16
    ):
        assert halved(name, value).dtype == torch.float32
    assert halved("ids", torch.ones(4, 4, dtype=torch.long)).dtype == torch.long


def test_a_config_in_a_file_may_not_say_what_code_to_run(folder, tmp_path):
    state, config = load_file(folder / "adapters.safetensors"), copy.deepcopy(tiny_model().config)
    for place in (config["model"], config["data"]["params"]["train"]):
        right, place["target"] = place["target"], "os.system"
        metadata = {"ldm": json.dumps({"config": config, "vocab": VOCAB.to_json()})}
        save_safetensors(tmp_path / "hostile.safetensors", state, metadata)
        with pytest.raises(ConfigError, match="hostile.safetensors: its config names 'os.system'"):
            load_model(tmp_path / "hostile.safetensors")
        place["target"] = right


@pytest.mark.parametrize("text", ["{", "[]", '{"config": [], "vocab": {}}', '{"config": {}}'])
def test_damaged_metadata_is_refused_by_name(folder, tmp_path, text):
    state = load_file(folder / "adapters.safetensors")
    save_safetensors(tmp_path / "broken.safetensors", state, {"ldm": text})
    with pytest.raises(CheckpointError, match="broken.safetensors: its metadata"):
        load_model(tmp_path / "broken.safetensors")


def test_adapters_of_another_size_are_refused(folder, tmp_path):
    state = load_file(folder / "adapters.safetensors")
    with safetensors.safe_open(folder / "adapters.safetensors", "pt") as file:
        metadata = file.metadata()
    state["null_tokens"] = state["null_tokens"][..., :5]
    save_safetensors(tmp_path / "other.safetensors", state, metadata)
    with pytest.raises(CheckpointError, match="null_tokens is .1, 1, 5. there"):
        load_model(tmp_path / "other.safetensors")


@pytest.fixture
def door():
    path = Path(__file__).parents[2] / "scripts" / "export.py"
    spec = importlib.util.spec_from_file_location("export_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_the_script_writes_lora_in_pefts_layout_too(folder, door, tmp_path, capsys):
    out, peft = tmp_path / "adapters.safetensors", tmp_path / "peft"
    assert door(["adapters", "--ckpt", str(folder / "adapters.ckpt"), "--out", str(out), "--peft", str(peft)]) == 0
    assert out.read_bytes() == (folder / "adapters.safetensors").read_bytes()  # whenever it is exported
    unet = load_model(out).unet
    ours = {f"base_model.model.{name}.weight" for name, _ in unet.named_parameters() if "lora_" in name}
    assert set(load_file(peft / "adapter_model.safetensors")) == ours
    assert json.loads((peft / "adapter_config.json").read_text())["r"] == 2
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["unet", "--run", "nowhere", "--out", "x.safetensors"], "nowhere"),
        (["unet", "--ckpt", "nowhere.ckpt", "--out", "x.safetensors"], "nowhere.ckpt: there is no such file"),
        (["adapters", "--ckpt", __file__, "--out", "x.safetensors"], "not a checkpoint of trainer.py"),
        (["manifest", "nowhere.safetensors", "--command", "c", "--seed", "1", "--minutes", "2", "--cores", "2"],
         "nowhere.safetensors: there is no such file"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(door, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert door(arguments) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and sentence in errors[0]
    assert not any(tmp_path.iterdir())
