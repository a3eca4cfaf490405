"""What a U-Net was trained with, as far as its file and the files beside it state: noise schedule, prediction, scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.checkpoints.edm import SIGMAS, edm_betas, karras_sigmas
from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.reading import read_metadata
from ldm.checkpoints.sidecars import Sidecar, Sidecars, scale_factor_of

# Default values of diffusers' schedulers, which scheduler_config.json may leave out; those of some classes differ.
DEFAULTS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
OTHER_DEFAULTS = {
    **dict.fromkeys(
        ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
        {"beta_start": 0.00085, "beta_end": 0.012},
    ),
    **dict.fromkeys(
        ("LCMScheduler", "TCDScheduler"), {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    ),
}
CLIPPING = ("DDIMScheduler", "DDPMScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler")  # by default
# diffusers' schedulers -> the sampler here; of those marked so, the sampler stands in for another one.
SAME = {"DDIMScheduler": "ddim", "DDIMParallelScheduler": "ddim", "DPMSolverMultistepScheduler": "dpm++"}
STANDS_IN = {
    "PNDMScheduler": "ddim",
    "DDPMScheduler": "ddim",
    "DDPMParallelScheduler": "ddim",
    "EulerDiscreteScheduler": "ddim",
    "EulerAncestralDiscreteScheduler": "ddim",
    "LCMScheduler": "ddim",
    "TCDScheduler": "ddim",
    "DPMSolverSinglestepScheduler": "dpm++",
    "DPMSolverSDEScheduler": "dpm++",
    "UniPCMultistepScheduler": "dpm++",
    "DEISMultistepScheduler": "dpm++",
    "SASolverScheduler": "dpm++",
    "HeunDiscreteScheduler": "dpm++",
    "KDPM2DiscreteScheduler": "dpm++",
    "KDPM2AncestralDiscreteScheduler": "dpm++",
    "LMSDiscreteScheduler": "dpm++",
}
# Schedulers of models that are no discrete diffusion models with a schedule of betas.
OTHER_PROCESSES = ("FlowM", "EDM", "ScoreSde", "KarrasVe", "CMStochastic", "SCM", "CosineDPM")
# Options of schedulers that choose other noise levels than those of whole timesteps.
OTHER_STEPS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
PREDICTIONS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
ALL_NOISE = 0.9999  # beta above which a timestep counts as replacing all signal by noise


@dataclass(frozen=True)
class TrainedWith:
    """What a U-Net was trained with.

    Attributes:
        betas: (T,) float64, the noise schedule; None if nothing states it.
        betas_source: where it is stated.
        prediction: "epsilon", "v_prediction" or another; None if nothing states it.
        prediction_source: where it is stated.
        zero_snr_source: where it is stated that the last timestep is pure noise; empty if nothing states it.
        scale_factor: factor of the latents, a scalar.
        scale_source: where it is stated.
        sampling: what the original sampler does otherwise than those here, as a sentence.
        spacing: how the original sampler chooses its timesteps, the arguments of `ldm.models.diffusion.spacing.Spacing`; None
            if nothing states it.
    """

    betas: Tensor | None = None
    betas_source: str = ""
    prediction: str | None = None
    prediction_source: str = ""
    zero_snr_source: str = ""
    scale_factor: Tensor | None = None
    scale_source: str = ""
    sampling: str = ""
    spacing: Mapping[str, Any] | None = None

    def refuse_unsupported(self) -> None:
        """Raises CheckpointError for a U-Net that predicts something else than the noise or v, or the noise from pure noise."""
        if self.prediction not in (None, *PREDICTIONS.values()):
            raise CheckpointError(
                f"{self.prediction_source}: a model of prediction_type {self.prediction!r}, which is not supported; use a "
                "model that predicts the noise (epsilon) or v (v_prediction)"
            )
        if self.zero_snr_source and self.prediction == "epsilon":
            raise CheckpointError(
                f"{self.zero_snr_source}: a model of zero-terminal SNR that predicts the noise, from which no image follows "
                "where there is nothing but noise; use one of v-prediction"
            )


def trained_with(state: Mapping[str, Tensor], source: str, path: Path | None, sidecars: Sidecars) -> TrainedWith:
    """Collects what the tensors of a file, its metadata and the settings beside it state; the file itself goes first.

    Raises:
        CheckpointError: a value is damaged, or the scheduler is one of another kind of model.
    """
    scheduler = sidecars.scheduler
    betas, betas_source = state.get("betas"), source
    if betas is not None and betas.is_meta:  # shapes without values
        betas = None
    elif betas is None and scheduler:
        betas, betas_source = scheduler_betas(scheduler), str(scheduler.path)
    prediction, prediction_source = prediction_in_file(state, path), source
    if prediction is None and scheduler:
        prediction, prediction_source = str(scheduler.values.get("prediction_type", "epsilon")), str(scheduler.path)
    scale, scale_source = state.get("scale_factor"), source
    if scale is None and (value := scale_factor_of(sidecars.first_stage)) is not None:
        scale, scale_source = torch.tensor(value), str(sidecars.first_stage.path)
    zero_snr_source = source if "ztsnr" in state else ""
    if scheduler and scheduler.values.get("rescale_betas_zero_snr"):
        zero_snr_source = str(scheduler.path)
    elif not zero_snr_source and betas is not None and ends_in_noise(betas):
        zero_snr_source = betas_source
    prediction = PREDICTIONS.get(prediction, prediction) if prediction else None
    is_new = bool(zero_snr_source) or prediction == "v_prediction"
    return TrainedWith(
        None if betas is None else betas.double(),
        betas_source,
        prediction,
        prediction_source,
        zero_snr_source,
        scale,
        scale_source,
        describe_sampling(scheduler, adopts_spacing=is_new) if scheduler else "",
        spacing_of(scheduler) if scheduler else None,
    )


def ends_in_noise(betas: Tensor) -> bool:  # (T,)
    return bool((betas > ALL_NOISE).any())


def prediction_in_file(state: Mapping[str, Tensor], path: Path | None) -> str | None:
    """What a single file says that its U-Net predicts: a tensor called v_pred, or the metadata modelspec.prediction_type."""
    if "v_pred" in state:
        return "v_prediction"
    if "ztsnr" in state:  # such files are marked with both; from pure noise, nothing but v can be predicted
        return "v_prediction"
    return read_metadata(path).get("modelspec.prediction_type") if path is not None and path.is_file() else None


def scheduler_betas(scheduler: Sidecar) -> Tensor | None:  # -> (T,) float64
    """The noise schedule by a scheduler_config.json; None if it states none.

    Raises:
        CheckpointError: a value is not a number, the schedule is not known, or the model is not a diffusion model.
    """
    name = str(scheduler.values.get("_class_name", ""))
    if name.startswith(OTHER_PROCESSES):
        raise CheckpointError(
            f"{scheduler.path}: {name} belongs to a model of another process (such as flow matching), which is not "
            "supported; use a model that predicts the noise"
        )
    if is_edm(scheduler.values):
        return edm_betas(karras_sigmas(*(edm_value(scheduler, key) for key in SIGMAS)))
    if name not in SAME | STANDS_IN and not scheduler.values.keys() & {*DEFAULTS, "trained_betas"}:
        return None
    values = DEFAULTS | OTHER_DEFAULTS.get(name, {}) | scheduler.values
    if (trained := values.get("trained_betas")) is not None:
        if not isinstance(trained, list) or not trained or not all(is_beta(value) for value in trained):
            raise CheckpointError(
                f"{scheduler.path}: trained_betas is not a list of numbers between 0 and 1; correct it"
            )
        return torch.tensor(trained, dtype=torch.float64)
    start, end, steps, kind = (
        values[key] for key in ("beta_start", "beta_end", "num_train_timesteps", "beta_schedule")
    )
    if type(steps) is not int or not 2 <= steps <= 100_000:
        raise CheckpointError(
            f"{scheduler.path}: num_train_timesteps {steps!r} is not a number of timesteps; correct it"
        )
    for key in ("beta_start", "beta_end"):
        if not is_beta(values[key]):
            raise CheckpointError(
                f"{scheduler.path}: {key} {values[key]!r} is not a number between 0 and 1; correct it"
            )
    if kind == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    if kind == "squaredcos_cap_v2":  # Nichol & Dhariwal 2102.09672, eq. 17
        alphas = ((torch.linspace(0, 1, steps + 1, dtype=torch.float64) + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        return (1 - alphas[1:] / alphas[:-1]).clamp(max=0.999)
    raise CheckpointError(
        f"{scheduler.path}: beta_schedule {kind!r} is not known; known are linear, scaled_linear and squaredcos_cap_v2"
    )


def is_edm(values: Mapping[str, Any]) -> bool:
    """Whether a scheduler's noise levels are EDM's, which the U-Net reads as they are (Stable Video Diffusion)."""
    return bool(values.get("timestep_type") == "continuous" and values.get("use_karras_sigmas"))


def edm_value(scheduler: Sidecar, name: str) -> Any:
    """A parameter of EDM's noise levels by a scheduler_config.json. Raises CheckpointError."""
    key = "num_train_timesteps" if name == "steps" else name
    default = SIGMAS[name]
    value = scheduler.values.get(key, default)
    if type(value) not in (int, type(default)) or not 0 < value <= 100_000:
        raise CheckpointError(f"{scheduler.path}: {key} {value!r} is not a positive number; correct it")
    return value


def is_beta(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1


def spacing_of(scheduler: Sidecar) -> dict[str, Any] | None:
    """The arguments of a `Spacing` that a scheduler_config.json states for a sampler that is here; None for others.

    Raises:
        CheckpointError: a value is none that diffusers has.
    """
    values, sampler = scheduler.values, SAME.get(str(scheduler.values.get("_class_name", "")))
    if sampler is None:
        return None
    kind = values.get("timestep_spacing", "linspace" if sampler == "dpm++" else "leading")
    offset = values.get("steps_offset", 0)
    if kind not in ("leading", "linspace", "trailing"):
        raise CheckpointError(
            f"{scheduler.path}: timestep_spacing {kind!r} is not known; known are leading, linspace and trailing"
        )
    if type(offset) is not int or not 0 <= offset <= 1000:
        raise CheckpointError(f"{scheduler.path}: steps_offset {offset!r} is not a number of timesteps; correct it")
    if sampler == "dpm++":
        ends_clean = values.get("final_sigmas_type", "zero") == "zero"
    else:
        ends_clean = bool(values.get("set_alpha_to_one", True))
    return {"kind": kind, "offset": offset, "ends_clean": ends_clean, "sampler": sampler}


def describe_sampling(scheduler: Sidecar, adopts_spacing: bool) -> str:
    """What the scheduler of a scheduler_config.json does otherwise than the samplers here; empty if nothing.

    Args:
        scheduler: the file.
        adopts_spacing: whether its timesteps are visited, if its sampler is here.
    """
    values, name = scheduler.values, str(scheduler.values.get("_class_name", "its scheduler"))
    if is_edm(values) and name == "EulerDiscreteScheduler":  # whose steps are DDIM's
        return ""
    found = []
    if name not in SAME:
        found.append(f"{name} is not available here, the sampler {STANDS_IN.get(name, 'ddim')} stands in")
    if values.get("clip_sample", name in CLIPPING):
        found.append("clip_sample is true, but predicted latents are not clipped here")
    if values.get("thresholding"):
        found.append("thresholding is true, but predicted latents are not thresholded here")
    found += [f"{key} is {values[key]!r}, which is not done here" for key in OTHER_STEPS if values.get(key)]
    if not (adopts_spacing and name in SAME):
        found += describe_spacing(values)
    return f"{scheduler.path}: {'; '.join(found)}" if found else ""


def describe_spacing(values: Mapping[str, Any]) -> list[str]:
    found = []
    if values.get("steps_offset", 1) != 1:
        found.append(f"steps_offset is {values['steps_offset']!r}, but the first timestep is 1 here")
    if values.get("timestep_spacing", "leading") != "leading":
        found.append(f"timestep_spacing is {values['timestep_spacing']!r}, but timesteps are spaced as 'leading' here")
    if values.get("set_alpha_to_one"):
        found.append("set_alpha_to_one is true, but sampling ends at the first timestep here")
    return found
