"""Pre-training of graph encoders on images, as SGDiff's first stage does (2211.11138, section 3.1).

Two losses with equal weights. Contrastive loss: the embeddings of an image and its graph are closer than those of other
pairs in the batch. Masked loss: from the image with some objects masked and the graph's tokens, a decoder predicts the
features that the image tower has for the unmasked image. If the image tower is trained too, an optional third loss
keeps it sensitive to styles, which graphs do not describe.
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
from ldm.models.lr_schedules import decaying_matrices, per_step, warmup_then_cosine
from ldm.modules.attention import BasicTransformerBlock, Context
from ldm.modules.conditioning import Conditioning
from ldm.modules.word_encoder import ReadsMeanings
from ldm.util.config import instantiate_from_config
from ldm.util.errors import ConfigError

CLIP = {"target": "ldm.modules.global_film.CLIPGlobalEncoder"}  # OpenAI's ViT-B/32
INITIAL_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0  # inverse temperature of the contrastive loss, as CLIP's
MASK_VALUE = 0.0  # mid grey in [-1,1], close to the mean of CLIP's training images


class PretrainingOutput(NamedTuple):
    """Losses and embeddings of a batch.

    Attributes:
        contrastive: contrastive loss of images and graphs.
        masked: mean squared error of the decoder's predictions.
        style: contrastive loss of images and their style references; 0 without `train_style`.
        of_mean: the masked loss of a decoder that predicts the batch's mean feature at every patch, a baseline.
        image: (B,E) embeddings of length 1.
        graph: (B,E) embeddings of length 1.
    """

    contrastive: Tensor
    masked: Tensor
    style: Tensor
    of_mean: Tensor
    image: Tensor
    graph: Tensor


class GraphImagePretraining(SavesTrainableParameters, pl.LightningModule):
    """Trains a graph encoder (CGIPModel or NSGEncoder) on images.

    In a checkpoint the graph encoder is `cond_stage_model`, as in the diffusion model's; name the file as ckpt_path in
    a `cond_stage_config`.

    Args:
        graph_config: `{target, params}` of the graph encoder.
        image_config: the same for the image tower, a CLIPGlobalEncoder with a ViT.
        train_image: trains the image tower too, with the contrastive loss only: as the target of the masked loss it
            could make that loss small without better features.
        train_style: also trains the image tower to match images with references of the same style, which the data must
            have. Both contrastive losses then use a projection of the embedding of their own (as SimCLR's head,
            2002.05709, section 4.2).
        mask_probability: probability that an object is masked; the published code's is 0.8.
        decoder_heads: attention heads of the decoder's transformer block.
        decoder_dim_head: width of a head.
        warmup_steps: steps of linear warm-up of the learning rate, before a cosine decay over the rest of the run.
        weight_decay: of matrices; vectors and scalars have none.

    Raises:
        CheckpointError: the image tower has no weights.
        ConfigError: the image tower is not a ViT.
    """

    learning_rate = 5e-4  # default; the trainer sets it
    monitor = "val/loss"
    shown_in_training = ("train/loss", "train/contrastive", "train/masked", "train/style")

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
                torch.manual_seed(0)  # checkpoints do not hold a frozen tower, so a random one must be reproducible
            self.image_model = instantiate_from_config(image_config).requires_grad_(train_image)
        if not isinstance(self.visual, VisionTransformer):
            kind = type(self.visual).__name__
            raise ConfigError(f"image_config: the image tower is a {kind}, which has no patches: choose a ViT")
        self.visual.output_tokens = True
        self.cond_stage_model = instantiate_from_config(graph_config)

        token_dim, patch_dim = self.cond_stage_model.dim, self.visual.conv1.out_channels
        graph_dim, image_dim = self.cond_stage_model.embedding_dim, self.image_model.embedding_dim
        self.to_image_space = nn.Identity() if graph_dim == image_dim else nn.Linear(graph_dim or token_dim, image_dim)
        self.to_content, self.to_style = nn.Identity(), None
        if train_style:
            self.to_content, self.to_style = nn.Linear(image_dim, image_dim), nn.Linear(image_dim, image_dim)
        self.decoder = BasicTransformerBlock(patch_dim, token_dim, decoder_heads, decoder_dim_head)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
        self.validation_embeddings: list[tuple[Tensor, Tensor]] = []  # of images and graphs, in the current epoch

    @property
    def visual(self) -> VisionTransformer:
        return self.image_model.visual

    @property
    def scale(self) -> Tensor:
        return self.logit_scale.exp()

    def parts(self) -> dict[str, nn.Module]:
        """Returns the parts by the names that messages use."""
        parts: dict[str, nn.Module] = {
            "graph encoder": self.cond_stage_model,
            "image tower": self.image_model,
            "decoder": self.decoder,
        }
        if isinstance(self.to_image_space, nn.Linear):
            parts["projection"] = self.to_image_space
        return parts

    # Features --------------------------------------------------------------------------------------------------------

    def image_features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes images (B,3,H,W) in [-1,1].

        Returns:
            The embedding (B,E), and the features of the patches (B,N,W) after the last layer norm.
        """
        return self.visual(self.image_model.preprocess(image).to(self.visual.conv1.weight.dtype))

    def graph_embedding(self, cond: Conditioning) -> Tensor:  # -> (B,E)
        """Projects the graph encoder's embedding, or else the mean of its tokens, to the image embedding space."""
        if cond.style is not None:
            return self.to_image_space(cond.style)
        mask = cond.mask[..., None]
        return self.to_image_space((cond.tokens * mask).sum(1) / mask.sum(1).clamp(min=1))

    # Training --------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch) -> PretrainingOutput:
        batch = Batch.of(batch)
        cond = self.cond_stage_model(batch.graph)
        embedding, patches, reference = self._embed(batch)
        image = F.normalize(self.to_content(embedding).float(), dim=-1)
        graph = F.normalize(self.graph_embedding(cond).float(), dim=-1)
        target = patches.detach().float()
        return PretrainingOutput(
            contrastive=contrastive_loss(image, graph, self.scale),
            masked=F.mse_loss(self._predict_patches(batch, cond).float(), target),
            style=self._style_loss(embedding, reference),
            of_mean=target.var(dim=0, unbiased=False).mean(),
            image=image,
            graph=graph,
        )

    def _embed(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:  # (B,E), (B,N,W), (B,E)
        """The embeddings and patch features of the images, and the references' embeddings if there is a style loss."""
        if self.to_style is None:
            return *self.image_features(batch.image), None
        embeddings, patches = self.image_features(torch.cat([batch.image, batch.reference]))  # half the calls
        embedding, reference = embeddings.chunk(2)
        return embedding, patches[: len(embedding)], reference

    def _predict_patches(self, batch: Batch, cond: Conditioning) -> Tensor:  # -> (B,N,W)
        """Predicts the patch features of the unmasked images from masked images and graph tokens."""
        with torch.no_grad():
            masked = sample_masked_objects(batch.graph, self.mask_probability)
            _, patches = self.image_features(mask_objects(batch.image, batch.graph, masked))
        return self.decoder(patches, Context.from_tokens(cond.tokens, cond.mask), None)

    def _style_loss(self, embedding: Tensor, reference: Tensor | None) -> Tensor:
        if self.to_style is None or reference is None:
            return torch.zeros_like(self.scale)
        pair = (F.normalize(self.to_style(x).float(), dim=-1) for x in (embedding, reference))
        return contrastive_loss(*pair, self.scale)

    def setup(self, stage: str) -> None:
        """Gives the meanings of names to an encoder with open words."""
        if self.vocab is not None and isinstance(self.cond_stage_model, ReadsMeanings):
            self.cond_stage_model.bind_words(self.vocab)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        output = self.losses(batch)
        self.log("train/scale", self.scale)
        return self._log_losses("train", output)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        output = self.losses(batch)
        self._log_losses("val", output)
        self.log("val/masked_of_mean", output.of_mean, batch_size=len(output.image), sync_dist=True)
        self.validation_embeddings.append((output.image, output.graph))

    def _log_losses(self, split: str, output: PretrainingOutput) -> Tensor:
        """Logs the three losses and returns their sum."""
        loss = output.contrastive + output.masked + output.style
        values = {"loss": loss, "contrastive": output.contrastive, "masked": output.masked, "style": output.style}
        values = {f"{split}/{name}": value for name, value in values.items()}
        validating = split == "val"
        self.log_dict(values, prog_bar=validating, batch_size=len(output.image), sync_dist=validating)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.validation_embeddings = []

    def on_validation_epoch_end(self) -> None:
        """Logs the recall of graphs by images and of images by graphs, over the validation sets of all processes."""
        image, graph = (self._gather(torch.cat(embeddings)) for embeddings in zip(*self.validation_embeddings))
        for k in (1, 5):
            self.log(f"val/image_to_graph_R@{k}", recall_at_k(image, graph, k), sync_dist=True)
            self.log(f"val/graph_to_image_R@{k}", recall_at_k(graph, image, k), sync_dist=True)
            self.log(f"val/chance_R@{k}", min(1.0, k / len(image)), sync_dist=True)

    def _gather(self, embeddings: Tensor) -> Tensor:  # (N,E) -> (N of all processes,E)
        gathered = self.all_gather(embeddings)
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, -2)

    def on_train_batch_end(self, *_) -> None:
        with torch.no_grad():
            self.logit_scale.clamp_(0, math.log(LARGEST_SCALE))

    def configure_optimizers(self) -> dict:
        optimizer = decaying_matrices(self, self.learning_rate, self.weight_decay, self.device)
        return per_step(optimizer, warmup_then_cosine(self.warmup_steps, self.trainer.estimated_stepping_batches))

    @torch.no_grad()
    def log_images(self, batch: Batch, n: int = 8) -> dict[str, Tensor]:
        """Returns the first n inputs, unmasked and masked, (n,3,H,W) in [-1,1]."""
        batch = Batch.of(batch)
        masked = sample_masked_objects(batch.graph, self.mask_probability)
        return {"inputs": batch.image[:n], "masked": mask_objects(batch.image, batch.graph, masked)[:n]}


# Masking -------------------------------------------------------------------------------------------------------------


def sample_masked_objects(graph: GraphBatch, probability: float) -> Tensor:  # -> (O,) bool
    """Selects each object with a box with the given probability, never `__image__`, whose box is the whole image."""
    can_be_masked = (graph.objs != 0) & (graph.boxes[:, 0] >= 0)
    return can_be_masked & (torch.rand(len(graph.objs), device=graph.objs.device) < probability)


def mask_objects(image: Tensor, graph: GraphBatch, masked: Tensor) -> Tensor:  # (B,3,H,W), (O,) bool -> (B,3,H,W)
    """Sets every pixel to MASK_VALUE whose centre lies in the box of a masked object."""
    x0, y0, x1, y1 = graph.boxes.T[..., None]
    x, y = ((torch.arange(size, device=image.device) + 0.5) / size for size in (image.shape[3], image.shape[2]))
    # All objects, since a GPU would wait for the number of those that are masked.
    inside = (masked[:, None] & (x0 <= x) & (x < x1))[:, None, :] & ((y0 <= y) & (y < y1))[:, :, None]
    box_count = torch.zeros_like(image[:, 0]).index_add(0, graph.obj_to_img, inside.to(image.dtype))
    return torch.where(box_count[:, None] > 0, MASK_VALUE, image)


# Contrastive loss and retrieval --------------------------------------------------------------------------------------


def contrastive_loss(image: Tensor, graph: Tensor, scale: Tensor) -> Tensor:  # (B,E), (B,E), () -> ()
    """Symmetric InfoNCE (CLIP, 2103.00020, figure 3) over the batches of all processes, which must have the same size.

    The value is the same in all processes, and the mean of their gradients is the gradient for the joint batch.
    """
    rank, world = 0, 1
    if distributed.is_available() and distributed.is_initialized():
        rank, world = distributed.get_rank(), distributed.get_world_size()
    return ClipLoss(gather_with_grad=True, rank=rank, world_size=world)(image, graph, scale)


def recall_at_k(queries: Tensor, items: Tensor, k: int) -> Tensor:  # (N,E), (N,E) -> ()
    """Returns the share of queries whose item (the one in the same row) is among the k most similar items.

    Equally similar items are ranked in random order, and the mean over all orders is returned, so that constant
    embeddings have the recall of chance, k / N.
    """
    similarity = queries @ items.T
    matching = similarity.diagonal()[:, None]
    closer, equal = (similarity > matching).sum(1), (similarity == matching).sum(1)
    return ((k - closer) / equal).clamp(0, 1).mean()
