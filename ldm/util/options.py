"""Options as data: one dataclass of fields with help texts and bounds makes the command line, the checks and the docs.

    @dataclass(frozen=True)
    class SampleOptions:
        steps: int = option(50, "steps of the sampler", minimum=1)

`add_arguments` turns such a class into command-line options, `validate` checks an instance, `from_mapping` reads one from
JSON, `markdown_table` documents it. `option_types` and `parse_assignments` do the same for the keyword parameters of any
function, such as an editor that a user brings to the benchmark.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from ldm.util.cli import finite
from ldm.util.errors import UserError, did_you_mean

ANY_KEY = "**"  # stands for the keyword parameters that a function with **kwargs takes
TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", NoneType: "nothing"}

Options = TypeVar("Options")


def option(
    default: Any,
    help: str,
    choices: Sequence[str] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    default_text: str | None = None,
    metavar: str | tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with what the command line, the checks and the docs need to know.

    Args:
        minimum, maximum: bounds, inclusive; for a tuple, of each element.
        above: lower bound, exclusive.
        default_text: describes the default in help texts, where it is chosen at run time (`default` is then None).
    """
    metadata = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "default_text": default_text or _as_text(default),
        "metavar": metavar,
    }
    return dataclasses.field(default=default, metadata=metadata)


def add_arguments(
    parser: argparse._ActionsContainer, options_class: type, names: Collection[str] | None = None
) -> None:
    """Adds an option --field-name for each field (of `names`, if given). What is not on the command line stays None."""
    types = get_type_hints(options_class)
    for field in dataclasses.fields(options_class):
        if names is not None and field.name not in names:
            continue
        kind, metadata = _without_none(types[field.name]), field.metadata
        settings: dict[str, Any] = {
            "help": f"{metadata['help']} (default: {metadata['default_text']})",
            "default": None,
        }
        if kind is bool:
            settings |= {"action": "store_true"}
        elif get_origin(kind) is tuple:
            settings |= {"type": finite, "nargs": len(get_args(kind)), "metavar": metadata["metavar"]}
        else:
            settings |= {"type": finite if kind is float else kind, "choices": metadata["choices"]}
            settings |= {"metavar": metadata["metavar"]} if metadata["metavar"] else {}
        parser.add_argument(f"--{field.name.replace('_', '-')}", **settings)


def given_values(arguments: argparse.Namespace, options_class: type) -> dict[str, Any]:
    """The fields that were given on the command line, by name."""
    values = {field.name: getattr(arguments, field.name, None) for field in dataclasses.fields(options_class)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v is not None}


def from_mapping(options_class: type[Options], values: Mapping[str, Any]) -> Options:
    """An instance from parsed JSON or YAML. Raises UserError for an unknown key, a wrong type or a value out of bounds."""
    types = option_types(options_class)
    for key, value in values.items():
        if key not in types:
            raise UserError(f"unknown option {key!r}{did_you_mean(key, types)}")
        if not has_type(value, types[key]):
            raise UserError(f"{key} takes {describe_type(types[key])}, not {json.dumps(value)}").coded(
                "option_type", option=key, value=json.dumps(value)
            )
    return options_class(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def validate(options: Any) -> None:
    """Checks each field of an options dataclass against its choices and bounds. Raises UserError."""
    for field in dataclasses.fields(options):
        value, limits = getattr(options, field.name), field.metadata
        if value is None:
            continue
        if limits["choices"] and value not in limits["choices"]:
            known = ", ".join(limits["choices"])
            raise UserError(
                f"{field.name} {value!r}: choose one of {known}{did_you_mean(value, limits['choices'])}"
            ).coded("option_choice", option=field.name, value=str(value), choices=known)
        for number in value if isinstance(value, (tuple, list)) else [value]:
            if not _within(number, limits):
                raise UserError(f"{field.name} {_as_text(value)}: must be {_bounds_text(limits)}").coded(
                    "option_range", option=field.name, value=_as_text(value), bounds=_bounds_signs(limits)
                )


def markdown_table(options_class: type) -> str:
    """A table of the options for the documentation."""
    types = get_type_hints(options_class)
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(options_class):
        limits = field.metadata
        kind = " \\| ".join(limits["choices"]) if limits["choices"] else describe_type(types[field.name])
        meaning = limits["help"] + (f"; {bounds}" if (bounds := _bounds_text(limits)) else "")
        rows.append(f"| `--{field.name.replace('_', '-')}` | {kind} | {limits['default_text']} | {meaning} |")
    return "\n".join(rows) + "\n"


def option_types(function: Callable, without: Collection[str] = ()) -> dict[str, Any]:
    """Type of each named parameter of a function or dataclass, from its annotation or else from its default."""
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names that only a type checker imports
        hints = {}
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in without]
    any_key = {ANY_KEY: Any} if any(p.kind is p.VAR_KEYWORD for p in parameters) else {}
    return {p.name: hints.get(p.name) or _type_of_default(p.default) for p in named} | any_key


def accepts(key: str, types: Mapping[str, Any]) -> bool:
    """Whether a function with these `option_types` takes the keyword."""
    return key in types or ANY_KEY in types


def parse_assignments(words: Sequence[str], types: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Parses 'key=value' words, with values as in YAML.

    Args:
        types: the result of `option_types`.
        owner: whose options these are; begins each message.

    Raises:
        UserError: a key that is unknown or repeated, or a value of the wrong type.
    """
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (equals and accepts(key, types)) or key in options:
            known = ", ".join(types) or "none"
            raise UserError(f"{owner}: {word!r} is not one of its options; it takes {known}{did_you_mean(key, types)}")
        kind = types.get(key, Any)
        try:
            options[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"{owner}: {text!r} is not valid YAML; {key} takes {describe_type(kind)}") from None
        if not has_type(options[key], kind):
            raise UserError(f"{owner}: {key} takes {describe_type(kind)}, not {text!r}")
    return options


def has_type(value: Any, kind: Any) -> bool:
    """Whether a value from YAML or JSON has this type. Types that YAML cannot express accept anything."""
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(has_type(value, part) for part in parts)
    if get_origin(kind) is tuple and Ellipsis not in parts:
        return isinstance(value, (list, tuple)) and len(value) == len(parts) and all(map(has_type, value, parts))
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return kind not in TYPE_NAMES or type(value) is kind


def describe_type(kind: Any) -> str:
    """A type in words, such as 'a whole number'."""
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(describe_type(part) for part in parts if part is not NoneType)
    if get_origin(kind) is tuple:
        return f"[{', '.join(map(describe_type, parts))}]"
    return TYPE_NAMES.get(kind, "something else")


def _type_of_default(default: Any) -> Any:
    """A default that is a whole number only says that a number is meant; None says nothing."""
    if isinstance(default, (tuple, list)):
        return tuple[tuple(map(_type_of_default, default))]
    if default is None or default is inspect.Parameter.empty:
        return Any
    return float if type(default) is int else type(default)


def _without_none(kind: Any) -> Any:
    parts = [part for part in get_args(kind) if part is not NoneType]
    return parts[0] if get_origin(kind) in (Union, UnionType) else kind


def _within(number: float, limits: Mapping[str, Any]) -> bool:
    """Whether each bound holds; never for NaN."""
    low, high, above = limits["minimum"], limits["maximum"], limits["above"]
    return (low is None or number >= low) and (high is None or number <= high) and (above is None or number > above)


def _bounds_text(limits: Mapping[str, Any]) -> str:
    words = (("above", "more than"), ("minimum", "at least"), ("maximum", "at most"))
    return " and ".join(f"{word} {limits[key]:g}" for key, word in words if limits[key] is not None)


def _bounds_signs(limits: Mapping[str, Any]) -> str:
    signs = (("above", ">"), ("minimum", "≥"), ("maximum", "≤"))
    return ", ".join(f"{sign} {limits[key]:g}" for key, sign in signs if limits[key] is not None)


def _as_text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(map(_as_text, value))
    return {None: "none", False: "off", True: "on"}[value] if value is None or isinstance(value, bool) else f"{value}"
