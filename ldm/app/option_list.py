"""The options of edits and of sampling, as the page shows them: made from the dataclasses, with their help texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from ldm.app.errors import RequestError
from ldm.app.sampling import CANVAS_OPTIONS, default_values
from ldm.editing.options import EditOptions
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.sampling.options import SampleOptions
from ldm.util.errors import did_you_mean
from ldm.util.options import from_mapping

MAIN = ("seed", "steps", "graph_scale", "style_scale", "strength", "keep")  # in sight; the others are folded away
# Where users of Gradio and ComfyUI know another word than the option's own name.
LABELS = {"graph_scale": "CFG scale (graph)", "style_scale": "CFG scale (style)", "strength": "Denoise strength"}
TYPES = {bool: "boolean", int: "integer", float: "number", str: "text"}
TEXT_OPTIONS = ("text_scale", "caption", "negative", "steer", "steer_peak")  # for models that read text


def edit_options(model: LatentDiffusion) -> list[dict]:
    """The options of an edit with this model; a default of the model's own stands in `default_text`."""
    entries = [each for each in _entries(EditOptions) if model.text_stage_model or each["name"] not in TEXT_OPTIONS]
    return [_with_default(each, model.edit_defaults) for each in entries]


def canvas_options(model: LatentDiffusion) -> list[dict]:
    """The options of a picture that is sampled from a graph alone."""
    seed = [each for each in _entries(EditOptions) if each["name"] == "seed"]
    others = [each for each in _entries(SampleOptions) if each["name"] in CANVAS_OPTIONS]
    return seed + [_with_default(each, default_values(model, {})) for each in others]


def check_options(canvas: bool, given: Mapping[str, Any]) -> None:
    """Checks options that a user has set, of an edit or of a canvas. Raises UserError."""
    if canvas:
        for name in given:
            if name not in (*CANVAS_OPTIONS, "seed"):
                raise RequestError(f"unknown option {name!r} of a sampled picture{did_you_mean(name, CANVAS_OPTIONS)}")
        from_mapping(SampleOptions, {name: value for name, value in given.items() if name != "seed"})
    from_mapping(EditOptions, given)


def check_sweep(canvas: bool, option: str, values: Iterable[Any]) -> None:
    """Checks what is swept. Raises UserError for an option that is not swept, or a value that is not valid."""
    known = [each["name"] for each in _entries(EditOptions) if each["sweep"]]
    known = [name for name in known if not canvas or name in CANVAS_OPTIONS]
    if option not in known:
        raise RequestError(f"sweep: {option!r} is not one of {', '.join(known)}{did_you_mean(option, known)}")
    for value in values:
        check_options(canvas, {option: value})


def _entries(kind: type) -> list[dict]:
    types = get_type_hints(kind)
    return [_entry(field, types[field.name]) for field in dataclasses.fields(kind)]


def _entry(field: dataclasses.Field, hint: Any) -> dict:
    limits = field.metadata
    parts = [part for part in get_args(hint) if part is not type(None)]
    optional = type(None) in get_args(hint)
    plain = parts[0] if optional else hint
    kind = "choice" if limits["choices"] else "numbers" if get_origin(plain) is tuple else TYPES[plain]
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return {
        "name": field.name,
        "flag": f"--{field.name.replace('_', '-')}",
        "label": LABELS.get(field.name, field.name.replace("_", " ").capitalize()),
        "group": "main" if field.name in MAIN else "more",
        "type": kind,
        "optional": optional,
        "default": default,
        "default_text": limits["default_text"],
        "help": limits["help"],
        "choices": limits["choices"] and list(limits["choices"]),
        "minimum": limits["minimum"],
        "maximum": limits["maximum"],
        "above": limits["above"],
        "metavar": list(limits["metavar"]) if isinstance(limits["metavar"], tuple) else limits["metavar"],
        "sweep": kind in ("integer", "number") and field.name != "seed",
    }


def _with_default(entry: dict, defaults: dict) -> dict:
    """The entry with the model's default, if it has one for this option."""
    if entry["name"] not in defaults:
        return entry
    value = defaults[entry["name"]]
    text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return entry | {"optional": True, "default": None, "default_text": text}
