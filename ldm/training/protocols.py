"""What training uses of a model and of a data module, beyond Lightning's interfaces; all of it is optional."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from ldm.graph.vocab import Vocab


@runtime_checkable
class HasParts(Protocol):
    """Model that names its parts."""

    def parts(self) -> dict[str, nn.Module]: ...


@runtime_checkable
class HasWaitingParts(Protocol):
    """Model that trains some parts from a later step on; until then, their gradients are zero."""

    def waiting_parts(self) -> Collection[str]: ...


@runtime_checkable
class HasWeightsFrom(Protocol):
    """Part that knows the file from which its weights were read."""

    weights_from: str | None


@runtime_checkable
class HasVocab(Protocol):
    """Data module, or model, of scene graphs."""

    vocab: Vocab | None


@runtime_checkable
class HasDatasets(Protocol):
    """Data module that names the data sets of its splits: train, validation, test."""

    datasets: dict[str, Any]


@runtime_checkable
class HasMonitor(Protocol):
    """Model that names the logged value by which the best checkpoints are chosen."""

    monitor: str | None


@runtime_checkable
class ShowsTraining(Protocol):
    """Model that names the values of its training steps which are shown as progress.

    It logs these without Lightning's `prog_bar`, for which each value of each step is read at once, and a GPU would be idle
    until the next step has begun.
    """

    shown_in_training: Collection[str]


@runtime_checkable
class LogsImages(Protocol):
    """Model that makes images of a batch."""

    def log_images(self, batch: Any, n: int, **options: Any) -> dict[str, Tensor]: ...


def model_parts(model: nn.Module) -> dict[str, nn.Module]:
    """The parts by the model's own names, or else its child modules."""
    return model.parts() if isinstance(model, HasParts) else dict(model.named_children())


def dataset_splits(data: Any) -> set[str]:
    """The splits that a data module has built; empty for one that does not name them."""
    return set(data.datasets) if isinstance(data, HasDatasets) else set()
