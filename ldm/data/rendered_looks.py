"""Rendered scenes of things on a table together with those in CLEVR's look, in one vocabulary."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from ldm.data.rendered import RenderedScenes, RenderedTrain, RenderedValidation
from ldm.synthetic.rendered.vocabulary import BOTH_LOOKS, LOOKS
from ldm.util.signatures import with_inherited


class _BothLooks(RenderedScenes):
    """RenderedTrain or RenderedValidation of two folders. CLEVR's look is one style more, and its colours are further attributes.

    Args:
        root: folder with the shards of things on a table.
        clevr_root: folder with the shards that scripts/render_scenes.py --look clevr wrote.
        rendered: further parameters, those of RenderedTrain; `max_samples` and `held_out` are of each folder.

    Raises:
        RenderedError: a folder is missing, or a line of an index is damaged.
        ConfigError: an option has an unknown value.
    """

    vocab = BOTH_LOOKS
    looks = tuple(LOOKS)

    def __init__(self, root: str | Path, clevr_root: str | Path, **rendered: Any):
        self.clevr_root = Path(clevr_root)
        super().__init__(root, **rendered)

    def _folders(self) -> list[Path]:
        return [self.root, self.clevr_root]


class RenderedLooksTrain(_BothLooks, RenderedTrain):
    """All shards of two folders but the held-out ones: things on a table, and CLEVR's solids."""


class RenderedLooksValidation(_BothLooks, RenderedValidation):
    """The held-out shards of two folders: things on a table, and CLEVR's solids."""


for _kind in (RenderedLooksTrain, RenderedLooksValidation):
    _kind.__signature__ = with_inherited(  # pyright: ignore[reportAttributeAccessIssue]
        inspect.signature(_BothLooks), inspect.signature(RenderedScenes)
    )
