"""SGDiff's first stage: a graph encoder learns what images look like, from an image tower (2211.11138, section 3.1).

Two losses, one to one. Contrastive: an image and its graph are closer than to any other of the batch. Masked: with
objects covered in the picture, the graph's tokens tell what the image tower would see without the cover. A tower that is
trained here forgets what no graph says; where it is to tell styles later, a third loss keeps them in mind.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from open_clip.transformer import VisionTransformer
from torch import Tensor, distributed, nn

from ldm.checkpoints.saving import SavesTrainableParameters
from ldm.graph.batch import Batch, GraphBatch
from ldm.modules.attention import BasicTransformerBlock, Context
from ldm.modules.conditioning import Conditioning
from ldm.util.config import instantiate_from_config

LARGEST_SCALE = 100.0
CLIP = {"target": "ldm.modules.global_film.CLIPGlobalEncoder"}  # OpenAI's ViT-B/32


class PretrainingOutput(NamedTuple):
    """What a batch gave.

    contrastive, masked   the losses
    style                 the loss of telling images by their references; 0 where that is not trained
    of_mean               the masked loss of a decoder that always says the batch's mean for a place
    image, graph (B,E)    embeddings of length 1
    """

    contrastive: Tensor
    masked: Tensor
    style: Tensor
    of_mean: Tensor
    image: Tensor
    graph: Tensor


class GraphImagePretraining(SavesTrainableParameters, pl.LightningModule):
    """Trains the graph encoder that `graph_config` describes, as a `cond_stage_config` does: CGIPModel or NSGEncoder.

    image_config       a CLIPGlobalEncoder with a ViT; its own settings say which one and where its weights are
    train_image        whether it is trained too. It learns from the contrastive loss alone: as its own target in the
                       other one, it could make that easy instead of good
    train_style        whether the tower also learns to tell which image a reference shares its style with, which a graph
                       does not say; the data must have references. Both losses then see the embedding through a
                       projection of their own, so that it can hold both (as SimCLR's head, 2002.05709, section 4.2)
    mask_probability   of an object to be covered; the published code's is 0.8
    decoder_heads, decoder_dim_head   of the decoder's one block, whose widths are those of the image tower and of the
                       graph's tokens
    warmup_steps       the learning rate rises over so many steps, then falls as a cosine over the rest of the run
    weight_decay       of matrices; vectors and scalars have none

    In a checkpoint, the graph encoder is cond_stage_model, as in the second stage's: name one as the ckpt_path of a
    `cond_stage_config`. Raises CheckpointError for an image tower without weights, ValueError for one without patches.
    """

    learning_rate = 5e-4  # the trainer sets the one in force
    monitor = "val/loss"

    def __init__(
        self,
        graph_config: dict,
        image_config: dict = CLIP,
        train_image: bool = False,
        train_style: bool = False,
        mask_probability: float = 0.8,
        decoder_heads: int = 8,
        decoder_dim_head: int = 64,
        warmup_steps: int = 10_000,
        weight_decay: float = 0.2,
    ):
        super().__init__()
        self.mask_probability = mask_probability
        self.warmup_steps, self.weight_decay = warmup_steps, weight_decay

        with torch.random.fork_rng(devices=[], enabled=not train_image):
            if not train_image:
                torch.manual_seed(0)  # no checkpoint holds a frozen tower, so a random one must stay the same
            self.image_model = instantiate_from_config(image_config).requires_grad_(train_image)
        if not isinstance(self.visual, VisionTransformer):
            kind = type(self.visual).__name__
            raise ValueError(f"image_config: the image tower is a {kind}; take a ViT, which has patches")
        self.visual.output_tokens = True
        self.cond_stage_model = instantiate_from_config(graph_config)

        tokens, width = self.cond_stage_model.dim, self.visual.conv1.out_channels
        own, shared = getattr(self.cond_stage_model, "embedding_dim", None), self.image_model.embedding_dim
        self.to_image_space = nn.Identity() if own == shared else nn.Linear(own or tokens, shared)
        self.to_content, self.to_style = nn.Identity(), None
        if train_style:
            self.to_content, self.to_style = nn.Linear(shared, shared), nn.Linear(shared, shared)
        self.decoder = BasicTransformerBlock(width, tokens, decoder_heads, decoder_dim_head)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.validated: list[tuple[Tensor, Tensor]] = []  # embeddings of the validation set so far

    @property
    def visual(self) -> VisionTransformer:
        return self.image_model.visual

    def parts(self) -> dict[str, nn.Module]:
        """The parts by the names that people call them."""
        parts = {"graph encoder": self.cond_stage_model, "image tower": self.image_model, "decoder": self.decoder}
        linear = isinstance(self.to_image_space, nn.Linear)
        return parts | {"projection": self.to_image_space} if linear else parts

    # Features --------------------------------------------------------------------------------------------------------

    def image_features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,H,W) in [-1,1] -> embedding (B,E), features of the patches (B,N,W) after the last layer's norm."""
        return self.visual(self.image_model.preprocess(image).to(self.visual.conv1.weight.dtype))

    def graph_embedding(self, cond: Conditioning) -> Tensor:  # -> (B,E)
        """The encoder's own embedding of the graph, or else the mean of its tokens, in the image tower's space."""
        if cond.style is not None:
            return self.to_image_space(cond.style)
        real = cond.mask[..., None]
        return self.to_image_space((cond.tokens * real).sum(1) / real.sum(1).clamp(min=1))

    @property
    def scale(self) -> Tensor:
        return self.logit_scale.exp()

    # Training --------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch) -> PretrainingOutput:
        batch = Batch.of(batch)
        cond = self.cond_stage_model(batch.graph)
        embedding, patches = self.image_features(batch.image)
        image, graph = (F.normalize(x.float(), dim=-1) for x in (self.to_content(embedding), self.graph_embedding(cond)))
        style = torch.zeros_like(self.scale)
        if self.to_style is not None:
            pair = embedding, self.image_features(batch.reference)[0]
            style = contrastive_loss(*(F.normalize(self.to_style(x).float(), dim=-1) for x in pair), self.scale)

        with torch.no_grad():
            hidden = sample_masked_objects(batch.graph, self.mask_probability)
            _, covered = self.image_features(mask_objects(batch.image, batch.graph, hidden))
        uncovered, target = self.decoder(covered, Context.of(cond.tokens, cond.mask), None), patches.detach().float()
        return PretrainingOutput(
            contrastive=contrastive_loss(image, graph, self.scale),
            masked=F.mse_loss(uncovered.float(), target),
            style=style,
            of_mean=target.var(dim=0, unbiased=False).mean(),
            image=image,
            graph=graph,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        outcome = self.losses(batch)
        self.log("train/scale", self.scale)
        return self._log_losses("train", outcome)

    def validation_step(self, batch: Batch, batch_idx: int):
        outcome = self.losses(batch)
        self._log_losses("val", outcome)
        self.log("val/masked_of_mean", outcome.of_mean, batch_size=len(outcome.image), sync_dist=True)
        self.validated.append((outcome.image, outcome.graph))

    def _log_losses(self, split: str, outcome: PretrainingOutput) -> Tensor:
        loss = outcome.contrastive + outcome.masked + outcome.style
        values = {"loss": loss, "contrastive": outcome.contrastive, "masked": outcome.masked, "style": outcome.style}
        values = {f"{split}/{name}": value for name, value in values.items()}
        self.log_dict(values, prog_bar=True, batch_size=len(outcome.image), sync_dist=split == "val")
        return loss

    def on_validation_epoch_start(self):
        self.validated = []

    def on_validation_epoch_end(self):
        """How often an image's graph is among the nearest of the whole set's, and the other way round."""
        image, graph = (self.all_gather(torch.cat(x)).flatten(0, -2) for x in zip(*self.validated))
        for k in (1, 5):
            self.log(f"val/image_to_graph_R@{k}", recall_at_k(image, graph, k), sync_dist=True)
            self.log(f"val/graph_to_image_R@{k}", recall_at_k(graph, image, k), sync_dist=True)
            self.log(f"val/chance_R@{k}", min(1.0, k / len(image)), sync_dist=True)

    def on_train_batch_end(self, *_):
        with torch.no_grad():
            self.logit_scale.clamp_(0, math.log(LARGEST_SCALE))

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.999))
        rest = max(1, self.trainer.estimated_stepping_batches - self.warmup_steps)

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / self.warmup_steps
            return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - self.warmup_steps) / rest))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # Pictures --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_images(self, batch: Batch, n: int = 8) -> dict[str, Tensor]:  # name -> (n,3,H,W) in [-1,1]
        batch = Batch.of(batch)
        hidden = sample_masked_objects(batch.graph, self.mask_probability)
        return {"inputs": batch.image[:n], "masked": mask_objects(batch.image, batch.graph, hidden)[:n]}


def contrastive_loss(image: Tensor, graph: Tensor, scale: Tensor) -> Tensor:  # (B,E), (B,E), () -> ()
    """Symmetric InfoNCE (CLIP, 2103.00020, figure 3) over the batches of all processes, which must be equally large.

    The same number in each of them, and the mean of their gradients is the joined batch's.
    """
    rank, world = 0, 1
    if distributed.is_available() and distributed.is_initialized():
        rank, world = distributed.get_rank(), distributed.get_world_size()
    return ClipLoss(gather_with_grad=True, rank=rank, world_size=world)(image, graph, scale)


def recall_at_k(queries: Tensor, items: Tensor, k: int) -> Tensor:  # (N,E), (N,E) -> ()
    """The share of queries whose own item, the one in the same row, is among the k most similar.

    Items that are equally similar come in random order; this is the mean over all orders, so that a model to which
    everything is alike has what chance gives, k / N.
    """
    similarity = queries @ items.T
    own = similarity.diagonal()[:, None]
    closer, equal = (similarity > own).sum(1), (similarity == own).sum(1)
    return ((k - closer) / equal).clamp(0, 1).mean()
MASK_VALUE = 0.0  # mid grey in [-1,1], close to the mean of CLIP's images


def sample_masked_objects(graph: GraphBatch, probability: float) -> Tensor:  # -> (O,) bool
    """Each object that has a box, on its own, with that probability; never `__image__`, which would be everything."""
    can_be = (graph.objs != 0) & (graph.boxes[:, 0] >= 0)
    return can_be & (torch.rand(len(graph.objs), device=graph.objs.device) < probability)


def mask_objects(image: Tensor, graph: GraphBatch, hidden: Tensor) -> Tensor:  # (B,3,H,W), (O,) bool -> (B,3,H,W)
    """The image with FILL at every pixel whose middle lies in the box of a hidden object."""
    (x0, y0, x1, y1), image_of = graph.boxes[hidden].T[..., None], graph.obj_to_img[hidden]
    x, y = ((torch.arange(size, device=image.device) + 0.5) / size for size in (image.shape[3], image.shape[2]))
    inside = ((x0 <= x) & (x < x1))[:, None, :] & ((y0 <= y) & (y < y1))[:, :, None]
    boxes_over = torch.zeros_like(image[:, 0]).index_add(0, image_of, inside.to(image.dtype))
    return torch.where(boxes_over[:, None] > 0, MASK_VALUE, image)
