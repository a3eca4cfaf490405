"""The models that are compared, from their names on the command line to functions that make a line's picture.

    NAME=SOURCE[+LORA:SCALE[,SCALE...]]...[@OPTION=VALUE]...

SOURCE is a log folder, a checkpoint, exported adapters, a config (its frozen parts, adapters as the identity), or one of

    base            the base again, to add LoRAs or other options to it
    shipped         the weights that ship with the project, those for drawn shapes where the lines are drawn shapes
    photograph      the photograph, unedited
    truth           the true result, where a line has one
    pictures:DIR    pictures that are already made: DIR/<id>.png, or PIE-Bench's paths
    a.b.function    a function of the user's, (ValidationLine) -> image, for models of other projects

Several scales of a LoRA make as many models.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ldm.editing.options import EditOptions, EditRequest
from ldm.evaluation.validation.lines import ID, ValidationLine
from ldm.sampling.options import SampleOptions
from ldm.sampling.text_options import TextOptions
from ldm.util.config_merging import ConfigPaths
from ldm.util.errors import UserError
from ldm.util.files import digest
from ldm.util.lora_option import path_and_scale
from ldm.util.options import from_mapping, option_types, parse_assignments

BASE, SHIPPED, PHOTOGRAPH, TRUTH, PICTURES = "base", "shipped", "photograph", "truth", "pictures:"
SAMPLING = frozenset(item.name for item in dataclasses.fields(SampleOptions))
TEXTS = frozenset(item.name for item in dataclasses.fields(TextOptions))
EDITING = frozenset(item.name for item in dataclasses.fields(EditOptions)) - {"seed"}


@dataclass(frozen=True)
class ModelSpec:
    """A model as the command line names it.

    Args:
        name: in reports and as a folder.
        source: see the top of this file, never 'base'.
        loras: files and their scales.
        options: of sampling and editing, for this model alone.
    """

    name: str
    source: str
    loras: tuple[tuple[str, float], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


class Maker(Protocol):
    """Makes the pictures of one model."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What all its pictures depend on, as JSON values; equal for equal models under other names."""
        ...

    def make(self, lines: Sequence[ValidationLine]) -> list[Image.Image]:
        """The pictures of some lines, each of which depends on its own line alone. Raises UserError."""
        ...


def parse_models(base: str, models: Sequence[str]) -> list[ModelSpec]:
    """Reads --base and --model; the base comes first.

    Raises:
        UserError: a name is taken or no file name, or an option is unknown.
    """
    (first,) = _parse_model(BASE, base, None)
    specs = [first]
    for text in models:
        name, equals, source = text.partition("=")
        if not equals or not ID.fullmatch(name):
            raise UserError(f"--model {text}: write NAME=CHECKPOINT, with a name of letters, digits, '.', '_' and '-'")
        specs += _parse_model(name, source, first)
    for index, spec in enumerate(specs):
        if spec.name in [other.name for other in specs[:index]]:
            raise UserError(f"--model {spec.name}: there already is a model of this name")
    return specs


def _parse_model(name: str, text: str, base: ModelSpec | None) -> list[ModelSpec]:
    parts, assignments = text.split("@")[0], text.split("@")[1:]
    editing = {key: kind for key, kind in option_types(EditOptions).items() if key in EDITING}
    types = option_types(TextOptions) | option_types(SampleOptions) | editing
    options = parse_assignments(assignments, types, f"model {name!r}")
    for kind, names in ((SampleOptions, SAMPLING), (TextOptions, TEXTS), (EditOptions, EDITING)):
        from_mapping(kind, {key: value for key, value in options.items() if key in names})
    source, *loras = parts.split("+")
    scaled = [_scales_of(lora, name) for lora in loras]
    if not source or (source == BASE and base is None):
        raise UserError(f"model {name!r}: its source is empty; name a log folder, a checkpoint or 'shipped'")
    before: tuple[tuple[str, float], ...] = ()
    if source == BASE and base is not None:
        source, before, options = base.source, base.loras, {**base.options, **options}
    specs = []
    for choice in product(*scaled):
        several = [scale for (_, scale), choices in zip(choice, scaled) if len(choices) > 1]
        suffix = "".join(f"-{scale:g}" for scale in several)
        specs.append(ModelSpec(name + suffix, source, (*before, *choice), options))
    return specs


def _scales_of(text: str, name: str) -> list[tuple[str, float]]:
    """'style.safetensors:0.5,1' -> the file with each scale."""
    path, *scales = text.split(",")
    try:
        file, first = path_and_scale(path)
        return [(file, first), *((file, float(scale)) for scale in scales)]
    except Exception:
        raise UserError(f"model {name!r}: the scales of {text!r} are not numbers; write FILE:0.5,1") from None


def make_maker(
    spec: ModelSpec, config: ConfigPaths | None, device: str, shared: Mapping[str, Any], world: str | None = None
) -> Maker:
    """Loads a model.

    Args:
        config: of published weights; None for the one in the checkpoint.
        shared: options of sampling and editing for all models; those of the spec and of a line come before them.
        world: synthetic world of the lines, for which 'shipped' finds the weights.

    Raises:
        UserError: the model cannot be loaded, or the source is unknown.
    """
    if spec.source in (PHOTOGRAPH, TRUTH):
        return _Reader(spec.source, _paths[spec.source])
    if spec.source.startswith(PICTURES):
        folder = Path(spec.source.removeprefix(PICTURES))
        if not folder.is_dir():
            raise UserError(f"model {spec.name!r}: there is no folder {folder}")
        return _Reader("pictures", partial(_made_before, folder))
    if (function := _function_of(spec.source)) is not None:
        return _Function(spec.source, function)
    from ldm.checkpoints import shipped
    from ldm.evaluation.validation.diffusion_maker import DiffusionMaker

    if spec.source == SHIPPED:
        adapters = shipped.shipped_adapters(shipped.weights_for(world))
        spec, config = replace(spec, source=str(adapters)), None
    return DiffusionMaker(spec, config, device, {**shared, **spec.options})


def _function_of(source: str) -> Callable[[ValidationLine], Image.Image] | None:
    """The function that a dotted name stands for; None for the path of a file or folder."""
    parts = source.split(".")
    if Path(source).exists() or len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return None
    if parts[-1] in ("ckpt", "safetensors", "yaml", "pt", "pth", "bin"):  # a file that does not exist
        return None
    from ldm.util.config import resolve

    return resolve(source)


def sample_options(line: ValidationLine, shared: Mapping[str, Any]) -> SampleOptions:
    """The options of a picture from noise. Raises UserError."""
    return from_mapping(SampleOptions, {k: v for k, v in {**shared, **line.options}.items() if k in SAMPLING})


def text_options(line: ValidationLine, shared: Mapping[str, Any]) -> TextOptions:
    """The options of a picture of a prompt. Raises UserError."""
    return from_mapping(TextOptions, {k: v for k, v in {**shared, **line.options}.items() if k in TEXTS})


def edit_options(line: ValidationLine, shared: Mapping[str, Any]) -> EditOptions:
    """The options of an edit; its seed is the line's. Raises UserError."""
    values = {key: value for key, value in {**shared, **line.options}.items() if key in EDITING}
    return from_mapping(EditOptions, {**values, "seed": line.seed})


def edit_request(line: ValidationLine) -> EditRequest:
    """What a line asks of an editor. Raises UserError where it says so in words alone."""
    from ldm.util.images import read_image

    assert line.photograph is not None
    if line.graph is None:
        raise UserError("has no graph (sg), and this model takes no prompt; name a function of your own as the model")
    photograph = read_image(line.photograph, upright=True)
    mask = line.change_mask(photograph.size)
    return EditRequest(
        photograph,
        line.graph,
        line.source_graph,
        None if line.style is None else read_image(line.style, upright=True),
        None if mask is None else Image.fromarray(mask).convert("L"),
    )


@dataclass(frozen=True)
class _Reader:
    """Pictures that exist as files."""

    kind: str
    path_of: Callable[[ValidationLine], Path]

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"source": self.kind}

    def make(self, lines: Sequence[ValidationLine]) -> list[Image.Image]:
        from ldm.util.images import read_image

        return [read_image(self.path_of(line), upright=True) for line in lines]


def _photograph(line: ValidationLine) -> Path:
    if line.photograph is None:
        raise UserError("has no photograph (ref)")
    return line.photograph


def _truth(line: ValidationLine) -> Path:
    if line.truth is None:
        raise UserError("has no true result (truth)")
    return line.truth


_paths: dict[str, Callable[[ValidationLine], Path]] = {PHOTOGRAPH: _photograph, TRUTH: _truth}


def _made_before(folder: Path, line: ValidationLine) -> Path:
    names = [f"{line.id}.png", f"{line.id}.jpg", *([line.picture_path] if line.picture_path else [])]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{folder} has none of {', '.join(names)}")
    return found


@dataclass(frozen=True)
class _Function:
    """A function of the user's. Its module's code identifies its pictures."""

    name: str
    function: Callable[[ValidationLine], Image.Image]

    @property
    def identity(self) -> Mapping[str, Any]:
        file = inspect.getsourcefile(inspect.unwrap(self.function))
        return {"source": self.name, "code": digest(Path(file))[:16] if file else None}

    def make(self, lines: Sequence[ValidationLine]) -> list[Image.Image]:
        pictures = [self.function(line) for line in lines]
        for picture in pictures:
            if not isinstance(picture, Image.Image):
                raise UserError(f"{self.name} returned {type(picture).__name__}; return a PIL image")
        return [picture.convert("RGB") for picture in pictures]
