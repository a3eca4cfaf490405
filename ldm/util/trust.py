"""What a config may do that comes with a run, a checkpoint or an adapter file, and not from the user.

It may build the classes of TRUSTED, each in its place, and nothing else. It may not read environment variables, reach the
network or write outside the run's folder. What the user types, or names in a YAML file given with --base or --config, is free.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from ldm.util.config import RETIRED, as_config_error, check_extent
from ldm.util.errors import ConfigError

_AUTOENCODERS = ("ldm.models.autoencoder.AutoencoderKL", "ldm.models.autoencoder.VQModelInterface")
_GRAPH_ENCODERS = ("ldm.modules.nsg_encoder.NSGEncoder", "ldm.modules.cgip.cgip.CGIPModel")
_IMAGE_ENCODERS = ("ldm.modules.global_film.CLIPGlobalEncoder",)
_TEXT_ENCODERS = tuple(
    f"ldm.modules.encoders.modules.{name}"
    for name in ("FrozenCLIPEmbedder", "FrozenOpenCLIPEmbedder", "FrozenOpenCLIPEmbedder2", "SDXLTextEncoder")
)
_TEXT_ENCODERS += ("ldm.modules.encoders.small.SmallTextEncoder",)
_TINY_AUTOENCODER = "ldm.models.tiny_autoencoder.TinyAutoencoder"
_TEMPORAL_AUTOENCODER = "ldm.models.temporal_autoencoder.AutoencoderKLTemporalDecoder"
_UNETS = (
    "ldm.modules.diffusionmodules.openaimodel.UNetModel",
    "ldm.modules.diffusionmodules.video_unet.VideoUNetModel",
)
_DATA_SETS = tuple(
    f"ldm.data.{name}"
    for name in (
        "annotated.AnnotatedPictures",
        "clevr.CLEVR",
        "clevr.CLEVRValidation",
        "clips.DrawnClips",
        "coco.COCOTrain",
        "coco.COCOValidation",
        "curated.CuratedTrain",
        "curated.CuratedValidation",
        "demo.DemoFixed",
        "demo.DemoTrain",
        "demo.DemoValidation",
        "personalized.Personalized",
        "rendered.RenderedTrain",
        "rendered.RenderedValidation",
        "rendered_clips.RenderedClips",
        "rendered_looks.RenderedLooksTrain",
        "rendered_looks.RenderedLooksValidation",
        "vg.VGTrain",
        "vg.VGValidation",
        "video_sets.SG2VID",
        "video_sets.StoryboardFolder",
        "video_sets.VidOR",
    )
)
_CALLBACKS = (
    "ldm.training.callbacks.Checks",
    "ldm.training.callbacks.ImageLogger",
    "ldm.training.callbacks.StepSeed",
    "ldm.training.checkpointing.LastCheckpoint",
    "ldm.training.graph_words.GraphWordFile",
    "ldm.training.personalization.ClassPictures",
    "ldm.training.personalization.LearnedFiles",
    *(
        f"pytorch_lightning.callbacks.{name}"
        for name in (
            "DeviceStatsMonitor",
            "EarlyStopping",
            "GradientAccumulationScheduler",
            "LearningRateMonitor",
            "ModelCheckpoint",
            "StochasticWeightAveraging",
            "Timer",
        )
    ),
)
# Place in a config, as a pattern of its path -> the classes that may be built there.
TRUSTED: dict[str, tuple[str, ...]] = {
    r"model": (
        "ldm.models.diffusion.ddpm.LatentDiffusion",
        "ldm.models.diffusion.graph_words.GraphWords",
        "ldm.models.diffusion.personalization.Personalization",
        "ldm.models.diffusion.video.VideoDiffusion",
        "ldm.models.pretraining.GraphImagePretraining",
        "ldm.models.style_pretraining.StylePretraining",
        *_AUTOENCODERS,
    ),
    r"model\.params\.unet_config": _UNETS,
    r"model\.params\.first_stage_config": (*_AUTOENCODERS, _TINY_AUTOENCODER, _TEMPORAL_AUTOENCODER),
    r"model\.params\.preview_config": (_TINY_AUTOENCODER,),
    r"model\.params\.text_stage_config": _TEXT_ENCODERS,
    r"model\.params\.(first_stage_config\.params\.)?lossconfig": (
        "torch.nn.Identity",
        "ldm.modules.losses.perceptual_adversarial.PerceptualAdversarialLoss",
    ),
    r"model\.params\.(first_stage_config\.params\.)?lossconfig\.params\.tower": _IMAGE_ENCODERS,
    r"model\.params\.cond_stage_config": (*_GRAPH_ENCODERS, *_TEXT_ENCODERS),
    r"model\.params\.graph_config": _GRAPH_ENCODERS,
    r"model\.params\.(global_stage_config|image_config)": _IMAGE_ENCODERS,
    r"model\.params\.optimizer_config": ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD"),
    r"data": ("ldm.data.datamodule.DataModuleFromConfig",),
    r"data\.params\.(train|validation|test)(\.params\.dataset)?": _DATA_SETS,
    r"lightning\.callbacks\.\w+": _CALLBACKS,
    r"lightning\.modelcheckpoint": ("pytorch_lightning.callbacks.ModelCheckpoint",),
    r"lightning\.logger": ("pytorch_lightning.loggers.CSVLogger", "pytorch_lightning.loggers.TensorBoardLogger"),
}
REFERENCE = re.compile(r"\$\{[A-Za-z0-9_.\[\]]+\}")  # to another key of the same config
REMOTE = re.compile(r"://|::|^(hf-hub|local-dir):")  # addresses of fsspec and open_clip
WRITTEN_TO = {
    "dirpath",
    "path",
    "save_dir",
    "sub_dir",
    "log_dir",
    "root_dir",
    "default_root_dir",
}  # in section lightning
REMEDY = "if you trust it, name it in a YAML file of your own and pass that"


def read_untrusted(config: Any, source: str, own: Any = None) -> DictConfig:
    """Checks a config that came in a file, before anything is built from it.

    Args:
        config: the config as a mapping or as OmegaConf's.
        source: the file, for messages.
        own: the user's own config, whose values replace those of `config` and are not checked.

    Returns:
        The config, with its interpolations unresolved.

    Raises:
        ConfigError: it is no config, or it names what may not be built, read or written.
    """
    with as_config_error(source):
        container = OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config
        chosen = OmegaConf.to_container(own, resolve=False) if OmegaConf.is_config(own) else own
        if not isinstance(container, Mapping):
            raise ConfigError(f"{source}: holds no config with the sections model and data; name one with --config")
        check_extent(container, source)
        for path, value in _leaves(container, chosen or {}):
            _check_value(path, value, source)
        return cast(DictConfig, OmegaConf.create(dict(container)))


def _check_value(path: str, value: Any, source: str) -> None:
    section, _, key = path.rpartition(".")
    if key == "target":
        _check_target(section, value, source)
    elif key.startswith("timm_"):
        raise ConfigError(f"{source}: {path}: timm may download weights; {REMEDY}")
    elif not isinstance(value, str):
        if not (value is None or isinstance(value, (bool, int, float))):
            raise ConfigError(
                f"{source}: {path} is a {type(value).__name__}, which no config holds; name one of your own"
            )
    elif "${" in REFERENCE.sub("", value):
        raise ConfigError(
            f"{source}: {path} is {value!r}; a config from a file may refer to keys of its own only, not to the "
            f"environment or to functions; write the value itself, or pass a YAML file of your own"
        )
    elif REMOTE.search(value):
        raise ConfigError(f"{source}: {path} is the remote address {value!r}; download it, and {REMEDY}")
    elif section.startswith("lightning") and _writes_elsewhere(key, value):
        raise ConfigError(f"{source}: {path} is {value!r}, which a config from a file may not write to; {REMEDY}")


def _check_target(section: str, target: Any, source: str) -> None:
    allowed = next((classes for place, classes in TRUSTED.items() if re.fullmatch(place, section)), ())
    if not isinstance(target, str) or RETIRED.get(target, target) not in allowed:
        raise ConfigError(
            f"{source}: its config names {target!r} as {section or 'target'}, which is not on the list of what a config "
            f"from a file may build there (ldm/util/trust.py); {REMEDY}"
        )


def _writes_elsewhere(key: str, value: str) -> bool:
    outside = value.startswith(("/", "~", "${")) or "\\" in value or ".." in value.split("/")
    return key in WRITTEN_TO or (key in ("filename", "name", "version", "prefix") and outside)


def _leaves(config: Any, chosen: Mapping, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping or list, with its path; without those that `chosen` replaces."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key == "target" and key not in chosen:
                yield f"{path}.target" if path else "target", value
            elif key not in chosen or (isinstance(value, Mapping) and isinstance(chosen[key], Mapping)):
                yield from _leaves(value, chosen.get(key, {}), f"{path}.{key}" if path else f"{key}")
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from _leaves(value, {}, f"{path}[{index}]")
    else:
        yield path, config
