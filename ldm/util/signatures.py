"""Signatures of classes whose further keywords go to their base class."""

from __future__ import annotations

import inspect


def with_inherited(own: inspect.Signature, inherited: inspect.Signature) -> inspect.Signature:
    """A signature in which the parameters of the base class replace **keywords, for checks of configs and their documentation."""
    mine = {name: each for name, each in own.parameters.items() if each.kind is not each.VAR_KEYWORD}
    named = {name: each for name, each in inherited.parameters.items() if name not in mine}
    every = [each.replace(kind=each.KEYWORD_ONLY) for each in mine.values()]
    every += [
        each if each.kind is each.VAR_KEYWORD else each.replace(kind=each.KEYWORD_ONLY) for each in named.values()
    ]
    return inspect.Signature(every)
