"""Writes the words and the LoRA that a model has learned in the forms of other programs."""

from __future__ import annotations

import json
from pathlib import Path

from ldm.checkpoints.saving import save_safetensors
from ldm.checkpoints.word_files import write_words
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.encoders.words import learned_words
from ldm.modules.lora import lora_layers
from ldm.modules.lora_files import diffusers_lora, kohya_lora, peft_text_files
from ldm.util.errors import UserError
from ldm.util.files import atomic_write

WORDS, LORA = "learned_embeds.safetensors", "pytorch_lora_weights.safetensors"
METADATA = {"format": "pt"}


def write_learned(model: LatentDiffusion, folder: Path) -> list[Path]:
    """Writes learned_embeds.safetensors and pytorch_lora_weights.safetensors, those that there are; returns their paths."""
    written = []
    text = model.text_stage_model
    if text is not None and (words := learned_words(text)):
        written += write_words(folder / WORDS, words)
    if has_lora(model):
        save_safetensors(folder / LORA, diffusers_lora(model.unet, text), METADATA)
        written.append(folder / LORA)
    return written


def has_lora(model: LatentDiffusion) -> bool:
    """Whether the U-Net or the text encoder has LoRA layers."""
    parts = [part for part in (model.unet, model.text_stage_model) if part is not None]
    return any(lora_layers(part) for part in parts)


def write_word_file(model: LatentDiffusion, path: Path, form: str) -> list[Path]:
    """Writes a model's learned words in one of `ldm.checkpoints.word_files.FORMS`. Raises UserError if it has none."""
    words = {} if model.text_stage_model is None else learned_words(model.text_stage_model)
    if not words:
        raise UserError("--words: this run has learned no words (model.params.words); leave it out")
    return write_words(path, words, form)


def write_lora_file(model: LatentDiffusion, path: Path, form: str) -> list[Path]:
    """Writes a model's LoRA as diffusers' or kohya's file, or as peft's folders of its text towers. Raises UserError without any."""
    text = model.text_stage_model
    if not has_lora(model):
        raise UserError("this run has no LoRA (model.params.lora); leave --lora, --kohya and --peft out")
    if form == "peft":
        towers = [] if text is None else text.towers()
        found = [(number, tower.model) for number, tower in enumerate(towers) if lora_layers(tower.model)]
        if not found:
            raise UserError("--peft writes LoRA of text encoders, and this run has none; use --lora or --kohya")
        return [file for number, tower in found for file in _write_peft(tower, path, number)]
    state = diffusers_lora(model.unet, text) if form == "diffusers" else kohya_lora(model.unet, text)
    save_safetensors(path, state, METADATA)
    return [path]


def _write_peft(tower, folder: Path, number: int) -> list[Path]:
    state, config = peft_text_files(tower)
    place = folder / ("text_encoder" if number == 0 else "text_encoder_2")
    save_safetensors(place / "adapter_model.safetensors", state, METADATA)
    with atomic_write(place / "adapter_config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")
    return [place / "adapter_model.safetensors", place / "adapter_config.json"]
