"""Who may ask: hosts, origins and the token; and the headers that every answer has.

The page holds the token and sends it with every request. There are no cookies, so a page of another site that makes a browser
send a request has nothing to send it with; and since `Host` must be a name of this machine, no name that points here
(DNS rebinding) makes another site's page a page of ours.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ldm.app.limits import BODY_BYTES, GRAPH_BYTES, IMAGE_BYTES

LOOPBACK = ("localhost", "127.0.0.1", "::1")
LARGE_BODIES = {"/api/images": IMAGE_BYTES, "/api/graphs": GRAPH_BYTES}
NO_TOKEN, WRONG_ORIGIN = 4401, 4403  # closing codes of a WebSocket


@dataclass(frozen=True)
class Hosts:
    """The values of `Host` that are taken, on any port.

    Args:
        names: lower case.
        any_address: whether any IP address is taken; an address belongs to no other site.
    """

    names: frozenset[str]
    any_address: bool = False

    @classmethod
    def of(cls, host: str) -> Hosts:
        """For a server that binds to `host`."""
        if host in LOOPBACK:
            return cls(frozenset(LOOPBACK))
        own = {host, socket.gethostname(), socket.getfqdn(), *LOOPBACK}
        return cls(frozenset(name.lower() for name in own), True)

    def allows(self, header: str) -> bool:
        """Whether the header names this machine."""
        name = _without_port(header).lower()
        return name in self.names or (self.any_address and _is_address(name))


class Refusal(Exception):
    """A request that is not answered: HTTP status, closing code of a WebSocket, a sentence, and the sentence's code."""

    def __init__(self, status: int, code: int, sentence: str, word: str, **values: int):
        super().__init__(sentence)
        self.status, self.code, self.sentence, self.word, self.values = status, code, sentence, word, values


class Guard:
    """Refuses requests of others, and adds headers to every answer; around the whole application.

    Args:
        app: what answers.
        token: that requests for data must have.
        hosts: under which the server may be asked.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Hosts):
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Refusal as refusal:
            await _refuse(refusal, scope, receive, self._with_headers(scope, send))
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
        else:
            await self.app(scope, _bounded(scope, receive), self._with_headers(scope, send))

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        host, origin = headers.get("host", ""), headers.get("origin")
        if len(headers.getlist("host")) != 1 or not self.hosts.allows(host):
            raise Refusal(
                403,
                WRONG_ORIGIN,
                "this server answers under localhost and 127.0.0.1 only; open the URL that it printed",
                "wrong_host",
            )
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise _of_another_site()
        is_page = path == "/" and headers.get("sec-fetch-mode", "navigate") == "navigate"
        if headers.get("sec-fetch-site") == "cross-site" and not is_page:
            raise _of_another_site()
        given = self._given(scope, headers)
        if given is None and path.startswith("/api"):
            raise Refusal(401, NO_TOKEN, "the token is missing; open the URL that the server printed", "no_token")
        if given is not None and not _same(given, self.token):
            raise Refusal(403, NO_TOKEN, "the token is wrong; open the URL that the server printed", "wrong_token")
        if scope["type"] == "http":
            length = headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > _limit(path):
                limit = _limit(path) >> 20
                raise Refusal(413, 1009, f"the body has more than {limit} MiB; send less", "too_large", limit=limit)

    def _given(self, scope: Scope, headers: Headers) -> str | None:
        """The token of a request, from its header or its URL."""
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return value.strip()
        values = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=20)
        return values["token"][0] if "token" in values else None

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        host = Headers(scope=scope).get("host", "")
        host = host if self.hosts.allows(host) else "localhost"
        framed = scope["type"] == "http" and self._given(scope, Headers(scope=scope)) is not None

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                framed_now = framed and message["status"] == 200
                headers = MutableHeaders(scope=message)
                for name, value in _headers(scope["path"], host, framed_now).items():
                    headers.setdefault(name, value)
            await send(message)

        return send_with_headers


def _headers(path: str, host: str, framed: bool) -> dict[str, str]:
    """`framed`: whether another page, such as a notebook, may show this one in a frame. It knew the token."""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data: blob:",
        "font-src": "'self'",
        "connect-src": f"'self' ws://{host} wss://{host}",
        "manifest-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "*" if framed else "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store" if path.startswith("/api") else "no-cache",
    }


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Refuses a body that is longer than its header said, or has no length, as soon as it is too long."""
    limit, received = _limit(scope["path"]), 0

    async def receive_bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        return {"type": "http.disconnect"} if received > limit else message

    return receive_bounded


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})  # a browser sees no reason for a connection that was not accepted
        await send({"type": "websocket.close", "code": refusal.code, "reason": refusal.sentence[:120]})
        return
    if scope["path"].startswith("/api"):
        kind, content = "application/json", _as_json(refusal)
    else:
        kind, content = "text/html; charset=utf-8", _page(refusal.sentence)
    headers: Iterable[tuple[bytes, bytes]] = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),  # what is left of a large body is not read
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": content})


def _of_another_site() -> Refusal:
    sentence = "a page of another site sent this request; use the page of this server"
    return Refusal(403, WRONG_ORIGIN, sentence, "wrong_origin")


def _as_json(refusal: Refusal) -> bytes:
    return json.dumps({"error": refusal.sentence, "code": refusal.word, "values": refusal.values}).encode()


def _page(sentence: str) -> bytes:
    """A page that says one of our own sentences."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Scene-graph editor</title>'
        f"<h1>Scene-graph editor</h1><p>{sentence[0].upper()}{sentence[1:]}.</p></html>"
    ).encode()


def _limit(path: str) -> int:
    return LARGE_BODIES.get(path, BODY_BYTES)


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _without_port(header: str) -> str:
    if header.startswith("["):  # an IPv6 address
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
