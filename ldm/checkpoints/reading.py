"""Reads the tensors of a checkpoint file, whatever its format, without executing anything in it.

Formats: .safetensors; what torch.save writes (.ckpt, .pt, .bin), zipped or in the format before torch 1.6
(ldm/checkpoints/unpickle.py); a folder in diffusers' layout.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from ldm.checkpoints import unpickle
from ldm.util.errors import UserError


class CheckpointError(UserError):
    """A checkpoint that is missing, cannot be read, or does not fit the model."""


@dataclass(frozen=True)
class Part:
    """A part of a latent diffusion model that a checkpoint may hold.

    Attributes:
        prefix: the prefix of its keys in a file that holds the whole model.
        folders: its subfolders in a folder in diffusers' layout, the first that exists is used.
        source: where to get its weights, for error messages.
    """

    prefix: str
    folders: tuple[str, ...]
    source: str


PARTS = {
    "unet": Part(
        "model.diffusion_model.",
        ("unet",),
        "an LDM, SGDiff or Stable Diffusion 1.x checkpoint (.ckpt or .safetensors), or a diffusers folder",
    ),
    "first_stage": Part(
        "first_stage_model.",
        ("vae", "vqvae"),
        "model.ckpt from https://ommer-lab.com/files/latent-diffusion/vq-f8.zip, a checkpoint that holds a first "
        "stage, or a diffusers folder",
    ),
    "cond_stage": Part("cond_stage_model.", (), "the checkpoint that this encoder was trained in"),
}


def read_state_dict(path: str | Path, part: str | None = None) -> dict[str, Tensor]:
    """Reads the state dict of a checkpoint onto the CPU, memory-mapped where the format allows it.

    Args:
        path: a .safetensors file, a file that torch.save wrote, or a folder in diffusers' layout. A state dict nested
            under "state_dict", as Lightning writes it, is unwrapped.
        part: a key of PARTS; chooses the subfolder of a diffusers folder.

    Raises:
        CheckpointError: the file is missing, damaged, of another format, or holds no tensors.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = find_weights_file(path, part)
    if not path.is_file():
        expected = f"; it should be {PARTS[part].source}" if part else ""
        raise CheckpointError(f"{path}: there is no such file{expected}")
    try:
        content = read_file(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile file can raise any exception
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise CheckpointError(f"{path}: cannot be read ({reason}); download it again if it is truncated") from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    items = state.items() if isinstance(state, Mapping) else ()
    tensors = {key: value for key, value in items if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no state dict (names to tensors); name a checkpoint of model weights")
    return tensors


def read_file(path: Path) -> object:
    """The content of a checkpoint file. The format is detected from the first bytes, since suffixes are unreliable."""
    with path.open("rb") as file:
        start = file.read(16)
    if start[8:9] == b"{":
        return safetensors.torch.load_file(path)
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if not any(name.endswith("/data.pkl") for name in names):
            raise CheckpointError(
                f"{path}: a zip archive of {list_names(names)}; unpack it and name the checkpoint in it"
            )
        return unpickle.load(path, zipped=True)
    if start.startswith(b"\x80"):
        return unpickle.load(path, zipped=False)
    if start.startswith((b"version https:", b"<")):
        raise CheckpointError(f"{path}: a Git LFS pointer or a web page; download the checkpoint itself")
    raise CheckpointError(f"{path}: neither a .safetensors file nor one that torch.save wrote; name a checkpoint")


def find_weights_file(folder: Path, part: str | None) -> Path:
    """The file with the weights of `part` in a diffusers folder, or in the part's own subfolder of one."""
    places = [folder / name for name in (PARTS[part].folders if part else ())] + [folder]
    for place in places:
        for suffix in ("safetensors", "bin", "fp16.safetensors", "fp16.bin"):
            if (file := place / f"diffusion_pytorch_model.{suffix}").is_file():
                return file
    expected = " or ".join(f"{place}/diffusion_pytorch_model.safetensors" for place in places)
    raise CheckpointError(f"{folder}: not a folder in diffusers' layout; it should contain {expected} (or .bin)")


def list_names(names: Iterable[str]) -> str:
    """The first three names and how many there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f", ... ({len(names)} in all)" if len(names) > 3 else "")
