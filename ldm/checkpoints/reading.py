"""Reads the tensors of a checkpoint file, whatever its format, without executing anything in it.

Formats: .safetensors; what torch.save writes (.ckpt, .pt, .bin), zipped or in the format before torch 1.6
(ldm/checkpoints/unpickle.py); a folder of diffusers or transformers, whose weights may be split into shards
(ldm/checkpoints/folders.py).
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from ldm.checkpoints import folders, unpickle
from ldm.checkpoints.errors import CheckpointError, list_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A part of a latent diffusion model that a checkpoint may hold.

    Attributes:
        prefix: the prefix of its keys in a file that holds the whole model.
        folders: its subfolders in a folder in diffusers' layout, the first that exists is used. In one file of a whole
            pipeline, they are the prefixes of its keys.
        source: where to get its weights, for error messages.
    """

    prefix: str
    folders: tuple[str, ...]
    source: str


PARTS = {
    "unet": Part(
        "model.diffusion_model.",
        ("unet_ema", "unet"),
        "an LDM, SGDiff or Stable Diffusion 1.x checkpoint (.ckpt or .safetensors), or a diffusers folder",
    ),
    "first_stage": Part(
        "first_stage_model.",
        ("vae", "vqvae"),
        "model.ckpt from https://ommer-lab.com/files/latent-diffusion/vq-f8.zip, a checkpoint that holds a first "
        "stage, or a diffusers folder",
    ),
    "motion": Part(
        "motion_adapter.",
        ("motion_adapter",),
        "mm_sd_v15_v2.ckpt, v3_sd15_mm.ckpt, or a folder of diffusers' MotionAdapter",
    ),
    "cond_stage": Part("cond_stage_model.", (), "the checkpoint that this encoder was trained in"),
    "text_encoder": Part(
        "cond_stage_model.",
        ("text_encoder",),
        "a Stable Diffusion checkpoint with its text encoder, a diffusers folder, or a CLIP of open_clip or Hugging Face",
    ),
    "text_encoder_2": Part(
        "conditioner.embedders.1.",
        ("text_encoder_2",),
        "a Stable Diffusion XL checkpoint with its text encoders, or a diffusers folder",
    ),
}


# Under which names training programs store the weights, and their moving averages, beside the optimizer and the like.
WEIGHTS_NAMES = ("state_dict", "model_state_dict", "model", "module", "params", "net", "weights")
EMA_NAMES = ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "params_ema", "ema_model")


def read_state_dict(path: str | Path, part: str | None = None) -> dict[str, Tensor]:
    """Reads the state dict of a checkpoint onto the CPU, memory-mapped where the format allows it.

    Args:
        path: a .safetensors file, a file that torch.save wrote, a folder of diffusers or transformers, or the
            *.index.json of weights in shards. A state dict nested under a name such as "state_dict", as Lightning writes
            it, is unwrapped.
        part: a key of PARTS; chooses the subfolder of a diffusers folder.

    Raises:
        CheckpointError: the file is missing, damaged, of another format, or holds no tensors.
    """
    path = Path(path).expanduser()
    expected = PARTS[part] if part else Part("", (), "")
    try:
        path = folders.find_weights(path, expected.folders) if path.is_dir() else folders.find_index(path)
        if not path.is_file():
            raise CheckpointError(
                f"{path}: there is no such file{expected.source and '; it should be '}{expected.source}"
            )
        if path.suffix == ".json":
            return folders.read_shards(path, read_tensors)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    return read_tensors(path)


def has_part(folder: str | Path, part: str) -> bool:
    """Whether a folder of diffusers has the weights of a part in a subfolder."""
    return any(folders.list_weights(Path(folder) / name) for name in PARTS[part].folders)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in one file. Raises CheckpointError."""
    try:
        content = read_file(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile file can raise any exception
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise CheckpointError(f"{path}: cannot be read ({reason}); download it again if it is truncated") from error
    tensors = select_state(content, path)
    if not tensors:
        raise CheckpointError(f"{path}: holds no state dict (names to tensors); name a checkpoint of model weights")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a .safetensors file, whatever its suffix; empty for any other file."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError):
        return {}


def select_state(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a file's content: its own, or those under one of WEIGHTS_NAMES, replaced by those of EMA_NAMES."""
    if not isinstance(content, Mapping):
        return {}
    if "model_state" in content and "model_kwargs" in content:
        raise CheckpointError(f"{path}: {describe_sg2im(content)}; name weights of SGDiff or of trainer.py")
    weights = next((found for name in WEIGHTS_NAMES if (found := tensors_of(content.get(name)))), {})
    for name in EMA_NAMES:
        if average := tensors_of(content.get(name)):
            logger.info("%s: the moving averages in it are used (%r)", path, name)
            if lacking := weights.keys() - average.keys() if weights.keys() & average.keys() else set():
                logger.warning("%s: %d of %d tensors have no moving average in it", path, len(lacking), len(weights))
                return {**weights, **average}
            return average
    return weights or tensors_of(content)


def tensors_of(value: object) -> dict[str, Tensor]:
    items = value.items() if isinstance(value, Mapping) else ()
    return {key: tensor for key, tensor in items if isinstance(key, str) and isinstance(tensor, Tensor)}


def describe_sg2im(content: Mapping) -> str:
    """What a checkpoint of sg2im's own image generator is, with the size of its vocabulary."""
    kwargs = content["model_kwargs"]
    vocab = kwargs.get("vocab", content.get("vocab")) if isinstance(kwargs, Mapping) else None
    text = "a checkpoint of sg2im, whose image generator is not a diffusion model and is not used here"
    if not isinstance(vocab, Mapping) or not isinstance(vocab.get("pred_idx_to_name"), list):
        return text
    predicates = len(vocab["pred_idx_to_name"])
    return f"{text}; its vocabulary has {describe_predicates(predicates)}"


def describe_predicates(count: int) -> str:
    """The number of predicates of a vocabulary, with whose vocabulary it is if it is a known one."""
    known = {
        7: "COCO's six relations and __in_image__",
        10: "the 10-predicate COCO vocabulary of sg2im's and SGDiff's checkpoints, where this project's COCO graphs have 7",
        46: "sg2im's Visual Genome",
    }
    return f"{count} predicates" + (f" ({known[count]})" if count in known else "")


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
