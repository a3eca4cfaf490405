"""Base class of data sets that change the samples of another data set."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from ldm.data.protocols import GraphDataset
from ldm.graph.vocab import Vocab


class DatasetWrapper(Dataset):
    """Has the length and vocabulary of `dataset`; setting `epoch` sets it there too, where samples may depend on it."""

    def __init__(self, dataset: GraphDataset):
        self.dataset = dataset
        self._epoch = 0

    @property
    def vocab(self) -> Vocab:
        return self.dataset.vocab

    @property
    def epoch(self) -> int:
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        dataset: Any = self.dataset  # a data set without random sampling need not declare the attribute
        dataset.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)
