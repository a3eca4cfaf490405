"""Options as data: reading, checking, the command line and the documentation of a dataclass or a function's parameters."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Optional

import pytest

from ldm.util.errors import UserError
from ldm.util.options import (
    add_arguments,
    from_mapping,
    given_values,
    has_type,
    markdown_table,
    option,
    option_types,
    parse_assignments,
    validate,
)

if TYPE_CHECKING:
    from nowhere import Unknown


@dataclass(frozen=True)
class Example:
    kind: str = option("a", "which one", choices=("alpha", "a"))
    count: int | None = option(None, "how many", minimum=1, default_text="as many as fit")
    share: float = option(0.5, "share of the whole", above=0, maximum=1)
    interval: tuple[float, float] = option((0.0, 1.0), "from and to", minimum=0, maximum=1, metavar=("LOW", "HIGH"))
    fast: bool = option(False, "less work")


def annotated(
    model,
    count: int,
    name: str | None = None,
    share: Optional[float] = None,  # noqa: UP045  as users still write it
    on: bool = False,
    pair: tuple[float, float] = (0, 1),
    *,
    last: int = 3,
):
    """Has a type for each parameter."""


def plain(model, count=3, name="a", share=0.5, on=False, pair=(0, 1), anything=None):
    """Has types by its defaults alone."""


def unresolvable(model: Unknown, share=0.5):
    """Has an annotation that only a type checker can resolve."""


# A dataclass of options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, word",
    [
        ({"kind": "b"}, "kind"), ({"kind": "alph"}, "did you mean 'alpha'"), ({"count": 0}, "count"), ({"share": 0.0}, "more than 0"),
        ({"share": 1.5}, "at most 1"), ({"share": math.nan}, "share"), ({"interval": (0.5, 2.0)}, "interval"),
    ],
)  # fmt: skip
def test_a_value_outside_of_its_choices_or_bounds_is_refused(values, word):
    with pytest.raises(UserError, match=word):
        validate(Example(**values))


@pytest.mark.parametrize("values", [{}, {"kind": "alpha", "count": 1, "share": 1.0, "interval": (0.0, 0.5)}])
def test_values_within_their_bounds_are_accepted(values):
    validate(Example(**values))


def test_json_becomes_an_instance_and_lists_become_tuples():
    assert from_mapping(Example, {"interval": [0, 1], "count": None, "fast": True}) == Example(
        interval=(0, 1), fast=True
    )


@pytest.mark.parametrize(
    "values, word",
    [({"cuont": 1}, "did you mean 'count'"), ({"fast": 1}, "true or false"), ({"interval": [1]}, "number")],
)
def test_json_with_an_unknown_key_or_a_wrong_type_is_refused(values, word):
    with pytest.raises(UserError, match=word):
        from_mapping(Example, values)


def test_a_command_line_has_an_option_for_each_field_and_tells_which_were_given():
    parser = argparse.ArgumentParser()
    add_arguments(parser, Example)
    assert given_values(parser.parse_args([]), Example) == {}
    words = ["--kind", "alpha", "--count", "3", "--interval", "0", "0.5", "--fast"]
    given = given_values(parser.parse_args(words), Example)
    assert given == {"kind": "alpha", "count": 3, "interval": (0.0, 0.5), "fast": True}
    assert "as many as fit" in parser.format_help()
    for wrong in (["--kind", "b"], ["--count", "x"], ["--share", "nan"], ["--interval", "1"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)


def test_the_documentation_has_a_row_for_each_field():
    rows = markdown_table(Example).splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [f"--{field.name}" for field in fields(Example)]
    assert "alpha" in rows[0] and "as many as fit" in rows[1] and "at most 1" in rows[2]


# The parameters of a function ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [annotated, plain])
def test_assignments_are_read_by_the_types_of_the_parameters(function):
    words = ["count=7", "name=ddim", "share=2", "on=true", "pair=[0, 0.5]"]
    expected = {"count": 7, "name": "ddim", "share": 2, "on": True, "pair": [0, 0.5]}
    assert parse_assignments(words, option_types(function, ["model"]), "it") == expected


@pytest.mark.parametrize("function", [annotated, plain])
@pytest.mark.parametrize(
    "word, takes",
    [("count=x", "number"), ("count=true", "number"), ("name=3", "a word"), ("share=half", "a number"),
     ("share=.inf", "a number"), ("on=1", "true or false"), ("pair=0.5", "number"), ("pair=[0]", "number"),
     ("pair=[0, a]", "number")],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_with_the_right_type(function, word, takes):
    with pytest.raises(UserError, match=f"{word.split('=')[0]} takes.*{takes}"):
        parse_assignments([word], option_types(function, ["model"]), "it")


@pytest.mark.parametrize("word", ["pair=[0,", "name={", "name=a: b: c"])
def test_invalid_yaml_is_refused_in_one_sentence(word):
    with pytest.raises(UserError, match="YAML") as caught:
        parse_assignments([word], option_types(plain), "it")
    assert "\n" not in str(caught.value)


def test_an_optional_value_may_be_empty_and_a_whole_number_has_no_decimal_point():
    types = option_types(annotated, ["model"])
    assert parse_assignments(["name=", "share="], types, "it") == {"name": None, "share": None}
    for word in ("count=", "count=2.5"):
        with pytest.raises(UserError, match="whole number"):
            parse_assignments([word], types, "it")


def test_a_default_that_is_a_whole_number_takes_any_number_and_a_default_of_none_anything():
    values = parse_assignments(["count=2.5", "anything=[a]"], option_types(plain), "it")
    assert values == {"count": 2.5, "anything": ["a"]}


def test_options_are_the_named_parameters():
    assert list(option_types(annotated, ["model"])) == ["count", "name", "share", "on", "pair", "last"]
    assert option_types(unresolvable, ["model"]) == {"share": float}
    for word in ("model=1", "count", "count=1 count=2"):
        with pytest.raises(UserError):
            parse_assignments(word.split(), option_types(annotated, ["model"]), "it")


def test_a_function_with_keyword_arguments_takes_any_key_and_its_own_by_their_types():
    def function(model, share=0.5, **rest):
        """Passes on what it does not know."""

    values = parse_assignments(["name=[1]", "other=x"], option_types(function), "it")
    assert values == {"name": [1], "other": "x"}
    for word in ("share=half", "name"):
        with pytest.raises(UserError):
            parse_assignments([word], option_types(function), "it")


def test_a_tuple_of_any_length_takes_any_list():
    assert has_type([1, 2, 3], tuple[float, ...])
