"""What the page says in each language: every sentence of the server that has a code is in both tables, with what fills it."""

import ast
import re
from pathlib import Path

import pytest

import ldm
from ldm.app.sampling import CANVAS_OPTIONS
from ldm.editing.options import EditOptions
from ldm.sampling.options import SampleOptions

LDM = Path(ldm.__file__).parent
TEXTS = LDM / "app/web/src/texts"
ENTRY = re.compile(r'^  (\w+):\s*"((?:[^"\\]|\\.)*)",$', re.MULTILINE)
REFUSED = re.compile(r'"(wrong_host|wrong_origin|no_token|wrong_token)"')
KINDS = ("object", "predicate", "attribute")


def table(name: str) -> dict[str, str]:
    return dict(ENTRY.findall((TEXTS / f"{name}.ts").read_text()))


def places(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def codes(argument: ast.expr) -> list[str]:
    """A literal, or f"unknown_{kind}" for each kind of name; none for what is computed from another error."""
    if isinstance(argument, ast.Constant):
        return [argument.value]
    return [f"unknown_{kind}" for kind in KINDS] if isinstance(argument, ast.JoinedStr) else []


def raised() -> dict[str, set[str]]:
    """The codes in the sources of the server, with the names of their values."""
    found: dict[str, set[str]] = {}
    for path in LDM.rglob("*.py"):
        source = path.read_text()
        for call in ast.walk(ast.parse(source)) if ".coded(" in source else ():
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "coded":
                for code in codes(call.args[0]):
                    found.setdefault(code, set()).update(keyword.arg for keyword in call.keywords if keyword.arg)
        found |= {code: set() for code in REFUSED.findall(source)}
        found |= {code: set() for code in re.findall(r'"(region_(?:everywhere|new|without_box|by_attention))"', source)}
    return found | {code: {"reason"} for code in ("disk", "disk_full", "disk_read_only")}


@pytest.mark.parametrize("name", ["server_en", "server_ko"])
def test_every_code_of_the_server_has_its_sentence(name):
    sentences = table(name)
    assert sentences.keys() == raised().keys()


@pytest.mark.parametrize("name", ["server_en", "server_ko"])
def test_a_sentence_is_filled_by_what_the_server_gives(name):
    given = raised()
    assert {code: places(text) - given[code] for code, text in table(name).items() if places(text) - given[code]} == {}


@pytest.mark.parametrize(("english", "korean"), [("en", "ko"), ("server_en", "server_ko")])
def test_both_languages_say_the_same(english, korean):
    english, korean = table(english), table(korean)
    assert english.keys() == korean.keys() and len(english) > 40
    assert [key for key in english if places(english[key]) != places(korean[key])] == []


def test_every_option_has_a_korean_label():
    known = set(re.findall(r"^  (\w+): \{ label:", (TEXTS / "options_ko.ts").read_text(), re.MULTILINE))
    shown = {*EditOptions.__dataclass_fields__, *(set(CANVAS_OPTIONS) & set(SampleOptions.__dataclass_fields__))}
    assert shown - known == set()
