"""Reads the tensors of a TorchScript archive without executing it.

OpenAI's CLIP files are TorchScript archives: zip files that hold a program (code/) and a pickle of its modules, whose
attributes include the tensors. torch.load hands them to torch.jit.load, which runs the program's __setstate__ methods. Here
the program is never read, and the pickle yields tensors only (ldm/checkpoints/unpickle.py): a module becomes a `Scripted`
record of its attributes, and every other object a placeholder.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ldm.checkpoints import unpickle

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Scripted(unpickle.Inert):
    """A module of the archive: its attributes without its code."""

    attributes: Any = None


class Unpickler(unpickle.Unpickler):
    """Makes a `Scripted` record for each module and reads tensor storages from the archive."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(unpickle.Unpickler.dispatch)

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        return DTYPES[name] if module == "torch" and name in DTYPES else super().find_class(module, name)

    def persistent_load(self, pid: tuple) -> torch.TypedStorage:
        _, dtype, key, _, _ = pid  # "storage", dtype, file, device, length
        content = bytearray(self.archive.read(f"{self.root}/data/{key}"))
        data = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
        return torch.TypedStorage(wrap_storage=data.untyped_storage(), dtype=dtype, _internal=True)

    def create(self, callee: Any, args: Any) -> Any:
        if isinstance(callee, unpickle.Inert) and callee.name.startswith("__torch__."):
            return Scripted(callee.name)
        return super().create(callee, args)

    def load_build(self) -> None:  # opcode BUILD: stores the attributes of a module, and sets nothing on other objects
        attributes = self.stack.pop()
        if isinstance(self.stack[-1], Scripted):
            self.stack[-1].attributes = attributes

    dispatch[pickle.BUILD[0]] = load_build


def is_archive(path: Path) -> bool:
    """Whether `path` is a TorchScript archive, by the same criterion as torch.load: it contains constants.pkl."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The archive's parameters, buffers and other tensors by dotted path, on the CPU. A damaged file may raise anything."""
    with zipfile.ZipFile(path) as archive:
        (root,) = (name.split("/")[0] for name in archive.namelist() if re.fullmatch("[^/]+/data.pkl", name))
        return dict(iterate_tensors(Unpickler(archive, root).load()))


def iterate_tensors(module: Scripted, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Scripted):
            yield from iterate_tensors(value, f"{prefix}{name}.")
