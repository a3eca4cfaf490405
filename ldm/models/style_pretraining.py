"""Pre-training of image towers on styles: a picture is closer to another one in the same style than to those in other styles."""

from __future__ import annotations

import math

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.checkpoints.saving import SavesTrainableParameters
from ldm.graph.batch import Batch
from ldm.models.lr_schedules import decaying_matrices, per_step, warmup_then_cosine
from ldm.models.pretraining import CLIP, LARGEST_SCALE, contrastive_loss, recall_at_k
from ldm.util.config import instantiate_from_config
from ldm.util.errors import ConfigError

INITIAL_SCALE = 10.0  # inverse temperature; SimCLR's best is 1 / 0.1


class StylePretraining(SavesTrainableParameters, pl.LightningModule):
    """Trains an image tower to match images with references of the same style (SimCLR, Chen et al. 2002.05709, eq. 1).

    The two pictures of a pair share nothing but their style, so that the embedding says of a picture what no graph says. The
    loss compares projections of the embeddings (section 4.2), and as negatives the other pairs of the batch.

    Args:
        image_config: `{target, params}` of the image tower, a CLIPGlobalEncoder.
        warmup_steps: steps of linear warm-up of the learning rate, before a cosine decay over the rest of the run.
        weight_decay: of matrices; vectors and scalars have none.

    Raises:
        CheckpointError: the image tower has no weights.
    """

    learning_rate = 1e-3  # default; the trainer sets it
    monitor = "val/loss"
    shown_in_training = ("train/loss",)

    def __init__(self, image_config: dict = CLIP, warmup_steps: int = 50, weight_decay: float = 0.05):
        super().__init__()
        self.warmup_steps, self.weight_decay = warmup_steps, weight_decay
        self.image_model = instantiate_from_config(image_config).requires_grad_(True)
        self.to_style = nn.Linear(self.image_model.embedding_dim, self.image_model.embedding_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
        self.validation_embeddings: list[tuple[Tensor, Tensor]] = []  # of images and references, in the current epoch

    def parts(self) -> dict[str, nn.Module]:
        """Returns the parts by the names that messages use."""
        return {"image tower": self.image_model, "projection": self.to_style}

    def style_embedding(self, image: Tensor) -> Tensor:  # (B,3,H,W) in [-1,1] -> (B,E) of length 1
        """Projects the tower's embedding to the space that the loss compares."""
        weight = next(self.image_model.visual.parameters())
        embedding = self.image_model.visual(self.image_model.preprocess(image).to(weight.dtype))
        embedding = embedding[0] if isinstance(embedding, tuple) else embedding
        return F.normalize(self.to_style(embedding).float(), dim=-1)

    def pair(self, batch: Batch) -> tuple[Tensor, Tensor]:  # (B,E), (B,E)
        """The embeddings of a batch's images and of their references.

        Raises:
            ConfigError: the data set has no references.
        """
        batch = Batch.of(batch)
        if batch.reference is None or batch.reference is batch.image:  # the default
            raise ConfigError(
                "StylePretraining needs a reference of the same style beside each image: set `reference: true` in the data set"
            )
        image, reference = self.style_embedding(torch.cat([batch.image, batch.reference])).chunk(2)
        return image, reference

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = contrastive_loss(*self.pair(batch), self.logit_scale.exp())
        self.log("train/loss", loss, batch_size=len(Batch.of(batch).image))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pair = self.pair(batch)
        self.log(
            "val/loss",
            contrastive_loss(*pair, self.logit_scale.exp()),
            batch_size=len(pair[0]),
            sync_dist=True,
            prog_bar=True,
        )
        self.validation_embeddings.append(pair)

    def on_validation_epoch_start(self) -> None:
        self.validation_embeddings = []

    def on_validation_epoch_end(self) -> None:
        """Logs the share of images whose own reference is the closest of all in this process's part, and that of chance."""
        image, reference = (torch.cat(embeddings) for embeddings in zip(*self.validation_embeddings))
        self.log("val/reference_R@1", recall_at_k(image, reference, 1), sync_dist=True)
        self.log("val/chance_R@1", 1 / len(image), sync_dist=True)

    def on_train_batch_end(self, *_) -> None:
        with torch.no_grad():
            self.logit_scale.clamp_(0, math.log(LARGEST_SCALE))

    def configure_optimizers(self) -> dict:
        optimizer = decaying_matrices(self, self.learning_rate, self.weight_decay, self.device)
        return per_step(optimizer, warmup_then_cosine(self.warmup_steps, self.trainer.estimated_stepping_batches))

    @torch.no_grad()
    def log_images(self, batch: Batch, n: int = 8) -> dict[str, Tensor]:
        """Returns the first n images and references, (n,3,H,W) in [-1,1]."""
        batch = Batch.of(batch)
        assert batch.reference is not None
        return {"inputs": batch.image[:n], "references": batch.reference[:n]}
