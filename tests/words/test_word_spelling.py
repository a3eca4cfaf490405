"""Equal words in different spelling, and typing errors."""

import unicodedata

import pytest

from ldm.words.lexicon import KINDS, read_lexicon
from ldm.words.spelling import corrections, key_of, look_up, similar_keys


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("Sheep", "sheep"),
        ("leaves", "leaf"),
        ("berries", "berry"),
        ("boxes", "box"),
        ("the dog", "dog"),
        ("l'arbre", "arbre"),
        ("고양이는", "고양이"),
        ("고양이들이", "고양이"),
        ("말들", "말"),
        ("next-to", "next to"),
        (unicodedata.normalize("NFD", "árbol"), "árbol"),
        (unicodedata.normalize("NFD", "양"), "양"),
    ],
)
def test_a_word_is_found_in_other_spellings(text, listed):
    assert look_up(text, {key_of(listed): [listed]}) == [listed]


def test_a_literal_entry_comes_before_a_singular_one():
    assert look_up("glasses", {"glass": ["glass"], "glasses": ["glasses"]}) == ["glasses"]


def test_a_word_that_ends_like_a_particle_keeps_its_syllable():
    assert look_up("거리", {key_of("거리"): ["street"], key_of("거"): ["wrong"]}) == ["street"]


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [
        ("horse", "hrose", 1),
        ("wall", "wal", 1),
        ("cat", "cut", 1),
        ("ab", "ba", 1),
        ("", "abc", 3),
        ("kitten", "sitting", 3),
    ],
)
def test_corrections_count_swaps_of_neighbours_once(a, b, count):
    assert corrections(a, b) == corrections(b, a) == count


def test_a_swap_is_nearer_than_two_replacements():
    assert [key for key, _ in similar_keys("hrose", ["house", "horse", "nose"], 0.8)] == ["horse"]


def test_words_of_other_scripts_have_no_typing_errors():
    assert similar_keys("고양이들", ["고양이", "강아지"], 0.1) == []


def test_no_two_lines_of_the_lexicon_share_a_name_and_no_form_repeats_in_a_line():
    for kind in KINDS:
        for name, forms in read_lexicon().forms[kind].items():
            keys = [(form.language, key_of(form.text)) for form in forms]
            assert len(set(keys)) == len(keys), name
            assert all(form.text == form.text.strip() and form.text for form in forms), name


def test_a_form_of_two_names_that_are_no_synonyms_is_marked_as_a_homonym():
    """Of objects, in each language; near-synonyms may share a form."""
    near = [
        {"photo", "picture"},
        {"pole", "post"},
        {"cap", "hat"},
        {"road", "street"},
        {"circle", "disc"},
        {"bike", "motorcycle"},
    ]
    found: dict = {}
    for name, forms in read_lexicon().forms["object"].items():
        for form in forms:
            found.setdefault((form.language, form.text), []).append((name, form.homonym))
    for (language, text), entries in found.items():
        names = {name for name, _ in entries}
        if len(names) > 1 and names not in near:
            assert all(marked for _, marked in entries), (language, text, names)
