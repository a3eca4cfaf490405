"""LoRA files of kohya, diffusers and peft change the U-Net as diffusers and peft themselves do, and exports load there."""

import copy

import pytest
import torch
from diffusers_models import UNET, build_unet, write_json
from lora_files import (
    ATTENTION,
    FORMS,
    diffusers_keys,
    kohya,
    outputs,
    pair,
    random_lora,
    trained_unet,
    with_diffusers_lora,
)
from safetensors.torch import save_file

from ldm.checkpoints.diffusers_layout import to_diffusers_names, to_ldm_unet
from ldm.checkpoints.loading import load_part
from ldm.checkpoints.reading import CheckpointError
from ldm.checkpoints.saving import save_safetensors
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.lora import lora_layers
from ldm.modules.lora_files import add_lora, diffusers_lora, kohya_lora


@pytest.fixture(scope="module")
def theirs():
    """A U-Net of the installed diffusers."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**UNET).eval()


@pytest.fixture
def ours(theirs):
    unet = build_unet(UNET)
    load_part(unet, theirs.state_dict(), "unet")
    return unet


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_lora_file_has_the_effect_that_it_has_in_diffusers(tmp_path, ours, theirs, form, scale):
    pytest.importorskip("peft")
    path = tmp_path / "lora.safetensors"
    lora = random_lora(theirs)
    save_file({key: value.contiguous() for key, value in FORMS[form](lora).items()}, path)
    plain, _ = outputs(ours, theirs)
    assert add_lora(ours, path, scale) == len(lora)
    adapted = with_diffusers_lora(theirs, path)
    adapted.set_adapters(adapted.active_adapters(), scale)
    found, expected = outputs(ours, adapted)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"attn2.to_k": 12}}])
def test_a_lora_that_peft_saved_has_the_effect_that_it_has_in_peft(tmp_path, ours, theirs, settings):
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    targets = [name for name, _ in theirs.named_modules() if name.endswith(ATTENTION)]
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False, **settings)
    adapted = peft.get_peft_model(copy.deepcopy(theirs), config).eval()
    adapted.save_pretrained(tmp_path)
    assert add_lora(ours, tmp_path) == len(targets)
    torch.testing.assert_close(*outputs(ours, adapted), rtol=1e-4, atol=1e-5)


def test_a_lora_that_diffusers_saved_has_the_effect_that_it_has_in_diffusers(tmp_path, ours, theirs):
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    adapted = copy.deepcopy(theirs)
    adapted.add_adapter(peft.LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "to_v"], init_lora_weights=False))
    adapted.save_lora_adapter(tmp_path)
    add_lora(ours, tmp_path)
    torch.testing.assert_close(*outputs(ours, adapted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("template", ["{}.processor.{}_lora.{}.weight", "unet.{}.processor.{}_lora.{}.weight"])
def test_the_attention_processors_of_older_diffusers_have_the_same_effect_as_kohyas_names(
    tmp_path, ours, theirs, template
):
    lora = random_lora(theirs)
    state = {}
    for name, matrices in lora.items():
        layer, _, projection = name.removesuffix(".0").rpartition(".")
        state |= {template.format(layer, projection, side): value for side, value in zip(("down", "up"), matrices)}
    save_file(state, tmp_path / "old.safetensors")
    save_file(kohya(lora), tmp_path / "kohya.safetensors")
    same = copy.deepcopy(ours)
    assert add_lora(ours, tmp_path / "old.safetensors") == add_lora(same, tmp_path / "kohya.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), same.parameters()))


def test_ldms_names_in_kohyas_file_mean_the_same_layers(tmp_path, ours, theirs):
    lora = random_lora(theirs)
    names = {theirs_name: name for name, theirs_name in unet_names(ours).items()}
    save_file(kohya({names[name]: pair for name, pair in lora.items()}), tmp_path / "ldm.safetensors")
    assert add_lora(ours, tmp_path / "ldm.safetensors") == len(lora)


def unet_names(unet) -> dict:
    return to_diffusers_names(key.removesuffix(".weight") for key in unet.state_dict() if key.endswith(".weight"))


def test_diffusers_names_are_the_inverse_of_ldms(theirs, ours):
    state = theirs.state_dict()
    assert set(unet_names(ours).values()) == {key.removesuffix(".weight") for key in state if key.endswith(".weight")}
    for name, theirs_name in unet_names(ours).items():
        assert torch.equal(to_ldm_unet(state)[f"{name}.weight"], state[f"{theirs_name}.weight"])


def test_a_scale_of_zero_changes_nothing(tmp_path, ours, theirs):
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    save_file(kohya(random_lora(theirs)), tmp_path / "lora.safetensors")
    add_lora(ours, tmp_path / "lora.safetensors", 0)
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())


def test_layers_that_are_not_used_are_said(tmp_path, ours, theirs, caplog):
    lora = random_lora(theirs)
    state = kohya(lora) | pair("lora_te_text_model_encoder_layers_0_mlp_fc1", (3, 4), (32, 3))
    state |= pair("lora_unet_nowhere", (3, 4), (32, 3))
    save_file(state, tmp_path / "lora.safetensors")
    assert add_lora(ours, tmp_path / "lora.safetensors") == len(lora)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "2 of the layers" in warning and "1 (text encoder" in warning and "1 (no layer of this model" in warning


TO_K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    "state, words",
    [
        (pair("lora_unet_strange_layer", (2, 3), (3, 2)), "none of its 1 layers"),
        (pair("lora_te_text_model_layers_0_mlp_fc1", (2, 3), (3, 2)), "text encoder only"),
        (pair(TO_K, (2, 2048), (32, 2)), "made for Stable Diffusion XL"),
        (pair(TO_K, (2, 24), (32, 3)), "do not fit each other"),
        ({f"{TO_K}.lora_down.weight": torch.zeros(2, 24)}, "only one of its two matrices"),
        ({f"{TO_K}.hada_w1_a": torch.zeros(2, 2)}, "LoHa"),
        (pair(TO_K, (2, 24), (32, 2)) | {f"{TO_K}.dora_scale": torch.zeros(1)}, "DoRA"),
        (pair(TO_K, (2, 24), (32, 2)) | {f"{TO_K}.alpha": torch.tensor(float("nan"))}, "not finite"),
        ({"input_blocks.0.0.weight": torch.zeros(2)}, "holds no LoRA"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(tmp_path, ours, state, words):
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    save_file(state, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=words):
        add_lora(ours, tmp_path / "lora.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())


def test_a_missing_file_or_folder_without_lora_is_refused(tmp_path, ours):
    for path, words in ((tmp_path / "nowhere.safetensors", "no such file"), (tmp_path, "pytorch_lora_weights")):
        with pytest.raises(CheckpointError, match=words):
            add_lora(ours, path)


def test_damaged_settings_beside_a_lora_are_refused(tmp_path, ours, theirs):
    save_file(diffusers_keys(random_lora(theirs)), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="adapter_config.json"):
        add_lora(ours, tmp_path)
    write_json(tmp_path / "adapter_config.json", {"use_dora": True})
    with pytest.raises(CheckpointError, match="DoRA"):
        add_lora(ours, tmp_path)


# Out


@pytest.fixture
def trained(theirs) -> UNetModel:
    return trained_unet(theirs)


@pytest.mark.parametrize("write", [diffusers_lora, kohya_lora])
def test_diffusers_loads_the_exported_lora_and_computes_the_same(tmp_path, trained, theirs, write):
    pytest.importorskip("peft")
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_safetensors(path, write(trained), {"format": "pt"})
    found, expected = outputs(trained, with_diffusers_lora(theirs, path))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, outputs(trained, theirs)[1], atol=1e-3)


@pytest.mark.parametrize("write", [diffusers_lora, kohya_lora])
def test_an_exported_lora_loads_again(tmp_path, trained, ours, theirs, write):
    save_safetensors(tmp_path / "lora.safetensors", write(trained))
    assert add_lora(ours, tmp_path / "lora.safetensors") == len(lora_layers(trained))
    torch.testing.assert_close(outputs(ours, theirs)[0], outputs(trained, theirs)[0], rtol=1e-4, atol=1e-5)


def test_the_exported_keys_are_diffusers_and_kohyas_own(trained):
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.lora_A.weight" in diffusers_lora(trained)
    state = kohya_lora(trained)
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0"
    assert float(state[f"{key}.alpha"]) == 6 and state[f"{key}.lora_down.weight"].shape[0] == 2
