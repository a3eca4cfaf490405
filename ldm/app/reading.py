"""Reading a picture: its graph, and whether it shows what an edit was to show, by a world's checker or a plug-in."""

from __future__ import annotations

import threading
from typing import NamedTuple, Protocol

from PIL import Image

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.synthetic.checker import check
from ldm.synthetic.worlds import READERS


class Verdict(NamedTuple):
    """Whether a picture shows a graph, and what is wrong, a sentence each."""

    passed: bool
    complaints: tuple[str, ...]


class PictureReader(Protocol):
    """Reads graphs from pictures. A detector becomes one by these methods; `Editor` takes it as `reader`."""

    @property
    def name(self) -> str: ...

    def read_graph(self, picture: Image.Image) -> SceneGraph | None:
        """The graph of a picture, with names of the model's vocabulary; None if nothing was found."""
        ...

    def check(self, graph: SceneGraph, picture: Image.Image) -> Verdict | None:
        """Whether the picture shows the graph; None for a reader that cannot tell."""
        ...


class CheckerOfWorld:
    """The checker of a synthetic world; a `PictureReader`.

    Args:
        name: of the world, a key of `ldm.synthetic.worlds.READERS`.
    """

    def __init__(self, name: str):
        self.name, self.world = name, READERS[name]
        self._lock = threading.Lock()  # one picture at a time, beside the worker's edits

    def read_graph(self, picture: Image.Image) -> SceneGraph | None:
        with self._lock:
            return self.world.read_scene(picture).graph

    def check(self, graph: SceneGraph, picture: Image.Image) -> Verdict:
        with self._lock:
            verdict = check(graph, picture, self.name)
        return Verdict(verdict.passed, verdict.complaints)


def find_reader_of(vocab: Vocab) -> CheckerOfWorld | None:
    """The checker of the world that has this vocabulary, or None."""
    return next((CheckerOfWorld(name) for name, reader in READERS.items() if reader.vocab == vocab), None)
