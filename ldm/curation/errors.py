"""Exceptions of curation; their message is one sentence."""

from ldm.util.errors import UserError


class CurationError(UserError):
    """Pictures or options that no set can be made from."""


class LeakError(CurationError):
    """The same picture, or pictures of one group, in two splits."""
