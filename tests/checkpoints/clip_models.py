"""A tiny CLIP of the installed transformers, in its folder."""

import pytest
import torch

from ldm.modules.global_film import CLIPGlobalEncoder

VISION = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 16,
}
TOWER = {"embed_dim": 16, "image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}


def save_clip(folder, kind="CLIPVisionModelWithProjection", **changes):
    """A random CLIP of the installed transformers, and its folder."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(**VISION, **changes)
    if kind == "CLIPModel":
        text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        both = {"vision_config": config.to_dict(), "text_config": text, "projection_dim": 16}
        config = transformers.CLIPConfig(**both)
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    return model


def embedding_error(encoder: CLIPGlobalEncoder, model) -> float:
    """The largest difference between the embeddings of two images, which have unit length."""
    torch.manual_seed(1)
    image = torch.rand(2, 3, 40, 50) * 2 - 1
    with torch.no_grad():
        pixels = encoder.preprocess(image)
        if hasattr(model, "get_image_features"):
            theirs = model.get_image_features(pixel_values=pixels)
            theirs = getattr(theirs, "pooler_output", theirs)
        else:
            theirs = model(pixel_values=pixels).image_embeds
    return float((encoder(image) - torch.nn.functional.normalize(theirs, dim=-1)).abs().max())
