"""LoRA of text towers and of convolutions, read and written, against diffusers, transformers and peft."""

import copy
import json

import pytest
import torch
from diffusers_models import UNET, build_unet
from lora_files import outputs
from safetensors.torch import save_file
from text_models import sd1_encoder, text_model, write_tokenizer

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.loading import load_part
from ldm.checkpoints.saving import save_safetensors
from ldm.modules.lora import lora_layers, merge_lora
from ldm.modules.lora_files import add_lora, diffusers_lora, kohya_lora, peft_text_files
from ldm.modules.lora_targets import add_lora_layers
from ldm.util.errors import ConfigError

PROMPT = ["a cat on a red sofa"]
TARGETS = [
    {"part": "text", "rank": 3, "alpha": 6},
    {"part": "text", "targets": ["mlp"], "rank": 2},
    {"part": "unet", "targets": ["to_k"], "rank": 2, "alpha": 1},
    {"part": "unet", "targets": ["attn1", "ff", "resnets", "downsamplers"], "rank": 3},
]
# The installed diffusers applies only one alpha of kohya's to a whole model.
# It does not know kohya's names of time_emb_proj, conv_shortcut and downsamplers either.
KOHYA = [
    {"part": "text", "targets": ["self_attn", "mlp"], "rank": 3, "alpha": 6},
    {"part": "unet", "targets": ["to_k", "attn1", "ff", "conv1", "conv2"], "rank": 3, "alpha": 6},
]


@pytest.fixture(scope="module")
def theirs():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**UNET).eval(), text_model()


@pytest.fixture
def ours(theirs):
    unet = build_unet(UNET)
    load_part(unet, theirs[0].state_dict(), "unet")
    return unet.requires_grad_(False), sd1_encoder(copy.deepcopy(theirs[1].state_dict()))


def trained(unet, text, targets=TARGETS):
    add_lora_layers(unet, text, targets, "lora")
    torch.manual_seed(4)
    for part in (unet, text):
        for layer in lora_layers(part).values():
            torch.nn.init.normal_(layer.lora_B, std=0.1)
    return unet, text


def of_diffusers(theirs, path):
    """Copies of diffusers' U-Net and transformers' text model with a LoRA file that diffusers loaded."""
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin as Loader

    unet, text = copy.deepcopy(theirs)
    state, alphas, *metadata = Loader.lora_state_dict(str(path), unet_config=unet.config, return_lora_metadata=True)
    metadata = metadata[0] if metadata else None
    Loader.load_lora_into_unet(state, alphas, unet, metadata=metadata)
    Loader.load_lora_into_text_encoder(state, alphas, text, metadata=metadata)
    return unet, text


@torch.no_grad()
def states(ours, theirs, folder):
    transformers = pytest.importorskip("transformers")
    write_tokenizer(folder)
    tokenizer = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="<|endoftext|>"
    )
    ids = tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
    return ours(PROMPT).tokens, theirs(ids).last_hidden_state


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_lora_of_text_tower_attention_feed_forward_and_convolutions_has_its_effect_in_diffusers(
    tmp_path, ours, theirs, form
):
    pytest.importorskip("peft")
    plain_text = ours[1](PROMPT).tokens
    plain = copy.deepcopy(ours)
    unet, text = trained(*ours, TARGETS if form == "diffusers" else KOHYA)
    path = tmp_path / "lora.safetensors"
    save_safetensors(path, (diffusers_lora if form == "diffusers" else kohya_lora)(unet, text), {"format": "pt"})
    adapted = of_diffusers(theirs, path)
    found, expected = states(text, adapted[1], tmp_path)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain_text, atol=1e-2)
    torch.testing.assert_close(*outputs(unet, adapted[0]), rtol=1e-3, atol=1e-4)
    count = len(lora_layers(unet)) + len(lora_layers(text))
    assert add_lora(plain[0], path, text=plain[1]) == count, "the file has its effect here too"
    torch.testing.assert_close(plain[1](PROMPT).tokens, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*outputs(plain[0], adapted[0]), rtol=1e-3, atol=1e-4)


def test_alpha_of_each_layer_in_kohyas_file_is_that_of_its_definition(tmp_path, ours, theirs):
    """W + alpha / rank up down, added by hand to transformers' layers."""
    unet, text = trained(*ours)
    state = kohya_lora(unet, text)
    model = copy.deepcopy(theirs[1])
    for name, layer in model.named_modules():
        key = "lora_te_text_model_" + name.removeprefix("text_model.").replace(".", "_")
        if f"{key}.alpha" in state:
            up, down = state[f"{key}.lora_up.weight"], state[f"{key}.lora_down.weight"]
            layer.weight.data += state[f"{key}.alpha"] / len(down) * up @ down
    torch.testing.assert_close(*states(text, model, tmp_path), rtol=1e-4, atol=1e-4)


def test_lora_of_a_text_tower_loads_in_peft(tmp_path, ours, theirs):
    peft = pytest.importorskip("peft")
    _, text = trained(*ours)
    state, config = peft_text_files(text.model)
    save_file(state, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    adapted = peft.PeftModel.from_pretrained(copy.deepcopy(theirs[1]), str(tmp_path)).eval()
    torch.testing.assert_close(*states(text, adapted, tmp_path), rtol=1e-4, atol=1e-4)
    again = sd1_encoder(copy.deepcopy(theirs[1].state_dict()))
    unet = build_unet(UNET)
    assert add_lora(unet, tmp_path, text=again) == len(lora_layers(text.model))
    torch.testing.assert_close(again(PROMPT).tokens, text(PROMPT).tokens, rtol=1e-4, atol=1e-4)


def list_of_cloneofsimo(model, classes, rank=2):
    """Its files: of each linear layer in modules of some classes, in the order of the model's modules, up and then down."""
    found, seen = [], []
    for module in model.modules():
        if type(module).__name__ in classes:
            for layer in module.modules():
                if isinstance(layer, torch.nn.Linear):
                    down, up = torch.randn(rank, layer.in_features) * 0.1, torch.randn(layer.out_features, rank) * 0.1
                    found += [up, down]
                    seen.append((layer, up @ down))
    for layer, change in seen:
        layer.weight.data += change
    return found


@pytest.mark.parametrize("classes", [{"Attention"}, {"Attention", "GEGLU"}])
def test_a_list_without_names_is_read_in_the_order_of_diffusers_modules_and_this_is_said(
    tmp_path, ours, theirs, classes, caplog
):
    torch.manual_seed(3)
    unet = copy.deepcopy(theirs[0])
    torch.save(list_of_cloneofsimo(unet, classes), tmp_path / "lora.pt")
    add_lora(ours[0], tmp_path / "lora.pt", text=ours[1])
    torch.testing.assert_close(*outputs(ours[0], unet), rtol=1e-3, atol=1e-4)
    assert any("has no names" in record.getMessage() for record in caplog.records)


def test_a_list_for_the_text_encoder_is_told_from_one_for_the_u_net(tmp_path, ours, theirs):
    torch.manual_seed(3)
    text = copy.deepcopy(theirs[1])
    torch.save(list_of_cloneofsimo(text, {"CLIPAttention"}), tmp_path / "lora.text_encoder.pt")
    assert add_lora(ours[0], tmp_path / "lora.text_encoder.pt", text=ours[1]) == 12
    torch.testing.assert_close(*states(ours[1], text, tmp_path), rtol=1e-4, atol=1e-4)


def test_a_list_that_fits_nothing_is_refused(tmp_path, ours):
    torch.save([torch.zeros(3, 2), torch.zeros(2, 3)], tmp_path / "lora.pt")
    with pytest.raises(CheckpointError, match="1 pairs of matrices without names"):
        add_lora(ours[0], tmp_path / "lora.pt", text=ours[1])


def test_new_adapters_are_the_identity_and_merged_ones_have_the_same_outputs(ours):
    before = ours[1](PROMPT).tokens
    add_lora_layers(*ours, TARGETS, "lora")
    torch.testing.assert_close(ours[1](PROMPT).tokens, before, rtol=0, atol=1e-6)
    for layer in [*lora_layers(ours[0]).values(), *lora_layers(ours[1]).values()]:
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    torch.testing.assert_close(*outputs_of_merged(ours[0]), rtol=1e-3, atol=1e-4)
    merged = merge_lora(ours[1])
    torch.testing.assert_close(merged(PROMPT).tokens, ours[1](PROMPT).tokens, rtol=1e-4, atol=1e-5)
    assert not lora_layers(merged) and not lora_layers(merge_lora(ours[0]))


@torch.no_grad()
def outputs_of_merged(unet):
    from ldm.modules.conditioning import Conditioning

    torch.manual_seed(1)
    x, t, cond = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), Conditioning.from_tokens(torch.randn(2, 5, 24))
    return merge_lora(unet)(x, t, cond), unet(x, t, cond)


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"part": "vae"}, "set it to unet or text"),
        ({"part": "unet", "targets": ["to_x"]}, "'to_x' is no layer"),
        ({"part": "unet", "rank": 0}, "at least 1"),
        ({"part": "unet", "alpha": -1}, "above 0"),
        ({"part": "unet", "ranks": 3}, "no key 'ranks'"),
    ],
)
def test_a_wrong_target_is_one_sentence_with_its_place(ours, entry, words):
    with pytest.raises(ConfigError, match=words) as error:
        add_lora_layers(*ours, [entry], "model.params.lora")
    assert "model.params.lora[0]" in str(error.value)
