"""Captions of the scene graphs of a data set, as tokens that text encoders read, made by the loader's processes."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from ldm.data.protocols import GraphDataset
from ldm.data.wrapping import DatasetWrapper
from ldm.graph.batch import Batch, collate
from ldm.graph.caption import FORMS, caption
from ldm.graph.text_spans import count_tokens
from ldm.graph.text_tokens import token_ids
from ldm.graph.vocab import Vocab
from ldm.util.errors import ConfigError, did_you_mean


class CaptionedDataset(DatasetWrapper):
    """The samples of a data set, each followed by the tokens (77,) of a caption of its graph.

    Args:
        dataset: samples are (image, SceneGraph, optional style reference).
        forms: of captions (`ldm.graph.caption.FORMS`); each sample has one of them, by (seed, epoch, index).
        seed: of the random choice.
    """

    def __init__(self, dataset: GraphDataset, forms: Sequence[str], seed: int = 0):
        super().__init__(dataset)
        self.forms, self.seed = forms, seed

    def __getitem__(self, index: int) -> tuple:
        sample = self.dataset[index]
        form = random.Random(f"caption/{self.seed}/{self.epoch}/{index}").choice(self.forms)
        return *sample, token_ids(caption(sample[1], form, count_tokens).text)


def collate_captioned(samples: Sequence[tuple], vocab: Vocab) -> Batch:
    """Collates samples of a CaptionedDataset."""
    batch = collate([sample[:-1] for sample in samples], vocab)
    return replace(batch, text_ids=torch.stack([sample[-1] for sample in samples]))


def require_forms(place: str, forms: Collection[str] | None) -> list[str]:
    """Returns the forms of captions that a config names, [] for None; raises ConfigError, which begins with `place`."""
    unknown = [form for form in forms or () if form not in FORMS]
    if unknown or isinstance(forms, str):
        given = forms if isinstance(forms, str) else unknown[0]
        raise ConfigError(
            f"{place} is {given!r}; give a list of some of {', '.join(FORMS)}{did_you_mean(given, FORMS)}"
        )
    return list(forms or ())
