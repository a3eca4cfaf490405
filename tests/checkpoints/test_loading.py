"""Published weights come in by key, whole and without running anything; what is trained goes out whole."""

import os
import pickle
import re
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from parity import assert_close_to_published
from torch import nn

from ldm.checkpoints import loading
from ldm.checkpoints.diffusers_layout import to_ldm_unet, to_ldm_vae
from ldm.checkpoints.loading import CheckpointError, load_part, read_state_dict, save_safetensors, trainable_state_dict
from ldm.models.autoencoder import AutoencoderKL, VQModelInterface
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.ema import EMA

VQ_F8 = dict(
    embed_dim=4, n_embed=16384,
    ddconfig=dict(double_z=False, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128, ch_mult=[1, 2, 2, 4],
                  num_res_blocks=2, attn_resolutions=[32], dropout=0.0),
)  # fmt: skip
SD_KL = dict(
    embed_dim=4,
    ddconfig=dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128, ch_mult=[1, 2, 4, 4],
                  num_res_blocks=2, attn_resolutions=[], dropout=0.0),
)  # fmt: skip
SGDIFF_UNET = dict(
    image_size=32, in_channels=4, out_channels=4, model_channels=256, attention_resolutions=[4, 2, 1],
    num_res_blocks=2, channel_mult=[1, 2, 4], num_head_channels=32, use_spatial_transformer=True, transformer_depth=1,
    context_dim=512, context_local_dim=1536,
)  # fmt: skip
SD_UNET = dict(
    image_size=32, in_channels=4, out_channels=4, model_channels=320, attention_resolutions=[4, 2, 1],
    num_res_blocks=2, channel_mult=[1, 2, 4, 4], num_heads=8, use_spatial_transformer=True, transformer_depth=1,
    context_dim=768, legacy=False,
)  # fmt: skip


def toy(**layers) -> nn.Module:
    return nn.ModuleDict({name: nn.Linear(*size) for name, size in (layers or {"a": (2, 3), "b": (3, 1)}).items()})


def like(module: nn.Module, prefix: str = "") -> dict:
    """A state dict for the module with other numbers in it."""
    return {prefix + key: torch.randn_like(value) for key, value in module.state_dict().items()}


def assert_holds(module: nn.Module, state: dict):
    assert module.state_dict().keys() == state.keys()
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


# Formats


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("write", [
    lambda state, path: safetensors.torch.save_file(state, path),
    lambda state, path: torch.save(state, path),
    lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
    lambda state, path: torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=False),
    lambda state, path: torch.save({k: nn.Parameter(v) for k, v in state.items()}, path),
], ids=["safetensors", "torch", "lightning", "legacy", "parameters"])  # fmt: skip
def test_what_was_saved_is_what_is_read_whatever_the_format_and_the_name(tmp_path, write, dtype):
    state = {key: value.to(dtype) for key, value in like(toy()).items()}
    write(state, tmp_path / "weights.any")
    read = read_state_dict(tmp_path / "weights.any")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) and read[key].dtype == dtype for key in state)
    module = toy()
    load_part(module, tmp_path / "weights.any", "unet")
    assert_holds(module, {key: value.float() for key, value in state.items()})
    assert module.weights_from == str(tmp_path / "weights.any")


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_share_memory_or_are_views_are_read_as_they_were(tmp_path, zipped):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"base": base, "column": base[:, 1], "transposed": base.T, "long": torch.arange(3), "empty": torch.empty(0)}
    torch.save(state, tmp_path / "views.pt", _use_new_zipfile_serialization=zipped)
    read = read_state_dict(tmp_path / "views.pt")
    assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)


def lightning_1_file(path, zipped: bool, monkeypatch) -> dict:
    """A checkpoint as Lightning 1.x left it: its classes are importable when it is written, and not any more."""
    library = types.ModuleType("lightning_one")

    class ModelCheckpoint:
        pass

    class AttributeDict(dict):
        def __init__(self, *args):
            super().__init__(*args)
            self.touched = True

    for made in (ModelCheckpoint, AttributeDict):
        made.__module__, made.__qualname__ = "lightning_one", made.__name__
        setattr(library, made.__name__, made)
    monkeypatch.setitem(sys.modules, "lightning_one", library)
    state = OrderedDict(like(toy()))
    state._metadata = OrderedDict({"": {"version": 1}})
    torch.save({
        "epoch": 7,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {ModelCheckpoint: {"score": np.float64(0.25), "set": {np.float32(1.5), ModelCheckpoint()}}},
        "hyper_parameters": AttributeDict({"lr": np.int64(3), "args": types.SimpleNamespace(a=[ModelCheckpoint])}),
        "state_dict": state,
    }, path, _use_new_zipfile_serialization=zipped)  # fmt: skip
    monkeypatch.delitem(sys.modules, "lightning_one")
    return state


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_lightning_1_loads_without_any_of_its_classes(tmp_path, zipped, monkeypatch):
    path = tmp_path / "model.ckpt"
    state = lightning_1_file(path, zipped, monkeypatch)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    module = toy()
    load_part(module, path, "unet")
    assert_holds(module, state)
    assert "lightning_one" not in sys.modules


# Hostile files


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def hostile_values(marker) -> dict:
    touch = f"open({str(marker)!r}, 'w')"
    return {
        "os.system": Call(os.system, f"touch {marker}"),
        "eval": Call(eval, touch),
        "exec": Call(exec, touch),
        "open": Call(open, str(marker), "w"),
        "in a call's argument": Call(OrderedDict, [["key", Call(eval, touch)]]),
        "in a list in a tuple": ([{"key": Call(eval, touch)}],),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("how", hostile_values("x"))
def test_a_file_that_would_run_code_runs_none_and_gives_its_tensors(tmp_path, how, zipped):
    marker, path = tmp_path / "marker", tmp_path / "hostile.ckpt"
    state = like(toy())
    hostile = hostile_values(marker)[how]
    torch.save(
        {"before": hostile, "state_dict": {**state, "hostile": hostile}, "callbacks": {"k": hostile}},
        path, _use_new_zipfile_serialization=zipped,
    )  # fmt: skip
    read = read_state_dict(path)
    assert not marker.exists()
    assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file was harmless, so that this test showed nothing"


def zip_of(path, content: bytes, **more: bytes):
    """torch's format around any pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {"data.pkl": content, "version": b"3\n", "byteorder": b"little", **more}.items():
            archive.writestr(f"archive/{name}", data)


HOSTILE_OPCODES = {
    "REDUCE": b"cos\nsystem\n(S'%s'\ntR.",
    "INST": b"(S'%s'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'%s'\no.",
    "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(S'%s'\nNNNNNNI01\nt\x81.",
    "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n(S'%s'\nt}S'shell'\nI01\ns\x92.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93(S'%s'\ntR.",
    "getattr": b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(S'os'\ntRS'system'\ntR(S'%s'\ntR.",
}


@pytest.mark.parametrize("opcode", HOSTILE_OPCODES)
def test_every_opcode_that_calls_is_harmless(tmp_path, opcode):
    marker, path = tmp_path / "marker", tmp_path / "hostile.ckpt"
    content = HOSTILE_OPCODES[opcode] % f"touch {marker}".encode()
    zip_of(path, content)
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_state_dict(path)
    assert not marker.exists()


def test_the_hostile_opcodes_do_call_in_an_ordinary_unpickler(tmp_path):
    for opcode in ("REDUCE", "INST", "OBJ", "STACK_GLOBAL", "getattr"):
        marker = tmp_path / opcode
        pickle.loads(HOSTILE_OPCODES[opcode] % f"touch {marker}".encode())
        assert marker.exists(), opcode


@pytest.mark.parametrize("target", [
    "ctorch\nTensor\n", "ccollections\nOrderedDict\n", "ctorch._utils\n_rebuild_tensor_v2\n", "ctorch\nFloatStorage\n",
])  # fmt: skip
def test_a_file_cannot_set_an_attribute_of_anything_here(tmp_path, target):
    zip_of(tmp_path / "hostile.ckpt", target.encode() + b"(N}S'poisoned'\nI1\nstb.")
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "hostile.ckpt")
    from ldm.checkpoints import unpickle

    for touched in (torch.Tensor, torch._utils._rebuild_tensor_v2, *unpickle.CALLS.values(), torch.FloatStorage,
                    torch.serialization.StorageType):  # fmt: skip
        assert not hasattr(touched, "poisoned")


def test_a_torchscript_program_is_not_handed_to_the_interpreter(tmp_path, monkeypatch):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "program.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_state_dict(tmp_path / "program.pt")


# Damaged and wrong files


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_cut_short_anywhere_is_refused_in_one_sentence(tmp_path, kind):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    if kind == "safetensors":
        safetensors.torch.save_file(like(toy()), whole)
    else:
        torch.save(like(toy()), whole, _use_new_zipfile_serialization=kind == "zip")
    content = whole.read_bytes()
    for length in [0, 1, 7, 8, 9, *range(16, len(content), max(1, len(content) // 40)), len(content) - 1]:
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=re.escape(str(cut))) as caught:
            read_state_dict(cut)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content, words", [
    (b"", "neither"),
    (b"just some text, of no kind", "neither"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "link or a web page"),
    (b"<!DOCTYPE html><html>Sign in</html>", "link or a web page"),
    (b"\x80\x02not a pickle", "cannot be read"),
    (pickle.dumps({"a": 1}), "cannot be read"),
])  # fmt: skip
def test_what_is_no_checkpoint_is_named(tmp_path, content, words):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read_state_dict(tmp_path / "file")


def test_a_zip_around_a_checkpoint_says_to_unpack_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "vq-f8.zip", "w") as archive:
        archive.writestr("model.ckpt", b"")
    with pytest.raises(CheckpointError, match="model.ckpt.*unpack"):
        read_state_dict(tmp_path / "vq-f8.zip")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": None}, {"state_dict": {"a": 1}}, {}, torch.zeros(2)])
def test_a_file_without_a_state_dict_says_so(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_state_dict(tmp_path / "other.pt")


def test_a_missing_file_or_folder_says_what_should_be_there(tmp_path):
    with pytest.raises(CheckpointError, match="no such file.*vq-f8"):
        load_part(toy(), tmp_path / "model.ckpt", "first_stage")
    with pytest.raises(CheckpointError, match=r"vae/diffusion_pytorch_model\.safetensors"):
        load_part(toy(), tmp_path, "first_stage")


# Keys


def test_missing_unexpected_and_reshaped_keys_are_errors_that_name_them(capsys):
    module = toy()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = like(module)
    del state["b.bias"]
    state["a.weight"] = torch.zeros(3, 5)
    state["stranger"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_part(module, state, "unet")
    for words in ("missing: b.bias", "a.weight 3x5 for 3x2", "unexpected: stranger"):
        assert words in str(caught.value)
    assert_holds(module, before)
    assert capsys.readouterr().out == "" and not hasattr(module, "weights_from")


def test_a_file_of_something_else_says_where_the_part_comes_from():
    with pytest.raises(CheckpointError, match="nothing in it belongs to the first_stage.*vq-f8"):
        load_part(toy(), {"stranger": torch.zeros(1)}, "first_stage")
    with pytest.raises(CheckpointError, match="nothing in it belongs to the first_stage"):
        load_part(toy(), like(toy(), "model.diffusion_model."), "first_stage")


@pytest.mark.parametrize("part, prefix", [
    ("unet", "model.diffusion_model."), ("first_stage", "first_stage_model."), ("cond_stage", "cond_stage_model."),
])  # fmt: skip
def test_a_part_is_taken_out_of_the_whole_model_and_the_rest_is_named(part, prefix, capsys):
    module = toy()
    own = like(module)
    whole = {prefix + key: value for key, value in own.items()}
    for other in {"model.diffusion_model.", "first_stage_model.", "cond_stage_model."} - {prefix}:
        whole |= like(toy(c=(1, 1)), other)
    whole |= {"betas": torch.zeros(9), "sqrt_one_minus_alphas_cumprod": torch.zeros(9), "scale_factor": torch.zeros(())}
    report = load_part(module, whole, part)
    assert_holds(module, own)
    said = capsys.readouterr().out
    assert said.startswith(f"{part}: 4 tensors from memory") and "betas" in said and "scale_factor" in said
    assert set(report.left) == whole.keys() - {prefix + key for key in own}


def test_the_loss_that_vq_f8_was_trained_with_is_left_and_named(capsys):
    module = toy()
    own = like(module)
    load_part(module, {**own, "loss.discriminator.main.0.weight": torch.zeros(1)}, "first_stage")
    assert_holds(module, own)
    assert "loss.discriminator.main.0.weight" in capsys.readouterr().out


def test_the_moving_average_is_preferred_where_there_is_one():
    module = toy(**{"out": (2, 2), "middle_block": (2, 2)})
    raw = like(module)
    average = {key: torch.randn_like(value) for key, value in raw.items() if key != "out.bias"}  # as if frozen
    state = {f"model.diffusion_model.{key}": value for key, value in raw.items()}
    state |= {"model_ema.diffusion_model" + key.replace(".", ""): value for key, value in average.items()}
    state |= {"model_ema.decay": torch.zeros(()), "model_ema.num_updates": torch.zeros(())}
    report = load_part(module, state, "unet")
    assert_holds(module, {**raw, **average})
    assert report.averaged == 3 and "3 of them the moving average" in str(report)
    load_part(module, state, "unet", prefer_ema=False)
    assert_holds(module, raw)


@pytest.mark.parametrize("part", ["unet", "cond_stage"])
def test_the_average_of_a_checkpoint_of_ours_is_preferred_too(part):
    model, prefix = nn.ModuleDict(), loading.PARTS[part].prefix
    inner = model
    for name in prefix.split(".")[:-2]:
        inner[name] = nn.ModuleDict()
        inner = inner[name]
    inner[prefix.split(".")[-2]] = toy()
    ema = EMA(model)
    average = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    for name, value in average.items():
        ema.average(name).copy_(value)
    state = {**trainable_state_dict(model), **ema.state_dict(prefix="model_ema."), "null_tokens": torch.zeros(1, 1, 4)}
    module = toy()
    report = load_part(module, state, part)
    assert_holds(module, {name.removeprefix(prefix): value for name, value in average.items()})
    assert report.averaged == len(average)


def test_what_is_ours_keeps_its_beginning_and_is_named(capsys):
    module = toy(a=(2, 2), film=(2, 2), context_local_mlp=(2, 4))
    published = {"a.weight": torch.zeros(2, 2), "a.bias": torch.zeros(2), "context_local_mlp.weight": torch.zeros(4, 9)}
    before = module["film"].weight.clone()
    report = load_part(module, published, "unet")
    assert torch.equal(module["film"].weight, before) and torch.equal(module["a"].weight, published["a.weight"])
    assert {key.split(".")[0] for key in report.ours} == {"film", "context_local_mlp"} and len(report.ours) == 4
    assert "film.weight" in capsys.readouterr().out


def test_ignored_keys_are_left_on_either_side():
    module = toy()
    state, before = like(module), module["b"].weight.clone()
    load_part(module, {**state, "stranger.x": torch.zeros(1)}, "unet", ignore=["b.", "stranger"])
    assert torch.equal(module["b"].weight, before) and torch.equal(module["a"].weight, state["a.weight"])


def test_a_module_on_the_meta_device_takes_the_tensors_without_a_copy(tmp_path):
    with torch.device("meta"):
        module = toy()
    state = like(toy())
    load_part(module, state, "unet")
    assert_holds(module, state)
    assert module["a"].weight.data_ptr() == state["a.weight"].data_ptr() and module["a"].weight.requires_grad
    with torch.device("meta"):
        half = toy()
    load_part(half, {key: value.half() for key, value in state.items()}, "unet")
    assert half["a"].weight.dtype == torch.float32


# Full-size manifests, strictly


def meta(build, params, shapes: dict, part: str) -> loading.LoadReport:
    with torch.device("meta"):
        module = build(**params)
        return load_part(module, {key: torch.empty(shape) for key, shape in shapes.items()}, part)


def test_vq_f8_alone_fits_to_the_last_key(manifest):
    shapes = manifest("vq_f8")
    report = meta(VQModelInterface, VQ_F8, shapes, "first_stage")
    assert set(report.taken) == set(shapes) and not report.left and not report.ours


def test_sgdiffs_checkpoint_gives_its_averaged_unet_and_its_first_stage(manifest):
    shapes = manifest("sgdiff_vg")
    unet = meta(UNetModel, SGDIFF_UNET, shapes, "unet")
    assert len(unet.taken) == unet.averaged == sum(key.startswith("model_ema.diffusion_model") for key in shapes)
    assert not unet.ours
    first_stage = meta(VQModelInterface, VQ_F8, shapes, "first_stage")
    assert len(first_stage.taken) == sum(key.startswith("first_stage_model.") for key in shapes)
    assert not first_stage.averaged and not first_stage.ours


def test_sgdiffs_unet_takes_our_adapters_beside_its_weights(manifest):
    params = {**SGDIFF_UNET, "context_local_dim": 512, "film_embedding_dim": 512, "lora_rank": 4}
    report = meta(UNetModel, params, manifest("sgdiff_vg"), "unet")
    assert {"context_local_mlp.0.weight"} < set(report.ours)
    assert all(any(part in key for part in ("film", "lora_", "context_local_mlp")) for key in report.ours)


def test_stable_diffusion_fits_in_both_layouts_and_both_name_the_same_tensors(manifest):
    ldm, diffusers = manifest("sd1_ldm"), manifest("sd1_diffusers")
    for build, params, part, folder, prefix, convert in (
        (UNetModel, SD_UNET, "unet", "unet", "model.diffusion_model.", to_ldm_unet),
        (AutoencoderKL, SD_KL, "first_stage", "vae", "first_stage_model.", to_ldm_vae),
    ):
        own = {key.removeprefix(prefix): shape for key, shape in ldm.items() if key.startswith(prefix)}
        for shapes in (ldm, diffusers[folder]):
            report = meta(build, params, shapes, part)
            assert set(report.taken) == set(own) and not report.ours
        with torch.device("meta"):
            converted = convert({key: torch.empty(shape) for key, shape in diffusers[folder].items()})
        assert {key: list(value.shape) for key, value in converted.items()} == own


# diffusers, number for number


def test_diffusers_unet_computes_what_diffusers_computes(parity):
    params, weights, inputs, outputs = parity("diffusers_unet_small")
    ours = parity("ldm_unet_small").params  # the same network in the other layout
    ours |= {"context_dim": params["cross_attention_dim"], "num_heads": params["attention_head_dim"]}
    unet = UNetModel(**ours).eval()
    load_part(unet, weights, "unet")
    with torch.no_grad():
        assert_close_to_published(unet(inputs["x"], inputs["t"], Conditioning.of(inputs["context"])), outputs["eps"])


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.mark.parametrize("names", [{}, OLD_NAMES], ids=["today's names", "old names"])
def test_diffusers_first_stage_computes_what_diffusers_computes(parity, names):
    _, weights, inputs, outputs = parity("diffusers_kl_small")
    for new, old in names.items():
        weights = {key.replace(f".{new}.", f".{old}."): value for key, value in weights.items()}
    model = AutoencoderKL(**parity("ldm_kl_small").params).eval()
    assert load_part(model, weights, "first_stage").layout == "diffusers"
    with torch.no_grad():
        mean, logvar = model.posterior(inputs["image"])
        assert_close_to_published(mean, outputs["mean"])
        assert_close_to_published(logvar, outputs["logvar"])
        assert_close_to_published(model.decode(mean), outputs["decoded"])


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_diffusers_folder_gives_each_part_its_own_file(tmp_path, parity, ending):
    for folder, name in (("unet", "diffusers_unet_small"), ("vae", "diffusers_kl_small")):
        path = tmp_path / folder / f"diffusion_pytorch_model.{ending}"
        path.parent.mkdir()
        weights = parity(name).weights
        safetensors.torch.save_file(weights, path) if ending == "safetensors" else torch.save(weights, path)
        (path.parent / "config.json").write_text("{}")
    unet, vae = UNetModel(**parity("ldm_unet_small").params), AutoencoderKL(**parity("ldm_kl_small").params)
    for place in (tmp_path, tmp_path / "unet", tmp_path / "unet" / f"diffusion_pytorch_model.{ending}"):
        assert len(load_part(unet, place, "unet").taken) == len(unet.state_dict())
    assert len(load_part(vae, tmp_path, "first_stage").taken) == len(vae.state_dict())
    with pytest.raises(CheckpointError):
        load_part(vae, tmp_path / "unet", "first_stage")


# Saving


def test_what_is_saved_is_what_is_trainable_and_anyone_reads_it(tmp_path):
    module = toy()
    module["a"].requires_grad_(False)
    tensors = trainable_state_dict(module)
    assert set(tensors) == {"b.weight", "b.bias"} and not any(tensor.requires_grad for tensor in tensors.values())
    save_safetensors(tmp_path / "new" / "adapters.safetensors", tensors, {"vocabulary": "{}"})
    read = safetensors.torch.load_file(tmp_path / "new" / "adapters.safetensors")
    assert read.keys() == tensors.keys() and all(torch.equal(read[key], tensors[key]) for key in tensors)
    with safetensors.safe_open(tmp_path / "new" / "adapters.safetensors", "pt") as file:
        assert file.metadata() == {"vocabulary": "{}"}


def test_a_save_that_fails_leaves_the_file_before_it_whole(tmp_path, monkeypatch):
    path = tmp_path / "adapters.safetensors"
    save_safetensors(path, {"x": torch.ones(2)})

    def fail(tensors, place, metadata):
        place.write_bytes(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(loading.safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_safetensors(path, {"x": torch.zeros(2)})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert torch.equal(read_state_dict(path)["x"], torch.ones(2))
