"""Reads and writes files of learned words (textual inversion) in the forms of the programs that make and use them.

    diffusers    learned_embeds.bin, .safetensors: {word: (n,D) or (D,)}
    ldm          embeddings.pt: string_to_token, string_to_param (an nn.ParameterDict)
    a1111        .pt: string_to_param {"*": (n,D)}, name; .safetensors: emb_params; the word is the name, or the file's
    sdxl         .safetensors, .pt: clip_l (n,D) and clip_g (n,E); the word is the file's name

A word of SDXL has vectors of two towers: in diffusers' form these are two files, of which the second is named at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ldm.checkpoints.errors import CheckpointError, list_names
from ldm.checkpoints.reading import read_file
from ldm.checkpoints.saving import save_safetensors
from ldm.util.files import atomic_write

TOWERS = ("clip_l", "clip_g")  # SDXL's names of the two
PARAMETERS, TOKENS, SINGLE = "string_to_param", "string_to_token", "emb_params"
FORMS = ("diffusers", "ldm", "a1111", "sdxl")
ANY_NAME = "*"  # under which A1111 stores the vectors


class Word(NamedTuple):
    """A learned word.

    Attributes:
        vectors: (n,D) of each text tower.
        source: the file that it is from.
    """

    vectors: tuple[Tensor, ...]
    source: str


@dataclass(frozen=True)
class WordFile:
    """The words of a file.

    Attributes:
        form: one of FORMS.
        words: by name.
    """

    form: str
    words: dict[str, Word]


def read_words(path: str | Path) -> WordFile:
    """Reads a file of learned words. Nothing in it is executed.

    Raises:
        CheckpointError: it is missing, damaged, or holds no words.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"{path}: there is no such file; name a file of learned words, such as learned_embeds.safetensors"
        )
    try:
        content = read_file(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile file can raise any exception
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise CheckpointError(f"{path}: cannot be read ({reason}); download it again if it is truncated") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds no learned words; name a file such as learned_embeds.safetensors")
    form, found = _find(content, path)
    words = {
        name: Word(tuple(_rows(each, name, path) for each in vectors), f"{path}") for name, vectors in found.items()
    }
    for name, word in words.items():
        if len({len(rows) for rows in word.vectors}) > 1:
            raise CheckpointError(f"{path}: the word {name!r} has different numbers of vectors for the text towers")
    return WordFile(form, words)


def _find(content: Mapping, path: Path) -> tuple[str, dict[str, tuple[Any, ...]]]:
    """The form of a file's content, and the vectors of each tower by the word's name."""
    parameters = content.get(PARAMETERS)
    if isinstance(parameters, Mapping) and parameters:
        if set(parameters) == {ANY_NAME} and isinstance(content.get("name"), str) and content["name"].strip():
            return "a1111", {content["name"]: (parameters[ANY_NAME],)}
        return "ldm", {f"{name}": (value,) for name, value in parameters.items()}
    if SINGLE in content:
        return "a1111", {path.stem: (content[SINGLE],)}
    if any(name in content for name in TOWERS):
        if missing := [name for name in TOWERS if name not in content]:
            raise CheckpointError(f"{path}: a word of Stable Diffusion XL without {missing[0]}; the file is damaged")
        return "sdxl", {path.stem: tuple(content[name] for name in TOWERS)}
    found = {f"{name}": (value,) for name, value in content.items() if isinstance(value, Tensor)}
    if not found or any("." in name and name.rpartition(".")[2] in ("weight", "bias", "alpha") for name in found):
        names = f" (its keys are {list_names([str(key) for key in content])})" if content else ""
        raise CheckpointError(f"{path}: holds no learned words{names}; a LoRA is given as --lora, a model as --ckpt")
    return "diffusers", found


def _rows(value: Any, name: str, path: Path) -> Tensor:  # (D,) or (n,D) -> (n,D) float32
    if not isinstance(value, Tensor) or value.ndim not in (1, 2) or not value.numel() or not value.is_floating_point():
        shape = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else "no tensor"
        raise CheckpointError(
            f"{path}: the vectors of the word {name!r} are {shape}, not (n,D); name a file of learned words"
        )
    rows = value.detach().float().reshape(-1, value.shape[-1]).clone()
    if not rows.isfinite().all():
        raise CheckpointError(f"{path}: the word {name!r} has values that are not finite; the file is damaged")
    return rows


def collect_words(paths: Sequence[str | Path], renames: Mapping[str, str] | None = None) -> dict[str, Word]:
    """The words of several files.

    Two words of one name, of which one has the width of SDXL's first tower and one of its second, are one word of both.

    Args:
        paths: the files, in order.
        renames: name in a file -> the name that it gets; FILE/NAME renames it in this file only.

    Raises:
        CheckpointError: a file cannot be read, two words have the same name, or a word to rename is in no file.
    """
    renames, used = dict(renames or {}), set()
    found: dict[str, Word] = {}
    for path in paths:
        for name, word in read_words(path).words.items():
            key = find_rename(path, name, renames)
            used.add(key)
            new = name if key is None else renames[key]
            found[new] = _joined(new, found[new], name, word) if new in found else word
    if unused := sorted(renames.keys() - used):
        raise CheckpointError(
            f"--rename {unused[0]}={renames[unused[0]]}: no file has the word {unused[0]!r}; they have {list_names(found)}"
        )
    return found


def find_rename(path: str | Path, name: str, renames: Mapping[str, str]) -> str | None:
    """The key of `renames` that is about a word of a file: FILE/NAME, or else NAME; None if neither is there."""
    return next((key for key in (f"{path}/{name}", name) if key in renames), None)


def same_name(new: str, first: str, second: str | Path, name: str) -> CheckpointError:
    """The error that two words have the same name.

    Args:
        new: that name.
        first: the file of the first one.
        second: the file of the second one, in which it is called `name`.
    """
    return CheckpointError(
        f"{second}: the word {new!r} is in {first} too; give one of them a new name, such as --rename '{second}/{name}=<other>'"
    )


def _joined(new: str, first: Word, name: str, second: Word) -> Word:
    widths = [vectors.shape[1] for word in (first, second) for vectors in word.vectors]
    if widths == [768, 1280] or widths == [1280, 768]:
        both = sorted((*first.vectors, *second.vectors), key=lambda rows: rows.shape[1])
        if len(both[0]) == len(both[1]):
            return Word(tuple(both), f"{first.source} and {second.source}")
    raise same_name(new, first.source, second.source, name)


# Writing ------------------------------------------------------------------------------------------------------------


def write_words(
    path: str | Path, words: Mapping[str, Sequence[Tensor]], form: str = "diffusers", step: int | None = None
) -> list[Path]:
    """Writes learned words; the suffix of `path` chooses between .safetensors and torch's own format.

    Args:
        path: the file. Of words of two towers in diffusers' form, the second is written as NAME_2.SUFFIX.
        words: name -> vectors (n,D) of each tower.
        form: one of FORMS.
        step: of the training, which A1111 shows.

    Returns:
        The files.

    Raises:
        CheckpointError: the form does not hold such words.
    """
    path = Path(path)
    towers = {len(vectors) for vectors in words.values()}
    if not words:
        raise CheckpointError(f"{path}: there are no learned words to write")
    if form in ("a1111", "sdxl") and len(words) > 1:
        raise CheckpointError(
            f"{path}: a file of {form} holds one word, not {len(words)}; choose the form diffusers or ldm"
        )
    if (form == "sdxl") != (towers == {2}) and form != "diffusers":
        raise CheckpointError(
            f"{path}: the form {form} does not hold words of {max(towers)} text towers; choose diffusers"
        )
    if form == "ldm" and path.suffix == ".safetensors":
        raise CheckpointError(f"{path}: LDM's form is a file of torch; name it embeddings.pt")
    (name, vectors), *_ = words.items()
    if form == "sdxl":
        return [_write(path, dict(zip(TOWERS, vectors)))]
    if form == "a1111":
        as_tensors = path.suffix == ".safetensors"
        content = {SINGLE: vectors[0]} if as_tensors else {
            TOKENS: {ANY_NAME: 265}, PARAMETERS: {ANY_NAME: vectors[0]}, "name": name, "step": step,
            "sd_checkpoint": None, "sd_checkpoint_name": None,
        }  # fmt: skip
        return [_write(path, content)]
    if form == "ldm":
        parameters = nn.ParameterDict({word: nn.Parameter(each[0].clone()) for word, each in words.items()})
        return [_write(path, {TOKENS: {word: torch.tensor(0) for word in words}, PARAMETERS: parameters})]
    files = [path, path.with_name(f"{path.stem}_2{path.suffix}")][: max(towers)]
    return [_write(file, {word: each[number] for word, each in words.items()}) for number, file in enumerate(files)]


def _write(path: Path, content: Mapping[str, Any]) -> Path:
    content = {key: _plain(value) for key, value in content.items()}
    if path.suffix == ".safetensors":
        save_safetensors(path, content, {"format": "pt"})
    else:
        with atomic_write(path) as temporary:
            torch.save(content, temporary)
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone().contiguous()
    return {key: _plain(each) for key, each in value.items()} if type(value) is dict else value
