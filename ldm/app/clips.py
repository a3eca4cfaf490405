"""Clips of an edit: from the graph of a node's picture to the edited one, sampled by a video model beside the editor's."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from ldm.app.errors import NotNow
from ldm.app.performing import Inputs, Listener
from ldm.app.requests import EditAsked
from ldm.app.sampling import CANVAS_OPTIONS
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.storyboard import Keyframe, Storyboard
from ldm.graph.storyboard_layout import place_storyboard
from ldm.util.options import from_mapping

if TYPE_CHECKING:  # they import Lightning
    from ldm.models.diffusion.video import VideoDiffusion

HELD = 4  # the last frame that moves is this many frames before the end, so that the edited scene is seen for a while


class PlayedClip(NamedTuple):
    """A clip as a page plays it.

    Attributes:
        image: data URL of an animated WebP file.
        width, height: of its frames.
        frames: their number.
    """

    image: str
    width: int
    height: int
    frames: int


class ClipMaker:
    """Samples clips.

    Args:
        load: loads the video model, which knows the names of the editor's model; called at the first clip.
    """

    def __init__(self, load: Callable[[], VideoDiffusion]):
        self.load = load

    @cached_property
    def model(self) -> VideoDiffusion:
        return self.load()

    def make(self, asked: EditAsked, inputs: Inputs, listener: Listener) -> PlayedClip:
        """Samples the clip that begins with the node's picture.

        Raises:
            UserError: the request does not fit the model, or sampling diverges.
            Cancelled: the listener said so.
        """
        from ldm.data.clip_files import webp_clip
        from ldm.sampling.clips import default_clip_options, sample_clip
        from ldm.sampling.options import SampleOptions

        assert asked.source_graph is not None
        seed = asked.options.get("seed", 0)
        board, _ = place_storyboard(storyboard_of(asked.source_graph, asked.graph, self.model.frames), seed)
        given = {name: value for name, value in asked.options.items() if name in CANVAS_OPTIONS}
        options = from_mapping(SampleOptions, default_clip_options(self.model, given))

        def progress(steps: Iterable[int]) -> Iterator[int]:
            listed: Sequence[int] = list(steps)
            for number, step in enumerate(listed):
                listener.progress("sampling", number, len(listed), number / len(listed))
                yield step

        style, first = inputs.style or inputs.photograph, inputs.photograph
        frames = sample_clip(self.model, board, seed, options, style, first, progress=progress)
        file = base64.b64encode(webp_clip(frames, board.fps)).decode()
        return PlayedClip(f"data:image/webp;base64,{file}", *frames[0].size, len(frames))


def storyboard_of(source: SceneGraph, edited: SceneGraph, frames: int) -> Storyboard:
    """The storyboard from one graph to another, whose objects have ids; the last frames show the edited one."""
    last = max(1, frames - 1 - HELD)
    return Storyboard(frames, (Keyframe(0, source), Keyframe(last, edited)))


def as_clip(asked: EditAsked) -> EditAsked:
    """The request for a clip in place of an edit. Raises NotNow if nothing is known of the picture."""
    if asked.source_graph is None:
        raise NotNow("there is no graph of this picture yet; draw a box around each object first").coded("no_graph_yet")
    return replace(asked, kind="clip", mask=None, count=1, sweep=None, attention=False, previews=False)


def no_clips() -> NotNow:
    """The error of an editor without a video model."""
    return NotNow(
        "this model has no temporal layers for clips; start the server with --ckpt data/flat/adapters.safetensors, the weights for drawn shapes"
    ).coded("no_clips")
