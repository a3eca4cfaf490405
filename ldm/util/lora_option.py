"""The option --lora FILE[:SCALE] of the programs that sample. Imports no torch, since command lines are parsed first."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldm.util.cli import finite


def add_lora_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --lora, which may be given several times; its value is a list of [path, scale], as JSON keeps it."""
    parser.add_argument(
        "--lora",
        type=path_and_scale,
        action="append",
        default=[],
        metavar="FILE[:SCALE]",
        help="LoRA for the U-Net and its text encoder, a file of kohya, diffusers or peft, or a folder of one of the last two; may be "
        "given several times (default scale: 1)",
    )


def path_and_scale(text: str) -> list:
    """'style.safetensors:0.8' -> ["style.safetensors", 0.8]. A colon in the name of an existing file belongs to the name."""
    path, colon, scale = text.rpartition(":")
    if not path or Path(text).exists():
        return [text, 1.0]
    try:
        return [path, finite(scale)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: the scale {scale!r} is not a number; write FILE:0.8") from None
