from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import pytest

from ldm.editing.options import fits, kinds, read
from ldm.util.errors import UserError

if TYPE_CHECKING:
    from nowhere import Unknown


def annotated(
    model, count: int, name: str | None = None, share: Optional[float] = None,  # noqa: UP045  as others still write it
    on: bool = False, pair: tuple[float, float] = (0, 1), *, last: int = 3
):  # fmt: skip
    """Takes every kind."""


def plain(model, count=3, name="a", share=0.5, on=False, pair=(0, 1), anything=None):
    """Says kinds by its defaults alone."""


def unresolvable(model: Unknown, share=0.5):
    """Has a name that only a type checker knows."""


@pytest.mark.parametrize("function", [annotated, plain])
def test_values_are_read_as_their_kinds(function):
    words = ["count=7", "name=ddim", "share=2", "on=true", "pair=[0, 0.5]"]
    expected = {"count": 7, "name": "ddim", "share": 2, "on": True, "pair": [0, 0.5]}
    assert read(words, kinds(function, ["model"]), "it") == expected


@pytest.mark.parametrize("function", [annotated, plain])
@pytest.mark.parametrize(
    "word, takes",
    [("count=x", "number"), ("count=true", "number"), ("name=3", "a word"), ("share=half", "a number"),
     ("share=.inf", "a number"), ("on=1", "true or false"), ("pair=0.5", r"\[a number, a number\]"),
     ("pair=[0]", r"\[a number, a number\]"), ("pair=[0, a]", r"\[a number, a number\]")],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_with_what_is_taken(function, word, takes):
    with pytest.raises(UserError, match=f"^it: {word.split('=')[0]} takes a?.*{takes}, not "):
        read([word], kinds(function, ["model"]), "it")


@pytest.mark.parametrize("word", ["pair=[0,", "name={", "name=a: b: c"])
def test_what_is_no_yaml_is_refused_in_one_sentence(word):
    with pytest.raises(UserError, match="cannot be read as YAML") as caught:
        read([word], kinds(plain), "it")
    assert "\n" not in str(caught.value)


def test_what_may_be_none_may_be_left_empty_and_a_whole_number_is_none_with_a_point():
    takes = kinds(annotated, ["model"])
    assert read(["name=", "share="], takes, "it") == {"name": None, "share": None}
    for word in ("count=", "count=2.5"):
        with pytest.raises(UserError, match="takes a whole number"):
            read([word], takes, "it")


def test_a_default_that_is_a_whole_number_takes_any_number_and_one_of_none_takes_anything():
    assert read(["count=2.5", "anything=[a]"], kinds(plain), "it") == {"count": 2.5, "anything": ["a"]}


def test_options_are_the_parameters_with_names_of_their_own():
    assert list(kinds(annotated, ["model"])) == ["count", "name", "share", "on", "pair", "last"]
    assert kinds(unresolvable, ["model"]) == {"share": float}
    for word in ("model=1", "count"):
        with pytest.raises(UserError, match="is no option of it; it takes count, name"):
            read([word], kinds(annotated, ["model"]), "it")
    with pytest.raises(UserError, match="is no option of it; it takes none"):
        read(["a=1"], {}, "it")


def test_what_takes_any_key_takes_it_with_any_value_but_its_own_as_their_kinds():
    def function(model, share=0.5, **rest):
        """Hands on what it does not know."""

    assert read(["name=[1]", "other=x"], kinds(function), "it") == {"name": [1], "other": "x"}
    for word in ("share=half", "name"):
        with pytest.raises(UserError):
            read([word], kinds(function), "it")


def test_a_tuple_of_any_length_takes_any_list():
    assert fits([1, 2, 3], tuple[float, ...])
