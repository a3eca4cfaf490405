"""Starts the server: finds a port, says where the page is, and ends without losing what was made."""

from __future__ import annotations

import getpass
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from ldm.app.editor import Editor
from ldm.app.security import LOOPBACK
from ldm.app.server import create_app
from ldm.util.errors import UserError

DEFAULT_PORT = 8765
LAST_PORT = 65535
PORTS = 20  # that are tried from the default one on
EVERYWHERE = ("0.0.0.0", "::")
GRACE = 3  # seconds that open connections have when the server stops


class Server(uvicorn.Server):
    """A server of one editor, in this thread or in one of its own."""

    def __init__(self, editor: Editor, host: str, bound: socket.socket, announce: Callable[[], None] | None = None):
        config = uvicorn.Config(
            create_app(editor, host),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws_max_size=4096,
            timeout_graceful_shutdown=GRACE,
        )
        super().__init__(config)
        self.editor, self.bound, self.announce = editor, bound, announce
        self.closed = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.announce and self.started:
            self.announce()

    def serve_until_stopped(self) -> None:
        """Serves until Ctrl-C, or until `should_exit` is set. The job that runs then waits again at the next start."""
        try:
            self.run(sockets=[self.bound])
        finally:
            self.editor.close()
            self.bound.close()
            self.closed.set()


def serve(editor: Editor, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Serves an editor and prints where it is, until Ctrl-C.

    Args:
        host: address or name to bind to.
        port: by default the first free one from DEFAULT_PORT on; 0 for any.

    Raises:
        UserError: the address cannot be used.
    """
    bound = bind(host, port)
    number = bound.getsockname()[1]

    def announce() -> None:
        print(f"The editor is ready: {url(host, number, editor.store.token)}")
        print(f"From another machine: {tunnel(number)}")
        print(f"Sessions are kept in {editor.store.folder}; Ctrl-C stops the server.", flush=True)

    with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has stopped
        Server(editor, host, bound, announce).serve_until_stopped()


def start(editor: Editor, port: int | None = None) -> Server:
    """Serves an editor from a thread of its own, until `should_exit` is set."""
    server = Server(editor, "127.0.0.1", bind("127.0.0.1", port))
    thread = threading.Thread(target=server.serve_until_stopped, name="editor", daemon=True)
    thread.start()
    return server


def bind(host: str, port: int | None) -> socket.socket:
    """A socket that is bound to the host, and to the port or a free one. Raises UserError."""
    ports = range(DEFAULT_PORT, DEFAULT_PORT + PORTS) if port is None else [port]
    reason: OSError | None = None
    for number in ports:
        try:
            if number > LAST_PORT:  # getaddrinfo takes it modulo 65536
                raise OSError(f"ports end at {LAST_PORT}")
            family, kind, protocol, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            bound = socket.socket(family, kind, protocol)
            try:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bound.bind(address)
            except OSError:
                bound.close()
                raise
            bound.set_inheritable(True)
            return bound
        except OSError as error:
            reason = error
    where = f"--host {host}" if port is None else f"--host {host} --port {port}"
    raise UserError(f"{where}: cannot be used ({reason and (reason.strerror or reason)}); name another one")


def url(host: str, port: int, token: str) -> str:
    """The address of the page."""
    name = socket.gethostname() if host in EVERYWHERE else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/?token={token}"


def tunnel(port: int) -> str:
    """The command that makes the page reachable from the user's own machine, under the same address."""
    return f"ssh -N -L {port}:{LOOPBACK[1]}:{port} {getpass.getuser()}@{socket.gethostname()}"
