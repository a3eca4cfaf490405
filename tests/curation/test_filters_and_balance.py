"""Limits of quality and content, and caps on what there is too much of."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pile import picture, save

from ldm.curation.balance import balance, evenness, rare_words, word_counts
from ldm.curation.errors import CurationError
from ldm.curation.filters import filter_pictures, score_pictures
from ldm.curation.options import CurationOptions, pairs_of, read_options
from ldm.curation.pictures import Picture
from ldm.curation.store import Records, record_type
from ldm.curation.views import make_views

POOL = [
    Picture("a.png", "a", objects=("cup",)),
    Picture("b.png", "b", objects=("cup", "pen", "pen")),
    Picture("c.png", "c", labels=("sky",)),
]


def records() -> Records:
    table = np.zeros(3, record_type(4))
    table["size"] = [[100, 50], [64, 64], [200, 190]]
    table["sharpness"], table["contrast"], table["clipped"] = [5, 50, 500], [0.01, 0.1, 0.3], [0, 0.2, 0.9]
    return Records([table])


@pytest.mark.parametrize(
    ("limit", "removed", "reason"),
    [
        ({"min_side": 64}, "a", "50 pixels, fewer than 64"),
        ({"max_aspect": 1.5}, "a", "aspect 2.00, more than 1.5"),
        ({"min_sharpness": 10}, "a", "sharpness 5, below 10"),
        ({"min_contrast": 0.05}, "a", "contrast 0.01, below 0.05"),
        ({"max_clipped": 0.5}, "c", "clipped 0.90, above 0.5"),
        ({"min_objects": 1}, "c", "0 objects, fewer than 1"),
        ({"max_objects": 2}, "b", "3 objects, more than 2"),
    ],
)
def test_a_picture_beyond_a_limit_is_removed_with_measure_and_limit(limit, removed, reason):
    found = filter_pictures(POOL, records(), CurationOptions(**limit))
    assert {POOL[row].name: why.reason for row, why in found.items()} == {removed: reason}


def test_without_limits_only_unreadable_pictures_are_removed():
    table = records()
    table.shards[0]["size"][1] = 0
    assert {row: why.reason for row, why in filter_pictures(POOL, table, CurationOptions()).items()} == {
        1: "cannot be read"
    }


def test_pictures_without_a_word_of_the_vocabulary_are_removed(tmp_path):
    (tmp_path / "words").write_text("Pen\n\nsky\n")
    found = filter_pictures(POOL, records(), CurationOptions(vocabulary=str(tmp_path / "words")))
    assert list(found) == [0]


def test_scores_of_a_users_function_are_held_against_their_limit(tmp_path, monkeypatch):
    (tmp_path / "my_scores.py").write_text("def red(image):\n    return image.getpixel((0, 0))[0] / 255\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = [
        Picture(save(Image.new("RGB", (8, 8), (value, 0, 0)), tmp_path / f"{value}.png"), f"{value}")
        for value in (0, 255)
    ]
    options = CurationOptions(scores="my_scores.red=0.5")
    scores = score_pictures(pool, [0, 1], options.scores)
    assert scores == {"my_scores.red": [0.0, 1.0]}
    table = Records([records().shards[0][1:]])
    assert {row: why.reason for row, why in filter_pictures(pool, table, options, scores).items()} == {
        1: "red 1, above 0.5"
    }


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ("nowhere.f=1", "nowhere"),
        ("math.pi=1", "no function"),
        ("math.sqrt=x", "no number"),
        ("math.sqrt=1", "failed on a"),
    ],
)
def test_scores_that_cannot_be_computed_are_errors(scores, message, tmp_path):
    pool = [Picture(save(picture(0), tmp_path / "a.png"), "a")]
    with pytest.raises(CurationError, match=message):
        score_pictures(pool, [0], scores)


def test_a_view_is_made_once_for_each_picture_and_version_of_the_function(tmp_path):
    pool = [Picture(save(picture(i), tmp_path / f"{i}.png"), f"{i}") for i in range(2)]
    checksums = np.eye(2, 32, dtype=np.uint8)
    first = make_views(pool, [0, 1], checksums, "PIL.ImageOps.grayscale", tmp_path / "views")
    assert np.array_equal(np.asarray(Image.open(first[1])), np.asarray(ImageOps.grayscale(picture(1))))
    first[0].write_bytes(b"kept")
    second = make_views(pool, [0, 1], checksums, "PIL.ImageOps.grayscale", tmp_path / "views")
    assert second == first and first[0].read_bytes() == b"kept"
    assert make_views(pool, [0], checksums, "PIL.ImageOps.invert", tmp_path / "views")[0] != first[0]
    with pytest.raises(CurationError, match="not a picture"):
        make_views(pool, [0], checksums, "builtins.str", tmp_path / "views")


# Balance ---------------------------------------------------------------------------------------------------------------


def labelled(labels) -> list[Picture]:
    return [Picture(f"{i}.png", f"{i}.png", labels=(label,)) for i, label in enumerate(labels)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(1, 6), st.integers(0, 3))
def test_a_cap_keeps_as_many_of_each_label_as_it_allows(labels, cap, seed):
    pool = labelled(labels)
    keys = [p.labels for p in pool]
    removed = balance(pool, range(len(pool)), keys, cap, seed)
    left = Counter(label for row, label in enumerate(labels) if row not in removed)
    assert left == {label: min(cap, count) for label, count in Counter(labels).items()}
    assert removed == balance(pool, range(len(pool))[::-1], keys, cap, seed)


def test_another_seed_draws_other_pictures():
    pool = labelled("a" * 40)
    keys = [p.labels for p in pool]
    assert balance(pool, range(40), keys, 10, 0).keys() != balance(pool, range(40), keys, 10, 1).keys()


def test_a_picture_with_a_rare_word_is_kept_for_it():
    pool = [Picture(f"{i}", f"{i}", objects=("cup",)) for i in range(20)] + [Picture("r", "r", objects=("cup", "lamp"))]
    removed = balance(pool, range(21), [p.objects for p in pool], 5)
    assert 20 not in removed and len(removed) == 16
    assert removed[min(removed)].reason == "cap of 5: cup has 21 pictures"
    kept = word_counts(pool, [row for row in range(21) if row not in removed])
    assert kept == {"cup": 5, "lamp": 1} and rare_words(kept, 5) == ["lamp"]


# Options ---------------------------------------------------------------------------------------------------------------


def test_options_are_written_and_read_back_as_they_were(tmp_path):
    options = CurationOptions(cap=5, balance_by="label", triggers="a=b", min_cosine=0.5)
    (tmp_path / "o.yaml").write_text(options.to_yaml())
    assert read_options(str(tmp_path / "o.yaml"), {}) == options
    assert read_options(str(tmp_path / "o.yaml"), {"cap": 7}).cap == 7
    assert pairs_of("a=1, b=2", "x") == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cap: 3", "say what it counts"),
        ("min_cosin: 1", "did you mean"),
        ("- 1", "holds no options"),
        ("a: [", "not YAML"),
        ("cap: x", "takes a whole number"),
    ],
)
def test_wrong_options_are_errors_that_name_the_file(tmp_path, content, message):
    (tmp_path / "o.yaml").write_text(content)
    with pytest.raises(CurationError, match=f"o.yaml.*{message}"):
        read_options(str(tmp_path / "o.yaml"), {})


def test_evenness_is_one_for_equal_counts_and_the_entropy_in_their_number_otherwise():
    assert evenness(Counter(a=5, b=5, c=5)) == pytest.approx(1)
    assert evenness(Counter(a=7)) == 1 and evenness(Counter()) == 1
    assert evenness(Counter(a=3, b=1)) == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert evenness(Counter(a=3, b=1, c=0)) == evenness(Counter(a=3, b=1))
