"""Edits of rendered scenes change what their names say and nothing else."""

from dataclasses import replace

import pytest
from fake_geometry import OpenGeometry

from ldm.synthetic.rendered.edits import MIN_MOVE, OPERATION_FUNCTIONS, OPERATIONS, Edit, edit_scene
from ldm.synthetic.rendered.relations import CONVERSE, floor_position, holds, triples_of
from ldm.synthetic.rendered.scenes import Scene, random_scene
from ldm.synthetic.rendered.things import VOCAB, Thing, collide

GEOMETRY = OpenGeometry()
SCENES = [random_scene(seed, GEOMETRY) for seed in range(60)]
EDITS = {
    operation: [(scene, edit) for scene in SCENES if (edit := edit_scene(scene, operation, GEOMETRY))]
    for operation in OPERATIONS
}
PAIRS = [(operation, scene, edit) for operation, pairs in EDITS.items() for scene, edit in pairs]


def changed_pair(scene: Scene, edit: Edit) -> tuple[Thing, Thing]:
    """The one thing that differs, before and after."""
    (index,) = edit.changed
    return scene.things[edit.origin[index]], edit.scene.things[index]


def differing(old: Thing, new: Thing) -> set[str]:
    return {name for name in Thing._fields if getattr(old, name) != getattr(new, name)}


def same_but_support(thing: Thing) -> Thing:
    return thing._replace(support=None)


def test_most_scenes_have_each_edit():
    assert set(OPERATION_FUNCTIONS) == set(OPERATIONS)
    assert {operation: len(pairs) >= 45 for operation, pairs in EDITS.items()} == dict.fromkeys(OPERATIONS, True)


def test_what_is_not_listed_as_changed_stays_as_it_was():
    for operation, scene, edit in PAIRS:
        kept = {origin for origin in edit.origin if origin is not None}
        assert kept | set(edit.removed) == set(range(len(scene.things))) and not kept & set(edit.removed)
        for index, (thing, origin) in enumerate(zip(edit.scene.things, edit.origin)):
            if index not in edit.changed:
                assert same_but_support(thing) == same_but_support(scene.things[origin])
        assert (edit.scene.seed, edit.scene.camera) == (scene.seed, scene.camera)
        assert operation == "restyle" or edit.scene.style == scene.style


def test_listed_things_differ_from_the_source():
    for _, scene, edit in PAIRS:
        for index in edit.changed:
            assert edit.origin[index] is None or edit.scene.things[index] != scene.things[edit.origin[index]]


def test_supports_are_the_same_things_after_every_edit():
    for operation, scene, edit in PAIRS:
        for thing, origin in zip(edit.scene.things, edit.origin):
            if thing.support is not None:
                assert edit.origin[thing.support] == scene.things[origin].support, operation


def test_edited_scenes_have_no_identity_twice_and_nothing_collides():
    for _, _, edit in PAIRS:
        things = edit.scene.things
        assert len({thing.identity for thing in things}) == len(things)
        standing = [thing for thing in things if thing.support is None]
        assert not any(collide(a, b) for n, a in enumerate(standing) for b in standing[:n])


def test_edited_scenes_survive_json():
    for _, _, edit in PAIRS[::10]:
        assert Scene.from_json(edit.scene.to_json()) == edit.scene


def test_replacing_changes_the_kind_and_keeps_place_and_size():
    for scene, edit in EDITS["replace"]:
        old, new = changed_pair(scene, edit)
        assert old.kind != new.kind and (old.x, old.y, old.z, old.size) == (new.x, new.y, new.z, new.size)


def test_recolouring_changes_colour_or_material_alone():
    for scene, edit in EDITS["recolour"]:
        old, new = changed_pair(scene, edit)
        assert differing(old, new) and differing(old, new) <= {"colour", "material"}
    assert {frozenset(differing(*changed_pair(*pair))) for pair in EDITS["recolour"]} >= {
        frozenset({"colour"}), frozenset({"material"})
    }  # fmt: skip


def test_resizing_changes_the_size_alone():
    for scene, edit in EDITS["resize"]:
        assert differing(*changed_pair(scene, edit)) == {"size"}


def test_moving_changes_the_place_alone_and_by_enough():
    for scene, edit in EDITS["move"]:
        old, new = changed_pair(scene, edit)
        assert differing(old, new) == {"x", "y"}
        assert (old.x - new.x) ** 2 + (old.y - new.y) ** 2 >= MIN_MOVE**2


def test_removing_takes_one_thing_that_carries_nothing():
    for scene, edit in EDITS["remove"]:
        (gone,) = edit.removed
        assert len(edit.scene.things) == len(scene.things) - 1 and not edit.changed
        assert gone not in {thing.support for thing in scene.things}


def test_removing_a_thing_before_a_support_shifts_the_support():
    scene = next(scene for scene in SCENES if scene.things[1].support == 0)
    first = Thing("banana", "small", "yellow", None, 1.4, 1.4)
    carried = scene.things[1]._replace(support=1)
    three = replace(scene, things=(first, scene.things[0], carried))
    edits = [edit_scene(replace(three, seed=seed), "remove", GEOMETRY) for seed in range(20)]
    shifted = [edit for edit in edits if edit.removed == (0,)]
    assert shifted and all(edit.scene.things[1] == carried._replace(support=0) for edit in shifted)
    assert all(edit.scene.things == three.things[:2] for edit in edits if edit.removed == (2,))
    assert {edit.removed for edit in edits} == {(0,), (2,)}  # the support itself stays


def test_adding_appends_one_thing():
    for scene, edit in EDITS["add"]:
        assert edit.scene.things[:-1] == scene.things
        assert edit.changed == (len(scene.things),) and edit.origin[-1] is None


def test_a_full_scene_has_no_addition():
    full = [scene for scene in SCENES if len(scene.things) == 7]
    assert full and all(edit_scene(scene, "add", GEOMETRY) is None for scene in full)


def test_a_relation_holds_after_the_edit_and_did_not_before():
    for scene, edit in EDITS["relation"]:
        subject, predicate, object = edit.relation
        old, new = changed_pair(scene, edit)
        assert edit.changed == (subject,) and differing(old, new) <= {"x", "y", "z", "support", "relation"}
        named = {edit.relation, (object, CONVERSE[predicate], subject)}
        assert named & set(triples_of(edit.scene))
        before, after, anchor = (floor_position(thing, scene.camera) for thing in (old, new, edit.scene.things[object]))
        assert holds(after, predicate, anchor)
        assert old.support == edit.origin[object] or not holds(before, predicate, anchor)


def test_a_thing_in_or_on_another_one_can_be_asked_to_stand_beside_it():
    leaving = [changed_pair(scene, edit) for scene, edit in EDITS["relation"]]
    leaving = [(old, new) for old, new in leaving if old.support is not None]
    assert leaving and all(new.support is new.relation is None and new.z == 0 for _, new in leaving)


def test_restyling_changes_floor_wall_and_light_and_no_thing():
    for scene, edit in EDITS["restyle"]:
        assert edit.scene.things == scene.things and not edit.changed
        assert all(old != new for old, new in zip(scene.style[:3], edit.scene.style[:3]))


def test_two_edits_at_once_change_two_things():
    for _, edit in EDITS["two"]:
        assert len(edit.changed) + len(edit.removed) == 2


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_edit_depends_on_the_scene_and_its_seed_alone(operation):
    first, again = (edit_scene(SCENES[4], operation, OpenGeometry()) for _ in range(2))
    assert first == again
    others = {edit_scene(replace(SCENES[4], seed=seed), operation, GEOMETRY) for seed in range(8)}
    assert len({edit.scene.things + edit.scene.style for edit in others if edit}) > 1


def test_edited_scenes_stay_in_the_vocabulary():
    for _, _, edit in PAIRS:
        for thing in edit.scene.things:
            assert thing.kind in VOCAB.objects and all(word in VOCAB.attributes for word in thing.words)
