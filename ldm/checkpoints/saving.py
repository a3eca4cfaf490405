"""What a checkpoint holds: what is trained, the config and the vocabulary, and nothing frozen."""

from __future__ import annotations

from torch import Tensor

from ldm.checkpoints.loading import CheckpointError, trainable_state_dict
from ldm.graph.scene_graph import Vocab


class SavesTrainableParameters:
    """For a LightningModule, before it in the list of bases. The trainer sets `config` and `vocab`.

    Raises CheckpointError when a checkpoint holds other parts than the model trains.
    """

    config: dict | None = None
    vocab: Vocab | None = None

    @property
    def strict_loading(self) -> bool:
        return False  # frozen weights are absent; on_load_checkpoint sees to it that nothing else is

    def saved(self) -> dict[str, Tensor]:
        return trainable_state_dict(self)

    def on_save_checkpoint(self, checkpoint: dict):
        checkpoint["state_dict"] = self.saved()
        checkpoint["config"] = self.config
        checkpoint["vocab"] = self.vocab.to_json() if self.vocab else None

    def on_load_checkpoint(self, checkpoint: dict):
        mine, stored = self.saved(), checkpoint["state_dict"]
        ours, theirs = mine.keys(), stored.keys()
        if odd := sorted(ours ^ theirs):
            raise CheckpointError(
                f"the checkpoint trains other parts than this config: {len(ours - theirs)} tensors are missing in it and "
                f"{len(theirs - ours)} are unexpected, such as {odd[0]!r}; use the config that it was trained with"
            )
        for name, value in mine.items():
            if stored[name].shape != value.shape:
                raise CheckpointError(
                    f"the checkpoint has another size than this config: {name} is {tuple(stored[name].shape)} there and "
                    f"{tuple(value.shape)} here; use the config that it was trained with"
                )
