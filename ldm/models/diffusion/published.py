"""Settles what a config leaves open by what the published weights state: noise schedule, scale factor, attention heads.

A value that a config states in `params` must agree with the weights. A value under `params.defaults` is open: it is used only
where the weights state nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.kinds import CONTEXTS
from ldm.checkpoints.sidecars import head_counts, read_sidecars, scale_factor_of
from ldm.checkpoints.trained_with import ALL_NOISE, TrainedWith
from ldm.models.diffusion.prediction import probe_prediction
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.models.diffusion.spacing import KINDS, Spacing
from ldm.util.config import plain
from ldm.util.errors import did_you_mean

logger = logging.getLogger(__name__)

LDM_SCHEDULE = {"timesteps": 1000, "linear_start": 0.0015, "linear_end": 0.0195, "beta_schedule": "linear"}
OPEN = (*LDM_SCHEDULE, "scale_factor", "parameterization", "rescale_betas_zero_snr")
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}  # diffusers' names -> LDM's (`parameterization`)
TOLERANCE = 1e-3  # relative, since files may store their betas in half precision


def check_defaults(defaults: Mapping[str, Any] | None) -> dict[str, Any]:
    """The values under `model.params.defaults`. Raises ValueError for a key that cannot be left open."""
    for key in defaults or {}:
        if key in OPEN:
            check_default(key, (defaults or {})[key])
        else:
            raise ValueError(
                f"model.params.defaults.{key}: only {', '.join(OPEN)} can stand there{did_you_mean(key, OPEN)}"
            )
    return dict(defaults or {})


def check_default(key: str, value: Any) -> None:
    if key == "parameterization":
        check_parameterization(value, "model.params.defaults.parameterization")
        return
    kinds = {"timesteps": int, "beta_schedule": str, "rescale_betas_zero_snr": bool}.get(key, (int, float))
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise ValueError(f"model.params.defaults.{key}: {value!r} is not a {'name' if kinds is str else 'number'}")


def check_parameterization(value: Any, key: str = "model.params.parameterization") -> None:
    """Raises ValueError unless it is 'eps' or 'v'."""
    if value not in PREDICTIONS.values():
        raise ValueError(f"{key}: {value!r} is not supported; set it to 'eps' (the noise) or 'v' (v-prediction)")


def settle_schedule(stated: Mapping[str, Any], defaults: Mapping[str, Any], trained: TrainedWith) -> NoiseSchedule:
    """The noise schedule of the weights if they state it, else that of the config, with what the U-Net predicts.

    Args:
        stated: timesteps, linear_start, linear_end, beta_schedule, parameterization, rescale_betas_zero_snr and timestep_spacing
            as the config states them; None for what it leaves open.
        defaults: their values where neither states them.
        trained: what the weights were trained with.

    Raises:
        CheckpointError: the config states something else than the weights, or the weights' schedule is damaged.
        ValueError: a value of the config is not supported.
    """
    schedule = _settle_betas(stated, defaults, trained)
    prediction = _settle_prediction(stated.get("parameterization"), defaults, trained)
    if _settle_zero_snr(stated.get("rescale_betas_zero_snr"), defaults, trained) and not schedule.ends_in_noise:
        schedule = schedule.with_zero_terminal_snr()
    if schedule.ends_in_noise and prediction == "eps":
        raise CheckpointError(
            f"{trained.zero_snr_source or 'model.params.rescale_betas_zero_snr'}: zero-terminal SNR with a U-Net that predicts "
            "the noise, from which no image follows where there is nothing but noise; it needs v-prediction (parameterization: v)"
        )
    is_new = prediction == "v" or schedule.ends_in_noise
    spacing = _settle_spacing(stated.get("timestep_spacing"), trained, is_new)
    return dataclasses.replace(schedule, prediction=prediction, spacing=spacing or schedule.spacing)


def _settle_prediction(stated: str | None, defaults: Mapping[str, Any], trained: TrainedWith) -> str:
    """'eps' or 'v'."""
    if stated is not None:
        check_parameterization(stated)
    published = PREDICTIONS.get(trained.prediction or "")
    if stated is not None and published not in (None, stated):
        raise CheckpointError(
            f"{trained.prediction_source}: the U-Net was trained for parameterization {published!r}, but the config sets "
            f"{stated!r}: remove model.params.parameterization, or set it to that value"
        )
    if published == "v":
        logger.info("v-prediction, as %s states", trained.prediction_source)
    return stated or published or defaults.get("parameterization", "eps")


def _settle_zero_snr(stated: bool | None, defaults: Mapping[str, Any], trained: TrainedWith) -> bool:
    if stated is False and trained.zero_snr_source:
        raise CheckpointError(
            f"{trained.zero_snr_source}: the model was trained with zero-terminal SNR, but the config sets "
            "rescale_betas_zero_snr to false: remove model.params.rescale_betas_zero_snr"
        )
    if trained.zero_snr_source:
        logger.info("zero-terminal SNR, as %s states", trained.zero_snr_source)
        return True
    return bool(defaults.get("rescale_betas_zero_snr") if stated is None else stated)


def _settle_spacing(stated: str | None, trained: TrainedWith, is_new: bool) -> Spacing | None:
    """The spacing of the original sampler ('published'; the default for models of v-prediction), or one by its name."""
    if stated in (None, "published"):
        return Spacing(**trained.spacing) if trained.spacing and (stated or is_new) else None
    if stated not in KINDS:
        raise ValueError(
            f"model.params.timestep_spacing: {stated!r} is not known; known are published, {', '.join(KINDS)}"
        )
    return Spacing(stated)


def _settle_betas(stated: Mapping[str, Any], defaults: Mapping[str, Any], trained: TrainedWith) -> NoiseSchedule:
    stated = {key: stated[key] for key in LDM_SCHEDULE if key in stated}
    stated = {key: value for key, value in stated.items() if value is not None}
    fallback = LDM_SCHEDULE | {key: value for key, value in defaults.items() if key in LDM_SCHEDULE}
    configured = _from_options(fallback | stated)
    betas = trained.betas
    if betas is None:
        return configured
    if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas <= 1)).all() or (betas[:-1] == 1).any():
        raise CheckpointError(f"{trained.betas_source}: its betas are not a noise schedule; the file is damaged")
    if _agree(configured.betas, betas):
        return configured
    published = {"timesteps": len(betas), "linear_start": float(betas[0]), "linear_end": float(betas[-1])}
    closed_form = None if betas[-1] > ALL_NOISE else _find_closed_form(betas)
    _refuse_others(stated, published, closed_form is not None, trained.betas_source)
    logger.info(
        "noise schedule from %s: %d timesteps, betas from %.6g to %.6g", trained.betas_source, *published.values()
    )
    return closed_form or NoiseSchedule.from_betas(betas)


def find_prediction(unet: nn.Module, trained: TrainedWith, timesteps: int, channels: int) -> TrainedWith:
    """Finds out what a U-Net of Stable Diffusion 2 predicts, where neither its file nor a file beside it states it.

    The files of its base model, which predicts the noise, and of its model for 768 pixels, which predicts v, are alike in their
    keys and shapes; one evaluation tells them apart (`prediction.probe_prediction`).

    Returns:
        `trained` with the prediction, if it had to be found out.

    Raises:
        CheckpointError: the evaluation does not tell.
    """
    weights = str(unet.weights_from or "random")
    is_open = trained.prediction is None and not weights.startswith("random")
    if not is_open or CONTEXTS.get(unet.context_dim) != "Stable Diffusion 2" or unet.in_channels != channels:
        return trained
    prediction, correlation = probe_prediction(unet, timesteps, channels)
    source = f"one evaluation of the U-Net (correlation of its output with pure noise: {correlation:.2f})"
    if prediction is None:
        raise CheckpointError(
            f"{weights}: nothing states what this U-Net of Stable Diffusion 2 predicts, and {source} does not tell; "
            "pass --prediction eps (its base model) or v (its model for 768 pixels), or set model.params.parameterization to it in "
            "a config"
        )
    logger.info("parameterization %s, by %s", prediction, source)
    name = next(name for name, ours in PREDICTIONS.items() if ours == prediction)
    return dataclasses.replace(trained, prediction=name, prediction_source=source)


def settle_scale_factor(
    stated: float | None, defaults: Mapping[str, Any], trained: TrainedWith, first_stage_source: str | None
) -> tuple[Tensor, bool]:
    """The scale factor of the latents, and whether the weights state it.

    Args:
        stated: by the config; None if it leaves it open.
        defaults: for the value where neither states it.
        trained: what the U-Net was trained with.
        first_stage_source: path of the first stage's weights, beside which its config.json may state a factor.

    Raises:
        CheckpointError: the config states another value than the weights, or the U-Net and the first stage differ.
    """
    beside = read_sidecars(first_stage_source).first_stage
    factor, source = trained.scale_factor, trained.scale_source
    if factor is not None and not factor.is_meta and not (factor.numel() == 1 and 0 < float(factor) < math.inf):
        raise CheckpointError(f"{source}: its scale_factor is not a positive number; the file is damaged")
    own = scale_factor_of(beside)
    if factor is None and own is not None:
        factor, source = torch.tensor(own), str(beside.path)
    elif factor is not None and own is not None and stated is None and not _is_close(own, float(factor)):
        raise CheckpointError(
            f"{beside.path}: scaling_factor is {own:.6g}, but the U-Net was trained with {float(factor):.6g} ({source}): "
            "use the first stage of the U-Net, or set model.params.scale_factor to the U-Net's"
        )
    if factor is None:
        value = stated if stated is not None else defaults.get("scale_factor", 1.0)
        return torch.tensor(float(value)), False
    if stated is not None and not _is_close(stated, float(factor)):
        raise CheckpointError(
            f"{source}: the U-Net was trained with scale_factor {float(factor):.6g}, but the config sets {stated}: remove "
            "model.params.scale_factor, or set it to that value"
        )
    return (factor.detach().float().clone() if stated is None else torch.tensor(float(stated))), True


def with_published_heads(unet_config: Mapping, ckpt_path: Any) -> dict:
    """The config of a U-Net with the number of heads that unet/config.json beside its weights states.

    It changes only what the config leaves open (no num_heads and no num_head_channels in `params`).
    """
    config = plain(unet_config)
    params = dict(config.get("params") or {})
    sidecar = read_sidecars(ckpt_path).unet
    if sidecar is None or params.get("num_heads", -1) != -1 or params.get("num_head_channels", -1) != -1:
        return config
    factors, channels = params.get("channel_mult", (1, 2, 4, 8)), params.get("model_channels")
    if type(channels) is not int or not isinstance(factors, (list, tuple)):
        return config  # building the U-Net then says what is wrong
    widths = [channels * factor for factor in factors]
    heads = head_counts(sidecar.values, len(widths))
    if heads is None or any(width % count for width, count in zip(widths, heads)):
        return config  # loading the weights then refuses these heads
    head_widths = {width // count for width, count in zip(widths, heads)}
    if len(set(heads)) == 1:
        params["num_heads"] = heads[0]
    elif len(head_widths) == 1:
        params["num_head_channels"] = head_widths.pop()
    else:
        return config
    logger.info("attention heads from %s: %s", sidecar.path, heads)
    return {**config, "params": params}


def _from_options(options: Mapping[str, Any]) -> NoiseSchedule:
    return NoiseSchedule.from_name(
        options["beta_schedule"], options["timesteps"], options["linear_start"], options["linear_end"]
    )


def _agree(ours: Tensor, theirs: Tensor) -> bool:
    return len(ours) == len(theirs) and torch.allclose(ours, theirs, rtol=TOLERANCE, atol=0)


def _is_close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE)


def _find_closed_form(betas: Tensor) -> NoiseSchedule | None:
    """LDM's 'linear' schedule with the fewest digits that agrees with `betas`, or None."""
    for digits in range(2, 8):
        start, end = (float(f"{float(betas[i]):.{digits}g}") for i in (0, -1))
        schedule = NoiseSchedule.linear(len(betas), start, end)
        if _agree(schedule.betas, betas):
            return schedule
    return None


def _refuse_others(stated: Mapping[str, Any], published: Mapping[str, Any], is_linear: bool, source: str) -> None:
    """Raises CheckpointError if the config states a part of the schedule that is not the weights'."""
    differing = [
        f"{key} {stated[key]} for {value:.6g}"
        for key, value in published.items()
        if key in stated and not (stated[key] == value if key == "timesteps" else _is_close(stated[key], value))
    ]
    if "beta_schedule" in stated and not is_linear:
        differing.append(
            f"beta_schedule {stated['beta_schedule']!r} for betas that are not linear in their square root"
        )
    if differing:
        raise CheckpointError(
            f"{source}: the model was trained with another noise schedule than model.params of the config "
            f"({'; '.join(differing)}): remove these keys, or set them to the values of the weights"
        )
