"""Published weights into our modules by key, with nothing left out in silence; and the trained part out again.

A file is read in whatever format it comes (ldm/unpickle.py), its names are brought to LDM's (ldm/diffusers_layout.py),
and every key on either side that does not find its match needs a reason from the tables below, or loading fails.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from ldm.checkpoints import unpickle
from ldm.checkpoints.diffusers_layout import is_diffusers, to_ldm_unet, to_ldm_vae
from ldm.util.errors import UserError


class CheckpointError(UserError):
    """A checkpoint that is missing, cannot be read, or does not fit: what, where, what to do."""


@dataclass(frozen=True)
class Part:
    prefix: str  # of its keys in a file that holds the whole model
    folders: tuple[str, ...]  # in a diffusers folder
    source: str  # for whoever has to find one


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

# Why a key of the file may stay where it is.
LEFT = {
    r"(^|\.)loss\.": "the loss that it was trained with",
    r"^model_ema\.": "a moving average of other parts, or its counters",
    r"^(betas|\w*alphas_cumprod(_prev)?|posterior_\w+|lvlb_weights|logvar)$": "given by the config",
    r"^scale_factor$": "of the latents that its U-Net learned",
    r"^(model\.diffusion_model|\w+_stage_model)\.": "another part of the same file",
    r"^context_local_mlp\.": "belongs to the encoder that it was trained with",
    r"^null_(tokens|style)$": "belongs to the training that learned it",
}
# What published files lack, or hold in another shape, because it is trained here; and a buffer that nothing reads.
OURS = (r"(^|\.)(film|lora_A|lora_B|box_bias|context_local_mlp|context_global_mlp)(\.|$)", r"^logit_scale$")

# Of a graph encoder's pre-training, what its checkpoints hold beside it: SGDiff's sip_*.pt, and ldm.models.pretraining's.
REST_OF_STAGE_1 = ("clip_model.", "image_model.", "decoder.", "to_image_space.", "logit_scale")


@dataclass(frozen=True)
class LoadReport:
    part: str
    source: str
    layout: str  # "LDM" or "diffusers"
    taken: tuple[str, ...]  # keys of the module
    averaged: int  # how many of them were taken as their moving average
    left: dict[str, str]  # keys of the file that were not taken -> why
    ours: tuple[str, ...]  # keys of the module that keep their own initialisation
    scale_factor: Tensor | None = None  # of the latents that the file's U-Net learned, where it says

    def __str__(self) -> str:
        average = f", {self.averaged} of them the moving average (EMA)" if self.averaged else ""
        lines = [f"{self.part}: {len(self.taken)} tensors from {self.source}, {self.layout} layout{average}"]
        for why in dict.fromkeys(self.left.values()):
            lines.append(f"    left: {some(key for key, reason in self.left.items() if reason == why)}: {why}")
        if self.ours:
            lines.append(f"    ours: {some(self.ours)}: from their own initialisation")
        return "\n".join(lines)


def some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f", ... ({len(names)} in all)" if len(names) > 3 else "")


def load_part(
    module: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    part: str,
    ours: Iterable[str] = OURS,
    ignore: Iterable[str] = (),
    prefer_ema: bool = True,
) -> LoadReport:
    """Load the part ("unet", "first_stage" or "cond_stage") into `module`, and print what came from where.

    source       a path or a state dict, of the whole model or of this part alone
    ours         patterns of the module's keys that the file may lack, or hold in another shape
    ignore       beginnings of keys to leave, as LDM's `ignore_keys`, on either side
    prefer_ema   take the moving average of a parameter where the file has one

    Sets module.weights_from. A module on the meta device takes the tensors themselves, without a copy; what is ours
    stays on that device.
    Raises CheckpointError for keys missing, unexpected or of another shape without a reason above.
    """
    name = "memory" if isinstance(source, Mapping) else str(source)
    state = source if isinstance(source, Mapping) else read_state_dict(source, part)
    layout = "diffusers" if is_diffusers(state) else "LDM"
    if layout == "diffusers":
        state = to_ldm_unet(state) if part == "unet" else to_ldm_vae(state)
    prefix = PARTS[part].prefix if any(key.startswith(PARTS[part].prefix) for key in state) else ""
    expected, ignore = module.state_dict(), tuple(ignore)

    averages = {key: average for key in expected for average in names_of_average(prefix + key) if average in state}
    origin = {key: averages.get(key, prefix + key) if prefer_ema else prefix + key for key in expected}
    offered = {key: state[origin[key]] for key in expected if origin[key] in state and not key.startswith(ignore)}
    taken = {key: value for key, value in offered.items() if value.shape == expected[key].shape}

    unmet = [key for key in expected if key not in taken]
    kept = [key for key in unmet if key.startswith(ignore) or any(re.search(pattern, key) for pattern in ours)]
    wrong = [key for key in unmet if key not in kept]

    def why_left(key: str) -> str | None:
        if key in expected:
            return "its moving average is taken instead" if key in taken else "ours is kept instead"
        if key.startswith(ignore):
            return "ignore_keys"
        return next((why for pattern, why in LEFT.items() if re.search(pattern, key)), None)

    used = {origin[key] for key in taken}
    left = {key: why_left(key.removeprefix(prefix)) for key in state if key not in used}

    complaints = {
        "missing": [key for key in wrong if key not in offered],
        "of another shape": [
            f"{key} {shape(offered[key])} for {shape(expected[key])}" for key in wrong if key in offered
        ],
        "unexpected": [key for key, why in left.items() if why is None],
    }
    if not taken:
        raise CheckpointError(f"{name}: nothing in it belongs to the {part}, which should be in {PARTS[part].source}")
    if any(complaints.values()):
        found = "; ".join(f"{len(keys)} {what}: {some(keys)}" for what, keys in complaints.items() if keys)
        raise CheckpointError(f"{name}: does not fit the {part} that the config describes ({found})")

    on_meta = any(parameter.is_meta for parameter in module.parameters())
    if on_meta:
        taken = {key: value.to(expected[key].dtype) for key, value in taken.items()}
    module.load_state_dict(taken, strict=False, assign=on_meta)
    module.weights_from = name
    averaged = sum(origin[key] == averages.get(key) for key in taken)
    report = LoadReport(part, name, layout, tuple(taken), averaged, left, tuple(kept), state.get("scale_factor"))
    print(report)
    return report


def names_of_average(key: str) -> tuple[str, str]:
    """Of model.diffusion_model.out.0.bias: model_ema.model/diffusion_model/out/0/bias, as ldm.modules.ema keeps it, and
    model_ema.diffusion_modelout0bias, as LDM's LitEma does."""
    return "model_ema." + key.replace(".", "/"), "model_ema." + key.removeprefix("model.").replace(".", "")


def shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def read_state_dict(path: str | Path, part: str | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint by key, left on disk until they are used, where the format allows.

    Reads .safetensors, what torch.save wrote (.ckpt, .pt, .bin) in either of its formats, and, for a `part`, a
    diffusers folder. Runs nothing of what is in the file. Raises CheckpointError.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = file_in_folder(path, part)
    if not path.is_file():
        wanted = f"; it should be {PARTS[part].source}" if part else ""
        raise CheckpointError(f"{path}: there is no such file{wanted}")
    try:
        content = read_file(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile file can fail anywhere and in any way
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise CheckpointError(f"{path}: cannot be read ({reason}); if it was cut short, download it again") from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    items = state.items() if isinstance(state, Mapping) else ()
    tensors = {key: value for key, value in items if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no state dict, a dictionary from names to tensors")
    return tensors


def read_file(path: Path) -> object:
    """Whatever the file holds. Its first bytes tell the format: names lie (.bin, .pt, .ckpt)."""
    with path.open("rb") as file:
        start = file.read(16)
    if start[8:9] == b"{":
        return safetensors.torch.load_file(path)
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if not any(name.endswith("/data.pkl") for name in names):
            raise CheckpointError(f"{path}: a zip archive of {some(names)}; unpack it and name the checkpoint inside")
        return unpickle.load(path, zipped=True)
    if start.startswith(b"\x80"):
        return unpickle.load(path, zipped=False)
    if start.startswith((b"version https:", b"<")):
        raise CheckpointError(f"{path}: a link or a web page in the checkpoint's place; download the checkpoint itself")
    raise CheckpointError(f"{path}: neither a .safetensors file nor one that torch.save wrote")


def file_in_folder(folder: Path, part: str | None) -> Path:
    """The weights of `part` in a folder as diffusers writes it, or in that part's own folder."""
    places = [folder / name for name in (PARTS[part].folders if part else ())] + [folder]
    for place in places:
        for ending in ("safetensors", "bin", "fp16.safetensors", "fp16.bin"):
            if (file := place / f"diffusion_pytorch_model.{ending}").is_file():
                return file
    wanted = " or ".join(f"{place}/diffusion_pytorch_model.safetensors" for place in places)
    raise CheckpointError(f"{folder}: not a diffusers folder; there should be {wanted} (or .bin)")


def trainable_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """What is saved of a module: its parameters that require a gradient."""
    return {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}


def save_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write beside `path` and rename, so that `path` is always whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(contiguous, beside, dict(metadata or {}))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
