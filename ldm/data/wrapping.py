"""A data set around another one, whose samples it gives in another form."""

from __future__ import annotations

from torch.utils.data import Dataset

from ldm.graph.scene_graph import Vocab


class Wrapping(Dataset):
    """As many samples as `dataset` has, in its words; an epoch that is set here is set there, where samples are drawn."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    @property
    def vocab(self) -> Vocab:
        return self.dataset.vocab

    @property
    def epoch(self) -> int:
        return getattr(self.dataset, "epoch", 0)  # which other people's sets need not have

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.dataset.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)
