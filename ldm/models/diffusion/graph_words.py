"""Trains new names for the graphs of a trained model: each is a row of the graph encoder's tables, and all else is frozen.

Textual inversion (Gal et al. 2208.01618) with scene graphs in the place of captions. For a kind of objects that the model has
never seen, LoRA of the U-Net is trained too (DreamBooth, Ruiz et al. 2208.12242).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ldm.checkpoints import shipped
from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.graph_word_files import GraphWord
from ldm.data.values import require_share
from ldm.graph.batch import Batch
from ldm.graph.new_names import read_new_names, with_new_names
from ldm.graph.vocab import Vocab
from ldm.models.diffusion import assembly
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.lr_schedules import per_step, unscaled_by_lightning, warmup_times_cosine
from ldm.models.trained import load_trained, read_trained
from ldm.modules.graph_words import (
    LearnsNames,
    has_new_name,
    initial_row,
    table_sizes,
    tables_by_kind,
    tables_digest,
    weights_by_boxes,
)
from ldm.modules.lora_targets import add_lora_layers
from ldm.util.errors import ConfigError
from ldm.util.signatures import with_inherited

PLACE = "model.params.words"


class GraphWords(LatentDiffusion):
    """A trained LatentDiffusion that learns names from a few annotated pictures (`ldm.data.annotated.AnnotatedPictures`).

    Args:
        adapters: the trained model: a checkpoint of a run of the same config, or exported adapters.
        words: the names to learn, a list of {word, kind, init}: a name that the vocabulary lacks, whether it is an object (default), a
            predicate or an attribute, and the name whose row it starts from (default: the mean of all rows).
        lora: adapters of the U-Net beside those that it has, a list of {part: unet, targets, rank, alpha}; see `ldm.modules.lora_targets.LoRATarget`.
        lora_rate: their learning rate; by default model.base_learning_rate.
        outside: weight of the loss outside of the boxes of the objects that the words describe, from 0 to 1. In pictures without such a
            box, such as those of prior preservation, it is the same everywhere.
        weight_decay: of AdamW.
        diffusion: further parameters, those of LatentDiffusion.

    Raises:
        ConfigError: nothing would be trained, or a value is wrong.
        UserError: the adapters do not fit the config, or a word is a name already.
    """

    cond_stage_model: Any

    def __init__(
        self,
        adapters: str,
        words: list[dict] | None = None,
        lora: list[dict] | None = None,
        lora_rate: float | None = None,
        outside: float = 1.0,
        weight_decay: float = 0.0,
        **diffusion: Any,
    ):
        super().__init__(weight_decay=weight_decay, **diffusion)
        path = shipped.find_in_checkout(adapters)
        saved = read_trained(path) if path.is_file() else None
        if saved is None or not saved["vocab"]:
            raise CheckpointError(
                f"model.params.adapters: {path} is neither a checkpoint of a run with graphs nor exported adapters; name one"
            )
        load_trained(self, saved, f"{path}")
        self.scale_by_std = False  # the latents keep the scale that the model was trained with
        self.model_ema, self.monitor = None, diffusion.get("monitor") or "val/loss_simple"
        self.requires_grad_(False)
        self.cond_stage_model.weights_from = f"{path}"
        if not isinstance(self.cond_stage_model, LearnsNames):
            raise ConfigError("model.params.cond_stage_config: only an NSGEncoder learns names; choose it")
        self.digest, known = tables_digest(self.cond_stage_model), Vocab.from_json(saved["vocab"])
        self.taught = read_new_names(words, PLACE)
        self.taught_vocab = with_new_names(known, self.taught, PLACE, table_sizes(self.cond_stage_model))
        for _, kind, init in self.taught:
            self.cond_stage_model.add_rows(kind, initial_row(self.cond_stage_model, known, kind, init)[None])
        for parameter in self.rows().values():
            parameter.requires_grad_(True)
        self.lora_rate, self.has_lora = lora_rate, add_lora_layers(self.unet, None, lora or [], "model.params.lora") > 0
        self.outside = require_share("model.params.outside", outside)
        assembly.keep_frozen_out_of_ddp(self)

    def pixel_weights(self, batch: Batch, errors: Tensor) -> Tensor | None:  # (B,C,h,w) -> (B,1,h,w)
        """Returns larger weights in the boxes of what is learned."""
        if self.outside == 1:
            return None
        chosen = has_new_name(self.cond_stage_model, batch.graph)
        return weights_by_boxes(batch.graph, chosen, errors.shape[-1], self.outside)

    def rows(self) -> dict[str, nn.Parameter]:
        """The learned rows (n,D) by kind, in the order of `taught`; the parameters that are trained."""
        tables = tables_by_kind(self.cond_stage_model)
        return {kind: table.added for kind, table in tables.items() if table.added is not None}

    def learned(self) -> dict[str, GraphWord]:
        """The words with the rows that they have now."""
        places = {kind: iter(rows.detach().cpu()) for kind, rows in self.rows().items()}
        return {new.name: GraphWord(new.kind, next(places[new.kind]).clone(), self.digest) for new in self.taught}

    def configure_optimizers(self) -> dict:
        """AdamW with a learning rate for the rows and one for the adapters."""
        rows = list(self.rows().values())
        adapters = [p for p in self.unet.parameters() if p.requires_grad]
        groups: list[dict] = [{"params": rows, "lr": self.learning_rate}]
        if adapters:
            groups.append({"params": adapters, "lr": self.learning_rate if self.lora_rate is None else self.lora_rate})
        optimizer = unscaled_by_lightning(torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True))
        total = self.trainer.estimated_stepping_batches
        return per_step(optimizer, warmup_times_cosine(self.warmup_steps, total, self.cosine))

    def setup(self, stage: str) -> None:
        """Raises ConfigError if the pictures are annotated in another vocabulary."""
        if self.vocab is not None and self.vocab != self.taught_vocab:
            raise ConfigError(
                "the vocabulary of the pictures is not that of the model with the new words; take data.params.train.params.vocabulary "
                "and words from model.params, as configs/flat/graph_words.yaml does"
            )
        self.vocab = self.taught_vocab
        super().setup(stage)

    def train(self, mode: bool = True) -> GraphWords:
        """Stays in evaluation mode, since all but the rows is frozen."""
        return super().train(False)


GraphWords.__signature__ = with_inherited(  # pyright: ignore[reportAttributeAccessIssue]
    inspect.signature(GraphWords), inspect.signature(LatentDiffusion)
)
