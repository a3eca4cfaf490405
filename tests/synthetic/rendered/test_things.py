"""Kinds, looks, words and footprints of the things in rendered scenes."""

import math
import random

import pytest

from ldm.synthetic.rendered.things import (
    COLOURS,
    HELD,
    HOLDERS,
    KINDS,
    SIZES,
    STANDING,
    VOCAB,
    Look,
    Thing,
    collide,
    footprint,
    looks,
    random_look,
    random_turn,
)


def test_a_sphere_has_thirteen_looks():
    # red, yellow, green, blue, purple in rubber and metal, white in rubber alone, wood and marble as they are: 6 + 5 + 1 + 1
    assert len(looks("sphere")) == 13
    assert Look("white", "rubber") in looks("sphere") and Look("white", "metal") not in looks("sphere")
    assert Look(None, "wood") in looks("sphere") and Look("red", "wood") not in looks("sphere")


def test_kinds_with_one_surface_have_colours_and_kinds_with_one_colour_still_name_it():
    assert looks("vase") == [Look(colour) for colour in COLOURS]
    assert looks("banana") == [Look("yellow")]
    assert looks("crate") == [Look(None, "wood")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_look_is_in_the_vocabulary_and_can_be_drawn_at_random(kind):
    assert all(word in VOCAB.attributes for look in looks(kind) for word in look if word)
    rng = random.Random(0)
    assert {random_look(kind, rng) for _ in range(600)} == set(looks(kind))


def test_words_are_size_colour_and_material_where_they_are_known():
    assert Thing("cube", "small", "red", "metal").words == ("small", "red", "metal")
    assert Thing("cube", "large", None, "wood").words == ("large", "wood")
    assert Thing("vase", "large", "blue", None).words == ("large", "blue")


def test_identity_is_kind_and_colour_or_material():
    red = Thing("cube", "small", "red", "metal")
    assert red.identity == red._replace(size="large", material="rubber").identity
    assert red.identity != red._replace(colour=None, material="wood").identity


def test_spheres_collide_exactly_if_the_gap_between_them_is_too_small():
    # Size factor 1.2 and mesh factor 0.9: radii of 0.54.
    sphere = Thing("sphere", "large", "red", "rubber")
    assert collide(sphere, sphere._replace(x=1.13), gap=0.06)
    assert not collide(sphere, sphere._replace(x=1.15), gap=0.06)
    assert not collide(sphere, sphere._replace(x=0.9, y=0.9), gap=0.06)  # 1.27 apart


def test_a_footprint_turns_with_its_thing():
    mug = Thing("mug", "small", "red", None, x=1.0, y=2.0, turn=math.pi / 2)
    body, handle = footprint(mug)
    assert (body.x, body.y, body.radius) == pytest.approx((1.0, 2.0, 0.4 * 0.95 * 0.75))
    assert (handle.x, handle.y) == pytest.approx((1.0, 2.0 + 0.5 * 0.95 * 0.75))


def test_mugs_face_left_and_right_and_bananas_one_side():
    rng = random.Random(1)
    turns = [random_turn("mug", rng) for _ in range(200)]
    assert {math.cos(turn) > 0 for turn in turns} == {True, False}
    assert all(-0.5 <= random_turn("banana", rng) <= 0.5 for _ in range(200))


def test_lists_of_supports_name_kinds():
    assert {*HOLDERS, *HELD, *STANDING} <= set(KINDS)
    assert set(SIZES) <= set(VOCAB.attributes)
