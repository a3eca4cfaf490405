"""Spherical k-means, HDBSCAN, silhouettes, the adjusted Rand index, and distances between groups."""

import numpy as np
import pytest

from ldm.curation.clusters import adjusted_rand_index, cluster_hdbscan, cluster_kmeans, silhouette
from ldm.curation.errors import CurationError
from ldm.curation.gaussians import diagonal_w2, distances_between
from ldm.curation.partition import assign, nearest_centroids, spherical_kmeans, unit


def bunches(k: int, each: int, width: int = 16, spread: float = 0.15, seed: int = 0):
    """Unit vectors around k orthogonal directions, and the direction of each."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(k), each)
    return unit(np.eye(k, width)[truth] + spread * rng.standard_normal((k * each, width))), truth


def test_kmeans_finds_planted_clusters_and_their_number():
    vectors, truth = bunches(4, 40)
    clusters = cluster_kmeans(vectors)
    assert len(clusters.centroids) == 4 and adjusted_rand_index(clusters.labels, truth) == 1
    assert max(clusters.silhouettes, key=clusters.silhouettes.get) == 4


def test_a_common_direction_hides_clusters_unless_the_mean_is_subtracted():
    vectors, truth = bunches(3, 50, spread=0.05)
    cone = unit(
        vectors * 0.05
        + np.array([0] * 15 + [1.0])
        + 0.2 * np.random.default_rng(1).standard_normal((150, 1)) * np.eye(16)[14]
    )
    plain, centred = (cluster_kmeans(cone, 3, centre=centre).labels for centre in (False, True))
    assert adjusted_rand_index(centred, truth) >= adjusted_rand_index(plain, truth)


def test_clusters_are_numbered_from_the_largest_on_and_members_from_the_nearest_on():
    vectors = np.concatenate([bunches(2, 10)[0][:10], bunches(2, 30, seed=1)[0][30:]])
    clusters = cluster_kmeans(vectors, 2)
    assert np.bincount(clusters.labels).tolist() == [30, 10]
    cosines = clusters.cosines[clusters.members(0)]
    assert (np.diff(cosines) <= 0).all() and len(cosines) == 30


def test_kmeans_maximises_the_sum_of_cosines_at_least_as_well_as_random_centroids():
    vectors = unit(np.random.default_rng(0).standard_normal((200, 8)))
    fitted = assign(vectors, spherical_kmeans(vectors, 5))[1].sum()
    for seed in range(5):
        chosen = vectors[np.random.default_rng(seed).choice(200, 5, replace=False)]
        assert fitted > assign(vectors, chosen)[1].sum()


def test_kmeans_of_equal_vectors_and_of_too_many_clusters():
    assert spherical_kmeans(np.ones((5, 3)), 3).shape == (3, 3)
    with pytest.raises(CurationError, match="at most one per picture"):
        spherical_kmeans(np.eye(3), 4)


def test_nearest_centroids_are_sorted_and_complete():
    vectors, centroids = (unit(np.random.default_rng(s).standard_normal((n, 6))) for s, n in ((0, 30), (1, 9)))
    assert nearest_centroids(vectors, centroids, 3).tolist() == np.argsort(-vectors @ centroids.T)[:, :3].tolist()


def test_silhouette_and_rand_index_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    vectors, truth = bunches(3, 20, spread=0.5)
    other = np.random.default_rng(0).integers(0, 4, 60)
    for labels in (truth, other):
        assert silhouette(vectors, labels) == pytest.approx(
            metrics.silhouette_score(vectors, labels, metric="cosine"), abs=1e-5
        )
    assert adjusted_rand_index(truth, other) == pytest.approx(metrics.adjusted_rand_score(truth, other))


def test_the_rand_index_ignores_names_and_is_one_for_equal_groupings():
    assert adjusted_rand_index(np.array(["a", "a", "b"]), np.array([5, 5, 2])) == 1
    assert abs(adjusted_rand_index(np.arange(2000) % 5, np.random.default_rng(0).integers(0, 5, 2000))) < 0.01


def test_hdbscan_finds_clusters_and_says_the_share_of_noise():
    pytest.importorskip("sklearn.cluster")
    vectors, truth = bunches(3, 40, spread=0.05)
    noise = unit(np.random.default_rng(3).standard_normal((30, 16)))
    clusters = cluster_hdbscan(np.concatenate([vectors, noise]), 10)
    assert adjusted_rand_index(clusters.labels[:120], truth) > 0.95
    assert clusters.noise_share > 0.15 and f"{clusters.noise_share:.1%}" in clusters.method


def test_w2_of_shifted_and_scaled_groups_has_its_closed_form():
    group = np.random.default_rng(0).standard_normal((500, 3))
    assert diagonal_w2(group, group) == 0
    assert diagonal_w2(group, group + [3, 4, 0]) == pytest.approx(5)
    assert diagonal_w2(group, 2 * (group - group.mean(0)) + group.mean(0)) == pytest.approx(
        np.linalg.norm(group.std(0))
    )


def test_distances_are_symmetric_and_single_pictures_are_left_out():
    vectors, truth = bunches(3, 10)
    groups = {"a": np.flatnonzero(truth == 0), "b": np.flatnonzero(truth == 1), "one": np.array([25])}
    names, table = distances_between(vectors, groups)
    assert names == ["a", "b"] and table[0, 1] == table[1, 0] > 1 and table[0, 0] == 0
