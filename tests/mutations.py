"""Random damage to files, as accidents and other programs cause it."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np

VALUES = (
    None, True, False, 0, -1, 1, 2, 1.0, 0.5, -0.0, 10**6, 2**31, 2**63, -(2**64), 10**400, 1e308, -1e308, float("nan"),
    float("inf"), float("-inf"), "", " ", "1", "1.0", "-5", "1e999", "nan", "a", "a\0b", "\ud800", "\u2028", "e\u0301",
    "x" * 5000, "../../x", "/", ".", "__image__", "NONE", [], {}, [[]], [None], {"a": 1}, [1, 2, 3, 4], [[1, 2], [3, 4]],
    {"size": [1, 1], "counts": [1]}, {"size": [10**9, 10**9], "counts": "a"}, [float("nan")] * 6, [1e300] * 8,
)  # fmt: skip
TEXTS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"[" * 100_000, b"NaN", b"1" * 5000, b'"', b"}", b",", b"\xed\xa0\x80")
TYPES = ("i1", "u1", "i4", "i8", "u8", "f2", "f8", "?", "S3", "c8")


def mutate_json(data: Any, rng: random.Random) -> bytes:
    """The file of a JSON value in which one to three entries, or some bytes, are damaged."""
    data = copy.deepcopy(data)
    for _ in range(rng.randint(1, 3)):
        data = _mutate_entry(data, rng)
    content = json.dumps(data, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return mutate_bytes(content, rng) if rng.random() < 0.25 else content


def mutate_bytes(content: bytes, rng: random.Random, most: int | None = None) -> bytes:
    """Cut off, with other bytes in one place, or with bytes inserted; damage is within the first `most` bytes."""
    place = rng.randrange(min(len(content), most or len(content)) + 1)
    kind = rng.randrange(4)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + rng.choice(TEXTS) + content[place:]
    other = bytes(rng.randrange(256) for _ in range(rng.randint(1, 4)))
    return content[:place] + other + content[place + len(other) * (kind == 2) :]


def mutate_h5(path: Path, rng: random.Random) -> None:
    """Replaces or removes one to three arrays, changes some of their values, or damages bytes of the file."""
    if rng.random() < 0.2:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))
        return
    with h5py.File(path, "a") as file:
        for name in rng.sample(sorted(file), rng.randint(1, 3)):
            array = file[name][()]
            del file[name]
            _replace_array(file, name, array, rng)


def _replace_array(file: h5py.File, name: str, array: Any, rng: random.Random) -> None:
    kind, numbers = rng.randrange(9), isinstance(array, np.ndarray) and array.dtype.kind in "iuf"
    if kind == 0:  # removed
        return
    if kind == 1:
        file.create_group(name)
    elif kind == 2:
        file[name] = h5py.SoftLink("/nowhere")
    elif kind == 3:
        file[name] = h5py.ExternalLink(rng.choice(["nowhere.h5", "/dev/null", "."]), "/x")
    elif kind == 4:
        shape = tuple(rng.choice([0, 1, 2, 6, 7]) for _ in range(rng.randrange(4)))
        file[name] = np.zeros(shape, rng.choice(TYPES))
    elif kind == 5:
        file.create_dataset(
            name, shape=(rng.choice([10**6, 2**40]),) * rng.randint(1, 2), dtype="i4", chunks=(1,) * 0 or True
        )
    elif kind == 6 and np.ndim(array):
        file[name] = (
            array[: rng.randrange(len(array) + 1)]
            if rng.random() < 0.5
            else np.repeat(array, 2, rng.randrange(array.ndim))
        )
    elif kind == 7 and numbers and array.size:
        array = array.astype(rng.choice(["i4", "i8", "f4", "f8"]))
        for _ in range(rng.randint(1, 3)):
            value = rng.choice([-1, -2, 0, 1, 7, 179, 2**31 - 1, -(2**31)])
            array.flat[rng.randrange(array.size)] = value
        if array.dtype.kind == "f" and rng.random() < 0.5:
            array.flat[0] = rng.choice([float("nan"), float("inf"), 0.5])
        file[name] = array
    else:
        file[name] = rng.choice([5, "text", [b"a", b"\xff"], ["b"] * 6, [["c"]], np.array([b"x" * 3000] * 6)])


def _mutate_entry(data: Any, rng: random.Random) -> Any:
    """Replaces, removes or repeats one entry at a random depth."""
    if not isinstance(data, (dict, list)) or not data or rng.random() < 0.05:
        return copy.deepcopy(rng.choice(VALUES))
    key = rng.choice(list(data) if isinstance(data, dict) else range(len(data)))
    kind = rng.randrange(12)
    if kind == 0:
        del data[key]
    elif kind == 1 and isinstance(data, list):
        data.append(data[key])
    elif kind == 2 and isinstance(data, dict):
        data[rng.choice(["id", "x", "", "segmentation"])] = copy.deepcopy(rng.choice(VALUES))
    elif kind < 6:
        data[key] = copy.deepcopy(rng.choice(VALUES))
    else:
        data[key] = _mutate_entry(data[key], rng)
    return data
