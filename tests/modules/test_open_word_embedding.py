"""A graph encoder with open words: bit-equal at the start, trained by synonyms, and open to words without a row."""

import numpy as np
import pytest
import torch
from plane_encoder import PlaneEncoder

from ldm.graph import SceneGraph, encode
from ldm.graph.vocab import OpenVocab
from ldm.modules.nsg_encoder import NSGEncoder
from ldm.modules.word_encoder import MeaningEmbedding, MeaningOptions
from ldm.synthetic.shapes import VOCAB
from ldm.words.lexicon import Form, Lexicon

SIZES = {"num_objs": 4, "num_preds": 8, "num_attributes": 10, "dim": 16, "depth": 1, "heads": 2, "max_tokens": 8}
GRAPH = SceneGraph(("circle", "square"), attributes=(("red",), ()), triples=((0, "above", 1),))
NO_LEXICON = Lexicon({"object": {}, "predicate": {}, "attribute": {}})
ENCODER = PlaneEncoder({"circle": 0, "disk": 0, "square": 90})


def encoders():
    """The same weights without and with open words."""
    torch.manual_seed(0)
    plain = NSGEncoder(**SIZES).eval()
    opened = NSGEncoder(**SIZES, open_words=True).eval()
    missing, unexpected = opened.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and set(missing) == {f"{kind}.meaning.weight" for kind in ("name", "predicate", "attribute")}
    opened.bind_words(VOCAB, ENCODER)
    return plain, opened


def test_open_words_added_to_an_encoder_change_no_bit():
    plain, opened = encoders()
    batch = encode([GRAPH], VOCAB)
    assert torch.equal(plain(batch).tokens, opened(batch).tokens)


def test_weights_without_open_words_load_from_a_file(tmp_path):
    plain, _ = encoders()
    torch.save({f"cond_stage_model.{key}": value for key, value in plain.state_dict().items()}, tmp_path / "a.ckpt")
    opened = NSGEncoder(**SIZES, open_words=True, ckpt_path=str(tmp_path / "a.ckpt")).eval()
    opened.bind_words(VOCAB, ENCODER)
    batch = encode([GRAPH], VOCAB)
    assert torch.equal(plain(batch).tokens, opened(batch).tokens)


def test_no_sentence_embedding_is_saved():
    _, opened = encoders()
    assert not [key for key in opened.state_dict() if "forms" in key or "starts" in key or "counts" in key]


def test_a_word_without_a_row_is_embedded_like_the_name_that_means_the_same():
    """'disk' and 'circle' have the same sentence embedding; where the rows are zero, the tokens are equal."""
    _, opened = encoders()
    with torch.no_grad():
        opened.name.weight.zero_()
        opened.name.meaning.weight.normal_(std=0.1)
    vocab = OpenVocab(VOCAB)
    graphs = [SceneGraph((name, "square"), triples=((0, "above", 1),)) for name in ("circle", "disk", "square")]
    batches = [encode([graph], vocab) for graph in graphs]
    assert int(batches[1].objs.max()) == len(VOCAB.objects)
    opened.bind_words(vocab, ENCODER)
    circle, disk, square = (opened(batch).tokens for batch in batches)
    assert torch.allclose(circle, disk, atol=1e-6) and not torch.allclose(circle, square, atol=1e-3)


def test_training_drops_rows_and_draws_synonyms_in_the_given_shares():
    """Rows are 1, the forms' projections 10 and 20: the mean tells both shares."""
    lexicon = Lexicon({**NO_LEXICON.forms, "object": {"circle": (Form("disk", "en", False),)}})
    table = MeaningEmbedding(2, 1, "num_objs", MeaningOptions(synonyms=0.5, row_drop=0.25)).train()
    table.bind(["__image__", "circle"], "object", PlaneEncoder({"circle": 0, "disk": 90}), lexicon)
    with torch.no_grad():
        table.weight.fill_(1)
        table.meaning.weight.zero_()
        table.meaning.weight[0, :2] = torch.tensor([10.0, 20.0]) / np.sqrt(512)
    torch.manual_seed(0)
    values = table(torch.ones(20000, dtype=torch.long))[:, 0]
    assert {round(value) for value in values.tolist()} == {10, 11, 20, 21}
    disks, rows = (values > 15).float().mean(), (values.round() % 10 == 1).float().mean()
    assert abs(disks - 0.25) < 0.02 and abs(rows - 0.75) < 0.02  # a synonym is drawn among both forms


def test_every_parameter_of_the_projection_gets_a_gradient_at_once():
    _, opened = encoders()
    opened.train()
    opened(encode([GRAPH] * 8, VOCAB)).tokens.square().sum().backward()
    for table in (opened.name, opened.predicate, opened.attribute):
        assert table.meaning.weight.grad.abs().sum() > 0


def test_training_without_names_is_refused():
    encoder = NSGEncoder(**SIZES, open_words=True).train()
    with pytest.raises(RuntimeError, match="bind_words"):
        encoder(encode([GRAPH], VOCAB))


def test_an_id_that_no_name_has_names_the_option():
    _, opened = encoders()
    batch = encode([GRAPH], VOCAB)
    with pytest.raises(ValueError, match="num_objs"):
        opened(batch._replace(objs=batch.objs + 50))


@pytest.mark.parametrize("given", [{"synonyms": 2}, {"rows": 1}, "yes", {"row_drop": True}])
def test_impossible_options_are_refused(given):
    with pytest.raises(ValueError, match="open_words"):
        NSGEncoder(**SIZES, open_words=given)


def test_an_open_vocabulary_keeps_the_ids_of_known_names_beyond_gaps():
    from ldm.graph import Vocab

    vocab = OpenVocab(Vocab(("__image__", "a", "NONE", "b"), ("__in_image__",)))
    assert (vocab.object_id("b"), vocab.object_id("new"), vocab.object_id("new")) == (3, 4, 4)
    assert vocab.objects == ("__image__", "a", "NONE", "b", "new")
