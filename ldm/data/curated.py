"""The set that scripts/curate.py wrote, as a data set: its pictures by themselves, or as a choice from another data set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.files import find_file
from ldm.data.protocols import ImageFileDataset
from ldm.data.values import composed, require_count
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.util.config import instantiate_from_config
from ldm.util.errors import ConfigError, UserError
from ldm.util.files import read_text
from ldm.util.images import find_image_errors, read_image, resize_square, to_tensor

METADATA, VOCABULARY = "metadata.jsonl", "vocab.json"


class CuratedError(UserError):
    """A curated set that is missing, broken or empty."""


class CuratedTrain(Dataset):
    """The kept pictures of one split: ds[i] is (image (3,S,S) in [-1,1], SceneGraph).

    Without `dataset`, a picture's graph holds what metadata.jsonl says: its graph, else its objects or labels, of unknown
    place. With `dataset`, samples are those of that data set (Visual Genome, COCO, ...), of the kept pictures only; a latent
    cache of that data set goes on to fit.

    Args:
        root: folder that scripts/curate.py wrote.
        split: "train", "validation" or "test".
        image_size: side length S in pixels (default: 256, or that of `dataset`).
        max_samples: use only the first pictures, up to this number.
        dataset: {target, params} of the data set that was curated, if its graphs are to be used.

    Raises:
        CuratedError: the folder is no curated set, or the split has no picture with a graph.
        ConfigError: an option has an impossible value.
    """

    published_vocabulary = None
    default_split = "train"

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        image_size: int | None = None,
        max_samples: int | None = None,
        dataset: Mapping | None = None,
    ):
        kind = type(self).__name__
        self.root, self.split = Path(root), split or self.default_split
        if self.split not in ("train", "validation", "test"):
            raise ConfigError(f"{kind}: split must be train, validation or test, not {split!r}")
        size = {} if image_size is None else {"image_size": require_count(f"{kind}: image_size", image_size)}
        self.image_size = size.get("image_size", 256)
        lines = [line for line in _read(self.root / METADATA) if line.get("kept") and line.get("split") == self.split]
        self._source: Any = None
        self._epoch = 0
        if dataset is None:
            self.vocab = Vocab.read(self.root / VOCABULARY)
            lines = [line for line in lines if line.get("graph") or line.get("objects") or line.get("labels")]
            self._rows: list[Any] = [_Line(line, self.root) for line in lines]
        else:
            self._source = instantiate_from_config(dataset, **size)
            if not isinstance(self._source, ImageFileDataset):
                raise ConfigError(f"{kind}: dataset: {type(self._source).__name__} has no image files; leave it out")
            self.vocab, self.image_size = self._source.vocab, self._source.image_size
            names = {composed(line["name"]) for line in lines}
            self._rows = [i for i, name in enumerate(self._source.image_names()) if composed(name) in names]
        if max_samples is not None:
            self._rows = self._rows[: require_count(f"{kind}: max_samples", max_samples, 0)]
        if not self._rows and max_samples != 0:
            raise CuratedError(
                f"{self.root / METADATA}: no picture of {self.split} with objects or labels is kept; curate again, "
                "or name another split"
            )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def epoch(self) -> int:
        """Epoch on which the graphs of `dataset` may depend."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        if self._source is not None:
            self._source.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        row = self._rows[index]
        if self._source is not None:
            return self._source[row]
        image: Tensor = to_tensor(resize_square(read_image(row.path), self.image_size))
        return image, row.graph()

    def image_names(self) -> list[str]:
        """The names of all pictures, as in the data set that was curated."""
        if self._source is not None:
            names = self._source.image_names()
            return [names[row] for row in self._rows]
        return [row.name for row in self._rows]

    def image_path(self, index: int) -> Path:
        """The path of one picture."""
        row = self._rows[index]
        return row.path if self._source is None else self._source.image_path(row)

    def graph(self, index: int, size: tuple[int, int]) -> SceneGraph:
        """The graph of one picture, which is not read.

        Args:
            size: (width, height) of the file in pixels.
        """
        row = self._rows[index]
        return row.graph() if self._source is None else self._source.graph(row, size)

    def summary(self) -> str:
        """The number of objects."""
        if self._source is not None:
            return f"kept of {len(self._source)}"
        return f"{sum(len(row.graph().objects) for row in self._rows)} objects"

    def check(self) -> Iterator[str]:
        """Reads all pictures and graphs and yields each problem as 'where: what'."""
        yield from find_image_errors([self.image_path(index) for index in range(len(self))])
        if self._source is None:
            for row in self._rows:
                unknown = [name for name in row.graph().objects if name not in self.vocab.objects]
                if unknown:
                    yield f"{row.path}: object {unknown[0]!r} is not in {VOCABULARY}"


class CuratedValidation(CuratedTrain):
    """CuratedTrain of the validation split."""

    default_split = "validation"


class _Line:
    """A kept picture of metadata.jsonl."""

    def __init__(self, line: Mapping[str, Any], root: Path):
        self.name, self.path = str(line["name"]), find_file(root, str(line["file_name"]))
        self._graph = line.get("graph") or {"objects": line.get("objects") or line.get("labels")}

    def graph(self) -> SceneGraph:
        """Its scene graph. Raises GraphError if it is invalid."""
        return SceneGraph.from_json({**self._graph, "image": str(self.path)}, str(self.path))


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise CuratedError(f"{path}: there is no curated set; write one with scripts/curate.py --out {path.parent}")
    lines = []
    for number, text in enumerate(read_text(path).splitlines(), 1):
        try:
            line = json.loads(text)
            if not isinstance(line["name"], str) or not isinstance(line["file_name"], str):
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError):
            raise CuratedError(f"{path}, line {number}: is damaged; write it again with scripts/curate.py") from None
        lines.append(line)
    return lines
