"""How images of texts are sampled, and the prompts themselves: options of the command line, records and docs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ldm.models.diffusion.samplers import SAMPLERS
from ldm.util.errors import UserError, did_you_mean
from ldm.util.files import read_text
from ldm.util.options import option, validate

LONG_PROMPTS = ("cut", "chunk")
KEYS = ("prompt", "negative", "seed")  # of a line of a file of prompts


@dataclass(frozen=True)
class TextOptions:
    """What all images of a set of prompts share.

    Raises:
        UserError: an option is out of its bounds, or `eta` is used with another sampler than ddim.
    """

    steps: int = option(50, "sampler steps, one call of the U-Net each", minimum=1)
    eta: float = option(0.0, "noise of the sampler ddim; 0 is deterministic, 1 is DDPM", minimum=0)
    sampler: str = option("ddim", "dpm++ (second order) needs fewer steps", choices=tuple(SAMPLERS))
    scale: float = option(7.5, "guidance scale of the text; 1 is no guidance")
    negative: str = option("", "what the images should not show", metavar="TEXT")
    height: int | None = option(None, "height in pixels", minimum=8, default_text="that of the model's training")
    width: int | None = option(None, "width in pixels", minimum=8, default_text="that of the model's training")
    long_prompt: str = option(
        "cut",
        "what is read of a prompt of more than 77 tokens: cut, the first 77; chunk, all of it, 77 at a time",
        choices=LONG_PROMPTS,
    )
    quick_decode: bool = option(
        False, "decode with the tiny autoencoder of the config (preview_config), for a quick look"
    )

    def __post_init__(self):
        validate(self)
        if self.eta and self.sampler != "ddim":
            raise UserError(f"eta {self.eta}: only the sampler ddim adds noise; leave eta at 0 with {self.sampler}")


class Prompt(NamedTuple):
    """One text to sample images of.

    Attributes:
        text: what they should show.
        negative: what they should not show; None for the options'.
        seed: from which the seeds of its images are derived; None for the command's.
    """

    text: str
    negative: str | None = None
    seed: int | None = None


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a JSON Lines file: each line a text in quotes, or an object with `prompt`, `negative` and `seed`.

    Raises:
        UserError: the file cannot be read, has no lines, or a line is none of these.
    """
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f'{path}: contains no prompts; write one per line, such as {{"prompt": "a cat on a sofa"}}')
    return [_parse(line, f"{path}, line {number}") for number, line in lines]


def _parse(line: str, where: str) -> Prompt:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or "nested too deep"
        raise UserError(f'{where}: not JSON ({reason}); write {{"prompt": "a cat on a sofa"}}') from None
    if isinstance(value, str):
        return Prompt(value)
    if not isinstance(value, dict) or "prompt" not in value:
        raise UserError(f'{where}: a prompt is a text in quotes, or an object such as {{"prompt": "a cat on a sofa"}}')
    for key, entry in value.items():
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {key!r}{did_you_mean(key, KEYS)}")
        kind, name = (int, "a whole number") if key == "seed" else (str, "a text")
        if type(entry) is not kind:
            raise UserError(f"{where}: {key} takes {name}, not {json.dumps(entry)[:60]}")
    return Prompt(value["prompt"], value.get("negative"), value.get("seed"))


def words_of(prompts: Sequence[Prompt], options: TextOptions) -> tuple[list[str], list[str]]:
    """The texts and the negative texts of prompts."""
    return [p.text for p in prompts], [options.negative if p.negative is None else p.negative for p in prompts]
