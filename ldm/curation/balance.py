"""A cap on how many pictures one cluster, label or object word has, drawn reproducibly."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

from ldm.curation.duplicates import Removal
from ldm.curation.pictures import Picture


def balance(
    pictures: Sequence[Picture], rows: Sequence[int], keys: Sequence[Sequence[str]], cap: int, seed: int = 0
) -> dict[int, Removal]:
    """Removes pictures of which every key has `cap` others already.

    Pictures are gone through in an order that depends on the seed and their names only, those with rare keys first, so
    that a picture with a rare and a common word is kept for the rare one.

    Args:
        rows: the pictures that are still there.
        keys: of each picture of the pool, its cluster, labels or object words; pictures without any are kept.
        cap: most pictures of a key, unless a picture is needed for a rarer one.
        seed: of the order.
    """
    totals = Counter(key for row in rows for key in set(keys[row]))

    def order(row: int) -> tuple[int, bytes]:
        rarest = min((totals[key] for key in keys[row]), default=0)
        mixed = hashlib.sha256(f"{seed}/{pictures[row].name}".encode(errors="surrogateescape")).digest()
        return min(rarest, cap + 1), mixed  # above the cap, all are drawn alike

    counts: Counter[str] = Counter()
    removed = {}
    for row in sorted(rows, key=order):
        own = set(keys[row])
        if own and all(counts[key] >= cap for key in own):
            most = max(sorted(own), key=lambda key: totals[key])
            removed[row] = Removal(f"cap of {cap}: {most} has {totals[most]} pictures")
        else:
            counts.update(own)
    return removed


def word_counts(pictures: Sequence[Picture], rows: Sequence[int]) -> Counter[str]:
    """In how many pictures each object word or label is."""
    return Counter(word for row in rows for word in {*pictures[row].objects, *pictures[row].labels})


def evenness(counts: Counter[str]) -> float:
    """Entropy of the words over the largest that as many could have: 1 where all are equally common (Pielou 1966)."""
    present = [count for count in counts.values() if count > 0]
    if len(present) < 2:
        return 1.0
    total = sum(present)
    return -sum(count / total * math.log(count / total) for count in present) / math.log(len(present))


def rare_words(counts: Counter[str], limit: int) -> list[str]:
    """The words of fewer than `limit` pictures, the rarest first."""
    return sorted((word for word, count in counts.items() if count < limit), key=lambda word: (counts[word], word))
