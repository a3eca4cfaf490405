"""The h5 files of scripts/preprocess_vg.py, whose arrays `ldm.data.vg_preprocess` lists: opened once per process, and checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ldm.data.vg_raw import DataError
from ldm.graph.validation import GraphError
from ldm.graph.vocab import Vocab
from ldm.util.errors import UserError

DIMENSIONS = {  # of each array that is read; the first dimension counts images, except in object_attributes
    "objects_per_image": 1,
    "relationships_per_image": 1,
    "image_paths": 1,
    "object_names": 2,
    "object_boxes": 3,
    "relationship_subjects": 2,
    "relationship_predicates": 2,
    "relationship_objects": 2,
    "object_attributes": 2,
}
DETECTION_ARRAYS = {"boxes_1024", "img_to_first_box", "img_to_first_rel"}  # Xu et al. 2017, scene graph detection
MAX_VALUES = 1 << 31  # of one array; Visual Genome has 4e7
CHUNK_ROWS = 4096  # that are checked at once
REMEDY = "write it anew with scripts/preprocess_vg.py"


class VGFile:
    """One split's h5 file. All ids are checked when it is opened, so that none can stand for another name.

    Args:
        path: the h5 file.
        vocab: the vocabulary that was written together with it.
        vocab_path: path of that vocabulary, for error messages.

    Attributes:
        objects: (N,) number of objects of each image.
        relations: (N,) number of relations of each image.
        first_row: (N,) row of each image's first object in object_attributes.

    Raises:
        DataError: the file is missing, broken, of another kind, or contains impossible numbers.
        GraphError: it contains ids that the vocabulary lacks.
    """

    def __init__(self, path: Path, vocab: Vocab, vocab_path: str | Path):
        self.path = path
        self._opened: tuple[int, h5py.File, dict[str, h5py.Dataset]] | None = None  # process id, file, arrays
        with self.explain_errors():
            if not path.is_file():
                raise DataError(f"{path}: no such file; create it with scripts/preprocess_vg.py (see DATA.md)")
            self.objects, self.relations = map(self.integers, ("objects_per_image", "relationships_per_image"))
            self._check_shapes()
            self.first_row = np.cumsum(self.objects) - self.objects
            self._check_ids("object_names", 1, vocab.objects, vocab_path, self.objects)
            self._check_ids("relationship_predicates", 1, vocab.predicates, vocab_path, self.relations)
            self._check_ids("object_attributes", -1, vocab.attributes, vocab_path)

    def __len__(self) -> int:
        return len(self.objects)

    def integers(self, name: str, rows: int | slice = slice(None)) -> np.ndarray:
        """The values of some rows of an array as int64. Raises DataError for values that are no whole numbers."""
        values = np.asarray(self._arrays[name][rows])
        if values.dtype.kind not in "iuf":
            raise DataError(f"{self.path}: {name} has the type {values.dtype}, not numbers; {REMEDY}")
        with np.errstate(invalid="ignore"):
            integers = values.astype(np.int64)
            if values.dtype.kind == "f" and not (integers == values).all():
                raise DataError(f"{self.path}: {name} contains numbers that are not whole; {REMEDY}")
        return integers

    def boxes(self, rows: int | slice) -> np.ndarray:
        """The boxes (...,n,4) of some images: x, y, width, height in pixels."""
        return np.asarray(self._arrays["object_boxes"][rows], dtype=np.float64)

    def attributes(self, index: int) -> np.ndarray:
        """The attribute ids (objects,a) of one image, padded with -1."""
        start = int(self.first_row[index])
        return self.integers("object_attributes", slice(start, start + int(self.objects[index])))

    def image_names(self, rows: slice) -> list[str]:
        """The paths of some images relative to the image folder; bytes that are no text are kept as os.fsdecode does."""
        return [name if isinstance(name, str) else os.fsdecode(name) for name in self._arrays["image_paths"][rows]]

    @contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Turns the exceptions of h5py, which are of many kinds for a damaged file, into a DataError."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            message = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{self.path}: not a file of scripts/preprocess_vg.py, or damaged ({message}); {REMEDY}"
            ) from None

    def _check_shapes(self) -> None:
        """Raises DataError unless every image has a row, and as many columns as its counts say."""
        images = len(self.objects)
        for name, array in self._arrays.items():
            if name != "object_attributes" and array.shape[0] != images:
                raise DataError(f"{self.path}: {name} has {array.shape[0]} rows for {images} images; {REMEDY}")
        for name, counts, least in (("object", self.objects, 1), ("relationship", self.relations, 0)):
            columns = min(array.shape[1] for key, array in self._arrays.items() if _has_columns(key, name))
            wrong = np.flatnonzero((counts < least) | (counts > columns))
            if len(wrong):
                index = int(wrong[0])
                raise DataError(
                    f"{self.path}: {name}s_per_image[{index}] is {counts[index]}, and an image can have {least} to "
                    f"{columns}; {REMEDY}"
                )
        rows, total = self._arrays["object_attributes"].shape[0], int(self.objects.sum())
        if rows != total:
            raise DataError(f"{self.path}: object_attributes has {rows} rows for {total} objects; {REMEDY}")
        if self._arrays["object_boxes"].shape[2] != 4 or self._arrays["object_boxes"].dtype.kind not in "iuf":
            raise DataError(f"{self.path}: object_boxes does not consist of four numbers for each object; {REMEDY}")

    def _check_ids(
        self, name: str, least: int, names: tuple[str, ...], vocab_path: str | Path, counts: np.ndarray | None = None
    ) -> None:
        """Raises an error unless the ids, of which `counts` gives the number in each row, are from `least` to len(names) - 1."""
        for start in range(0, self._arrays[name].shape[0], CHUNK_ROWS):
            ids = self.integers(name, slice(start, start + CHUNK_ROWS))
            wrong = (ids < least) | (ids >= len(names))
            if counts is not None:
                wrong &= np.arange(ids.shape[1]) < counts[start : start + CHUNK_ROWS, None]
            for row, column in np.argwhere(wrong)[:1].tolist():
                place, value = f"{self.path}: {name}[{start + row}, {column}]", ids[row, column]
                if value >= len(names):
                    raise GraphError(
                        f"{place} is {value}, but the vocabulary {vocab_path} has {len(names)} entries; use the vocab.json "
                        "that was written together with this file"
                    )
                raise DataError(f"{place} is {value}, which is the id of no name; {REMEDY}")

    @property
    def _arrays(self) -> dict[str, h5py.Dataset]:
        """Opened once in each process, since h5py files can be neither forked nor pickled."""
        if self._opened is None or self._opened[0] != os.getpid():
            file = h5py.File(self.path, "r")
            self._opened = os.getpid(), file, self._find_arrays(file)
        return self._opened[2]

    def _find_arrays(self, file: h5py.File) -> dict[str, h5py.Dataset]:
        missing = [name for name in DIMENSIONS if name not in file]
        if missing and DETECTION_ARRAYS & set(file):
            raise DataError(
                f"{self.path}: a file for scene graph detection (VG-SGG: boxes_1024, img_to_first_box), whose 150 objects and "
                "50 predicates have other ids and no image paths; create one with scripts/preprocess_vg.py (see DATA.md)"
            )
        if missing:
            raise DataError(
                f"{self.path}: not a file of scripts/preprocess_vg.py: it has no {', '.join(missing)}; {REMEDY}"
            )
        arrays: dict[str, h5py.Dataset] = {}
        for name, dimensions in DIMENSIONS.items():
            array = file[name]
            if not isinstance(array, h5py.Dataset) or array.ndim != dimensions:
                raise DataError(f"{self.path}: {name} is no array of {dimensions} dimensions; {REMEDY}")
            if array.size > MAX_VALUES:
                raise DataError(f"{self.path}: {name} has {array.size:,} values, more than Visual Genome; {REMEDY}")
            arrays[name] = array
        paths = arrays["image_paths"].dtype
        if paths.kind != "S" and h5py.check_string_dtype(paths) is None:
            raise DataError(f"{self.path}: image_paths has the type {paths}, not text; {REMEDY}")
        return arrays

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


def _has_columns(array: str, kind: str) -> bool:
    """Whether an array has a column for each `kind` (object or relationship) of an image."""
    return array.startswith(kind) and DIMENSIONS[array] > 1 and array != "object_attributes"
