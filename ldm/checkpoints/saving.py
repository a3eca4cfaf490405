"""Writes checkpoints: the trainable parameters, the config and the vocabulary, and no frozen weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from ldm.checkpoints.reading import CheckpointError
from ldm.graph.vocab import Vocab
from ldm.util.files import atomic_write


class SavesTrainableParameters(nn.Module):
    """Mixin that makes a LightningModule save its trainable parameters only; list it before LightningModule in the bases.

    Attributes:
        config: sections `model` and `data` of the run's config; the trainer sets it.
        vocab: vocabulary of the training set; the trainer sets it.
    """

    config: dict | None = None
    vocab: Vocab | None = None

    @property
    def strict_loading(self) -> bool:
        return False  # frozen weights are absent from the file; on_load_checkpoint compares everything else

    def saved_state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint holds; subclasses may add to them."""
        return trainable_state_dict(self)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["state_dict"] = self.saved_state()
        checkpoint["config"] = self.config
        checkpoint["vocab"] = self.vocab.to_json() if self.vocab else None

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Raises CheckpointError if the checkpoint's keys or shapes differ from the model's."""
        expected, stored = self.saved_state(), checkpoint["state_dict"]
        if differing := sorted(expected.keys() ^ stored.keys()):
            missing, unexpected = len(expected.keys() - stored.keys()), len(stored.keys() - expected.keys())
            raise CheckpointError(
                f"the checkpoint was trained with other trainable parts: {missing} tensors are missing and {unexpected} "
                f"are unexpected, such as {differing[0]!r}; use the config that it was trained with"
            )
        for name, value in expected.items():
            if stored[name].shape != value.shape:
                raise CheckpointError(
                    f"the checkpoint was trained with another size: {name} is {tuple(stored[name].shape)} in it and "
                    f"{tuple(value.shape)} in this config; use the config that it was trained with"
                )


def trainable_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that require a gradient, by name, detached."""
    return {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}


def save_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a .safetensors file atomically: `path` holds either its old content or the new one."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        temporary.touch()  # with the permissions of any new file, where safetensors would let only its owner read it
        permissions = temporary.stat().st_mode
        safetensors.torch.save_file(contiguous, temporary, dict(metadata or {}))
        temporary.chmod(permissions)
