"""Copies of a module that share its weights, with some submodules replaced."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn


def with_submodules(module: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """Copies a module with some submodules replaced; the original is unchanged.

    Only the modules that contain a replaced submodule are copied. All others are shared, and so are all parameters,
    buffers, hooks and plain attributes.

    Args:
        module: The original.
        replacements: New submodules by their dotted path, as in `module.named_modules()`; the path "" stands for `module`.

    Returns:
        The copy, or `module` itself if nothing is replaced.

    Raises:
        AttributeError: for a path that the module does not have.
    """
    if "" in replacements:
        return replacements[""]
    by_child: dict[str, dict[str, nn.Module]] = {}
    for path, replacement in replacements.items():
        child, _, rest = path.partition(".")
        by_child.setdefault(child, {})[rest] = replacement
    if not by_child:
        return module
    clone = copy.copy(module)
    # copy.copy leaves both modules with one dictionary of children, in which set_submodule would change the original's, too;
    # nn.Module has no public way to a shallow copy, and copy.deepcopy would copy the weights and a trainer's state as well.
    clone._modules = dict(module._modules)
    for child, inner in by_child.items():
        clone.set_submodule(child, with_submodules(module.get_submodule(child), inner), strict=True)
    return clone
