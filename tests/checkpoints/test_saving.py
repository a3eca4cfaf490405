"""A checkpoint that does not fit is refused before anything is lost."""

import pytest
from tiny import tiny_model

from ldm.checkpoints.loading import CheckpointError


def test_a_checkpoint_of_another_size_is_refused_by_name():
    checkpoint, model = {}, tiny_model()
    model.on_save_checkpoint(checkpoint)
    name = "null_tokens"
    checkpoint["state_dict"][name] = checkpoint["state_dict"][name][..., :5]
    with pytest.raises(CheckpointError, match=f"{name} is .1, 1, 5. there"):
        model.on_load_checkpoint(checkpoint)
