"""Batches with the tokens of captions, made by the loader's processes."""

import copy

import pytest
import torch
from tiny import DATA

from ldm.data.captions import CaptionedDataset
from ldm.data.datamodule import DataModuleFromConfig
from ldm.data.demo import DemoValidation
from ldm.data.flips import mirror_graph
from ldm.graph.batch import decode
from ldm.graph.caption import caption
from ldm.graph.text_tokens import token_ids
from ldm.synthetic.shapes import VOCAB
from ldm.util.errors import ConfigError


def ids_of(graph, form="long"):
    return token_ids(caption(graph, form).text)


def module(**changes):
    return DataModuleFromConfig(**copy.deepcopy(DATA["params"]) | changes)


def test_each_sample_is_followed_by_the_tokens_of_a_caption_of_its_graph():
    plain = DemoValidation(6)
    for form in ("long", "short"):
        captioned = CaptionedDataset(DemoValidation(6), [form])
        assert all(torch.equal(captioned[i][-1], ids_of(plain[i][1], form)) for i in range(6))


def test_both_forms_occur_by_epoch_and_index_and_the_same_again():
    first, again = (CaptionedDataset(DemoValidation(8), ["long", "short"], seed=3) for _ in range(2))
    seen = set()
    for epoch in range(2):
        first.epoch = again.epoch = epoch
        for i in range(8):
            ids, graph = first[i][-1], first[i][1]
            forms = {form for form in ("long", "short") if torch.equal(ids, ids_of(graph, form))}
            assert forms and torch.equal(ids, again[i][-1])
            seen |= forms if len(forms) == 1 else set()
    assert seen == {"long", "short"}


def test_a_batch_holds_the_tokens_of_its_graphs_and_of_mirrored_ones():
    for flip in (0.0, 1.0):
        data = module(captions=["long"], flip=flip)
        data.setup()
        for batch in (next(iter(data.train_dataloader())), next(iter(data.train_dataloader())).to("cpu")):
            assert batch.text_ids.shape == (4, 77)
            for ids, graph in zip(batch.text_ids, decode(batch.graph, VOCAB)):
                assert torch.equal(ids, ids_of(graph))
        assert mirror_graph(graph, VOCAB) is not None


def test_a_batch_without_captions_has_none():
    data = module()
    data.setup()
    assert next(iter(data.train_dataloader())).text_ids is None


@pytest.mark.parametrize("forms, given", [(["lang"], "'lang'.*did you mean 'long'"), ("long", "'long'; give a list")])
def test_an_unknown_form_is_refused(forms, given):
    with pytest.raises(ConfigError, match=f"data.params.captions is {given}"):
        module(captions=forms)
