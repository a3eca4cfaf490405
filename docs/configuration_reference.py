"""Makes docs/configuration.md: every key of the configs, from the signatures and docstrings of the classes they name."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ldm.models.diffusion import assembly
from ldm.modules.diffusionmodules import openaimodel
from ldm.util.config import plain, resolve
from ldm.util.config_merging import read_configs

ROOT = Path(__file__).resolve().parents[1]
TEXTS = plain(read_configs(Path(__file__).with_name("configuration_keys.yaml")))
INTRODUCTION = Path(__file__).with_name("configuration_introduction.md")
# Classes that no config of configs/ names, but that configs may name: where, and which.
OTHER_CLASSES = {
    "ldm.data.video_sets.VidOR": "data.params.train",
    "ldm.data.video_sets.SG2VID": "data.params.train",
    "ldm.data.video_sets.StoryboardFolder": "data.params.train",
    "ldm.data.clevr.CLEVR": "data.params.train",
    "ldm.data.clevr.CLEVRValidation": "data.params.validation",
    "ldm.data.curated.CuratedTrain": "data.params.train",
    "ldm.data.curated.CuratedValidation": "data.params.validation",
    "ldm.models.tiny_autoencoder.TinyAutoencoder": "model.params.preview_config",
}
# Targets that trainer.py adds where a config states none.
DEFAULT_TARGETS = {"lightning.callbacks.image_logger": "ldm.training.callbacks.ImageLogger"}
# Values that classes accept for keys of published configs, as their **kwargs.
PUBLISHED_KEYS = {
    "ldm.modules.diffusionmodules.openaimodel.UNetModel": {k: [v] for k, v in openaimodel.FIXED_OPTIONS.items()}
    | openaimodel.IGNORED_OPTIONS,
    "ldm.models.diffusion.ddpm.LatentDiffusion": assembly.PUBLISHED_KEYS,
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a class: type and default as in YAML, and what it means."""

    name: str
    type: str
    default: str
    text: str


@dataclass
class ConfigClass:
    """A class that configs name.

    Attributes:
        target: its dotted name.
        paths: where configs name it.
        files: names of the configs that set a value there.
        keys: its parameters that configs set -> the keys below those that hold mappings.
        parts: its parameters that hold a `{target, params}` -> the classes named there.
    """

    target: str
    paths: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    keys: dict[str, set[str]] = field(default_factory=dict)
    parts: dict[str, set[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.target.rpartition(".")[2]


def config_files() -> list[Path]:
    """All configs, those of the top folder first."""
    return [*sorted((ROOT / "configs").glob("*.yaml")), *sorted((ROOT / "configs").glob("*/*.yaml"))]


def header(path: Path) -> str:
    """The comment at the top of a config, without its marks; lines that end in a backslash are joined."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" ") if line[1:3] != "  " else line[1:])
    return "\n".join(lines).replace("\\\n", " ")


def combination(path: Path) -> list[Path]:
    """The configs of the `--base` that ends in this one, as the config's own header states it."""
    for words in re.findall(r"--base((?:\s+configs/\S+\.yaml)+)", header(path)):
        files = [ROOT / word for word in words.split()]
        if files[-1] == path:
            return files
    raise ValueError(f"{path}: its header names no command with --base that ends in this file; add one")


def purpose(path: Path) -> str:
    """The first sentence of a config's header."""
    prose = " ".join(header(path).split("\n  ")[0].split())
    return re.split(r"\.$|\. (?=[A-Z])|: ", prose)[0]


def short_name(path: Path) -> str:
    """A config's name in tables: vg, flat/vq."""
    return str(path.relative_to(ROOT / "configs").with_suffix(""))


# What the configs name -----------------------------------------------------------------------------------------------


def collect_classes() -> dict[str, ConfigClass]:
    """Target -> class, in the order in which the configs name them."""
    classes: dict[str, ConfigClass] = {}
    for path in config_files():
        stated = plain(read_configs(path))
        merged = plain(read_configs(combination(path)))
        _collect(stated, merged, "", short_name(path), classes)
    for target, place in OTHER_CLASSES.items():
        classes.setdefault(target, ConfigClass(target)).paths.add(place)
    return classes


def _collect(stated: Any, merged: Any, place: str, file: str, classes: dict[str, ConfigClass]) -> None:
    """Adds what one file states to the classes; `merged` has the targets, which earlier files may name."""
    if not isinstance(stated, Mapping):
        return
    target = merged.get("target", DEFAULT_TARGETS.get(place))
    if target:
        found = classes.setdefault(target, ConfigClass(target))
        found.paths.add(place)
        found.files.add(file)
        for name, value in (stated.get("params") or {}).items():
            below = found.keys.setdefault(name, set())
            if isinstance(value, Mapping):
                part = (merged["params"][name] or {}).get("target")
                if part:
                    found.parts.setdefault(name, set()).add(part)
                else:
                    below.update(value)
    for key, value in stated.items():
        _collect(value, merged.get(key), f"{place}.{key}" if place else key, file, classes)


def section_keys() -> dict[str, set[str]]:
    """Keys outside of classes: path -> configs that set it."""
    keys: dict[str, set[str]] = {}
    for path in config_files():
        for section, value in plain(read_configs(path)).items():
            for place in _section_paths(value, section):
                keys.setdefault(place, set()).add(short_name(path))
    return keys


def _section_paths(value: Any, place: str) -> Iterator[str]:
    """The keys down to classes, whose own keys are `target` and `params`."""
    yield place
    if isinstance(value, Mapping) and place not in ("model.params", "data.params"):
        for key, child in value.items():
            if not (key in ("target", "params") and place.startswith("lightning.")):
                yield from _section_paths(child, f"{place}.{key}")


# What the classes say ------------------------------------------------------------------------------------------------


@cache
def parameters(target: str) -> list[Parameter]:
    """The parameters of a class of this project, described by its docstring or by those of its bases."""
    constructor = resolve(target)
    if not constructor.__module__.startswith("ldm."):
        return []
    texts = described_parameters(constructor)
    return [
        Parameter(parameter.name, _type(parameter), _default(parameter), _sentence(texts.get(parameter.name, "")))
        for parameter in inspect.signature(constructor).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]


def described_parameters(constructor: Any) -> dict[str, str]:
    """Parameter -> text, from the sections `Args:` of a class and its bases; 'see Base' means the base's text."""
    texts: dict[str, str] = {}
    for base in reversed(inspect.getmro(constructor)):
        if not base.__module__.startswith("ldm."):
            continue
        for docstring in (base.__doc__, vars(base).get("__init__", base).__doc__):
            for name, text in parse_args(docstring or "").items():
                if not (re.fullmatch(r"see \w+\.?", text) and name in texts):
                    texts[name] = text
    return texts


def parse_args(docstring: str) -> dict[str, str]:
    """Name -> text, from the section `Args:` of a docstring in Google's style; `a, b: text` describes both."""
    texts: dict[str, str] = {}
    names: list[str] = []
    _, _, section = inspect.cleandoc(docstring).partition("Args:\n")
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        if entry := re.match(r" {4}(\w+(?:, \w+)*): +(.*)", line):
            names = entry[1].split(", ")
            texts |= dict.fromkeys(names, entry[2])
        elif line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts


def _sentence(text: str) -> str:
    """A text with a capital and a full stop, and with YAML's words for Python's constants."""
    for python, yaml in (("None", "null"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{python}\b", f"`{yaml}`", text)
    if re.match(r"[a-z]+['\s;:.-]", text):
        text = text[0].upper() + text[1:]
    return text if not text or text.endswith((".", ")")) else f"{text}."


def _type(parameter: inspect.Parameter) -> str:
    if parameter.annotation is parameter.empty:
        return ""
    text = str(parameter.annotation)
    text = re.sub(r"\b(Mapping|dict)\b(\[[^]]*\])?", "mapping", text)
    text = text.replace("Sequence[int]", "list of whole numbers").replace("Sequence[str]", "list of text")
    text = text.replace("str | Path", "path").replace(" | None", "")
    for python, word in (("str", "text"), ("bool", "true or false"), ("int", "whole number"), ("float", "number")):
        text = re.sub(rf"\b{python}\b", word, text)
    return text.replace(" | ", " or ")


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return "required"
    return f"`{_as_yaml(parameter.default)}`"


def _as_yaml(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_as_yaml(child)}" for key, child in value.items()) + "}"
    return json.dumps(list(value) if isinstance(value, (tuple, range)) else value)


def undocumented() -> list[str]:
    """Keys of configs that the page does not describe."""
    missing = [key for key in section_keys() if key not in _section_texts()]
    for target, found in collect_classes().items():
        known = {row.name: row.text for row in parameters(target)}
        published = PUBLISHED_KEYS.get(target, {})
        missing += [f"{target}: {key}" for key in found.keys if not known.get(key) and key not in published]
        for key, below in found.keys.items():
            missing += [f"{target}: {key}.{child}" for child in below if child not in _nested_texts(target, key)]
    return missing


def _section_texts() -> dict[str, str]:
    sections = TEXTS["sections"].items()
    return {f"{section}.{key}" if section else key: text for section, keys in sections for key, text in keys.items()}


def _nested_texts(target: str, key: str) -> dict[str, str]:
    """Texts of the keys of a parameter that is a mapping."""
    if key == "defaults":  # values of the class's own parameters
        return {row.name: row.text for row in parameters(target)}
    return TEXTS["mappings"].get(key, {})


# The page ------------------------------------------------------------------------------------------------------------


def page() -> str:
    """The text of docs/configuration.md."""
    classes = collect_classes()
    groups = _alike(list(classes.values()))
    anchors = {found.target: _link(group) for group in groups for found in group}
    sections = [
        "<!-- Written by docs/generate.py from configs/ and the classes' docstrings; `make docs` writes it anew. -->",
        INTRODUCTION.read_text(encoding="utf-8").strip(),
        "## The configs",
        _table(["config", "use as `--base`", "purpose"], [_file_row(path) for path in config_files()]),
        "## Sections",
        *_section_tables(),
        "## Classes",
        *(_class_section(group, anchors) for group in groups),
    ]
    return "\n\n".join(sections) + "\n"


def _file_row(path: Path) -> list[str]:
    return [f"`{short_name(path)}`", " ".join(f"`{short_name(file)}`" for file in combination(path)), purpose(path)]


def _section_tables() -> Iterator[str]:
    for section, keys in TEXTS["sections"].items():
        yield f"### {section or 'Top level'}"
        if text := TEXTS["section_texts"].get(section):
            yield text.strip()
        yield _table(["key", "meaning"], [[f"`{key}`", text] for key, text in keys.items()])


def _alike(classes: list[ConfigClass]) -> list[list[ConfigClass]]:
    """Groups classes with the same parameters, such as VGTrain and VGValidation; by section, then by depth."""
    groups: dict[str, list[ConfigClass]] = {}
    for found in sorted(classes, key=lambda found: min(map(_order, found.paths))):
        module = found.target.rpartition(".")[0]
        groups.setdefault(f"{module} {parameters(found.target)}", []).append(found)
    return list(groups.values())


def _order(place: str) -> tuple[int, int]:
    section, *rest = place.split(".")
    return list(TEXTS["sections"][""]).index(section), len(rest)


def _title(group: list[ConfigClass]) -> str:
    return ", ".join(found.name for found in group)


def _link(group: list[ConfigClass]) -> str:
    anchor = _title(group).lower().replace(", ", "-")
    return f"[{group[0].name}](#{anchor})"


def _class_section(group: list[ConfigClass], anchors: dict[str, str]) -> str:
    target, keys, parts = group[0].target, dict[str, set[str]](), dict[str, set[str]]()
    for found in group:
        for key, below in found.keys.items():
            keys.setdefault(key, set()).update(below)
        for key, targets in found.parts.items():
            parts.setdefault(key, set()).update(targets)
    rows = parameters(target)
    lines = [f"### {_title(group)}", _summary(group), _places(group)]
    if rows:
        cells = [[f"`{row.name}`", row.type, row.default, _with_links(row, parts, anchors)] for row in rows]
        lines.append(_table(["parameter", "type", "default", "meaning"], cells))
    if published := PUBLISHED_KEYS.get(target):
        lines.append(f"Keys of published configs, with the only values that are accepted: {_accepted(published)}.")
    for key in sorted(keys.keys() & TEXTS["mappings"].keys()):
        cells = [[f"`{name}`", text] for name, text in TEXTS["mappings"][key].items()]
        lines += [f"Keys of `{key}`:", _table(["key", "meaning"], cells)]
    return "\n\n".join(lines)


def _summary(group: list[ConfigClass]) -> str:
    """What the classes are for, and what their private base is, which has no section of its own."""
    target = group[0].target
    if target in TEXTS["other_classes"]:
        return TEXTS["other_classes"][target]
    bases = inspect.getmro(resolve(target))[1:]
    lines = [
        _first_paragraph(base) for base in bases if base.__name__.startswith("_") and base.__module__.startswith("ldm.")
    ]
    if len(group) == 1:
        return "\n\n".join([*lines, _first_paragraph(resolve(target))])
    return "\n\n".join(
        [*lines, "\n".join(f"- `{found.name}`: {_first_paragraph(resolve(found.target))}" for found in group)]
    )


def _first_paragraph(documented: Any) -> str:
    return " ".join(inspect.cleandoc(documented.__doc__ or "").split("\n\n")[0].split())


def _accepted(keys: Mapping[str, Any]) -> str:
    return ", ".join(
        f"`{key}: {' or '.join(map(_as_yaml, values))}`" for key, values in keys.items() if len(values) < 10
    )


def _places(group: list[ConfigClass]) -> str:
    names = ", ".join(f"`{found.target}`" for found in group)
    paths = ", ".join(f"`{path}`" for path in sorted({path for found in group for path in found.paths}))
    files = ", ".join(f"`{name}`" for name in sorted({name for found in group for name in found.files}))
    return f"`target`: {names}  \nat {paths}  \nin {files or 'no config of `configs/`'}"


def _with_links(row: Parameter, parts: dict[str, set[str]], anchors: dict[str, str]) -> str:
    links = " or ".join(dict.fromkeys(anchors[target] for target in sorted(parts.get(row.name, ()))))
    return f"{row.text} See {links}." if links else row.text


def _table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
