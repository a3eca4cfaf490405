"""The latent diffusion model: frozen published parts that small trained adapters and encoders steer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.kinds import INPUTS
from ldm.checkpoints.loading import load_part
from ldm.checkpoints.saving import SavesTrainableParameters
from ldm.checkpoints.trained_with import TrainedWith
from ldm.data.datamodule import DataModuleFromConfig
from ldm.graph.batch import Batch, GraphBatch
from ldm.models.diffusion.ddim import Denoiser
from ldm.models.diffusion.guidance import guided_denoiser
from ldm.models.diffusion.image_logging import images_to_log
from ldm.models.diffusion.published import (
    check_defaults,
    settle_scale_factor,
    settle_schedule,
    with_published_heads,
)
from ldm.models.encoders import build_frozen, checksums
from ldm.models.lr_schedules import per_step, unscaled_by_lightning, warmup_times_cosine
from ldm.models.runtime import offload_encoders, on_device
from ldm.modules import conditioning
from ldm.modules.conditioning import Conditioning
from ldm.modules.ema import EMA
from ldm.modules.shallow_copy import with_submodules
from ldm.util.config import instantiate_from_config
from ldm.util.errors import UserError

if TYPE_CHECKING:
    from ldm.models.autoencoder import Autoencoder

# Keys of published YAML files that select behaviour which this model always has, with the values accepted for them.
PUBLISHED_KEYS = {
    "first_stage_key": ("image",),  # The first stage encodes the batch's image.
    "cond_stage_key": ("class_label", "graph", "caption"),  # The graph encoder reads the batch's scene graph.
    "conditioning_key": ("crossattn", None),  # The conditioning enters the U-Net by cross-attention.
    "cond_stage_forward": ("encode_graph_local_global", None),  # SGDiff's method that encodes a graph; here `forward`.
    "num_timesteps_cond": (1, None),  # The conditioning is not noised.
    "parameterization": ("eps",),  # The U-Net predicts the noise.
    "loss_type": ("l2",),  # The loss is the mean squared error.
    "log_every_t": range(1, 1001),  # Interval of intermediate samples in LDM's image logs, which are not logged here.
}


class LatentDiffusion(SavesTrainableParameters, pl.LightningModule):
    """Predicts noise in the latent space of a first stage, conditioned on a scene graph and a reference image.

    Args:
        unet_config: `{target, params}` of the U-Net.
        first_stage_config: the same for the autoencoder.
        cond_stage_config: the same for the graph encoder.
        global_stage_config: the same for the image encoder. Without one, the style is the graph encoder's, if it
            computes one (CGIPModel does).
        ckpt_path: a published checkpoint (LDM, SGDiff or diffusers layout; a file, a folder, or a state dict), or one of
            this project that holds a whole U-Net. The first stage and a frozen graph encoder are loaded from it too, unless their configs name a file.
        init: 'random' permits a frozen U-Net without weights.
        freeze_unet: trains only the U-Net's adapters (LoRA, FiLM, context projections).
        freeze_first_stage: must be true.
        cond_stage_trainable: trains the graph encoder.
        timesteps: T of the noise schedule. This and the next three must agree with the weights in ckpt_path, if these state
            a schedule; by default, they are theirs, otherwise those under `defaults`, otherwise LDM's.
        linear_start: first beta of the noise schedule.
        linear_end: last beta of the noise schedule.
        beta_schedule: name of the noise schedule, 'linear'.
        image_size: height and width of the latents.
        channels: channels of the latents.
        scale_factor: factor of the latents. By default the one that the U-Net in ckpt_path was trained with, if the
            file holds it, or the config.json of the first stage states it, otherwise 1.
        defaults: timesteps, linear_start, linear_end, beta_schedule and scale_factor to use where neither the arguments
            above nor the weights state them.
        scale_by_std: sets scale_factor so that the latents of the first batch have a standard deviation of 1, unless it
            was read from ckpt_path.
        graph_drop: share of training rows whose graph is replaced by the learned null tokens, for classifier-free
            guidance (Ho & Salimans 2207.12598). A style that the graph encoder computes is replaced with the graph.
        style_drop: share of training rows whose style is replaced by the learned null style.
        use_ema: keeps an exponential moving average of the trainable parameters.
        ema_decay: its decay per step.
        warmup_steps: steps of linear warm-up of the learning rate.
        cosine: whether the learning rate then decays over the run, as half a cosine.
        weight_decay: of AdamW.
        edit_defaults: options of edits by name where an edit does not give them, such as `reach` or `steps`
            (`ldm.editing.options.EditOptions`).
        monitor: logged value by which the best checkpoint is chosen; by default the validation loss.
        published_keys: the keys in PUBLISHED_KEYS.

    Raises:
        CheckpointError: a frozen part has no weights, or the config states something else than the weights.
        ValueError: a key or value is not supported.
    """

    published_params = PUBLISHED_KEYS
    shown_in_training = ("train/loss_simple",)
    first_stage_model: Autoencoder

    def __init__(
        self,
        unet_config: dict,
        first_stage_config: dict,
        cond_stage_config: dict,
        global_stage_config: dict | None = None,
        ckpt_path: str | dict | None = None,
        init: str | None = None,
        freeze_unet: bool = False,
        freeze_first_stage: bool = True,
        cond_stage_trainable: bool = True,
        timesteps: int | None = None,
        linear_start: float | None = None,
        linear_end: float | None = None,
        beta_schedule: str | None = None,
        image_size: int = 32,
        channels: int = 4,
        scale_factor: float | None = None,
        scale_by_std: bool = False,
        defaults: dict | None = None,
        graph_drop: float = 0.1,
        style_drop: float = 0.1,
        use_ema: bool = True,
        ema_decay: float = 0.9999,
        warmup_steps: int = 0,
        cosine: bool = True,
        weight_decay: float = 0.01,
        edit_defaults: dict | None = None,
        monitor: str | None = None,
        **published_keys: Any,
    ):
        super().__init__()
        _refuse_unsupported(init, freeze_first_stage, published_keys)
        defaults = check_defaults(defaults)
        self.latent_size, self.channels, self.scale_by_std = image_size, channels, scale_by_std
        self.register_buffer("scale_factor", torch.tensor(1.0))
        self.graph_drop, self.style_drop = graph_drop, style_drop if global_stage_config else graph_drop
        self.warmup_steps, self.cosine, self.weight_decay = warmup_steps, cosine, weight_decay
        self.edit_defaults = dict(edit_defaults or {})
        self.monitor = monitor or ("val/loss_simple_ema" if use_ema else "val/loss_simple")

        unet = build_part(with_published_heads(unet_config, ckpt_path), frozen=freeze_unet)
        _refuse_other_channels(unet, channels)
        unet.weights_from = f"random (init: {init})" if init else None
        self.model = nn.ModuleDict({"diffusion_model": unet})  # published checkpoints say model.diffusion_model
        self.first_stage_model = build_part(first_stage_config, frozen=True)  # pyright: ignore[reportAttributeAccessIssue]
        self.cond_stage_model = build_part(cond_stage_config, frozen=not cond_stage_trainable)
        self.global_stage_model = build_part(global_stage_config, frozen=True) if global_stage_config else None
        self._add_null_conditioning()
        trained = self._load_weights(ckpt_path, cond_stage_trainable) if ckpt_path else TrainedWith()
        stated = {
            "timesteps": timesteps,
            "linear_start": linear_start,
            "linear_end": linear_end,
            "beta_schedule": beta_schedule,
        }
        self.schedule = settle_schedule(stated, defaults, trained)
        self._settle_scale_factor(scale_factor, defaults, trained)
        if freeze_unet:
            unet.freeze_body()
        self._refuse_frozen_without_weights()
        self.model_ema = EMA(self, ema_decay) if use_ema else None
        self._keep_frozen_out_of_ddp()

    # Construction ----------------------------------------------------------------------------------------------------

    def _add_null_conditioning(self) -> None:
        """The learned null tokens and, if there are styles, the learned null style."""
        null_tokens = torch.randn(1, 1, self.cond_stage_model.dim) * 0.02
        self.null_tokens = nn.Parameter(null_tokens, requires_grad=self.graph_drop > 0)
        self.null_style = None
        if width := (self.global_stage_model or self.cond_stage_model).embedding_dim:
            self.null_style = nn.Parameter(torch.zeros(1, width), requires_grad=self.style_drop > 0)

    def _load_weights(self, ckpt_path: str | dict, cond_stage_trainable: bool) -> TrainedWith:
        """Loads the U-Net, and the other frozen parts that have no weights yet."""
        report = load_part(self.unet, ckpt_path, "unet")
        if self.first_stage_model.weights_from is None:
            load_part(self.first_stage_model, ckpt_path, "first_stage")
        if not cond_stage_trainable and self.cond_stage_model.weights_from is None:
            load_part(self.cond_stage_model, ckpt_path, "cond_stage")
        return report.trained_with

    def _settle_scale_factor(self, stated: float | None, defaults: dict, trained: TrainedWith) -> None:
        """Takes the factor that the U-Net was trained with, since any other changes the noise level that it expects."""
        source = None if self.scale_by_std and trained.scale_factor is None else self.first_stage_model.weights_from
        factor, is_published = settle_scale_factor(stated, defaults, trained, source)
        self.scale_factor = factor
        self.scale_by_std = self.scale_by_std and not is_published

    def _refuse_frozen_without_weights(self) -> None:
        for name, part in self.parts().items():
            is_frozen = not all(p.requires_grad for p in part.parameters())
            if is_frozen and part.weights_from is None:
                raise CheckpointError(
                    f"the {name} is frozen and has no weights: name a checkpoint (ckpt_path) in its config, "
                    "or set `init: random` there for random weights"
                )

    def _keep_frozen_out_of_ddp(self) -> None:
        """Excludes frozen parts and buffers from DDP; every process builds the same ones from files or seeds."""
        frozen = [name for name, p in self.named_parameters() if not p.requires_grad]
        buffers = [name for name, _ in self.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, frozen + buffers)

    def setup(self, stage: str) -> None:
        """Raises UserError if the vocabulary of the data is larger than the graph encoder's."""
        if self.vocab is None:
            return
        encoder = self.cond_stage_model
        self._refuse_small_vocabulary("num_objs", encoder.num_objs, len(self.vocab.objects))
        self._refuse_small_vocabulary("num_preds", encoder.num_preds, len(self.vocab.predicates))

    def _refuse_small_vocabulary(self, key: str, configured: int, required: int) -> None:
        if configured < required:
            raise UserError(
                f"cond_stage_config.params.{key} is {configured}, but the vocabulary of the data has {required}: "
                f"set it to {required}"
            )

    # Parts -----------------------------------------------------------------------------------------------------------

    @property
    def unet(self) -> nn.Module:
        return self.model["diffusion_model"]

    def with_unet(self, unet: nn.Module) -> LatentDiffusion:
        """Returns a model with another U-Net that shares all other parts with this one, which stays unchanged."""
        return cast(LatentDiffusion, with_submodules(self, {"model.diffusion_model": unet}))

    def parts(self) -> dict[str, nn.Module]:
        """Returns the U-Net, the first stage and the encoders by the names that messages use."""
        parts = {
            "U-Net": self.unet,
            "first stage": self.first_stage_model,
            "graph encoder": self.cond_stage_model,
            "image encoder": self.global_stage_model,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def encoder_checksums(self) -> dict[str, str]:
        """Returns checksums of the frozen encoders, which cached latents and styles depend on, by name."""
        return checksums(self.first_stage_model, self.global_stage_model)

    # Latents ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:  # (B,3,H,W) in [-1,1] -> (B,4,H/8,W/8)
        with on_device(self.first_stage_model, self.device) as first_stage:
            return self.scale_factor * first_stage.encode(image).float()  # noise is mixed in float32

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:  # (B,4,h,w) -> (B,3,8h,8w) in about [-1,1]
        with on_device(self.first_stage_model, self.device) as first_stage:
            return first_stage.decode(z / self.scale_factor)

    def batch_latents(self, batch: Batch) -> Tensor:  # -> (B,4,h,w)
        """Returns the batch's cached latents, or encodes its images."""
        return self.encode(batch.image) if batch.latents is None else self.scale_factor * batch.latents.z.float()

    # Conditioning ----------------------------------------------------------------------------------------------------

    def condition(
        self, graph: GraphBatch, reference: Tensor | None = None, style: Tensor | None = None
    ) -> Conditioning:
        """Encodes graphs and styles.

        Args:
            graph: the scene graphs of B images.
            reference: images (B,3,H,W) whose style is used. A model without image encoder ignores it and `style`.
            style: embeddings (B,E) to use instead; without either, the learned null style is used.

        Raises:
            UserError: the null style is needed, but was not trained.
        """
        cond = self.cond_stage_model(graph)
        if self.global_stage_model is None:
            return cond
        if style is not None:
            return cond._replace(style=style.float())
        if reference is None:
            _refuse_untrained_null("style", self.style_drop)
            return cond._replace(style=self.null_style.expand(len(cond.tokens), -1))
        with on_device(self.global_stage_model, self.device) as image_encoder:
            return cond._replace(style=image_encoder(reference))

    def batch_conditioning(self, batch: Batch) -> Conditioning:
        """Encodes the batch's graphs, and its references unless it holds cached styles."""
        return self.condition(batch.graph, batch.reference, batch.latents and batch.latents.style)

    def null(self) -> Conditioning:
        """Returns the learned null tokens and null style, one row."""
        return Conditioning.from_tokens(self.null_tokens, self.null_style)

    def unconditional(self, batch_size: int) -> Conditioning:
        """Returns the null conditioning for a batch. Raises UserError if it was not trained."""
        _refuse_untrained_null("graph", self.graph_drop)
        _refuse_untrained_null("style", self.style_drop)
        return conditioning.cat(*[self.null()] * batch_size)

    def denoiser(
        self,
        cond: Conditioning,
        graph_scale: float = 1.0,
        style_scale: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
    ) -> Denoiser:
        """Returns eps(x, t) under `cond` with classifier-free guidance (arguments as for `guidance.guided_denoiser`).

        A style that the graph encoder computes is guided by `graph_scale`.

        Raises:
            UserError: guidance needs a null conditioning that was not trained, or a value is out of range.
        """
        if self.global_stage_model is None:
            style_scale = graph_scale
        if graph_scale != 1:
            _refuse_untrained_null("graph", self.graph_drop)
        if (graph_scale, style_scale) != (1, 1):
            _refuse_untrained_null("style", self.style_drop)
        timesteps = len(self.schedule)
        return guided_denoiser(self.unet, timesteps, cond, self.null(), graph_scale, style_scale, interval, rescale)

    # Training --------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Returns the mean squared error of the predicted noise per image (B,), and the timesteps (B,) (DDPM eq. 14).

        Args:
            batch: images or cached latents, with graphs and references.
            generator: source of timesteps, noise and dropped conditions; torch's global one by default.
        """
        batch = Batch.of(batch)
        z0 = self.batch_latents(batch)
        random = {"generator": generator, "device": self.device}
        t = torch.randint(0, len(self.schedule), (len(z0),), **random)
        noise = torch.randn(z0.shape, dtype=z0.dtype, **random)
        uniform = torch.rand(2, len(z0), **random)
        cond = self.batch_conditioning(batch)
        drop_graph = uniform[0] < self.graph_drop
        drop_style = drop_graph if self.global_stage_model is None else uniform[1] < self.style_drop
        cond = cond.drop(drop_graph, drop_style, self.null())
        eps = self.unet(self.schedule.add_noise(z0, noise, t), t, cond)
        return (eps.float() - noise.float()).square().mean((1, 2, 3)), t

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses, t = self.losses(batch)
        self._log_losses("train/loss_simple", losses, t)
        return losses.mean()

    @torch.no_grad()
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        # The same noise in each validation, so that epochs, and weights and their average, can be compared.
        seed = batch_idx * self.trainer.world_size + self.global_rank
        self._log_losses("val/loss_simple", *self.losses(batch, torch.Generator(self.device).manual_seed(seed)))
        if self.model_ema is not None:
            with self.model_ema.applied(self):
                losses, t = self.losses(batch, torch.Generator(self.device).manual_seed(seed))
                self._log_losses("val/loss_simple_ema", losses, t)

    def _log_losses(self, name: str, losses: Tensor, t: Tensor) -> None:
        """Logs the mean, and the mean of each quarter of the timesteps, of which q1 has the least noise."""
        training = name.startswith("train")
        self.log(name, losses.mean(), prog_bar=not training, batch_size=len(losses), sync_dist=not training)
        interval = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] - set by a connector
        if training and (self.trainer.global_step + 1) % interval:
            return  # nothing is logged in this step, and reading values would synchronise the GPU
        quarter = t * 4 // len(self.schedule)
        for q in quarter.unique().tolist():
            chosen = losses[quarter == q]
            self.log(f"{name}_q{q + 1}", chosen.mean(), batch_size=len(chosen), rank_zero_only=True)

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] - set by a connector
        if isinstance(data, DataModuleFromConfig) and data.cache:  # the encoders are then needed for image logs only
            offload_encoders(self)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.scale_by_std and self.global_step == batch_idx == 0:
            self.scale_factor.fill_(1.0)
            std = self.trainer.strategy.reduce(self.batch_latents(Batch.of(batch)).std(), reduce_op="mean")
            self.scale_factor.fill_(1 / std)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.model_ema is not None:
            self.model_ema.update(self)

    def configure_optimizers(self) -> dict:
        trainable = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        total = self.trainer.estimated_stepping_batches
        return per_step(unscaled_by_lightning(optimizer), warmup_times_cosine(self.warmup_steps, total, self.cosine))

    def saved_state(self) -> dict[str, Tensor]:
        """The trainable parameters, their averages and the scale factor."""
        ema = {} if self.model_ema is None else self.model_ema.state_dict(prefix="model_ema.")
        return {**super().saved_state(), **ema, "scale_factor": self.scale_factor}

    def log_images(self, batch: Batch, n: int = 8, steps: int = 50, guidance: float = 2.0) -> dict[str, Tensor]:
        """Returns images for the training log; see `image_logging.images_to_log`."""
        return images_to_log(self, batch, n, steps, guidance)


def build_part(config: dict, frozen: bool) -> nn.Module:
    return build_frozen(config) if frozen else instantiate_from_config(config)


def _refuse_unsupported(init: str | None, freeze_first_stage: bool, published_keys: dict[str, Any]) -> None:
    """Raises ValueError for values of `model.params` that this model does not support, and for unknown keys."""
    for key, value in published_keys.items():
        if key not in PUBLISHED_KEYS:
            raise ValueError(
                f"model.params.{key} is not a parameter of LatentDiffusion: remove it or correct its spelling"
            )
        if value not in PUBLISHED_KEYS[key]:
            raise ValueError(
                f"model.params.{key}: {value!r} is not supported; set it to {PUBLISHED_KEYS[key][0]!r} or remove it"
            )
    if init not in (None, "random"):
        raise ValueError(f"model.params.init: {init!r} is not supported; set it to 'random' or remove it")
    if not freeze_first_stage:
        raise ValueError(
            "model.params.freeze_first_stage: the first stage must be frozen; train it in a run of its own"
        )


def _refuse_other_channels(unet: nn.Module, channels: int) -> None:
    """Raises ValueError for a U-Net that reads more than the latents, as those of inpainting and InstructPix2Pix do."""
    given = unet.in_channels
    if given != channels:
        kind = f", as of {INPUTS[given]}s," if given in INPUTS else ""
        raise ValueError(
            f"model.params.unet_config.params.in_channels: {given} channels{kind} do not fit latents of {channels} channels "
            f"(model.params.channels); only U-Nets that read the latents alone are supported"
        )


def _refuse_untrained_null(kind: str, drop: float) -> None:
    if drop == 0:
        raise UserError(
            f"guidance, and inversion without a source graph, need a null {kind}, but this model was trained with "
            f"{kind}_drop: 0: set the scales to 1 and name a source graph, or train with {kind}_drop: 0.1"
        )
