"""Callback of runs that learn names of graphs: the file that `--words` takes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytorch_lightning as pl

from ldm.checkpoints.graph_word_files import write_graph_words
from ldm.models.diffusion.graph_words import GraphWords
from ldm.training.personalization import FOLDER

logger = logging.getLogger(__name__)

FILE = "graph_words.safetensors"


class GraphWordFile(pl.Callback):
    """Writes the learned names to learned/graph_words.safetensors in the log folder, at the end of training."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and isinstance(pl_module, GraphWords):
            if pl_module.has_lora:
                logger.info("learned: the words need this run's LoRA; name the run with --run")
                return
            path = Path(trainer.default_root_dir, FOLDER, FILE)
            logger.info("learned: %s", write_graph_words(path, pl_module.learned()))
