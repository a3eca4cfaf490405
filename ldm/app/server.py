"""The web application: the page, its files, the interface, and errors as one sentence."""

from __future__ import annotations

import gzip
import hashlib
import logging
import sqlite3
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ldm.app.editor import Editor
from ldm.app.errors import RequestError, bug, disk_error
from ldm.app.routes import application, downloads, edits, events, pictures, sessions
from ldm.app.routes.parts import plain
from ldm.app.security import Guard, Hosts
from ldm.util.errors import UserError

STATIC = Path(__file__).with_name("static")  # the front end, as `make web` builds it
TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".md": "text/plain",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
NOT_BUILT = "the page is not built: run make web"

logger = logging.getLogger(__name__)


def create_app(editor: Editor, host: str = "127.0.0.1") -> Guard:
    """The ASGI application of an editor.

    Args:
        editor: with the model and its sessions.
        host: that the server binds to, which decides under which names it may be asked.
    """
    app = FastAPI(title="Scene-graph editor", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.editor = editor
    interface = APIRouter(prefix="/api")
    for part in (application, pictures, sessions, edits, downloads, events):
        interface.include_router(part.router)
    app.include_router(interface)
    add_static_files(app, "index.html")
    add_error_handlers(app)
    return Guard(app, editor.store.token, Hosts.of(host))


def add_static_files(app: FastAPI, page: str) -> None:
    """Adds `/`, which is this page of the front end, and the files that it refers to."""

    def index(request: Request) -> Response:
        return _answer(page, request) or _error(503, NOT_BUILT)

    app.add_api_route("/", index, include_in_schema=False)
    app.add_api_route("/static/{name:path}", _file, include_in_schema=False)


def add_error_handlers(app: FastAPI) -> None:
    """Makes every error an answer with one sentence."""
    app.add_exception_handler(UserError, _as_sentence)
    app.add_exception_handler(RequestValidationError, _as_invalid)
    app.add_exception_handler(HTTPException, _as_status)
    app.add_exception_handler(ClientDisconnect, _as_cut_off)
    for kind in (OSError, sqlite3.Error):
        app.add_exception_handler(kind, _as_disk_error)
    app.add_exception_handler(Exception, _as_bug)


def _file(name: str, request: Request) -> Response:
    return _answer(name, request) or _error(404, "there is no such file")


def _answer(name: str, request: Request) -> Response | None:
    """A file of the front end, compressed for a slow tunnel; a browser that has it is told so.

    Its path comes from the folder's own listing, never from the request.
    """
    listed = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}
    path = listed.get(name)
    if path is None:
        return None
    content, packed, tag = _read(path, path.stat().st_mtime_ns)
    headers = {"ETag": tag, "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers = packed, {**headers, "Content-Encoding": "gzip"}
    return Response(content, headers=headers, media_type=TYPES.get(path.suffix, "application/octet-stream"))


@lru_cache(maxsize=32)
def _read(path: Path, changed: int) -> tuple[bytes, bytes, str]:
    """The content of a file, the same compressed, and its tag; `changed` is the file's time."""
    content = path.read_bytes()
    return content, gzip.compress(content, mtime=0), f'"{hashlib.sha256(content).hexdigest()[:32]}"'


# Errors ---------------------------------------------------------------------------------------------------------------


def _as_sentence(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return _told(error.status if isinstance(error, RequestError) else 400, error)


def _as_invalid(request: Request, error: Exception) -> Response:
    """A request that does not have the form of the interface; the first mistake of it."""
    assert isinstance(error, RequestValidationError)
    first: Mapping = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "body"
    return _error(400, f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}")


def _as_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {404: "there is no such route", 405: f"this route does not take {request.method}"}
    detail = sentences.get(error.status_code, error.detail)
    return _error(error.status_code, str(detail or HTTPStatus(error.status_code).phrase))


def _as_cut_off(request: Request, error: Exception) -> Response:
    return _told(413, UserError("the body is too large, or was cut off; send it again, or less of it").coded("cut_off"))


def _as_disk_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, (OSError, sqlite3.Error))
    logger.error("%s %s: %s", request.method, request.url.path, error)
    return _told(503, disk_error(error))


def _as_bug(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _told(500, bug())


def _told(status: int, error: UserError) -> Response:
    values = {name: plain(value) if isinstance(value, str) else value for name, value in error.values.items()}
    return _error(status, " ".join(str(error).split()), error.code, values)


def _error(status: int, sentence: str, code: str = "", values: Mapping[str, Any] | None = None) -> Response:
    """`code` and `values` by which a page says it in its own language, where it knows the code."""
    return JSONResponse({"error": plain(sentence), "code": code, "values": values or {}}, status)
