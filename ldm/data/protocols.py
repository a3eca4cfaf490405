"""What the data module, the latent cache and the checks require of a data set; any class with these members will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab


class CheckableDataset(Protocol):
    """Data set that `trainer.py --check` can examine."""

    def __len__(self) -> int: ...

    def check(self) -> Iterator[str]:
        """Reads all images and annotations and yields each problem as 'where: what'."""
        ...


@runtime_checkable
class GraphDataset(Protocol):
    """Map-style data set of (image, SceneGraph) or (image, SceneGraph, style reference), which are collated to a Batch."""

    @property
    def vocab(self) -> Vocab:
        """The names that the graphs may use."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, ...]: ...


@runtime_checkable
class ImageFileDataset(GraphDataset, Protocol):
    """Data set of image files whose graphs can be made without decoding the images, as a latent cache requires."""

    @property
    def image_size(self) -> int:
        """Side length of the images that the data set returns, in pixels."""
        ...

    def image_names(self) -> list[str]:
        """The paths of all images, relative to the data set's image folder."""
        ...

    def image_path(self, index: int) -> Path:
        """The path of one image."""
        ...

    def graph(self, index: int, size: tuple[int, int]) -> SceneGraph:
        """The graph of one image, given the (width, height) of its file in pixels."""
        ...


@runtime_checkable
class DrawnDataset(GraphDataset, Protocol):
    """Data set of pictures that are drawn, the same in every epoch, so that they can be cached like files."""

    @property
    def image_size(self) -> int:
        """Side length of the pictures, in pixels."""
        ...

    def prepare(self) -> None:
        """Computes what the processes of a loader share; called before they start."""
        ...

    def image_names(self) -> list[str]:
        """A name of each picture, which tells it from those of other settings."""
        ...

    def drawn_size(self, index: int) -> tuple[int, int]:
        """The (width, height) of one picture in pixels."""
        ...

    def graph(self, index: int, size: tuple[int, int]) -> SceneGraph:
        """The graph of one picture, given its (width, height)."""
        ...


@runtime_checkable
class HasStyleReferences(Protocol):
    """Data set that takes the style of a picture from another of its pictures."""

    def style_reference(self, index: int) -> int:
        """The index of the picture that shows the style of picture `index`."""
        ...


@runtime_checkable
class ClipDataset(GraphDataset, Protocol):
    """Data set of frames, of which `frames` in a row are a clip; a loader keeps them together and in order."""

    @property
    def frames(self) -> int:
        """T, the number of frames of each clip."""
        ...


@runtime_checkable
class SceneGraphDataset(ImageFileDataset, CheckableDataset, Protocol):
    """The complete interface, which the data sets of this package implement (the generated scenes apart)."""

    @property
    def published_vocabulary(self) -> tuple[int, int, int] | None:
        """Numbers of objects, predicates and attributes in published models' vocabulary; None if there are no such models."""
        ...

    def summary(self) -> str:
        """Counts of the annotations, such as '121 objects, 49 relations'."""
        ...


@runtime_checkable
class SeededDataset(Protocol):
    """Data set that samples at random, depending on `seed`."""

    seed: int


@runtime_checkable
class CollatesItself(Protocol):
    """Data set whose samples need a collate function of their own."""

    def collate(self, samples: Sequence[Any]) -> Any:
        """The batch of some samples."""
        ...


@runtime_checkable
class CaptionedPictures(Protocol):
    """Data set of pictures with captions that people wrote, in which learned words may stand."""

    def captions(self) -> dict[str, str]:
        """All captions by where they come from."""
        ...
