"""Tiny text towers of the installed transformers, this project's counterparts, and the file forms that hold them."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from open_clip.tokenizer import bytes_to_unicode, default_bpe

from ldm.graph.text_tokens import END
from ldm.modules.encoders.modules import (
    FrozenCLIPEmbedder,
    FrozenOpenCLIPEmbedder,
    FrozenOpenCLIPEmbedder2,
    SDXLTextEncoder,
)

SHAPE = {"width": 32, "layers": 3, "heads": 2, "embed_dim": 24}
QUICK = {**SHAPE, "quick_gelu": True}
PROMPTS = ["", "a cat on a red sofa", "고양이 🐱", "word " * 100]


def write_tokenizer(folder: Path) -> Path:
    """vocab.json and merges.txt as Hugging Face publishes them, from the merges that open_clip brings along."""
    with gzip.open(default_bpe()) as file:
        lines = file.read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(line.split()) for line in lines)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n")
    return folder


def text_config(**changes):
    """The configuration of transformers for a tower of SHAPE, with the ids of the real vocabulary."""
    transformers = pytest.importorskip("transformers")
    values = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "projection_dim": 24,
        "vocab_size": 49408,
        "bos_token_id": 49406,
        "eos_token_id": END,
        "pad_token_id": 1,
    }
    return transformers.CLIPTextConfig(**values | changes)


def text_model(kind: str = "CLIPTextModel", seed: int = 0, **changes):
    """A tower of transformers with random weights, of a size that makes every layer and norm matter."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(text_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def ldm_clip_keys(model, prefix: str = "cond_stage_model.") -> dict:
    """The keys of LDM's FrozenCLIPEmbedder, which holds transformers' model as `transformer`."""
    state = {(key if key.startswith("text_") else f"text_model.{key}"): v for key, v in model.state_dict().items()}
    return {f"{prefix}transformer.{key}": value for key, value in state.items()}


def open_clip_keys(model, prefix: str) -> dict:
    """The keys of Stability's embedders, which hold open_clip's model as `model`; written out, not converted by the project."""
    source = {key.removeprefix("text_model."): value for key, value in model.state_dict().items()}
    state = {
        "token_embedding.weight": source["embeddings.token_embedding.weight"],
        "positional_embedding": source["embeddings.position_embedding.weight"],
        "ln_final.weight": source["final_layer_norm.weight"],
        "ln_final.bias": source["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    for layer in range(model.config.num_hidden_layers):
        theirs, ours = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            qkv = [source[f"{theirs}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            state[f"{ours}attn.in_proj_{kind}"] = torch.cat(qkv)
            state[f"{ours}attn.out_proj.{kind}"] = source[f"{theirs}self_attn.out_proj.{kind}"]
            state[f"{ours}ln_1.{kind}"] = source[f"{theirs}layer_norm1.{kind}"]
            state[f"{ours}ln_2.{kind}"] = source[f"{theirs}layer_norm2.{kind}"]
            state[f"{ours}mlp.c_fc.{kind}"] = source[f"{theirs}mlp.fc1.{kind}"]
            state[f"{ours}mlp.c_proj.{kind}"] = source[f"{theirs}mlp.fc2.{kind}"]
    if "text_projection.weight" in source:
        state["text_projection"] = source["text_projection.weight"].T.contiguous()
    return {prefix + key: value for key, value in state.items()}


def sd1_encoder(source=None, **changes) -> FrozenCLIPEmbedder:
    return _loaded(FrozenCLIPEmbedder(version=QUICK, **changes), source)


def sd2_encoder(source=None, layer: str = "penultimate", **changes) -> FrozenOpenCLIPEmbedder:
    return _loaded(FrozenOpenCLIPEmbedder(arch=SHAPE, layer=layer, **changes), source)


def xl_first(source=None, **changes) -> FrozenCLIPEmbedder:
    return _loaded(FrozenCLIPEmbedder(**{"version": QUICK, "layer": "hidden", "layer_idx": 2, **changes}), source)


def xl_second(source=None, **changes) -> FrozenOpenCLIPEmbedder2:
    return _loaded(FrozenOpenCLIPEmbedder2(arch=SHAPE, **changes), source)


def xl_encoder(source=None, **changes) -> SDXLTextEncoder:
    first, second = {"version": QUICK, "layer_idx": 2}, {"arch": SHAPE}
    return _loaded(SDXLTextEncoder(first, second, **changes), source)


def _loaded(encoder, source):
    if source is not None:
        encoder.load_weights(source)
    return encoder
