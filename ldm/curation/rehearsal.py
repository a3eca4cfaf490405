"""Deduplicates and clusters made-up embeddings, to say beforehand what a pool of some size takes in time and memory."""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldm.curation.pairs import Features, Thresholds, near_pairs
from ldm.curation.partition import assign, chunks, spherical_kmeans, unit

WIDTH = 512
GROUPS = 200  # directions around which the embeddings lie
PLANTED = 0.05  # share of rows that are copies of others with noise, of cosine 0.98
MIN_COSINE = 0.95


class Rehearsal(NamedTuple):
    """What one size took.

    Args:
        rows: embeddings.
        seconds_to_deduplicate: of CPU, so that other work on the machine does not count.
        seconds_to_cluster: of CPU; 64 clusters, fitted on a sample, all rows assigned.
        peak_gb: largest resident memory of the process so far, file pages included.
        pairs: that were found.
        recall: share of the planted pairs among them.
        precision: share of the found pairs that were planted.
    """

    rows: int
    seconds_to_deduplicate: float
    seconds_to_cluster: float
    peak_gb: float
    pairs: int
    recall: float
    precision: float

    def sentence(self) -> str:
        """One line for the terminal."""
        return (
            f"{self.rows} embeddings: {self.seconds_to_deduplicate:.1f} s of CPU to find {self.pairs} duplicates (recall "
            f"{self.recall:.4f}, precision {self.precision:.4f}), {self.seconds_to_cluster:.1f} s to cluster, "
            f"{self.peak_gb:.2f} GB at most"
        )


def rehearse(rows: int, seed: int = 0, folder: str | Path | None = None) -> Rehearsal:
    """Makes embeddings with planted duplicates, as a memory-mapped file of halfs, and measures both steps.

    Args:
        rows: their number.
        seed: of everything.
        folder: of the temporary file.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "embeddings.npy"
        planted = make_embeddings(path, rows, seed)
        embedding = np.load(path, mmap_mode="r")
        start = time.process_time()
        pairs = near_pairs(Features(embedding), Thresholds(min_cosine=MIN_COSINE), seed=seed)
        deduplicated = time.process_time()
        assign(embedding, spherical_kmeans(embedding, min(64, rows), seed))
        clustered = time.process_time()
    found = set(zip(pairs["first"].tolist(), pairs["second"].tolist()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    hits = len(found & planted)
    return Rehearsal(
        rows,
        deduplicated - start,
        clustered - deduplicated,
        peak,
        len(found),
        hits / max(1, len(planted)),
        hits / max(1, len(found)),
    )


def make_embeddings(path: Path, rows: int, seed: int = 0) -> set[tuple[int, int]]:
    """Writes (rows,512) halfs of unit length around random directions; the last rows are noisy copies of the first ones.

    Returns:
        The planted pairs (i, j) with i < j.
    """
    rng = np.random.default_rng(seed)
    copies = math.floor(PLANTED * rows)
    directions = unit(rng.standard_normal((GROUPS, WIDTH), np.float32))
    data = np.lib.format.open_memmap(path, "w+", np.float16, (rows, WIDTH))
    noise = math.sqrt(1 / 0.98**2 - 1) / math.sqrt(WIDTH)  # so that the cosine with the original is 0.98
    for part in chunks(rows - copies):
        count = part.stop - part.start
        own = unit(rng.standard_normal((count, WIDTH), np.float32))
        data[part] = unit(directions[rng.integers(GROUPS, size=count)] + 0.8 * own)
    for part in chunks(copies):
        originals = data[part].astype(np.float32)
        changed = originals + noise * rng.standard_normal(originals.shape, np.float32)
        data[rows - copies + part.start : rows - copies + part.stop] = unit(changed)
    data.flush()
    return {(row, rows - copies + row) for row in range(copies)}
