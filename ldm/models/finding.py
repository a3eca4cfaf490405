"""The file that a model is loaded from: which one the options name. It is found before torch's larger companions are imported."""

from __future__ import annotations

import logging
from pathlib import Path

from ldm.checkpoints import shipped
from ldm.checkpoints.errors import CheckpointError
from ldm.util.config_merging import ConfigPaths

logger = logging.getLogger(__name__)

LAST = Path("checkpoints", "last.ckpt")  # in the log folder of a run


def is_run(folder: str | Path) -> bool:
    """Whether a folder is the log folder of a run with a checkpoint."""
    return (Path(folder) / LAST).is_file()


def last_checkpoint(run: str | Path) -> Path:
    """The last checkpoint in the log folder of a run. Raises CheckpointError if there is none."""
    path = Path(run) / LAST
    if not path.is_file():
        raise CheckpointError(f"{run}: has no {path.relative_to(run)}; name a folder that trainer.py wrote under logs/")
    return path


def find_checkpoint(
    run: str | Path | None = None,
    ckpt: str | Path | None = None,
    config: ConfigPaths | None = None,
    weights: str = shipped.SHIPPED,
) -> Path | None:
    """The checkpoint that the options --run, --ckpt and --config select.

    Args:
        weights: name of the set of weights that ship whose adapters are used if nothing is given.

    Returns:
        The checkpoint; None if only a config is given; the adapters that ship with the project if nothing is given.

    Raises:
        CheckpointError: the run has no checkpoint, or the shipped files are incomplete.
    """
    if ckpt:
        return Path(ckpt)
    if run:
        return last_checkpoint(run)
    if config:
        return None
    path = shipped.shipped_adapters(weights)
    logger.info("no --run, --ckpt or --config: using the weights that ship with the project, %s", path)
    return path
