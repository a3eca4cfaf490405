"""Visual Genome's raw files, image by image: none of them is ever in memory as a whole."""

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
LONGEST = 1 << 20  # characters that one string in a file may have
AGAIN = "download it again"


class DataError(UserError):
    """What is wrong with which file, and what to do about it, in one sentence."""


def read_images(path: str) -> tuple[dict[int, int], dict[int, str]]:
    """The shorter side, and folder/file under the image directory, of every image."""
    sizes, paths = {}, {}
    with explained(path):
        for image in read_array(path):
            sizes[image["image_id"]] = min(image["width"], image["height"])
            paths[image["image_id"]] = "/".join(image["url"].split("/")[-2:])
    if not sizes:
        raise DataError(f"{path}: lists no image; {AGAIN}")
    return sizes, paths


def read_splits(path: str, train: str) -> dict[str, list[int]]:
    with explained(path), open(path, encoding="utf-8") as file:
        splits = json.load(file)
    if not isinstance(splits, dict) or train not in splits:
        raise DataError(f"{path}: there is no split {train!r}; name the training split with --train_split")
    return splits


def annotations(path: str, key: str, wanted: Container[int]) -> Iterator[tuple[int, list[dict]]]:
    """Image id and what the file lists for it under `key`, of every image that is wanted."""
    anything = False
    for image in read_array(path):
        anything = anything or key in image
        if image["image_id"] in wanted:
            yield image["image_id"], image.get(key) or []
    if not anything:
        raise DataError(f"{path}: no image has {key}; is it the file that its option says?")


def read_array(path: str | os.PathLike) -> Iterator[Any]:
    """The items of a file that holds one JSON array, with a progress bar; never more than an item and a few chunks
    of the file are in memory. Raises DataError."""
    decode = json.JSONDecoder().raw_decode
    opening = re.compile(r"\s*\[\s*(\])?")
    between = re.compile(r"\s*(?:,|(\]))\s*")
    with explained(path), open(path, encoding="utf-8") as file:
        with tqdm(total=os.path.getsize(path), unit="B", unit_scale=True, desc=os.path.basename(path)) as bar:
            text, at, mark = "", 0, opening
            while True:
                try:
                    found = mark.match(text, at)
                    if not found:
                        raise json.JSONDecodeError("not a list", text, at)
                    if found[1]:
                        return
                    item, at = decode(text, found.end())
                except json.JSONDecodeError as error:
                    if len(text) - error.pos > LONGEST:  # then more text will not help
                        raise DataError(f"{path}: not JSON ({error.msg}, before byte {bar.n}); {AGAIN}") from None
                    more = file.read(CHUNK)
                    if not more:
                        raise DataError(f"{path}: ends early or is not JSON ({error.msg}); {AGAIN}") from None
                    bar.update(len(more))
                    text, at = text[at:] + more, 0
                else:
                    mark = between
                    yield item


def read_aliases(path: str) -> dict[str, str]:
    """Every name of a line stands for the line's first."""
    aliases = {}
    with explained(path), open(path, encoding="utf-8") as file:
        for line in file:
            names = [name.strip() for name in line.split(",")]
            aliases |= dict.fromkeys(names, names[0])
    return aliases


@contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
    """Turn what goes wrong while reading `path` into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror}; DATA.md says where the file comes from") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON ({error}); {AGAIN}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text ({error}); unpack it or {AGAIN}") from None
    except KeyError as error:
        raise DataError(f"{path}: an entry has no {error}; is it the file that its option says?") from None
    except (TypeError, AttributeError) as error:
        raise DataError(f"{path}: an entry has another form than Visual Genome's ({error})") from None
