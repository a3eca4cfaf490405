"""Planted copies, crops, mirror images and recompressed pictures are found, and the right one is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pile import central_crop, mirrored, picture, save, write_pile

from ldm.curation.duplicates import Duplicate, choose_keepers, components, correlate, find_duplicates
from ldm.curation.errors import CurationError, LeakError
from ldm.curation.pairs import CROP, EXACT, FLIP, NEAR, Thresholds
from ldm.curation.pictures import Picture, read_pictures
from ldm.curation.splits import leaks, refuse_leaks, remove_leaks, split_by_group
from ldm.curation.store import embed
from ldm.curation.towers import PixelTower


@pytest.fixture
def faulty(tmp_path):
    """Twelve different pictures, and of four of them another one that is the same in some way: pictures, records."""
    folder = tmp_path / "pile"
    files = write_pile(folder)
    (folder / "b_copy.png").write_bytes(files[0].read_bytes())
    save(picture(1), folder / "b_recompressed.jpg", quality=40)
    save(mirrored(picture(2)), folder / "b_mirrored.png")
    save(central_crop(picture(3)), folder / "b_crop.png")
    pictures = read_pictures([str(folder)])
    return pictures, embed(pictures, tmp_path / "store", PixelTower())


def by_name(pictures, found) -> dict[tuple[str, str], str]:
    return {(pictures[pair.first].name, pictures[pair.second].name): pair.kind for pair in found}


EXPECTED = {
    ("a00.png", "b_copy.png"): EXACT,
    ("a01.png", "b_recompressed.jpg"): NEAR,
    ("a02.png", "b_mirrored.png"): FLIP,
    ("a03.png", "b_crop.png"): CROP,
}


def test_each_planted_fault_is_found_and_nothing_else(faulty):
    pictures, records = faulty
    found = find_duplicates(records, Thresholds(6, 0.95, neighbours=15))
    assert by_name(pictures, found) == EXPECTED
    (crop,) = (pair for pair in found if pair.kind == CROP)
    assert pictures[crop.whole].name == "a03.png"


def test_declared_pairs_are_exempt(faulty):
    pictures, records = faulty
    rows = [picture.name for picture in pictures]
    declared = {(rows.index("a00.png"), rows.index("b_copy.png"))}
    found = find_duplicates(records, Thresholds(6, 0.95), declared=declared)
    assert ("a00.png", "b_copy.png") not in by_name(pictures, found)


def test_the_larger_then_the_sharper_then_the_first_picture_is_kept():
    pairs = [Duplicate(0, 1, NEAR, 0.99), Duplicate(2, 3, NEAR, 0.99), Duplicate(4, 5, EXACT, 1.0)]
    sizes = np.array([[10, 10], [20, 20], [10, 10], [10, 10], [10, 10], [10, 10]])
    removed = choose_keepers(pairs, sizes, np.array([9, 1, 1, 9, 5, 5]), list("abcdef"))
    assert {row: why.keeper for row, why in removed.items()} == {0: 1, 2: 3, 5: 4}
    assert removed[0].reason == "near duplicate (cosine 0.990)" and removed[5].reason == "exact copy"


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] < pair[1])), st.integers(0, 99)
)
def test_what_is_removed_is_a_duplicate_of_a_kept_picture_and_kept_ones_are_not_alike(pairs, seed):
    rng = np.random.default_rng(seed)
    duplicates = [Duplicate(a, b, NEAR, 0.99) for a, b in sorted(pairs)]
    removed = choose_keepers(duplicates, rng.integers(1, 4, (10, 2)), rng.random(10), [f"{i}" for i in range(10)])
    for row, why in removed.items():
        assert why.keeper not in removed
        assert (min(row, why.keeper), max(row, why.keeper)) in pairs
    assert not any(a not in removed and b not in removed for a, b in pairs)


def test_components_join_chains():
    assert components(6, [(4, 2), (2, 1), (5, 0)]).tolist() == [0, 1, 1, 3, 1, 0]


def test_correlation_is_numpys():
    a, b = np.random.default_rng(0).integers(0, 256, (2, 64, 64))
    assert correlate(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert correlate(a, np.full((64, 64), 3)) == 0


# Splits ----------------------------------------------------------------------------------------------------------------


def pool(*splits: str, groups=None) -> list[Picture]:
    properties = [{"clip": group} for group in groups] if groups else [{}] * len(splits)
    return [
        Picture(f"{i}.png", f"{i}.png", split, properties=p) for i, (split, p) in enumerate(zip(splits, properties))
    ]


def test_a_recompressed_copy_in_another_split_is_an_error_that_names_the_pair(tmp_path):
    write_pile(tmp_path / "train", 6)
    save(picture(4), tmp_path / "validation" / "z.jpg", quality=60)
    save(picture(99), tmp_path / "validation" / "other.png")
    pictures = read_pictures([f"train={tmp_path / 'train'}", f"validation={tmp_path / 'validation'}"])
    found = find_duplicates(embed(pictures, tmp_path / "store", PixelTower()), Thresholds())
    with pytest.raises(LeakError, match="1 pairs.*train's a04.png and validation's z.jpg \\(near duplicate\\)"):
        refuse_leaks(pictures, found)
    removed = remove_leaks(pictures, found)
    assert [pictures[row].name for row in removed] == ["a04.png"]  # of the training split, so that validation stays


def test_a_group_in_two_splits_is_an_error():
    with pytest.raises(LeakError, match="clip 7 is in two splits"):
        refuse_leaks(pool("train", "validation", groups=(7, 7)), [], "clip")
    refuse_leaks(pool("train", "validation", groups=(7, 8)), [], "clip")
    assert leaks(pool("train", "train"), [Duplicate(0, 1, NEAR, 1.0)]) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=8, max_size=40), st.floats(0.2, 0.6), st.integers(0, 5))
def test_splits_are_made_by_whole_groups(groups, share, seed):
    pictures = pool(*["train"] * len(groups), groups=groups)
    duplicates = [Duplicate(0, 1, NEAR, 0.99)]
    try:
        splits = split_by_group(pictures, duplicates, share, "clip", seed)
    except CurationError:  # the duplicates join the first two groups
        joined = [groups[0] if group == groups[1] else group for group in groups]
        assert min(map(joined.count, joined)) > round(share * len(joined)) or len(set(joined)) < 2
        return
    assert splits[0] == splits[1]
    assert all(len({splits[i] for i, g in enumerate(groups) if g == group}) == 1 for group in groups)
    assert 0 < splits.count("validation") <= round(share * len(groups)) and "train" in splits
    assert splits == split_by_group(pictures, duplicates, share, "clip", seed)
