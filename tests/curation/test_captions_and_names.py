"""Captions are cleaned, mirrored and given triggers; clusters get names, and keep those that were given by hand."""

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ldm.curation.captions import add_trigger, clean_tags, long_captions, make_captions
from ldm.curation.clusters import Clusters
from ldm.curation.errors import CurationError
from ldm.curation.names import name_clusters, propose_names, write_names
from ldm.curation.options import CurationOptions
from ldm.curation.pictures import Picture
from ldm.graph.sides import swap_sides


def test_tags_are_cleaned_and_each_is_there_once():
    assert clean_tags("blue_sky, (cat:1.2),cat, ,Cat\n sofa \\(red\\)") == "blue sky, cat, sofa (red"
    assert clean_tags("a,  b") == clean_tags(clean_tags("a,  b")) == "a, b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat left of a dog on the right", "a cat right of a dog on the left"),
        ("Left hand, LEFT, leftmost", "Right hand, RIGHT, rightmost"),
        ("all right, brightly lit", "all right, brightly lit"),
        ("a cleft, leftover, upright", "a cleft, leftover, upright"),
    ],
)
def test_mirror_images_swap_left_and_right(text, expected):
    assert swap_sides(text) == expected


@given(
    st.lists(st.sampled_from(["left", "right", "Left", "a", "of", "all right", "leftmost"]), max_size=8).map(" ".join)
)
def test_swapping_twice_returns_the_caption(text):
    assert swap_sides(swap_sides(text)) == text


def test_a_trigger_is_added_unless_the_caption_has_it():
    assert add_trigger("a dog", ["ohwx"]) == "ohwx, a dog"
    assert add_trigger("photo of ohwx dog", ["ohwx"]) == "photo of ohwx dog"
    assert add_trigger(None, ["ohwx"]) == "ohwx" and add_trigger(None, []) is None


def pictures(*labels: str) -> list[Picture]:
    return [Picture(f"{i}.png", f"{i}.png", labels=(label,), caption=f"a {label}") for i, label in enumerate(labels)]


def test_a_trigger_in_no_caption_is_an_error_that_names_it():
    options = CurationOptions(triggers="cat=ohwx,bird=zwx")
    with pytest.raises(CurationError, match="bird=zwx is in no caption"):
        make_captions(pictures("cat", "dog"), [0, 1], {}, options)
    made = make_captions(pictures("cat", "bird"), [0, 1], {}, options)
    assert made == {0: "ohwx, a cat", 1: "zwx, a bird"}
    assert make_captions(pictures("cat"), [0], {0: "sea"}, CurationOptions(triggers="sea=q"))[0] == "q, a cat"


def test_captions_are_translated_by_a_function_of_the_user():
    made = make_captions(pictures("cat"), [0], {}, CurationOptions(translate="builtins.ascii"))
    assert made[0] == "'a cat'"
    with pytest.raises(CurationError, match="translate: nothing.here"):
        make_captions(pictures("cat"), [0], {}, CurationOptions(translate="nothing.here"))


def test_captions_beyond_clips_length_are_counted_in_tokens():
    assert long_captions({0: "cat " * 75, 1: "cat " * 76, 2: None}, 77) == {1: 78}


def clusters_of(labels) -> Clusters:
    labels = np.array(labels)
    k = labels.max() + 1
    return Clusters(labels, np.linspace(1, 0.5, len(labels)), np.eye(k, 4), "test")


def test_names_are_the_words_that_tell_a_cluster_from_the_others():
    pool = pictures("cat", "cat", "dog", "dog")
    assert propose_names(pool, clusters_of([0, 0, 1, 1])) == ["cat", "dog"]
    blank = [Picture(f"{i}", f"{i}") for i in range(2)]
    assert propose_names(blank, clusters_of([0, 1])) == ["cluster 0", "cluster 1"]


def test_a_name_by_hand_follows_its_pictures_into_the_next_run(tmp_path):
    path, pool = tmp_path / "clusters.yaml", pictures("cat", "cat", "dog", "dog", "dog")
    first = clusters_of([1, 1, 0, 0, 0])
    names, proposed = name_clusters(pool, first, path)
    write_names(path, names, proposed, pool, first)
    entries = yaml.safe_load(path.read_text())
    assert [entry["name"] for entry in entries] == ["dog", "cat"]
    entries[1]["name"] = "Felix"
    path.write_text(yaml.safe_dump(entries))
    again, _ = name_clusters(pool, clusters_of([0, 0, 1, 1, 1]), path)  # the numbers have changed
    assert again == ["Felix", "dog"]


def test_a_name_whose_pictures_are_gone_is_dropped_with_a_warning(tmp_path, caplog):
    path = tmp_path / "clusters.yaml"
    path.write_text(yaml.safe_dump([{"name": "Felix", "proposed": "cat", "size": 1, "pictures": ["gone.png"]}]))
    names, _ = name_clusters(pictures("dog", "dog"), clusters_of([0, 0]), path)
    assert names == ["dog"] and "Felix" in caplog.text


def test_a_broken_file_of_names_and_equal_names_are_errors(tmp_path):
    path = tmp_path / "clusters.yaml"
    for text, message in (
        ("a: [", "not YAML"),
        ("- 3", "is broken"),
        ("- {name: a, pictures: []}\n" * 2, "named 'a'"),
    ):
        path.write_text(text)
        with pytest.raises(CurationError, match=message):
            name_clusters(pictures("dog"), clusters_of([0]), path)
