"""The map between languages is a ridge regression towards the identity, and is used only where it wins."""

import numpy as np
import pytest
from plane_encoder import PlaneEncoder

from ldm.util.errors import UserError
from ldm.words import aligner
from ldm.words.aligner import Aligned, LinearMap, fit, read_alignments, write_alignments


def unit(rng, n, d=512):
    x = rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_the_gradient_of_the_objective_is_zero_at_the_fitted_matrix():
    rng, strength = np.random.default_rng(0), 2.0
    x, y = unit(rng, 30), unit(rng, 30)
    w = fit(x, y, strength).matrix.astype(np.float64)
    gradient = x.T @ (x @ w - y) + strength * (w - np.eye(512))
    assert np.abs(gradient).max() < 1e-5


def test_a_rotation_is_learned_and_a_large_strength_changes_nothing():
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(512, 512)))[0].astype(np.float32)
    x = unit(rng, 2000)
    held = unit(rng, 5)
    assert np.allclose(fit(x, x @ rotation, 1e-3)(held), held @ rotation, atol=1e-2)
    assert np.allclose(fit(x, x @ rotation, 1e9)(held), held, atol=1e-5)


@pytest.mark.parametrize(
    ("gained", "lost", "wins"), [(20, 2, True), (21, 13, False), (3, 0, False), (5, 0, True), (0, 9, False)]
)
def test_the_map_wins_by_two_standard_errors_or_not_at_all(gained, lost, wins):
    assert Aligned("object", LinearMap(np.eye(512)), 1.0, {}, gained, lost).wins is wins


def test_a_file_gives_back_the_maps_that_won_and_only_those(tmp_path):
    rng = np.random.default_rng(2)
    maps = [LinearMap(rng.normal(size=(512, 512)).astype(np.float32)) for _ in range(2)]
    found = [
        Aligned("object", maps[0], 1.0, {"ko": [1, 0, 0, 1, 1]}, 20, 2),
        Aligned("predicate", maps[1], 1.0, {}, 1, 1),
    ]
    write_alignments(tmp_path / "map.safetensors", found, PlaneEncoder({}), 0)
    read = read_alignments(tmp_path / "map.safetensors")
    assert list(read) == ["object"] and np.array_equal(read["object"].matrix, maps[0].matrix)


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "map.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="scripts/align_words.py"):
        read_alignments(tmp_path / "map.safetensors")
    with pytest.raises(UserError, match="scripts/align_words.py"):
        read_alignments(tmp_path / "absent.safetensors")


def test_a_word_left_out_is_in_neither_the_map_nor_the_prototypes(monkeypatch):
    """Every word of a language is found only if its own form is seen: with folds, the top-1 without a map is 0."""
    from ldm.words.lexicon import Form, Lexicon

    names = [f"name {i}" for i in range(10)]
    forms = {name: (Form(f"form {i}", "xx", False),) for i, name in enumerate(names)}
    lexicon = Lexicon({"object": forms, "predicate": {}, "attribute": {}})
    monkeypatch.setattr(aligner, "STRENGTHS", (1e9,))
    found = aligner.align("object", names, lexicon, PlaneEncoder({name: 0 for name in names[:1]}))
    assert found.scores["xx"][0] == 10 and found.scores["xx"][1] <= 0.2
