"""Reads a pickled checkpoint without running any of it.

A pickle is a program: it imports names and calls them. Published checkpoints hold objects of Lightning 1.x,
NumPy and OmegaConf beside their tensors, which torch.load(weights_only=True) refuses to read at all. Here a name
that is not a tensor's own becomes an `Inert`: it takes the place of the object, and nothing is imported, called,
or changed. So the tensors of such a file, and of a malicious one, are all that comes out.
"""

from __future__ import annotations

import pickle
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Inert:
    """Stands for something that a checkpoint named and that was not made. Whatever is put in it is dropped."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"<not loaded: {self.name}>"

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass


def rebuild_tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_hooks_and_metadata: Any) -> Tensor:
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


# The only calls that a file can ask for: (module, name) -> what is called in its stead.
CALLS = {
    ("collections", "OrderedDict"): lambda items=(): OrderedDict(items),
    ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_hooks: tensor,
}


class Unpickler(pickle._Unpickler):
    """Python's own unpickler, with each opcode that calls or alters an object made harmless.

    It is the one written in Python, since the opcodes of the C one cannot be replaced.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:  # torch resolves storage types before it asks here
        return CALLS.get((module, name)) or Inert(f"{module}.{name}")

    def get_extension(self, code: int) -> None:
        self.append(Inert(f"extension {code}"))

    def made(self, callee: Any, args: Any) -> Any:
        known = any(callee is call for call in CALLS.values())
        return callee(*args) if known else Inert(getattr(callee, "name", "an object"))

    def _instantiate(self, callee: Any, args: Any) -> None:  # opcodes INST and OBJ
        self.append(self.made(callee, args))

    def load_call(self) -> None:  # opcodes REDUCE and NEWOBJ: callee, arguments
        args = self.stack.pop()
        self.stack[-1] = self.made(self.stack[-1], args)

    def load_call_with_keywords(self) -> None:  # opcode NEWOBJ_EX: callee, arguments, keyword arguments
        del self.stack[-2:]
        self.stack[-1] = Inert(getattr(self.stack[-1], "name", "an object"))

    def load_build(self) -> None:  # opcode BUILD sets an object's state: no tensor needs it
        self.stack.pop()

    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = load_call
    dispatch[pickle.NEWOBJ_EX[0]] = load_call_with_keywords
    dispatch[pickle.BUILD[0]] = load_build


# What torch.load takes for the pickle module.
MODULE = types.SimpleNamespace(
    __name__=__name__, Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load()
)


def load(path: Path, zipped: bool) -> Any:
    """What torch.save wrote at `path`, on the CPU, all but tensors and plain values as `Inert`.

    zipped   torch's format since 1.6, whose tensors stay on disk until they are read; else the format before it

    Raises whatever torch.load raises on a damaged file, and ValueError for TorchScript, which torch.load would run.
    """
    if zipped and torch._C.PyTorchFileReader(str(path)).has_record("constants.pkl"):
        raise ValueError("it is a TorchScript program")
    return torch.load(path, map_location="cpu", pickle_module=MODULE, weights_only=False, mmap=zipped)
