"""The configs of Stable Diffusion 1, 2 and XL build the published networks, and their comments state the right sizes."""

import re

import pytest
import torch
from paths import ROOT

from ldm.checkpoints.text_layout import to_open_clip_text
from ldm.util.config import instantiate_from_config, plain, read_config
from ldm.util.config_merging import read_configs
from ldm.util.trust import read_untrusted

ADAPTERS = ("film_embedding_dim", "lora_rank", "context_local_dim", "graph_attention")
# Parameters of the published networks; of SD 2's text encoder those of the layers that are read (Hugging Face's folder).
PUBLISHED = {
    "sd1": {"unet": 859_520_964, "text_stage": 123_060_480, "first_stage": 83_653_863},
    "sd2": {"unet": 865_910_724, "text_stage": 340_387_840, "first_stage": 83_653_863},
    "sdxl": {"unet": 2_567_463_684, "first_stage": 83_653_863},
}
LABELS = {"unet": "U-Net", "text_stage": "text encoders?", "first_stage": "first stage"}
TOWERS = {  # transformers' configurations of the published text encoders, by file name
    "sd1": [{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}],
    "sd2": [{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}],
    "sdxl": [
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
        },
    ],
}


def build(name: str, part: str):
    """A part of a config on the meta device, without adapters."""
    config = dict(plain(read_config(ROOT / "configs" / f"{name}_vg.yaml").model.params)[f"{part}_config"])
    config["params"] = {key: value for key, value in (config.get("params") or {}).items() if key not in ADAPTERS}
    with torch.device("meta"):
        return instantiate_from_config(config)


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parts_have_as_many_parameters_as_published_and_as_the_comment_says(name):
    header = (ROOT / "configs" / f"{name}_vg.yaml").read_text().split("\nmodel:")[0].replace("\n# ", " ")
    total = 88e6  # the image encoder
    for part, label in LABELS.items():
        parameters = count(build(name, part))
        assert parameters == PUBLISHED[name].get(part, parameters)
        stated = re.search(rf"{label} (\d+) M", header)
        assert stated and int(stated[1]) == round(parameters / 1e6), label
        total += parameters
    stated = re.search(r"([\d.]+) GB in float32", header)
    assert stated and float(stated[1]) == round(4 * total / 1e9, 1)


@pytest.mark.parametrize("name", TOWERS)
def test_text_towers_have_the_keys_and_shapes_of_transformers_at_full_size(name):
    transformers = pytest.importorskip("transformers")
    for tower, config in zip(build(name, "text_stage").towers(), TOWERS[name], strict=True):
        kind = "CLIPTextModelWithProjection" if "projection_dim" in config else "CLIPTextModel"
        with torch.device("meta"):
            published = getattr(transformers, kind)(transformers.CLIPTextConfig(vocab_size=49408, **config))
        theirs = {key: value.shape for key, value in to_open_clip_text(published.state_dict()).items()}
        unread = tower.model.unread_keys()
        theirs = {key: shape for key, shape in theirs.items() if not key.startswith(unread)}
        assert {key: value.shape for key, value in tower.model.state_dict().items()} == theirs


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_u_net_reads_what_the_text_encoder_gives(name):
    unet, text = build(name, "unet"), build(name, "text_stage")
    assert unet.context_dim == text.dim and (unet.vector_dim or 0) == text.vector_dim


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_fragment_of_coco_replaces_the_data_and_keeps_the_size(name):
    files = [ROOT / "configs" / f"{name}_{data}.yaml" for data in ("vg", "coco")]
    vg, merged = read_config(files[0]), read_configs(files)
    names = merged.model.params.cond_stage_config.params
    assert (names.num_objs, names.num_preds, names.num_attributes) == (184, 7, 0)
    merged.model.params.cond_stage_config = vg.model.params.cond_stage_config
    assert merged.model == vg.model
    for split in ("train", "validation"):
        data = merged.data.params[split]
        assert data.target.startswith("ldm.data.coco.") and "h5_path" not in data.params
        assert data.params.image_size == vg.data.params[split].params.image_size == 8 * vg.model.params.image_size


def test_a_config_in_a_checkpoint_may_name_the_text_encoders_and_tiny_autoencoders():
    tiny = {"target": "ldm.models.tiny_autoencoder.TinyAutoencoder"}
    for name in PUBLISHED:
        config = read_config(ROOT / "configs" / f"{name}_vg.yaml")
        config.model.params |= {"preview_config": tiny, "first_stage_config": tiny}
        assert read_untrusted(config, "run").model == config.model
