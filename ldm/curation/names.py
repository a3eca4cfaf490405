"""Names of clusters: proposed from captions, labels and objects, changed by hand in clusters.yaml, kept by later runs."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import linear_sum_assignment

from ldm.curation.clusters import Clusters
from ldm.curation.errors import CurationError
from ldm.curation.options import read_yaml
from ldm.curation.partition import unit
from ldm.curation.pictures import Picture
from ldm.util.files import atomic_write

FILE = "clusters.yaml"
EXAMPLES = 12  # pictures of each cluster in the file, by which a later run knows it again
PROMPT = "a photo of a {}."
SAME = 0.3  # share of the examples that has to be in a new cluster for it to take the name
STOP_WORDS = {
    "a",
    "an",
    "and",
    "are",
    "at",
    "by",
    "for",
    "from",
    "in",
    "is",
    "it",
    "of",
    "on",
    "or",
    "that",
    "the",
    "their",
}
STOP_WORDS |= {"this", "to", "with", "photo", "picture", "image"}
HEADER = (
    "# Change `name` as you like: a later run keeps it for the cluster with the same pictures, and proposes names for the\n"
    "# others. `name: null` takes the proposal again.\n"
)

logger = logging.getLogger(__name__)


def propose_names(pictures: Sequence[Picture], clusters: Clusters) -> list[str]:
    """The two words of each cluster that tell it best from the others (class-based TF-IDF, Grootendorst 2022, eq. 2).

    Words are labels, objects and the words of captions. A cluster without any is "cluster 3".
    """
    words = [Counter[str]() for _ in range(len(clusters.centroids))]
    for picture, label in zip(pictures, clusters.labels.tolist()):
        if label >= 0:
            words[label].update(set(words_of(picture)))  # each picture counts once
    total = sum(words, Counter[str]())
    average = sum(total.values()) / max(1, len(words))
    names: list[str] = []
    for place, counts in enumerate(words):
        size = max(1, sum(counts.values()))
        score = {word: n / size * math.log(1 + average / total[word]) for word, n in counts.items()}
        best = sorted(score, key=lambda word: (-score[word], word))[:2]
        best = [word for word in best if score[word] >= score[best[0]] / 2]
        name = " ".join(best) or f"cluster {place}"
        names.append(name if name not in names else f"{name} {place}")
    return names


def propose_by_text(
    words: Sequence[str], vectors: np.ndarray, clusters: Clusters, embed_texts: Callable[[Sequence[str]], np.ndarray]
) -> list[str]:
    """The word of each cluster whose text embedding is nearest to its pictures (zero-shot, Radford et al. 2103.00020, 3.1).

    A word's mean cosine over the clusters is subtracted, so that a word that is near to everything names nothing.

    Args:
        words: to choose from.
        vectors: (N,E) embeddings of the clustered pictures.
        embed_texts: of the same tower: N texts -> (N,E).
    """
    if not len(clusters.centroids):
        return []
    texts = unit(embed_texts([PROMPT.format(word) for word in words]))
    vectors = vectors.astype(np.float32)
    means = unit(np.stack([vectors[clusters.labels == each].mean(0) for each in range(len(clusters.centroids))]))
    cosines = means @ texts.T
    if len(means) > 1:
        cosines = cosines - cosines.mean(0)
    names: list[str] = []
    for place, best in enumerate(cosines.argmax(1).tolist()):
        names.append(words[best] if words[best] not in names else f"{words[best]} {place}")
    return names


def words_of(picture: Picture) -> list[str]:
    """Labels and objects, and the words of the caption, in lower case."""
    text = re.findall(r"[^\W\d_]{2,}", (picture.caption or "").lower())
    return [*map(str.lower, (*picture.labels, *picture.objects)), *(word for word in text if word not in STOP_WORDS)]


def name_clusters(
    pictures: Sequence[Picture], clusters: Clusters, path: Path | None, proposed: list[str] | None = None
) -> tuple[list[str], list[str]]:
    """The names of all clusters; names that were given by hand in the file of an earlier run come first.

    Args:
        path: the file.
        proposed: a name for each cluster; by default from labels, objects and captions.

    Returns:
        Names, and the proposed ones.

    Raises:
        CurationError: the file is broken, or names two clusters alike.
    """
    proposed = propose_names(pictures, clusters) if proposed is None else proposed
    names = list(proposed)
    earlier = _read(path) if path and path.is_file() else []
    by_hand = [entry for entry in earlier if entry["name"] and entry["name"] != entry.get("proposed")]
    for entry, cluster in _match(by_hand, pictures, clusters):
        names[cluster] = entry["name"]
    lost = [entry["name"] for entry in by_hand if entry["name"] not in names]
    if lost:
        logger.warning("%s: no cluster has the pictures of %s any more; these names are dropped", path, ", ".join(lost))
    for place, name in enumerate(names):
        if names.index(name) != place:  # a proposal that a name by hand equals
            names[place] = f"{name} {place}"
    return names, proposed


def write_names(
    path: Path, names: Sequence[str], proposed: Sequence[str], pictures: Sequence[Picture], clusters: Clusters
) -> None:
    """Writes the file in which names are changed by hand."""
    entries = [
        {
            "name": name,
            "proposed": proposal,
            "size": int((clusters.labels == cluster).sum()),
            "pictures": [pictures[row].name for row in clusters.members(cluster)[:EXAMPLES].tolist()],
        }
        for cluster, (name, proposal) in enumerate(zip(names, proposed))
    ]
    with atomic_write(path) as temporary:
        temporary.write_text(HEADER + yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _match(
    entries: Sequence[dict], pictures: Sequence[Picture], clusters: Clusters
) -> list[tuple[dict[str, Any], int]]:
    """Each entry with the cluster that holds most of its pictures, no cluster twice (Kuhn 1955)."""
    if not entries or not len(clusters.centroids):
        return []
    row_of = {picture.name: row for row, picture in enumerate(pictures)}
    shares = np.zeros((len(entries), len(clusters.centroids)))
    for place, entry in enumerate(entries):
        rows = [row_of[name] for name in entry["pictures"] if name in row_of]
        for label in clusters.labels[rows].tolist() if rows else ():
            if label >= 0:
                shares[place, label] += 1 / len(rows)
    pairs = zip(*linear_sum_assignment(-shares))
    return [(entries[place], int(cluster)) for place, cluster in pairs if shares[place, cluster] > SAME]


def _read(path: Path) -> list[dict[str, Any]]:
    entries = read_yaml(path) or []
    try:
        for entry in entries:
            texts = [entry.get("name") or "", *entry["pictures"]]
            if not isinstance(entry["pictures"], list) or not all(isinstance(text, str) for text in texts):
                raise TypeError
            "".join(texts).encode(errors="surrogateescape")
            entry.setdefault("name", None)
    except (TypeError, KeyError, AttributeError, UnicodeError):
        raise CurationError(f"{path}: is broken; correct it, or delete it and let the names be proposed anew") from None
    given = [entry["name"] for entry in entries if entry["name"]]
    twice = next((name for name in given if given.count(name) > 1), None)
    if twice:
        raise CurationError(f"{path}: two clusters are named {twice!r}; give each its own name")
    return entries
