"""What routes share: the editor, and values that they take from a request."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ldm.app.editor import Editor
from ldm.app.errors import TooLarge


def _editor(request: Request) -> Editor:
    return request.app.state.editor


TheEditor = Annotated[Editor, Depends(_editor)]


DEEPEST = 32  # of lists in a body; graphs need six
Id = Annotated[int, Field(ge=0, lt=1 << 63)]  # of a node or a job, as far as SQLite counts


class Body(BaseModel):
    """A JSON body with these keys and no others; all numbers in it are finite, and all text is Unicode."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def refuse_what_json_cannot_say(cls, data: Any) -> Any:
        """Python's reader takes NaN, halves of surrogate pairs and a thousand lists; answers with them could not be sent."""
        _check(data)
        return data


def _check(data: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise ValueError("lists are nested too deeply")
    if isinstance(data, float) and not math.isfinite(data):
        raise ValueError("a number is not finite")
    if isinstance(data, str) and data != plain(data):
        raise ValueError("a text is not Unicode")
    if isinstance(data, dict):
        data = [*data, *data.values()]
    for each in data if isinstance(data, list) else ():
        _check(each, depth + 1)


def plain(text: str) -> str:
    """The text, with a question mark for what cannot be sent as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


async def read_body(request: Request, limit: int, what: str) -> bytes:
    """The bytes of a body. Raises TooLarge as soon as there are more than `limit`."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            error = TooLarge(f"the {what} has more than {limit >> 20} MiB; send a smaller one")
            raise error.coded("too_large", limit=limit >> 20)
    return bytes(content)
