"""Parameters of a tiny model that reads text, in small what configs/flat/text.yaml is, and batches with captions."""

import copy
from dataclasses import replace

import torch
from tiny import MODEL

from ldm.graph.batch import Batch
from ldm.graph.text_tokens import token_ids

WORDS = ["circle", "square", "triangle", "red", "blue", "small", "large", "plain", "striped", ","]
TEXT = {
    "target": "ldm.modules.encoders.small.SmallTextEncoder",
    "params": {"init": "random", "words": WORDS, "width": 24, "layers": 1, "heads": 2},
}


def with_text(film_embedding_dim: int | None = 16, **unet) -> dict:
    """Parameters of `tiny_model` with adapters for graphs beside the text, and for styles if there is FiLM."""
    config = copy.deepcopy(MODEL["params"]["unet_config"])
    config["params"] |= {"graph_attention": True, "film_embedding_dim": film_embedding_dim, **unet}
    params = {"unet_config": config, "text_stage_config": TEXT}
    return params if film_embedding_dim else params | {"global_stage_config": None}


def captioned(batch: Batch, text: str) -> Batch:
    """The batch with one text for all of its images."""
    return replace(batch, text_ids=torch.stack([token_ids(text)] * batch.graph.num_images))
