"""Words are read as names by a dictionary, by spelling, by the lexicon, by meaning, or refused; a graph decides homonyms."""

import json
import math

import pytest
from plane_encoder import PlaneEncoder

from ldm.graph import GraphError, SceneGraph, Vocab
from ldm.graph.resolving import Slot
from ldm.words.dictionary import read_dictionary
from ldm.words.lexicon import Form, Lexicon
from ldm.words.naming import Naming
from ldm.words.open_words import OpenWords
from ldm.words.policy import Candidate, Outcome, Policy

VOCAB = Vocab(("__image__", "sheep", "horse", "word"), ("__in_image__", "on", "riding"), ("red",))
NO_LEXICON = Lexicon({"object": {}, "predicate": {}, "attribute": {}})
ANGLES = {"sheep": 0, "horse": 60, "word": 120, "lamb": 30, "ewe": 20, "gibberish": 300}


def words(angles=ANGLES, lexicon=NO_LEXICON, pieces=1, **options):
    return OpenWords(VOCAB, PlaneEncoder(angles, pieces), lexicon=lexicon, **options)


@pytest.mark.parametrize(
    ("scores", "outcome"),
    [
        ([0.7, 0.6], Outcome.ACCEPT),
        ([0.66, 0.61], Outcome.ACCEPT),
        ([0.7, 0.66], Outcome.ASK),
        ([0.65, 0.2], Outcome.ASK),
        ([0.57, 0.1], Outcome.ASK),
        ([0.56, 0.1], Outcome.REFUSE),
        ([0.7], Outcome.ACCEPT),
        ([], Outcome.REFUSE),
    ],
)
def test_the_policy_accepts_a_clear_leader_asks_in_doubt_and_refuses_what_is_far(scores, outcome):
    policy = Policy(accept=0.66, margin=0.05 - 1e-9, refuse=0.57)
    assert policy.decide([Candidate(str(i), score) for i, score in enumerate(scores)]) is outcome


def test_a_word_is_read_as_the_name_of_the_nearest_meaning_and_the_similarity_is_said():
    reading = words().read("object", "ewe").reading
    assert reading.name == "sheep" and reading.score == pytest.approx(math.cos(math.radians(20)), abs=1e-4)
    assert str(reading) == "'ewe' read as 'sheep' (0.94)"


def test_a_word_in_the_middle_of_two_names_is_asked_about():
    decision = words().read("object", "lamb")
    assert decision.outcome is Outcome.ASK and {each.name for each in decision.candidates[:2]} == {"sheep", "horse"}


def test_a_word_that_means_nothing_here_is_refused_with_the_nearest_three():
    graph = SceneGraph(("gibberish",))
    with pytest.raises(GraphError, match=r"graph, objects\[0\]: object 'gibberish' means no name .*'sheep' \(0.50\)"):
        graph.validate(VOCAB, resolve=words().of(graph))


def test_without_resolve_a_word_is_refused_as_before():
    with pytest.raises(GraphError, match="not in the vocabulary"):
        SceneGraph(("ewe",)).validate(VOCAB)


def test_a_dictionary_comes_before_everything_else():
    assert words(dictionary={"horse": "word"}).read("object", "Horse").reading.name == "word"
    assert words(dictionary={"horse": "red"}).read("object", "horse").reading.by == "name"  # red is no object


def test_the_lexicon_comes_before_meaning():
    lexicon = Lexicon({**NO_LEXICON.forms, "object": {"word": (Form("ewe", "xx", False),)}})
    reading = words(lexicon=lexicon).read("object", "ewe").reading
    assert (reading.name, reading.by) == ("word", "lexicon")


def test_a_misspelt_name_is_corrected_only_if_the_encoder_does_not_know_the_word():
    assert words(pieces=2).read("object", "hrose").reading.by == "spelling"
    assert words({**ANGLES, "hrose": 300}, pieces=2).read("object", "hrose").outcome is Outcome.REFUSE


def test_a_homonym_without_relations_is_asked_about_and_a_graph_decides_it():
    """The phrase 'A on mal' lies at the angle of 'A on horse', 'mal on B' at that of 'word on B'."""
    forms = {"horse": (Form("mal", "xx", True),), "word": (Form("mal", "xx", True),)}
    angles = ANGLES | {"mal": 90, "sheep riding mal": 10, "sheep riding horse": 10, "sheep riding word": 100}
    reader = words(angles, Lexicon({**NO_LEXICON.forms, "object": forms}))
    assert reader.read("object", "mal").outcome is Outcome.ASK
    graph = SceneGraph(("sheep", "mal"), triples=((0, "riding", 1),))
    decision = reader.read("object", "mal", graph, Slot("object", 1))
    assert (decision.reading.name, decision.reading.by) == ("horse", "relations")


def test_a_graph_keeps_everything_but_its_names_and_is_shown_in_the_users_words_again():
    boxes = ((0.1, 0.1, 0.5, 0.5), None)
    graph = SceneGraph(("ewe", "horse"), boxes, ((), None), ((0, "ON", 1),), ("a", None))
    wording, readings = words().name_graph(graph)
    assert wording.named == SceneGraph(("sheep", "horse"), boxes, ((), None), ((0, "on", 1),), ("a", None))
    assert wording.show(wording.named) == graph
    assert [each.word for each in readings] == ["ewe", "ON"]


def test_a_shown_graph_keeps_new_boxes_and_relations_of_its_own():
    wording, _ = words().name_graph(SceneGraph(("ewe", "horse"), triples=((0, "On", 1),)))
    changed = SceneGraph(("sheep", "horse"), (None, (0, 0, 1, 1)), triples=((1, "riding", 0),))
    assert wording.show(changed) == SceneGraph(("ewe", "horse"), (None, (0, 0, 1, 1)), triples=((1, "riding", 0),))
    other = SceneGraph(("horse",))
    assert wording.show(other) == other


def test_a_dictionary_file_must_name_names(tmp_path):
    path = tmp_path / "ko.json"
    path.write_text(json.dumps({"양": "sheep"}), encoding="utf-8")
    assert read_dictionary([path], VOCAB) == {"양": "sheep"}
    path.write_text(json.dumps({"양": "shep"}), encoding="utf-8")
    with pytest.raises(GraphError, match="did you mean 'sheep'"):
        read_dictionary([path], VOCAB)
    path.write_text("[]")
    with pytest.raises(GraphError, match="names by words"):
        read_dictionary([path], VOCAB)


def test_names_of_the_vocabulary_need_no_encoder_where_words_are_closed():
    graph = SceneGraph(("sheep",))
    naming = Naming()
    assert naming.name(graph, VOCAB, "graph") == graph and naming.record() == {} and naming.remarks == ()


def test_what_was_read_stands_in_the_record(monkeypatch):
    naming = Naming("open")
    monkeypatch.setattr(naming, "open_words", lambda vocab: words())
    named = naming.name(SceneGraph(("ewe",)), VOCAB, "graph")
    entry = {"kind": "object", "word": "ewe", "name": "sheep", "by": "meaning", "score": 0.9397}
    assert naming.record() == naming.record_of(named) == {"words": [entry]}
    assert naming.name(named, VOCAB, "graph") == named and len(naming.readings) == 1


@pytest.mark.parametrize(
    ("word", "code", "nearest"), [("gibberish", "word_means_nothing", None), ("lamb", "word_may_mean", "sheep")]
)
def test_a_word_that_is_not_read_is_told_by_code_for_pages_in_other_languages(word, code, nearest):
    with pytest.raises(GraphError) as error:
        SceneGraph((word,)).validate(VOCAB, resolve=words().of(SceneGraph((word,))))
    assert error.value.code == code and error.value.values["word"].strip("'") == word
    assert nearest is None or nearest in error.value.values["names"].split(", ")
