""""""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Sequence
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

import yaml

from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.util.errors import UserError, did_you_mean

REGIONS = ("auto", "none")
WITHIN, EVERYWHERE = "noise", "direct"  # the methods of an edit of a region and of the whole, where none is asked for
GUIDANCE = 2.0  # towards graph and style, where the model was trained for it
RANDOM = ("ddpm", "noise")  # methods whose edits differ by the seed
STEPS = {"ddim": 50, "dpm++": 10}  # of each sampler, where nothing else is asked for
FAST = ("noise", "direct")  # methods that go by dpm++ where no sampler is asked for


class Settings(NamedTuple):
    """How an edit was made, with what was chosen where nothing was asked for: the arguments of `edit`. keep: whether that
    changed anything, where it was asked for. passes: 1 where there was no style to take over."""

    method: str
    sampler: str
    steps: int
    strength: float
    graph_scale: float
    style_scale: float
    interval: tuple[float, float]
    rescale: float
    keep: bool
    margin: float
    feather: float
    passes: int
    seed: int


def default_sampler(method: str) -> str:
    """Of a method, where none is asked for: those that are named after DDIM's steps or made of them keep to these."""
    return "dpm++" if method in FAST else "ddim"


def default_guidance_scale(model: LatentDiffusion) -> float:
    """Of guidance, towards the graph as towards the style, where none is asked for."""
    return GUIDANCE if model.graph_drop and model.style_drop else 1.0
REST = "**"  # a function that has it takes any key
SAID = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", NoneType: "nothing"}


def kinds(function: Callable, without: Collection[str] = ()) -> dict[str, Any]:
    """The kind of each of the function's parameters but those `without`: as annotated, or else its default's kind."""
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names that only a type checker imports
        hints = {}
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in without]
    rest = {REST: Any} if any(p.kind is p.VAR_KEYWORD for p in parameters) else {}
    return {p.name: hints.get(p.name) or kind_of(p.default) for p in named} | rest


def takes(key: str, kinds: dict[str, Any]) -> bool:
    return key in kinds or REST in kinds


def read(words: Sequence[str], kinds: dict[str, Any], whose: str) -> dict[str, Any]:
    """'key=value' words, the values as in YAML. Raises UserError, beginning with `whose` they are, for a key that is none
    of the `kinds` or is there twice, and for a value of another kind."""
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (equals and takes(key, kinds)) or key in options:
            known = ", ".join(kinds) or "none"
            raise UserError(f"{whose}: {word!r} is no option of it; it takes {known}{did_you_mean(key, kinds)}")
        kind = kinds.get(key, Any)
        try:
            options[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"{whose}: {text!r} cannot be read as YAML; {key} takes {said(kind)}") from None
        if not fits(options[key], kind):
            raise UserError(f"{whose}: {key} takes {said(kind)}, not {text!r}")
    return options


def fits(value: Any, kind: Any) -> bool:
    """Whether a value out of YAML or JSON is of this kind; of a kind that is not known here, anything is."""
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if get_origin(kind) is tuple and Ellipsis not in parts:
        return isinstance(value, (list, tuple)) and len(value) == len(parts) and all(map(fits, value, parts))
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return kind not in SAID or type(value) is kind


def said(kind: Any) -> str:
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(said(part) for part in parts if part is not NoneType)
    if get_origin(kind) is tuple:
        return f"[{', '.join(map(said, parts))}]"
    return SAID.get(kind, "something else")


def kind_of(default: Any) -> Any:
    """A whole number as a default says no more than that a number is meant; None says nothing."""
    if isinstance(default, (tuple, list)):
        return tuple[tuple(map(kind_of, default))]
    if default is None or default is inspect.Parameter.empty:
        return Any
    return float if type(default) is int else type(default)
