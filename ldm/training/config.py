"""From flags, configs and overrides to one config, and the run folder it belongs to."""

from __future__ import annotations

import re
from argparse import Namespace
from datetime import datetime
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from ldm.util.config import coming_together, plain, read_config, refuse_foreign_targets, targets
from ldm.util.errors import ConfigError, UserError, did_you_mean

SEED = 23  # LDM's
SECTIONS = {
    "": ("model", "data", "lightning"),
    "model": ("target", "params", "base_learning_rate"),
    "data": ("target", "params"),
    "lightning": ("trainer", "callbacks", "modelcheckpoint", "logger", "seed", "scale_lr", "compile"),
}
# Keys of lightning.trainer that Lightning 2 lost, and where to turn; not those that are translated.
LOST = {
    "resume_from_checkpoint": "use --resume",
    "num_processes": "use --gpus cpu:N",
    "weights_save_path": "use --logdir",
    "terminate_on_nan": "leave it out, a loss that is NaN always stops the run",
    "replace_sampler_ddp": "leave it out, the data module itself shares the data among the processes",
    "checkpoint_callback": "use enable_checkpointing",
    "logger": "use the section lightning.logger",
    "callbacks": "use the section lightning.callbacks",
}
PRECISIONS = ("32", "16-mixed", "bf16-mixed", "32-true", "16", "bf16")


def find_run(arguments: Namespace) -> tuple[Path, Path | None]:
    """The log folder, and the checkpoint to go on from."""
    if not arguments.resume:
        if not arguments.base:
            raise UserError("nothing to train: name a config, such as --base configs/vg.yaml")
        name = arguments.name or Path(arguments.base[0]).stem
        return Path(arguments.logdir, f"{datetime.now():%Y-%m-%dT%H-%M-%S}_{name}"), None
    if arguments.name:
        raise UserError("--name and --resume do not go together: a resumed run stays in its log folder")
    path = Path(arguments.resume)
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise UserError(f"--resume {path}: there is no {checkpoint}; name a log folder, or a checkpoint in one")
    try:
        torch.load(checkpoint, weights_only=True, mmap=True)
    except Exception as error:
        raise UserError(f"--resume {checkpoint}: broken, cut short or not a checkpoint of trainer.py; name another one in checkpoints/") from error
    return checkpoint.resolve().parent.parent, checkpoint


def configure(arguments: Namespace, overrides: list[str], resumed: Path | None = None) -> DictConfig:
    """One config: of the run that is resumed, then the --base files, then the overrides, then the flags."""
    with coming_together():
        named = OmegaConf.merge(*map(read_config, arguments.base), OmegaConf.from_dotlist(overrides))
        stored = OmegaConf.merge({}, *map(read_config, sorted((resumed / "configs").glob("*.yaml")))) if resumed else {}
        if resumed and not stored and not arguments.base:
            raise ConfigError(f"--resume {arguments.resume}: {resumed}/configs holds no config; name it with --base")
        refuse_foreign_targets(stored, f"{resumed}/configs", named=set(targets(OmegaConf.to_container(named))))
        defaults = {"lightning": {"trainer": {}, "seed": SEED, "scale_lr": False, "compile": False}}
        config = OmegaConf.merge(defaults, stored, named, {"lightning": flags(arguments)})
        plain(config)  # whatever cannot be resolved shows now
    for section, known in SECTIONS.items():
        if section and not isinstance(OmegaConf.select(config, section), DictConfig):
            raise ConfigError(f"the config's '{section}' is no section with keys of its own, such as configs/vg.yaml has")
        for key in OmegaConf.select(config, section) if section else config:
            if key not in known:
                place = f"{section}.{key}" if section else key
                raise ConfigError(f"{place}: there is no such key in a config{did_you_mean(key, known)}")
    for key in ("model", "data", "model.base_learning_rate"):
        if OmegaConf.select(config, key) is None:
            raise ConfigError(f"the config has no '{key}'")
    return config


def flags(arguments: Namespace) -> dict:
    """The given flags, where a config has them."""
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    settings = {key: given[key] for key in arguments.trainer_flags if key in given}
    return {"trainer": settings, **{key: given[key] for key in ("seed", "scale_lr", "compile") if key in given}}


def devices(gpus: str | int | None) -> dict:
    """--gpus in Lightning 2's words: '0,1' are devices and '2' is a number of them, as in LDM; 'cpu:2' is ours."""
    gpus = str("1" if gpus is None else gpus).strip()
    if match := re.fullmatch(r"cpu(?::([1-9]\d*))?", gpus):
        return {"accelerator": "cpu", "devices": int(match[1] or 1)}
    if not re.fullmatch(r"-1|[1-9]\d*|\d+(,\d+)*,?", gpus):
        raise ConfigError(f"--gpus {gpus}: give '0,' for one GPU, '0,1' for two, '2' for any two, or 'cpu'")
    here = torch.cuda.device_count()
    if not here:
        raise ConfigError("no GPU is to be seen here; to train on the CPU: --gpus cpu (cpu:2 for two processes)")
    chosen = [int(i) for i in gpus.split(",") if i] if "," in gpus else list(range(here if gpus == "-1" else int(gpus)))
    if max(chosen) >= here:
        raise ConfigError(f"--gpus {gpus}: there are {here} GPUs here, counted from 0")
    return {"accelerator": "gpu", "devices": chosen}


def process_count(devices: int | str | list[int]) -> int:
    """On one machine, by Lightning's `devices`: a number, a list, or as text either of them, 'auto' or '-1'."""
    if str(devices) in ("auto", "-1"):
        return max(1, torch.cuda.device_count())
    if isinstance(devices, str):
        devices = [word for word in devices.split(",") if word.strip()] if "," in devices else int(devices)
    return devices if isinstance(devices, int) else len(devices)


@rank_zero_only
def save_config(config: DictConfig, folder: Path) -> None:
    now = f"{datetime.now():%Y-%m-%dT%H-%M-%S}"
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.masked_copy(config, ["model", "data"]), folder / "configs" / f"{now}-project.yaml")
    OmegaConf.save(OmegaConf.masked_copy(config, ["lightning"]), folder / "configs" / f"{now}-lightning.yaml")
