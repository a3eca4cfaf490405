"""Loads published weights into this project's modules by key.

The keys of the file are renamed to LDM's layout and matched with those of the module. A key on either side without a
counterpart needs a reason from the tables below, or loading fails. Settings beside the weights must agree with the module.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ldm.checkpoints.diffusers_layout import is_diffusers, to_ldm_unet, to_ldm_vae
from ldm.checkpoints.kinds import OF_CLIPS, SUPPORTED, describe_kind, is_refused, remedy
from ldm.checkpoints.reading import PARTS, CheckpointError, describe_predicates, list_names, read_state_dict
from ldm.checkpoints.sidecars import differences, read_sidecars
from ldm.checkpoints.trained_with import TrainedWith, trained_with
from ldm.checkpoints.wrappers import unwrap_keys

logger = logging.getLogger(__name__)

# Pattern of a key in the file -> why it may stay unused.
UNUSED_KEYS = {
    r"(^|\.)loss\.": "training loss",
    r"^model_ema\.": "EMA of other parts, or its counters",
    r"^(betas|\w*alphas_cumprod(_prev)?|posterior_\w+|lvlb_weights|logvar|denoiser\.(log_)?sigmas)$": "noise schedule",
    r"^scale_factor$": "scale factor of the latents",
    r"^(v_pred|ztsnr)$": "marks of what the model predicts",
    r"^(model\.diffusion_model|\w+_stage_model|conditioner|motion_adapter)\.": "another part of the model",
    r"^context_local_mlp\.": "projection for the graph encoder that it was trained with",
    r"^null_(tokens|style)$": "null conditioning of its training run",
}
# Keys of a module that published files lack, or hold in another shape: adapters trained here, and an unused buffer.
OPTIONAL_KEYS = (
    r"(^|\.)(film|lora_A|lora_B|box_bias|to_[kv]_graph|context_local_mlp|context_global_mlp)(\.|$)",
    r"^(name|attribute|predicate)\.meaning\.weight$",  # open words of the graph encoder
    r"^logit_scale$",
)
# Prefixes of what the checkpoints of a graph encoder's pre-training hold besides the encoder: SGDiff's sip_*.pt and those
# of ldm.models.pretraining.
PRETRAINING_PREFIXES = ("clip_model.", "image_model.", "decoder.", "to_image_space.", "logit_scale")

NEW = "new here"
OTHER_SHAPE = "other shape in the file"
IGNORED = "ignored by prefix"
REPLACED_BY_EMA = "replaced by its EMA"


@dataclass(frozen=True)
class LoadReport:
    """What was loaded into a module, and what was not.

    Attributes:
        part: a key of PARTS.
        source: path of the file, or "memory".
        layout: "LDM" or "diffusers".
        loaded: keys of the module whose values come from the file.
        ema_count: how many of them are the exponential moving average (EMA) of the parameter.
        not_loaded: key of the module that keeps its initial value -> the reason.
        unused: key of the file that was not loaded -> the reason.
        lost: keys of `not_loaded` for which the file holds a value that this module could not or must not take.
        trained_with: of a U-Net, the noise schedule, prediction and scale factor that its file or the files beside it state.
    """

    part: str
    source: str
    layout: str
    loaded: tuple[str, ...]
    ema_count: int
    not_loaded: Mapping[str, str]
    unused: Mapping[str, str]
    lost: tuple[str, ...] = ()
    trained_with: TrainedWith = TrainedWith()

    def __str__(self) -> str:
        """One line: the file, its layout, the number of tensors, and how many keys were left on either side and why."""
        ema = {0: "no EMA", len(self.loaded): "EMA weights"}.get(self.ema_count, f"{self.ema_count} from EMA")
        line = f"{self.part}: {len(self.loaded)} tensors from {self.source} ({self.layout} layout, {ema})"
        for title, reasons in (("not loaded", self.not_loaded), ("unused keys", self.unused)):
            if reasons:
                counts = ", ".join(f"{count} ({reason})" for reason, count in Counter(reasons.values()).items())
                line += f"; {title}: {counts}"
        return line

    def details(self) -> str:
        """The long form: every key that was not loaded or not used, grouped by the reason."""
        lines = [f"{self.part}: keys loaded from {self.source}: {', '.join(self.loaded)}"]
        for title, reasons in (("not loaded", self.not_loaded), ("unused", self.unused)):
            for reason in dict.fromkeys(reasons.values()):
                keys = [key for key, why in reasons.items() if why == reason]
                lines.append(f"    {title}, {reason}: {', '.join(keys)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class KeyMatch:
    """How the keys of a state dict and of a module correspond."""

    tensors: dict[str, Tensor]  # key of the module -> value in the file, of the same shape
    ema_count: int  # how many of them are moving averages
    not_loaded: dict[str, str]  # key of the module -> reason
    unused: dict[str, str]  # key of the file -> reason
    lost: list[str]  # see LoadReport
    missing: list[str]  # keys of the module without a reason
    mismatched: list[str]  # the same, with both shapes
    unexpected: list[str]  # keys of the file without a reason


def load_part(
    module: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    part: str,
    optional: Iterable[str] = OPTIONAL_KEYS,
    ignore: Iterable[str] = (),
    prefer_ema: bool = True,
    name: str | None = None,
) -> LoadReport:
    """Loads a part of a checkpoint into `module`, sets `module.weights_from`, and logs what was loaded.

    A module on the meta device receives the file's tensors themselves, without a copy; keys that are not loaded stay on
    that device.

    Args:
        module: has LDM's keys; frozen and trainable parameters are treated alike.
        source: a path (see `read_state_dict`) or a state dict, of the whole model or of this part alone.
        part: "unet", "first_stage" or "cond_stage".
        optional: regular expressions of the module's keys that the file may lack, or hold in another shape.
        ignore: prefixes of keys to leave out on either side, LDM's `ignore_keys`.
        prefer_ema: load the exponential moving average of a parameter where the file has one.
        name: the source for messages and `module.weights_from` (default: the path, or "memory" for a state dict).

    Raises:
        CheckpointError: the file cannot be read, or keys are missing, unexpected or of another shape without a reason in
            OPTIONAL_KEYS or UNUSED_KEYS. The module is unchanged then.
    """
    name = name or ("memory" if isinstance(source, Mapping) else str(source))
    published = PARTS[part]
    state = source if isinstance(source, Mapping) else read_state_dict(source, part)
    state = unwrap_keys(state, published.prefix, published.folders)
    sidecars = read_sidecars(source)
    path = None if isinstance(source, Mapping) else Path(source)
    trained = trained_with(state, name, path, sidecars) if part == "unet" else TrainedWith()
    kind = describe_kind(own_keys(state, published.prefix), part)
    layout = "diffusers" if is_diffusers(state) else "LDM"
    if layout == "diffusers":
        state = to_ldm_unet(state) if part == "unet" else to_ldm_vae(state)
    match = match_keys(state, module.state_dict(), published.prefix, tuple(optional), tuple(ignore), prefer_ema)
    refuse_mismatch(match, part, name, differences(module, sidecars.of_part(part)), kind)
    trained.refuse_unsupported()
    assign_tensors(module, match.tensors)
    module.weights_from = name  # pyright: ignore[reportArgumentType] - torch's stubs allow tensors and modules only
    report = LoadReport(
        part,
        name,
        layout,
        tuple(match.tensors),
        match.ema_count,
        match.not_loaded,
        match.unused,
        tuple(match.lost),
        trained,
    )
    log_report(report, {key for key, _ in module.named_parameters()})
    return report


def own_keys(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix` without it; all of a file of one part, which has no such prefix."""
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return own or dict(state)


def match_keys(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    prefix: str,
    optional: tuple[str, ...],
    ignore: tuple[str, ...],
    prefer_ema: bool,
) -> KeyMatch:
    """Matches the keys of a file in LDM's layout (`state`) with those of a module (`expected`).

    `prefix` stands before the module's keys in a file of the whole model, and is absent in a file of the part alone.
    """
    averages = tuple(key + separator for key, separator in zip(ema_keys(prefix.rstrip(".")), ("/", "")))
    prefix = prefix if any(key.startswith((prefix, *averages)) for key in state) else ""
    ema = {key: found for key in expected if (found := find_ema_key(prefix + key, state))} if prefer_ema else {}
    sources = {key: ema.get(key, prefix + key) for key in expected}
    tensors, not_loaded, lost, missing, mismatched = {}, {}, [], [], []
    for key, target in expected.items():
        value, is_optional = state.get(sources[key]), matches_any(optional, key)
        if key.startswith(ignore):
            not_loaded[key] = IGNORED
            if value is not None and not is_optional:
                lost.append(key)
        elif value is not None and value.shape == target.shape:
            tensors[key] = value
        elif value is None:
            if is_optional:
                not_loaded[key] = NEW
            else:
                missing.append(key)
        elif is_optional:
            not_loaded[key] = OTHER_SHAPE
            lost.append(key)
        else:
            mismatched.append(f"{key} {format_shape(value)} for {format_shape(target)}")

    used = {sources[key] for key in tensors}
    reasons = {key: REPLACED_BY_EMA for key in tensors} | dict.fromkeys(expected.keys() - tensors.keys(), OTHER_SHAPE)
    reasons |= not_loaded
    unused = {key: explain_unused(key.removeprefix(prefix), reasons, ignore) for key in state if key not in used}
    return KeyMatch(
        tensors,
        sum(key in ema for key in tensors),
        not_loaded,
        {key: reason for key, reason in unused.items() if reason},
        lost,
        missing,
        mismatched,
        [key for key, reason in unused.items() if reason is None],
    )


def explain_unused(key: str, reasons: Mapping[str, str], ignore: tuple[str, ...]) -> str | None:
    """Why a key of the file is not loaded, or None if it is unexpected; `reasons` holds those of the module's own keys."""
    if key in reasons:
        return reasons[key]
    if key.startswith(ignore):
        return IGNORED
    return next((reason for pattern, reason in UNUSED_KEYS.items() if re.search(pattern, key)), None)


def refuse_mismatch(
    match: KeyMatch, part: str, name: str, settings: Iterable[str] = (), kind: str | None = None
) -> None:
    """Raises CheckpointError if the file holds nothing of the part, or if keys or settings differ without a reason.

    Args:
        match: the keys.
        part: a key of PARTS.
        name: the source, for the message.
        settings: what the module and the settings beside the weights disagree on.
        kind: what the weights are, if this is one of the known kinds; it explains a mismatch.
    """
    complaints = {"missing": match.missing, "of another shape": match.mismatched, "unexpected": match.unexpected}
    found = "; ".join(f"{len(keys)} {what}: {list_names(keys)}" for what, keys in complaints.items() if keys)
    if is_refused(kind):
        raise CheckpointError(f"{name}: this is {kind}, which is not supported; {SUPPORTED}")
    if kind and (found or not match.tensors):
        why = f" ({found})" if found and kind in OF_CLIPS else ""
        raise CheckpointError(f"{name}: this is {kind}; it does not fit the {part} of the config{why}; {remedy(kind)}")
    if not match.tensors:
        raise CheckpointError(f"{name}: holds no weights of the {part}; name {PARTS[part].source}")
    if other := describe_vocabulary(match.mismatched):
        raise CheckpointError(f"{name}: {other}")
    if found:
        raise CheckpointError(
            f"{name}: does not fit the {part} of the config ({found}); use the config of these weights"
        )
    if settings := list(settings):
        raise CheckpointError(
            f"{name}: the settings beside the weights differ from the {part} of the config ({'; '.join(settings)}); "
            "use the config of these weights"
        )


def describe_vocabulary(mismatched: Iterable[str]) -> str | None:
    """Names a graph encoder's vocabulary if the embedding tables of its words have another length than the config says."""
    pattern = re.compile(r"(obj_embeddings|pred_embeddings|name|predicate)\.weight (\d+)x(\d+) for (\d+)x(\d+)")
    found = [match.groups() for line in mismatched if (match := pattern.fullmatch(line))]
    sizes = {table: (int(stored), int(wanted)) for table, stored, dim, wanted, width in found if dim == width}
    words = []
    for table, (stored, wanted) in sizes.items():
        if table in ("pred_embeddings", "predicate"):
            words.append(f"{describe_predicates(stored)}, where the config's num_preds is {wanted}")
        else:
            row = table == "obj_embeddings"  # the published table has one unused row more
            words.append(f"{stored - row} objects, where the config's num_objs is {wanted - row}")
    if not words:
        return None
    return (
        f"its graph encoder was trained with another vocabulary: {'; '.join(words)}; ids would mean other words, so use "
        "the vocabulary and the config that it was trained with"
    )


def assign_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies the tensors into the module; a module on the meta device takes them as they are, in its own precision."""
    on_meta = any(parameter.is_meta for parameter in module.parameters())
    if on_meta:
        expected = module.state_dict()
        tensors = {key: value.to(expected[key].dtype) for key, value in tensors.items()}
    module.load_state_dict(tensors, strict=False, assign=on_meta)


def log_report(report: LoadReport, parameters: Collection[str]) -> None:
    """Logs the short form (INFO), the long form (DEBUG), and warnings.

    The warnings name weights of the file that were lost, parameters without a moving average where others have one, and what
    the model's original sampler does otherwise.
    """
    logger.info("%s", report)
    logger.debug("%s", report.details())
    averaged = sum(key in parameters for key in report.loaded)
    if 0 < report.ema_count < averaged:
        logger.warning(
            "%s: only %d of %d parameters have a moving average in %s; the others are loaded as they are",
            report.part,
            report.ema_count,
            averaged,
            report.source,
        )
    if report.trained_with.sampling:
        logger.info("%s", report.trained_with.sampling)
    for reason in dict.fromkeys(report.not_loaded[key] for key in report.lost):
        keys = [key for key in report.lost if report.not_loaded[key] == reason]
        logger.warning(
            "%s: %s of %s not loaded (%s), initial values are kept",
            report.part,
            list_names(keys),
            report.source,
            reason,
        )


def find_ema_key(key: str, state: Mapping[str, Tensor]) -> str | None:
    """The key under which `state` holds the moving average of a parameter of the whole model, LitEma's if both exist."""
    return next((name for name in reversed(ema_keys(key)) if name in state), None)


def ema_keys(key: str) -> tuple[str, str]:
    """Keys of a parameter's moving average in a checkpoint of this project, and in one of LDM.

    For model.diffusion_model.out.0.bias: model_ema.model/diffusion_model/out/0/bias (ldm.modules.ema) and
    model_ema.diffusion_modelout0bias (LDM's LitEma).
    """
    return "model_ema." + key.replace(".", "/"), "model_ema." + key.removeprefix("model.").replace(".", "")


def matches_any(patterns: Iterable[str], key: str) -> bool:
    return any(re.search(pattern, key) for pattern in patterns)


def format_shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
