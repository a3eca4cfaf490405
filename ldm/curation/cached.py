"""Embeddings from a latent cache: scripts/cache_latents.py ran the image tower already, so that curation need not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.curation.errors import CurationError
from ldm.curation.pictures import Picture
from ldm.data.cache import CacheIndex, read_index
from ldm.data.values import composed

ENCODER, FIELD = "image encoder", "style"  # names in a cache's index and records


class CachedTower:
    """Looks embeddings up by split and name; no weights are loaded.

    Args:
        folder: of the cache, with a subfolder per split.
        pictures: all that will be asked for.

    Raises:
        CacheError: a split's cache is missing or damaged.
        CurationError: the cache has no image embeddings, those of several towers, or lacks a picture.
    """

    def __init__(self, folder: str | Path, pictures: Sequence[Picture]):
        self._splits: dict[str, tuple[Path, CacheIndex, dict[str, int]]] = {}
        sums, widths = set(), set()
        for split in sorted({picture.split for picture in pictures}):
            path = Path(folder) / split
            index = read_index(path)
            if FIELD not in index.fields or ENCODER not in index.encoders:
                raise CurationError(
                    f"{path}: this cache holds no image embeddings; leave --cache out, and name a --tower"
                )
            rows = {composed(name): row for row, name in enumerate(index.names)}
            absent = [p.name for p in pictures if p.split == split and composed(p.name) not in rows]
            if absent:
                raise CurationError(
                    f"{path}: {len(absent)} pictures are not in this cache, such as {absent[0]}; name the data set that it was "
                    "written for with --config"
                )
            self._splits[split] = path, index, rows
            sums.add(index.encoders[ENCODER])
            widths.add(index.record_type[FIELD].shape[-1])
        if len(sums) > 1 or len(widths) > 1:
            raise CurationError(
                f"{folder}: its splits were written with different image towers; cache them again with one"
            )
        self.width = widths.pop()
        self.checksum = hashlib.sha256(f"cache/{sums.pop()}/{self.width}".encode()).hexdigest()
        self.name = f"image embeddings of {folder}"

    def __call__(self, images: Sequence[Image.Image], pictures: Sequence[Picture] = ()) -> np.ndarray:
        """The embeddings of the pictures. Raises CurationError if a file is not the one that was cached."""
        vectors = np.zeros((len(pictures), self.width), np.float32)
        for place, (image, picture) in enumerate(zip(images, pictures, strict=True)):
            path, index, rows = self._splits[picture.split]
            shard, row = divmod(rows[composed(picture.name)], index.shard_size)
            record = index.open_shard(path, shard)[row]
            if tuple(record["size"].tolist()) != image.size:
                there, here = "x".join(map(str, record["size"].tolist())), "x".join(map(str, image.size))
                raise CurationError(
                    f"{path}: {picture.name} was {there} pixels when it was cached, and is {here} now; write the cache again"
                )
            vectors[place] = record[FIELD][0]
        return vectors

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Raises CurationError: a cache has no text tower."""
        raise CurationError("name_words: a cache has no text tower; name a CLIP with --tower instead of --cache")
