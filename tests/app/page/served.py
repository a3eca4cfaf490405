"""A server of the editor in a process of its own, and requests to it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).resolve().parents[3]
READY = re.compile(r"(http://\S+\?token=\S+)")


class Server:
    """scripts/app.py with the weights for flat shapes that ship, whose edits take less time than those of rendered scenes.

    Args:
        folder: of the sessions; another server in the same folder continues.
    """

    def __init__(self, folder: Path):
        self.folder, self.port, self.url = folder, 0, ""
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts it, on the same port as before, and waits until it says that it is ready."""
        command = [sys.executable, "scripts/app.py", "--sessions", str(self.folder), "--port", str(self.port)]
        command += ["--ckpt", "data/flat/adapters.safetensors"]
        command += ["--words", "off"]  # so that a name is known or not, whether or not the extra is installed
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if found := READY.search(line):
                self.url = found[1]
                self.port = urlsplit(self.url).port
                threading.Thread(target=self.process.stdout.read, daemon=True).start()  # lest the pipe fills
                return
        raise AssertionError("the server ended: " + "".join(lines))

    def stop(self) -> None:
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, signal_: signal.Signals) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal_)
            self.process.wait(30)

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.url).query)["token"][0]

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict]:
        """Status and JSON of an answer."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", data, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            text = error.read()
            return error.code, json.loads(text) if text.startswith(b"{") else {"error": text.decode()}
