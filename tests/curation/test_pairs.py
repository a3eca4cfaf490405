"""Pairs of duplicates: complete for small pools, by parts for large ones, the same on any number of processes."""

import threading

import numpy as np
import pytest

from ldm.curation import pairs
from ldm.curation.measures import differing_bits
from ldm.curation.pairs import CROP, EXACT, FLIP, KINDS, NEAR, Features, Thresholds, exact_pairs, near_pairs
from ldm.curation.partition import unit
from ldm.curation.rehearsal import make_embeddings, rehearse


def made_up(count: int, seed: int = 0, width: int = 24) -> Features:
    """Vectors of which every third is near the one before it, in embedding and in hash."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((count, width)))
    hashes, mirrored = rng.integers(0, 2**63, (2, count), np.uint64)
    for row in range(2, count, 3):
        vectors[row] = unit(vectors[row - 1 : row] + 0.02 * rng.standard_normal((1, width)))[0]
        hashes[row] = hashes[row - 1] ^ np.uint64(0b101)
    mirrored[1::9] = hashes[0::9][: len(mirrored[1::9])]
    return Features(vectors.astype(np.float16), hashes, mirrored)


def by_brute_force(features: Features, thresholds: Thresholds) -> set[tuple[int, int, str]]:
    cosine = features.embedding.astype(np.float32) @ features.embedding.astype(np.float32).T
    found = set()
    for i in range(len(cosine)):
        for j in range(i + 1, len(cosine)):
            same = int(differing_bits(features.hash[i], features.hash[j])) <= thresholds.max_hash_distance
            if same and cosine[i, j] >= thresholds.min_cosine:
                found.add((i, j, NEAR))
            flipped = int(differing_bits(features.hash[i], features.mirrored[j]))
            if flipped <= thresholds.max_hash_distance and not same:
                found.add((i, j, FLIP))
    return found


def as_set(found: np.ndarray, *kinds: str) -> set[tuple[int, int, str]]:
    triples = {(int(pair["first"]), int(pair["second"]), KINDS[pair["kind"]]) for pair in found}
    return {triple for triple in triples if not kinds or triple[2] in kinds}


@pytest.fixture
def small_parts(monkeypatch):
    """Pools of more than 100 pictures are compared by parts of about 60."""
    monkeypatch.setattr(pairs, "COMPLETE", 100)
    monkeypatch.setattr(pairs, "PART", 60)
    monkeypatch.setattr(pairs, "TILE", 32)


def test_pairs_of_a_small_pool_are_those_of_brute_force(monkeypatch):
    monkeypatch.setattr(pairs, "TILE", 16)
    features, thresholds = made_up(70), Thresholds(6, 0.9)
    found = as_set(near_pairs(features, thresholds))
    assert found == by_brute_force(features, thresholds)
    assert {kind for *_, kind in found} == {NEAR, FLIP}


def test_embeddings_without_hashes_are_compared_by_their_cosine_alone():
    features = made_up(60)
    found = as_set(near_pairs(Features(features.embedding), Thresholds(0, 0.9)))
    assert found == {(row - 1, row, NEAR) for row in range(2, 60, 3)}


def test_both_conditions_have_to_hold():
    features = made_up(60)
    other = Features(features.embedding, features.hash ^ np.arange(60, dtype=np.uint64) * np.uint64(0x0F0F0F0F0F), None)
    assert not as_set(near_pairs(other, Thresholds(4, 0.9)), NEAR)


def test_neighbours_are_the_nearest_pictures_of_each():
    features = made_up(50)
    cosine = features.embedding.astype(np.float32) @ features.embedding.astype(np.float32).T
    np.fill_diagonal(cosine, -2)
    expected = {(min(i, j), max(i, j), CROP) for i in range(50) for j in np.argsort(-cosine[i])[:3].tolist()}
    assert as_set(near_pairs(features, Thresholds(0, 2, neighbours=3)), CROP) == expected


def test_parts_find_what_a_complete_comparison_finds(small_parts, monkeypatch):
    features, thresholds = made_up(400), Thresholds(6, 0.9)
    by_parts = as_set(near_pairs(features, thresholds), NEAR)
    monkeypatch.setattr(pairs, "COMPLETE", 1000)
    assert by_parts == as_set(near_pairs(features, thresholds), NEAR)


def test_two_processes_find_the_same_as_one(small_parts, tmp_path):
    features, thresholds = made_up(400), Thresholds(6, 0.9, neighbours=2)
    alone = near_pairs(features, thresholds, tmp_path / "one")
    results: dict[int, np.ndarray] = {}

    def process(rank: int) -> None:
        results[rank] = near_pairs(features, thresholds, tmp_path / "two", rank, 2)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(results[0], results[1])
    assert as_set(results[0]) == as_set(alone) and len(alone) == len(results[0])


def test_exact_pairs_join_each_copy_with_the_first_and_ignore_unreadable_files():
    checksums = np.zeros((6, 32), np.uint8)
    checksums[[0, 2, 4], 0] = 7
    checksums[1, 0] = 9
    assert as_set(exact_pairs(checksums)) == {(0, 2, EXACT), (0, 4, EXACT)}


def test_planted_embeddings_are_found_by_a_rehearsal(small_parts, tmp_path):
    planted = make_embeddings(tmp_path / "e.npy", 600)
    data = np.load(tmp_path / "e.npy").astype(np.float32)
    assert len(planted) == 30 and data.shape == (600, 512)
    assert np.mean([data[i] @ data[j] for i, j in planted]) == pytest.approx(0.98, abs=0.003)
    measured = rehearse(600, folder=tmp_path)
    assert (measured.recall, measured.precision) == (1, 1) and "600 embeddings" in measured.sentence()
