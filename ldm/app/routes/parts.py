"""What routes share: the editor, and values that they take from a request."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict

from ldm.app.editor import Editor
from ldm.app.errors import TooLarge


def _editor(request: Request) -> Editor:
    return request.app.state.editor


TheEditor = Annotated[Editor, Depends(_editor)]


class Body(BaseModel):
    """A JSON body with these keys and no others."""

    model_config = ConfigDict(extra="forbid")


async def read_body(request: Request, limit: int, what: str) -> bytes:
    """The bytes of a body. Raises TooLarge as soon as there are more than `limit`."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise TooLarge(f"the {what} has more than {limit >> 20} MiB; send a smaller one")
    return bytes(content)
