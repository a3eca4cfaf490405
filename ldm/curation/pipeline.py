"""A curation from pictures to a set: each stage in its order, with what it removed and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ldm.curation.balance import balance, evenness, word_counts
from ldm.curation.captions import make_captions
from ldm.curation.clusters import NOISE, Clusters, adjusted_rand_index, cluster_hdbscan, cluster_kmeans
from ldm.curation.duplicates import Duplicate, Removal, choose_keepers, find_duplicates
from ldm.curation.errors import CurationError
from ldm.curation.filters import Scores, filter_pictures, read_words, score_pictures
from ldm.curation.names import FILE, name_clusters, propose_by_text
from ldm.curation.options import CurationOptions
from ldm.curation.pairs import Thresholds
from ldm.curation.pictures import Picture
from ldm.curation.splits import refuse_leaks, remove_leaks, split_by_group
from ldm.curation.store import Records
from ldm.curation.views import make_views


@dataclass
class Curation:
    """The state of a curation, and its result.

    Attributes:
        pictures: the whole pool, with the splits of the result.
        records: measures and embeddings.
        removed: row -> why a picture is not in the set.
        stages: name of each stage, and pictures that were left after it.
        duplicates: all pairs.
        clusters: of the pictures in `clustered`, or None.
        clustered: rows of the pool that were clustered.
        names, proposed: of the clusters.
        captions: row -> caption of each picture in the set.
        views: row -> file of the derived view.
        scores: by the user's functions.
    """

    pictures: list[Picture]
    records: Records
    options: CurationOptions
    removed: dict[int, Removal] = field(default_factory=dict)
    stages: list[tuple[str, int]] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    clusters: Clusters | None = None
    clustered: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    names: list[str] = field(default_factory=list)
    proposed: list[str] = field(default_factory=list)
    captions: dict[int, str | None] = field(default_factory=dict)
    views: dict[int, Path] = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)

    @property
    def kept(self) -> list[int]:
        """Rows of the pictures that are in the set so far."""
        return [row for row in range(len(self.pictures)) if row not in self.removed]

    def cluster_names(self) -> dict[int, str]:
        """Row -> name of its cluster; noise is left out."""
        if self.clusters is None:
            return {}
        labels = zip(self.clustered.tolist(), self.clusters.labels.tolist())
        return {row: self.names[label] for row, label in labels if label != NOISE}

    def remove(self, stage: str, removals: Mapping[int, Removal]) -> None:
        """Takes pictures out and notes what is left."""
        self.removed |= {row: why for row, why in removals.items() if row not in self.removed}
        self.stages.append((stage, len(self.pictures) - len(self.removed)))


def curate(
    pictures: Sequence[Picture],
    records: Records,
    options: CurationOptions,
    declared: set[tuple[int, int]] | frozenset = frozenset(),
    out: Path | None = None,
    rank: int = 0,
    world: int = 1,
    embed_texts: Callable[[Sequence[str]], np.ndarray] | None = None,
) -> Curation | None:
    """Runs all stages.

    Args:
        pictures: the pool.
        records: theirs.
        declared: pairs of rows that are alike on purpose.
        out: folder of the result, in which an earlier clusters.yaml may be, and to which views go.
        rank: number of this process; all of several find duplicates, the first does the rest.
        world: number of processes.
        embed_texts: the tower's, for `name_words`.

    Returns:
        The result; None in processes other than the first.

    Raises:
        LeakError: splits share pictures or groups.
        CurationError: options do not fit the pictures, or no picture is left.
    """
    curation = Curation(list(pictures), records, options)
    thresholds = Thresholds(options.max_hash_distance, options.min_cosine, options.crop_neighbours)
    folder = out / "work" / f"pairs-{_digest(records, thresholds, options.seed)}" if out else None
    curation.duplicates = find_duplicates(
        records,
        thresholds,
        options.min_crop_correlation,
        declared,
        folder=folder,
        rank=rank,
        world=world,
        seed=options.seed,
    )
    if rank > 0:
        return None
    curation.stages.append(("pool", len(pictures)))
    filtered = filter_pictures(curation.pictures, records, replace(options, scores=None))
    curation.remove("readable, and within the limits of size and quality", filtered)
    if options.scores:
        curation.scores = score_pictures(curation.pictures, curation.kept, options.scores)
        curation.remove("scores", filter_pictures(curation.pictures, records, options, curation.scores))
    _make_splits(curation)
    _remove_duplicates(curation)
    _require_some(curation)
    _cluster(curation, out / FILE if out else None, embed_texts)
    _balance(curation)
    curation.captions = make_captions(curation.pictures, curation.kept, curation.cluster_names(), options)
    if options.view and out:
        curation.views = make_views(curation.pictures, curation.kept, records["checksum"], options.view, out / "views")
    return curation


def describe_pool(pictures: Sequence[Picture], group_by: str | None = None) -> list[str]:
    """What --dry-run says: counts, before anything is embedded."""
    splits = Counter(picture.split for picture in pictures)
    missing = [picture.name for picture in pictures if not picture.path.is_file()]
    labels = Counter(label for picture in pictures for label in picture.labels)
    words = Counter(word for picture in pictures for word in set(picture.objects))
    lines = [f"{len(pictures)} pictures: {', '.join(f'{count} {split}' for split, count in splits.items())}"]
    lines.append(f"{sum(picture.caption is not None for picture in pictures)} have a caption")
    for kind, counts in (("labels", labels), ("object words", words)):
        if counts:
            common = ", ".join(f"{word} {count}" for word, count in counts.most_common(8))
            lines.append(f"{len(counts)} {kind}: {common}{', ...' if len(counts) > 8 else ''}")
    if group_by:
        groups = {picture.group(group_by) for picture in pictures}
        alone = sum(picture.group(group_by) is None for picture in pictures)
        lines.append(f"{len(groups - {None})} groups by {group_by}, {alone} pictures without one")
    if missing:
        lines.append(f"{len(missing)} files are missing, such as {missing[0]}")
    return lines


def balance_sentence(curation: Curation) -> str | None:
    """How even words and labels were in the pool, and are in the set; None where there are fewer than two."""
    before = word_counts(curation.pictures, range(len(curation.pictures)))
    after = word_counts(curation.pictures, curation.kept)
    if len(before) < 2:
        return None
    largest = [counts.most_common(1)[0][1] / max(1, min(counts[word] for word in before)) for counts in (before, after)]
    return (
        f"{len(before)} words: evenness {evenness(before):.3f} before and {evenness(after):.3f} after, the most common one in "
        f"{largest[0]:.1f} times as many pictures as the rarest before and {largest[1]:.1f} times after"
    )


def agreements(curation: Curation) -> list[str]:
    """How well duplicates and clusters agree with what is known of the pictures: labels, single objects, and groups."""
    sentences, key = [], curation.options.group_by
    grouped = [picture.group(key) for picture in curation.pictures]
    pairs = [pair for pair in curation.duplicates if None not in (grouped[pair.first], grouped[pair.second])]
    if key and pairs:
        within = sum(grouped[pair.first] == grouped[pair.second] for pair in pairs) / len(pairs)
        sentences.append(f"{within:.1%} of {len(pairs)} pairs of duplicates are within one {key}")
    if curation.clusters is None:
        return sentences
    chosen = [curation.pictures[row] for row in curation.clustered.tolist()]
    known = {
        "labels": [picture.labels[0] if picture.labels else None for picture in chosen],
        "objects": [picture.objects[0] if len(set(picture.objects)) == 1 else None for picture in chosen],
        f"{key}": [picture.group(key) for picture in chosen],
    }
    for name, values in known.items():
        rows = [row for row, value in enumerate(values) if value is not None]
        if len({values[row] for row in rows}) > 1:
            index = adjusted_rand_index(curation.clusters.labels[rows], np.array([values[row] for row in rows]))
            sentences.append(f"adjusted Rand index of clusters and {name} of {len(rows)} pictures: {index:.3f}")
    return sentences


def _make_splits(curation: Curation) -> None:
    options, kept = curation.options, set(curation.kept)
    pairs = [pair for pair in curation.duplicates if pair.first in kept and pair.second in kept]
    if options.validation_share:
        if {picture.split for picture in curation.pictures} != {"train"}:
            raise CurationError("validation_share: the pictures have splits already; leave it out, or name train only")
        rows = curation.kept
        place = {row: index for index, row in enumerate(rows)}
        inner = [pair._replace(first=place[pair.first], second=place[pair.second]) for pair in pairs]
        chosen = [curation.pictures[row] for row in rows]
        for row, split in zip(
            rows, split_by_group(chosen, inner, options.validation_share, options.group_by, options.seed)
        ):
            curation.pictures[row] = replace(curation.pictures[row], split=split)
        return
    if options.leaks == "remove":
        curation.remove("no leak between splits", remove_leaks(curation.pictures, pairs))
        pairs = [pair for pair in pairs if not {pair.first, pair.second} & curation.removed.keys()]
    left = curation.kept
    place = {row: index for index, row in enumerate(left)}
    inner = [pair._replace(first=place[pair.first], second=place[pair.second]) for pair in pairs]
    refuse_leaks([curation.pictures[row] for row in left], inner, options.group_by)


def _remove_duplicates(curation: Curation) -> None:
    pictures, records = curation.pictures, curation.records
    pairs = [
        pair
        for pair in curation.duplicates
        if pictures[pair.first].split == pictures[pair.second].split
        and not {pair.first, pair.second} & curation.removed.keys()
    ]
    names = [picture.name for picture in pictures]
    curation.remove(
        "one of each group of duplicates", choose_keepers(pairs, records["size"], records["sharpness"], names)
    )


def _cluster(curation: Curation, names_file: Path | None, embed_texts: Callable | None) -> None:
    options = curation.options
    if options.clustering == "none":
        return
    curation.clustered = np.array(curation.kept, np.int64)
    vectors = curation.records["embedding"][curation.clustered]
    if options.clustering == "hdbscan":
        curation.clusters = cluster_hdbscan(vectors, options.min_cluster_size, options.seed, options.centre)
    else:
        curation.clusters = cluster_kmeans(vectors, options.clusters, options.seed, options.centre)
    chosen = [curation.pictures[row] for row in curation.clustered.tolist()]
    by_text = None
    if options.name_words:
        if embed_texts is None:
            raise CurationError("name_words: there is no text tower; name a CLIP with --tower")
        words = sorted(read_words(options.name_words, "name_words"))
        by_text = propose_by_text(words, vectors, curation.clusters, embed_texts)
    curation.names, curation.proposed = name_clusters(chosen, curation.clusters, names_file, by_text)


def _balance(curation: Curation) -> None:
    options = curation.options
    if not options.cap:
        return
    names = curation.cluster_names()
    keys: list[Sequence[str]] = [
        {"cluster": [names[row]] if row in names else [], "label": picture.labels, "object": picture.objects}[
            options.balance_by
        ]
        for row, picture in enumerate(curation.pictures)
    ]
    rows = [row for row in curation.kept if curation.pictures[row].split == "train"]
    curation.remove(
        f"at most {options.cap} training pictures by {options.balance_by}",
        balance(curation.pictures, rows, keys, options.cap, options.seed),
    )


def _require_some(curation: Curation) -> None:
    if not curation.kept:
        reason, count = Counter(why.reason for why in curation.removed.values()).most_common(1)[0]
        raise CurationError(f"no picture is left of {len(curation.pictures)}; {count} were removed for: {reason}")


def _digest(records: Records, thresholds: Thresholds, seed: int) -> str:
    """Of everything that pairs depend on, so that processes never read those of another run."""
    state = hashlib.sha256(f"{thresholds} {seed} ".encode())
    state.update(records["checksum"].tobytes())
    return state.hexdigest()[:16]
