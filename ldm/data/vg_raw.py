"""Reads Visual Genome's raw JSON files image by image, without loading a whole file into memory."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ldm.data.values import composed, real, whole
from ldm.graph.vocab import IMAGE, IN_IMAGE
from ldm.util.errors import UserError

CHUNK = 1 << 20  # characters read at once
MAX_STRING = 1 << 20  # characters that one string in a file may have
MAX_NUMBER = 2**31 - 1  # the h5 files hold 32 bit integers
REMEDY = "download it again"


class DataError(UserError):
    """Raw files that are missing, broken or not Visual Genome's."""


def read_images(path: str) -> tuple[dict[int, int], dict[int, str]]:
    """Reads image_data.json.

    Returns:
        By image id: the length of the shorter side in pixels, and the path folder/file within the image folder.

    Raises:
        DataError: the file is missing, broken, or lists no image.
    """
    sizes, paths = {}, {}
    with explain_errors(path):
        for image in read_array(path):
            id_ = integer(image["image_id"])
            sizes[id_] = min(integer(image["width"]), integer(image["height"]))
            paths[id_] = "/".join(image["url"].split("/")[-2:])
            if "\0" in paths[id_] or not _is_encodable(paths[id_]):
                raise ValueError(f"the URL {image['url']!r}")
    if not sizes:
        raise DataError(f"{path}: lists no image; {REMEDY}")
    return sizes, paths


def read_splits(path: str, train: str) -> dict[str, list[int]]:
    """Reads the image ids of each split.

    Args:
        train: name of the training split.

    Raises:
        DataError: the file is broken, has no split named `train`, or one whose name cannot be a file's.
    """
    with explain_errors(path):
        splits = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    if not isinstance(splits, dict) or train not in splits:
        raise DataError(f"{path}: has no split {train!r}; name the training split with --train_split")
    for name, ids in splits.items():
        if not re.fullmatch(r"[\w-][\w. -]{,99}", name):
            raise DataError(f"{path}: the split {name[:100]!r} cannot be the name of a file; use letters and digits")
        if not isinstance(ids, list):
            raise DataError(f"{path}: the split {name!r} is no list of image ids; {REMEDY}")
    with explain_errors(path):
        return {name: [integer(image) for image in ids] for name, ids in splits.items()}


def read_annotations(path: str, key: str, images: Container[int]) -> Iterator[tuple[int, list[dict]]]:
    """Yields the id and the annotations of each image of a file.

    Args:
        path: one of Visual Genome's annotation files.
        key: under which an image's annotations are listed: objects, attributes or relationships.
        images: ids of the images to yield.

    Raises:
        DataError: the file is missing or broken, or no image has the key.
    """
    has_key = False
    for image in read_array(path):
        has_key = has_key or key in image
        if (id_ := integer(image["image_id"])) in images:
            yield id_, image.get(key) or []
    if not has_key:
        raise DataError(f"{path}: no image has {key}; check which file the option names")


def read_array(path: str | os.PathLike) -> Iterator[Any]:
    """Yields the items of a file that holds one JSON array, and shows a progress bar.

    Memory: one item and a few chunks of text. ijson 3.6 (yajl2_c) takes 3.6 s for 200 MB of objects.json, this 1.5 s.

    Raises:
        DataError: the file is missing, cut short, or not a JSON array.
    """
    decode = json.JSONDecoder().raw_decode
    separator = re.compile(r"\s*\[\s*(\])?")  # before the first item
    between = re.compile(r"\s*(?:,|(\]))\s*")
    with (
        explain_errors(path),
        open(path, encoding="utf-8-sig") as file,
        tqdm(total=os.path.getsize(path), unit="B", unit_scale=True, desc=os.path.basename(path)) as progress,
    ):
        text, position = "", 0
        while True:
            try:
                match = separator.match(text, position)
                if not match:
                    raise json.JSONDecodeError("not a list", text, position)
                if match[1]:
                    return
                item, position = decode(text, match.end())
            except json.JSONDecodeError as error:  # perhaps only because the item continues in the next chunk
                if len(text) - error.pos > MAX_STRING:
                    raise DataError(f"{path}: not JSON ({error.msg}, before byte {progress.n}); {REMEDY}") from None
                chunk = file.read(CHUNK)
                if not chunk:
                    raise DataError(f"{path}: ends early or is not JSON ({error.msg}); {REMEDY}") from None
                progress.update(len(chunk))
                text, position = text[position:] + chunk, 0
            else:
                separator = between
                yield item


def read_aliases(path: str) -> dict[str, str]:
    """Returns the canonical name of each name in an alias file, which is the first name of its line."""
    aliases = {}
    with explain_errors(path), open(path, encoding="utf-8-sig") as file:
        for line in file:
            names = [composed(name.strip()) for name in line.split(",")]
            aliases |= dict.fromkeys(names, names[0])
    return aliases


def integer(value: Any) -> int:
    """A whole number (see `whole`) that an h5 file can hold; raises ValueError for anything else."""
    number = whole(value)
    if abs(number) > MAX_NUMBER:
        raise ValueError(f"the number {str(number)[:40]}")
    return number


def pixels(value: Any) -> int:
    """A coordinate in whole pixels, rounded towards 0; raises ValueError for anything that is no number."""
    return integer(math.trunc(real(value)))


def read_names(names: Any) -> list[str]:
    """A list of names that objects of graphs can have: those that are blank or not printable are left out.

    Raises:
        TypeError: it is neither absent nor a list of texts.
    """
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise TypeError(f"{str(names)[:80]} is not a list of names")
    return [name for name in map(composed, names or ()) if is_usable(name)]


def is_usable(name: str) -> bool:
    """Whether a vocabulary can contain a name."""
    return name.isprintable() and bool(name.strip()) and name not in (IMAGE, IN_IMAGE)


def _is_encodable(name: str) -> bool:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def explain_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns exceptions that occur while `path` is read into a DataError that names it."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror}; DATA.md says where to get the file") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON ({error}); {REMEDY}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text ({error}); unpack it or {REMEDY}") from None
    except KeyError as error:
        raise DataError(f"{path}: an entry has no {error}; check which file the option names") from None
    except (TypeError, AttributeError, IndexError, ValueError, ArithmeticError, RecursionError) as error:
        what = str(error)[:200]
        raise DataError(f"{path}: an entry is not in Visual Genome's format ({what}); {REMEDY}") from None
