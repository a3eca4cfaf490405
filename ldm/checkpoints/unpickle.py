"""Reads a pickled checkpoint without executing any of it.

A pickle is a program: it imports names and calls them, so that loading an untrusted file runs its author's code. Published
checkpoints also hold objects of Lightning 1.x, NumPy and OmegaConf beside their tensors, and torch.load(weights_only=True)
refuses the whole file because of them.

This unpickler neither refuses such a file nor executes it. It makes tensors, OrderedDicts and the plain values of pickle
(numbers, strings, lists, dicts ...), and of an nn.ParameterDict, which files of textual inversion hold, a dict of its tensors. Every other name is replaced by an `Inert` placeholder: its module is not imported,
it is not called, no attribute is set on it, and items that are added to it are discarded. What remains of a file, also of a
malicious one, is its tensors.
"""

from __future__ import annotations

import pickle
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._utils import _rebuild_tensor_v2


class Inert:
    """Placeholder for an object that the file names and that was not created; it discards the items added to it."""

    def __init__(self, name: str):
        self.name = name
        self.__name__ = name  # which torch says of modules in files of the format before 1.6

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


class Parameters(dict):
    """Stands for an nn.ParameterDict: the tensors by name."""

    def set_state(self, state: Any) -> None:
        """Takes the tensors of its pickled attributes, which torch keeps under `_parameters`."""
        tensors = state.get("_parameters") if isinstance(state, dict) else None
        if isinstance(tensors, dict):
            self.update({name: value for name, value in tensors.items() if isinstance(value, Tensor)})


def rebuild_tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_hooks_and_metadata: Any) -> Tensor:
    return _rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


PARAMETER_DICT = "torch.nn.modules.container.ParameterDict"
# The only calls that a file can make: (module, name) in the file -> the function that is called instead.
CALLS = {
    ("collections", "OrderedDict"): lambda items=(): OrderedDict(items),
    ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_hooks: tensor,
}


def name_of(value: Any) -> str:
    return value.name if isinstance(value, Inert) else "an object"


class Unpickler(pickle._Unpickler):
    """Python's own unpickler, with every opcode that calls or modifies an object replaced by a harmless one.

    The base class is the implementation in Python, since the opcodes of the one in C cannot be replaced.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    append: Callable[[Any], None]

    def find_class(self, module: str, name: str) -> Any:  # torch resolves the storage types before it calls this
        return CALLS.get((module, name)) or Inert(f"{module}.{name}")

    def get_extension(self, code: int) -> None:
        self.append(Inert(f"extension {code}"))

    def create(self, callee: Any, args: Any) -> Any:
        """The result of a call in the file: made by one of CALLS, otherwise a placeholder."""
        if isinstance(callee, Inert) and callee.name == PARAMETER_DICT:
            return Parameters()
        is_known = any(callee is call for call in CALLS.values())
        return callee(*args) if is_known else Inert(name_of(callee))

    def _instantiate(self, callee: Any, args: Any) -> None:  # opcodes INST and OBJ
        self.append(self.create(callee, args))

    def load_call(self) -> None:  # opcodes REDUCE and NEWOBJ: callee, arguments
        args = self.stack.pop()
        self.stack[-1] = self.create(self.stack[-1], args)

    def load_call_with_keywords(self) -> None:  # opcode NEWOBJ_EX: callee, arguments, keyword arguments
        del self.stack[-2:]
        self.stack[-1] = Inert(name_of(self.stack[-1]))

    def load_build(self) -> None:  # opcode BUILD sets the state of an object, which no tensor needs
        state = self.stack.pop()
        if self.stack and isinstance(self.stack[-1], Parameters):
            self.stack[-1].set_state(state)

    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = load_call
    dispatch[pickle.NEWOBJ_EX[0]] = load_call_with_keywords
    dispatch[pickle.BUILD[0]] = load_build


# The attributes of the module `pickle` that torch.load uses.
PICKLE_MODULE = types.SimpleNamespace(
    __name__=__name__, Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load()
)


def load(path: Path, zipped: bool) -> Any:
    """Reads a file that torch.save wrote, onto the CPU; everything but tensors and plain values is an `Inert`.

    Args:
        zipped: the format since torch 1.6, whose tensors are memory-mapped; otherwise the format before it.

    Raises:
        ValueError: the file is a TorchScript program, which torch.load would hand to the TorchScript interpreter; read it
            with ldm.checkpoints.torchscript instead.
        Exception: a damaged file raises whatever torch.load raises.
    """
    reader = torch._C.PyTorchFileReader(str(path)) if zipped else None
    if reader and reader.has_record("constants.pkl"):  # pyright: ignore[reportAttributeAccessIssue] - not in torch's stubs
        raise ValueError("it is a TorchScript program")
    options = {"map_location": "cpu", "pickle_module": PICKLE_MODULE, "weights_only": False}
    if path.suffix == ".safetensors":  # torch.load chooses its reader by this suffix, and not by the content
        with path.open("rb") as file:
            return torch.load(file, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Couldn't retrieve source code for container")
        return torch.load(path, mmap=zipped, **options)
