"""Embeddings and measures of a pool of pictures on disk: keyed by checksums, written by shards, mapped into memory.

A folder holds, for one tower,

    tower.json               name and checksum of the tower, and numpy's description of a record
    <digest>.npy             records of `shard_size` pictures in the order of the pool; the digest is that of their paths,
                             sizes and times of change, so that a shard is written again when one of its files changes

Each process writes every `world`-th shard, and takes records that another shard already has from there, found by the
checksum of the file: a picture is embedded once, whatever else is in the pool. Shards are renamed when they are complete, so a killed
command goes on with the next one. `Records` maps the shards into memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ldm.curation.errors import CurationError
from ldm.curation.measures import THUMBNAIL, Measures, measure
from ldm.curation.pictures import Picture
from ldm.curation.towers import Tower
from ldm.util.files import atomic_write, digest, read_json, remove_leftovers
from ldm.util.images import ImageError, read_image

FORMAT = 1
INDEX = "tower.json"
PATIENCE = 1800  # seconds without a new shard after which other processes are taken to have failed

logger = logging.getLogger(__name__)


def record_type(width: int) -> np.dtype:
    """The structured type of a record for embeddings (width,)."""
    return np.dtype(
        [
            ("checksum", "u1", (32,)),  # SHA-256 of the file
            ("size", "<i4", (2,)),  # width, height; 0 for a picture that cannot be read
            ("sharpness", "<f4"),
            ("brightness", "<f4"),
            ("contrast", "<f4"),
            ("clipped", "<f4"),
            ("hash", "<u8"),
            ("mirrored", "<u8"),
            ("thumbnail", "u1", (THUMBNAIL, THUMBNAIL)),
            ("embedding", "<f2", (width,)),  # of unit length, or 0 for a picture that cannot be read
        ]
    )


class Records:
    """The records of a pool, from memory-mapped shards: records[field] -> array of all pictures, in the pool's order.

    Args:
        shards: structured arrays.
    """

    def __init__(self, shards: Sequence[np.ndarray]):
        self.shards = list(shards)

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def __getitem__(self, field: str) -> np.ndarray:
        return np.concatenate([shard[field] for shard in self.shards])

    def thumbnail(self, row: int) -> np.ndarray:  # (64,64) uint8
        """The grey copy of one picture, of which no other is read."""
        for shard in self.shards:
            if row < len(shard):
                return shard[row]["thumbnail"]
            row -= len(shard)
        raise IndexError(row)


def embed(
    pictures: Sequence[Picture],
    folder: str | Path,
    tower: Tower,
    rank: int = 0,
    world: int = 1,
    shard_size: int = 512,
    batch_size: int = 32,
) -> Records:
    """Embeds and measures the pictures of this process's missing shards, then waits for those of other processes.

    Args:
        folder: of the store; pictures of other pools may be in it.
        rank: number of this process.
        world: number of processes.
        shard_size: pictures per shard; a kill loses at most this many per process.
        batch_size: pictures that the tower embeds at once.

    Raises:
        CurationError: the folder holds embeddings of another tower, or other processes do not go on.
    """
    folder = Path(folder)
    kind = record_type(tower.width)
    _write_index(folder, tower)
    blocks = [pictures[start : start + shard_size] for start in range(0, len(pictures), shard_size)]
    paths = [folder / f"{_block_digest(block)}.npy" for block in blocks]
    missing = [
        place for place in range(rank, len(blocks), world) if _open(paths[place], kind, len(blocks[place])) is None
    ]
    known = _known_rows(folder, kind) if missing else {}
    total = sum(len(blocks[place]) for place in missing)
    with tqdm(total=total, desc="embedding", unit="picture", disable=rank > 0 or not total) as progress:
        for place in missing:
            records = _make_records(blocks[place], known, tower, kind, batch_size, progress.update)
            with atomic_write(paths[place]) as temporary:
                np.save(temporary, records)
    return Records(list(_wait(paths, kind, [len(block) for block in blocks])))


def _make_records(
    block: Sequence[Picture],
    known: dict[bytes, tuple[Path, int]],
    tower: Tower,
    kind: np.dtype,
    batch_size: int,
    update: Callable[[int], Any],
) -> np.ndarray:
    records = np.zeros(len(block), kind)
    new = []
    for row, picture in enumerate(block):
        checksum = _checksum(picture.path)
        found = known.get(checksum)
        if found is not None:
            records[row] = np.load(found[0], mmap_mode="r")[found[1]]
        else:
            records[row]["checksum"] = np.frombuffer(checksum, np.uint8)
            new.append(row)
    update(len(block) - len(new))
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(new), batch_size):
            rows = new[start : start + batch_size]
            read = list(pool.map(_read, [block[row].path for row in rows]))
            good = [(row, *each) for row, each in zip(rows, read) if each is not None]
            chosen = [block[row] for row, *_ in good]
            embeddings = tower([image for _, image, _ in good], chosen) if good else ()
            for (row, _, measures), embedding in zip(good, embeddings):
                _fill(records[row : row + 1], measures, embedding)
            update(len(rows))
    return records


def _fill(record: np.ndarray, measures: Measures, embedding: np.ndarray) -> None:
    for name, value in measures._asdict().items():
        record[name] = value
    length = float(np.linalg.norm(embedding))
    record["embedding"] = embedding / length if length > 0 else 0


def _read(path: Path) -> tuple[Image.Image, Measures] | None:
    try:
        image = read_image(path)
    except ImageError as error:
        logger.debug("%s", error)
        return None
    return image, measure(image)


def _checksum(path: Path) -> bytes:
    try:
        return bytes.fromhex(digest(path))
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return bytes(32)


def _block_digest(block: Sequence[Picture]) -> str:
    state = hashlib.sha256()
    for picture in block:
        try:
            status = picture.path.stat()
            version = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):
            version = "missing"
        state.update(f"{picture.path.absolute()}\0{version}\n".encode(errors="surrogateescape"))
    return state.hexdigest()[:24]


def _open(path: Path, kind: np.dtype, count: int | None = None) -> np.ndarray | None:
    """The records of a shard, mapped into memory; None if it is missing, damaged or of another kind."""
    try:
        records = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # numpy raises OSError, ValueError, EOFError, SyntaxError, ...
        return None
    right = isinstance(records, np.ndarray) and records.dtype == kind and count in (None, len(records))
    return records if right else None


def _known_rows(folder: Path, kind: np.dtype) -> dict[bytes, tuple[Path, int]]:
    known = {}
    for path in sorted(folder.glob("*.npy")):
        records = _open(path, kind)
        if records is not None:
            known |= {bytes(checksum): (path, row) for row, checksum in enumerate(records["checksum"])}
    known.pop(bytes(32), None)  # a file that could not be read then
    return known


def _wait(paths: Sequence[Path], kind: np.dtype, counts: Sequence[int]) -> Iterator[np.ndarray]:
    last = time.monotonic()
    for path, count in zip(paths, counts):
        while (records := _open(path, kind, count)) is None:
            if time.monotonic() - last > PATIENCE:
                raise CurationError(f"{path}: another process has not written it; run its command again, then this one")
            time.sleep(0.5)
        last = time.monotonic()
        yield records


def _write_index(folder: Path, tower: Tower) -> None:
    index = {"format": FORMAT, "checksum": tower.checksum, "name": tower.name, "width": tower.width}
    path = folder / INDEX
    if path.is_file():
        found = read_json(path, CurationError, if_broken="delete the folder")
        if not isinstance(found, dict) or any(found.get(k) != index[k] for k in ("format", "checksum", "width")):
            raise CurationError(f"{folder}: holds embeddings of another tower or version; name another folder")
        return
    remove_leftovers(folder)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
