"""Reads Visual Genome's raw JSON files image by image, without loading a whole file into memory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from ldm.util.errors import UserError

CHUNK = 1 << 20  # characters read at once
MAX_STRING = 1 << 20  # characters that one string in a file may have
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
            sizes[image["image_id"]] = min(image["width"], image["height"])
            paths[image["image_id"]] = "/".join(image["url"].split("/")[-2:])
    if not sizes:
        raise DataError(f"{path}: lists no image; {REMEDY}")
    return sizes, paths


def read_splits(path: str, train: str) -> dict[str, list[int]]:
    """Returns the image ids of each split. Raises DataError if the file is broken or has no split named `train`."""
    with explain_errors(path), open(path, encoding="utf-8") as file:
        splits = json.load(file)
    if not isinstance(splits, dict) or train not in splits:
        raise DataError(f"{path}: has no split {train!r}; name the training split with --train_split")
    return splits


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
        if image["image_id"] in images:
            yield image["image_id"], image.get(key) or []
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
        open(path, encoding="utf-8") as file,
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
    with explain_errors(path), open(path, encoding="utf-8") as file:
        for line in file:
            names = [name.strip() for name in line.split(",")]
            aliases |= dict.fromkeys(names, names[0])
    return aliases


@contextmanager
def explain_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns exceptions that occur while `path` is read into a DataError that names it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror}; DATA.md says where to get the file") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON ({error}); {REMEDY}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text ({error}); unpack it or {REMEDY}") from None
    except KeyError as error:
        raise DataError(f"{path}: an entry has no {error}; check which file the option names") from None
    except (TypeError, AttributeError) as error:
        raise DataError(f"{path}: an entry is not in Visual Genome's format ({error}); {REMEDY}") from None
