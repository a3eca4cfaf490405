"""The word lists: what tunes and what measures is kept apart, and the figures are counted as they say."""

import pytest

from ldm.evaluation import name_lists
from ldm.evaluation.name_benchmark import OUTCOMES, classify, tally
from ldm.evaluation.name_lists import Case
from ldm.evaluation.renaming import Renaming
from ldm.graph import GraphError, SceneGraph
from ldm.words.lexicon import KINDS, read_lexicon
from ldm.words.open_words import Decision, Reading
from ldm.words.policy import Candidate, Outcome
from ldm.words.spelling import key_of


def test_no_word_of_the_gold_list_is_in_the_tuning_list():
    for cases in (name_lists.synonyms, name_lists.rejected):
        gold, tuning = ({(each.kind, key_of(each.word)) for each in cases(which)} for which in ("gold", "tuning"))
        assert not gold & tuning
    assert not set(name_lists.LEFT_OUT["gold"]) & set(name_lists.LEFT_OUT["tuning"])
    graphs = [
        {(each.graph.objects, each.graph.triples) for each in name_lists.homonyms(which)}
        for which in ("gold", "tuning")
    ]
    assert not graphs[0] & graphs[1]


def test_no_synonym_of_the_lists_is_in_the_lexicon():
    for which in ("gold", "tuning"):
        for case in name_lists.synonyms(which):
            forms = [form for forms in read_lexicon().forms[case.kind].values() for form in forms]
            assert key_of(case.word) not in {key_of(form.text) for form in forms}, case.word


def test_all_right_answers_are_names():
    names = {kind: set(read_lexicon().forms[kind]) for kind in KINDS}
    for which in ("gold", "tuning"):
        words = [case for cases in name_lists.words_by_language(which).values() for case in cases]
        for case in [*words, *name_lists.synonyms(which), *name_lists.homonyms(which), *name_lists.typos(which)]:
            assert case.names and case.names <= names[case.kind], case


def test_the_lists_hold_visual_genomes_names_in_six_languages():
    assert set(name_lists.words_by_language("gold")) | set(name_lists.words_by_language("tuning")) == {
        "ko",
        "fr",
        "es",
        "de",
        "ja",
        "it",
    }
    for cases in name_lists.words_by_language("gold").values():
        objects = set().union(*(case.names for case in cases if case.kind == "object"))
        assert len(objects) >= 150


class Told:
    """Decides as it is told."""

    def __init__(self, decision):
        self.decision = decision

    def read(self, *_):
        return self.decision


@pytest.mark.parametrize(
    ("decision", "outcome"),
    [
        (Decision(Outcome.ACCEPT, Reading("object", "w", "a", "meaning", 0.9), ()), "right"),
        (Decision(Outcome.ACCEPT, Reading("object", "w", "b", "meaning", 0.9), ()), "wrong"),
        (Decision(Outcome.ASK, None, [Candidate(name, 0.6) for name in "cba"]), "asked"),
        (Decision(Outcome.ASK, None, [Candidate(name, 0.6) for name in "cdba"[:2]]), "asked in vain"),
        (Decision(Outcome.REFUSE, None, [Candidate("a", 0.1)]), "refused"),
    ],
)
def test_an_outcome_is_counted_as_what_it_is(decision, outcome):
    case = Case("object", "w", frozenset("a"))
    assert classify(case, Told(decision)) == outcome
    row = tally([case, case], Told(decision))
    assert row == {"words": 2, **{each: float(each == outcome) for each in OUTCOMES}}


def test_renaming_replaces_all_listed_words_and_a_seed_gives_the_same_ones():
    renaming = Renaming({"object": {"circle": ["disk", "원"]}, "predicate": {"above": ["over"]}, "attribute": {}})
    graph = SceneGraph(("circle",) * 9 + ("square",), attributes=(("red",),) + ((),) * 9, triples=((0, "above", 1),))
    renamed = renaming.rename(graph, 4)
    assert set(renamed.objects) == {"disk", "원", "square"} and renamed.triples == ((0, "over", 1),)
    assert renaming.rename(graph, 4) == renamed and renaming.rename(graph, 5) != renamed


def test_a_file_of_words_in_another_form_is_refused(tmp_path):
    (tmp_path / "words.json").write_text('{"objects": {"circle": "disk"}}')
    with pytest.raises(GraphError, match="words.json"):
        Renaming.read(tmp_path / "words.json")
