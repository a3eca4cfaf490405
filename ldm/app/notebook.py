"""The editor in a notebook: a server in this process, and its page in a frame below the cell."""

from __future__ import annotations

import html
import tempfile
import time
from pathlib import Path

from ldm.app.editor import Editor
from ldm.app.launch import start, url
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.loading import load_model
from ldm.util.errors import UserError

WAIT = 10.0  # seconds for the server to start


class Shown:
    """An editor that runs beside a notebook; as the value of a cell, it is shown in a frame.

    Args:
        url: the page, for a browser's tab.
        editor: with the model and its sessions.
        height: of the frame in pixels.
    """

    def __init__(self, editor: Editor, port: int | None, height: int):
        self.editor, self.height = editor, height
        self._server = start(editor, port)
        self.url = url("127.0.0.1", self._server.bound.getsockname()[1], editor.store.token)
        end = time.monotonic() + WAIT
        while not self._server.started:
            if time.monotonic() > end:
                raise UserError("the editor's server did not start; try another port")
            time.sleep(0.01)

    def close(self) -> None:
        """Stops the server. Sessions stay in their folder."""
        self._server.should_exit = True
        self._server.closed.wait(WAIT)

    def _repr_html_(self) -> str:
        address = html.escape(self.url)
        return f'<iframe src="{address}" width="100%" height="{self.height}" style="border: 0"></iframe>'

    def __repr__(self) -> str:
        return f"<the editor at {self.url}>"


def show(
    model: LatentDiffusion | None = None,
    folder: str | Path | None = None,
    port: int | None = None,
    height: int = 800,
) -> Shown:
    """Opens the editor on a model, below a notebook's cell.

    The notebook's browser must reach 127.0.0.1 of this machine: where the kernel runs elsewhere, forward the port by SSH.

    Args:
        model: in evaluation mode, not used by other code meanwhile; by default the weights that ship.
        folder: of the sessions; by default a new one, which is gone with the machine's temporary files.
        port: by default the first free one from 8765 on.
        height: of the frame in pixels.

    Raises:
        UserError: the folder or the port cannot be used.
    """
    folder = folder or tempfile.mkdtemp(prefix="ldm-editor-")
    ships = model is None
    name, words = ("the weights that ship with the project", ()) if ships else ("the notebook's model", None)
    return Shown(Editor(load_model() if ships else model, folder, name, words), port, height)
