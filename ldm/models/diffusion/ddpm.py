"""The latent diffusion model: frozen published parts, steered by small trained ones."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ldm.checkpoints.loading import CheckpointError, load_part
from ldm.checkpoints.saving import SavesTrainableParameters
from ldm.graph.batch import Batch, GraphBatch
from ldm.models.diffusion.ddim import Denoiser, sample
from ldm.models.diffusion.guidance import guided_denoiser
from ldm.models.diffusion.schedule import NoiseSchedule
from ldm.models.encoders import build_frozen, checksums
from ldm.models.runtime import offload_encoders, on_device
from ldm.modules import conditioning
from ldm.modules.conditioning import Conditioning
from ldm.modules.ema import EMA
from ldm.util.config import instantiate_from_config
from ldm.util.errors import UserError

# Keys of published YAML files that ask for what this model does anyway, with the values that do so.
SETTLED = {
    "first_stage_key": ("image",),
    "cond_stage_key": ("class_label", "graph", "caption"),
    "conditioning_key": ("crossattn", None),
    "cond_stage_forward": ("encode_graph_local_global", None),
    "num_timesteps_cond": (1, None),
    "parameterization": ("eps",),
    "loss_type": ("l2",),
    "log_every_t": range(1, 1001),
}


class LatentDiffusion(SavesTrainableParameters, pl.LightningModule):
    """Noise prediction in a first stage's latent space, conditioned on a scene graph and a reference image.

    unet_config, first_stage_config, cond_stage_config, global_stage_config: `{target, params}` of the parts; the last
    may be absent, and the style is then the graph encoder's own, if it gives one (CGIPModel does). ckpt_path: a
    published checkpoint (LDM, SGDiff or diffusers layout), or one of ours with a whole U-Net in it; the first stage and
    a frozen graph encoder come from there too, unless they have their own. init: 'random' permits a frozen U-Net
    without weights. freeze_unet: trains only the U-Net's adapters (LoRA, FiLM, context projections).
    cond_stage_trainable: trains the graph encoder. graph_drop, style_drop: the share of rows that see the learned null
    instead, so that guidance is possible (Ho & Salimans 2207.12598); a graph encoder's own style goes with the graph.
    use_ema, ema_decay: running average of what is trained. warmup_steps: linear warm-up of the learning rate, before
    its decay over the run along a cosine, or with cosine false none. scale_factor multiplies the latents; left out, it is
    the one that ckpt_path's U-Net learned, where the file says, or else 1, which scale_by_std sets to what gives the first
    batch's a standard deviation of 1.

    Raises CheckpointError for a frozen part that has no weights, or a scale_factor other than the file's; ValueError for a
    key or value it does not know.
    """

    def __init__(
        self,
        unet_config: dict,
        first_stage_config: dict,
        cond_stage_config: dict,
        global_stage_config: dict | None = None,
        ckpt_path: str | None = None,
        init: str | None = None,
        freeze_unet: bool = False,
        freeze_first_stage: bool = True,
        cond_stage_trainable: bool = True,
        timesteps: int = 1000,
        linear_start: float = 0.0015,
        linear_end: float = 0.0195,
        beta_schedule: str = "linear",
        image_size: int = 32,
        channels: int = 4,
        scale_factor: float | None = None,
        scale_by_std: bool = False,
        graph_drop: float = 0.1,
        style_drop: float = 0.1,
        use_ema: bool = True,
        ema_decay: float = 0.9999,
        warmup_steps: int = 0,
        cosine: bool = True,
        weight_decay: float = 0.01,
        monitor: str | None = None,
        **settled,
    ):
        super().__init__()
        _refuse_unsettled(settled)
        if init not in (None, "random"):
            raise ValueError(f"model.params.init: {init!r} is not known; the one choice is `init: random`")
        if not freeze_first_stage:
            raise ValueError("model.params.freeze_first_stage: the first stage is always frozen here; train one by itself")
        self.schedule = NoiseSchedule.named(beta_schedule, timesteps, linear_start, linear_end)
        self.latent_size, self.channels, self.scale_by_std = image_size, channels, scale_by_std
        self.register_buffer("scale_factor", torch.tensor(1.0 if scale_factor is None else float(scale_factor)))
        self.graph_drop, self.style_drop = graph_drop, style_drop if global_stage_config else graph_drop
        self.warmup_steps, self.cosine, self.weight_decay = warmup_steps, cosine, weight_decay
        self.monitor = monitor or ("val/loss_simple_ema" if use_ema else "val/loss_simple")

        unet = _build(unet_config, frozen=freeze_unet)
        unet.weights_from = f"random (init: {init})" if init else None
        self.model = nn.ModuleDict({"diffusion_model": unet})  # published checkpoints say model.diffusion_model
        self.first_stage_model = _build(first_stage_config, frozen=True)
        self.cond_stage_model = _build(cond_stage_config, frozen=not cond_stage_trainable)
        self.global_stage_model = _build(global_stage_config, frozen=True) if global_stage_config else None
        null_tokens = torch.randn(1, 1, self.cond_stage_model.dim) * 0.02
        self.null_tokens = nn.Parameter(null_tokens, requires_grad=graph_drop > 0)
        self.null_style = None
        if width := getattr(self.global_stage_model or self.cond_stage_model, "embedding_dim", None):
            self.null_style = nn.Parameter(torch.zeros(1, width), requires_grad=self.style_drop > 0)

        if ckpt_path:
            report = load_part(unet, ckpt_path, "unet")
            if report.scale_factor is not None:
                self._go_by_the_scale(report.scale_factor, scale_factor, report.source)
            if self.first_stage_model.weights_from is None:
                load_part(self.first_stage_model, ckpt_path, "first_stage")
            if not cond_stage_trainable and getattr(self.cond_stage_model, "weights_from", None) is None:
                load_part(self.cond_stage_model, ckpt_path, "cond_stage")
        if freeze_unet:
            unet.freeze_body()
        self._refuse_frozen_without_weights()
        self.model_ema = EMA(self, ema_decay) if use_ema else None
        # Each process has its own from the same files, or the same seed: nothing to send around, and in no bucket.
        own = [name for name, p in self.named_parameters() if not p.requires_grad] + [name for name, _ in self.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, own)

    def _go_by_the_scale(self, learned: Tensor, told: float | None, source: str):
        """What a U-Net learned is the scale, whatever the first batch would make it: at another it takes a picture for noise."""
        if told is None:
            self.scale_factor = learned.detach().float().clone()
        elif not math.isclose(told, float(learned), rel_tol=1e-3):  # to the bits of a file in half precision
            raise CheckpointError(
                f"{source}: its U-Net learned latents at a scale_factor of {float(learned):.6g}, and the config says {told}: "
                "leave model.params.scale_factor out, or set it to that"
            )
        self.scale_by_std = False

    @property
    def unet(self) -> nn.Module:
        return self.model["diffusion_model"]

    def parts(self) -> dict[str, nn.Module]:
        """The parts by the names that people call them."""
        parts = {
            "U-Net": self.unet,
            "first stage": self.first_stage_model,
            "graph encoder": self.cond_stage_model,
            "image encoder": self.global_stage_model,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _refuse_frozen_without_weights(self):
        for name, part in self.parts().items():
            frozen = not all(p.requires_grad for p in part.parameters())
            if frozen and getattr(part, "weights_from", None) is None:
                raise CheckpointError(
                    f"the {name} is frozen and has no weights: name a checkpoint (ckpt_path) in its config, "
                    "or say `init: random` there if random weights are meant"
                )

    def setup(self, stage: str):
        """Raises UserError where the data speaks of more than the graph encoder has words for."""
        sizes = {"num_objs": self.vocab.objects, "num_preds": self.vocab.predicates} if self.vocab else {}
        for key, names in sizes.items():
            if getattr(self.cond_stage_model, key) < len(names):
                raise UserError(
                    f"cond_stage_config.params.{key} is {getattr(self.cond_stage_model, key)}, but the vocabulary of the "
                    f"data has {len(names)}: set it to that"
                )

    # Latents ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:  # (B,3,H,W) in [-1,1] -> (B,4,H/8,W/8)
        with on_device(self.first_stage_model, self.device) as first_stage:
            return self.scale_factor * first_stage.encode(image).float()  # noise is mixed in float32

    def latents(self, batch: Batch) -> Tensor:  # (B,4,h,w)
        """Of a batch's images, or those that it brings."""
        return self.encode(batch.image) if batch.latents is None else self.scale_factor * batch.latents.z.float()

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:  # (B,4,h,w) -> (B,3,8h,8w) in about [-1,1]
        with on_device(self.first_stage_model, self.device) as first_stage:
            return first_stage.decode(z / self.scale_factor)

    # Conditioning ----------------------------------------------------------------------------------------------------

    def condition(
        self, graph: GraphBatch, reference: Tensor | None = None, style: Tensor | None = None
    ) -> Conditioning:
        """Tokens from the graph, style (B,E) as given or from reference images (B,3,H,W); without either the learned null
        style. Where no image encoder reads them, the style is the graph encoder's, if it gives one."""
        cond = self.cond_stage_model(graph)
        if self.global_stage_model is None:
            return cond
        if style is not None:
            return cond._replace(style=style.float())
        if reference is None:
            self._refuse_unlearned("style", self.style_drop)
            return cond._replace(style=self.null_style.expand(len(cond.tokens), -1))
        with on_device(self.global_stage_model, self.device) as image_encoder:
            return cond._replace(style=image_encoder(reference))

    def conditions(self, batch: Batch) -> Conditioning:
        """Of a batch's graphs and references, or the styles that it brings."""
        return self.condition(batch.graph, batch.reference, batch.latents and batch.latents.style)

    def encoder_checksums(self) -> dict[str, str]:
        """What latents and styles depend on: the frozen encoders by name, each with its checksum."""
        return checksums(self.first_stage_model, self.global_stage_model)

    def null(self) -> Conditioning:
        """No graph and no style, as learned: one row."""
        return Conditioning.of(self.null_tokens, self.null_style)

    def unconditional(self, batch_size: int) -> Conditioning:
        """The null conditioning for a whole batch. Raises UserError where it was never learned."""
        self._refuse_unlearned("graph", self.graph_drop)
        self._refuse_unlearned("style", self.style_drop)
        return conditioning.cat(*[self.null()] * batch_size)

    def denoiser(
        self,
        cond: Conditioning,
        graph_scale: float = 1.0,
        style_scale: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
    ) -> Denoiser:
        """eps(x, t) under `cond`, guided towards its graph and, apart from that, towards its style (`guidance.guided_denoiser`, which
        says what the options are). A style that comes from the graph is guided with it.

        Raises UserError for guidance away from what was never dropped in training, and for shares outside 0 .. 1.
        """
        if self.global_stage_model is None:
            style_scale = graph_scale
        if graph_scale != 1:
            self._refuse_unlearned("graph", self.graph_drop)
        if (graph_scale, style_scale) != (1, 1):
            self._refuse_unlearned("style", self.style_drop)
        steps = len(self.schedule)
        return guided_denoiser(self.unet, steps, cond, self.null(), graph_scale, style_scale, interval, rescale)

    def with_unet(self, unet: nn.Module) -> LatentDiffusion:
        """The same model, with its other parts shared, around another U-Net; this one stays as it is."""
        view = copy.copy(self)
        view._modules = {**self._modules, "model": nn.ModuleDict({"diffusion_model": unet})}
        return view

    def _refuse_unlearned(self, what: str, drop: float):
        if drop == 0:
            raise UserError(
                f"trained with {what}_drop: 0, this model knows no absent {what}, as guidance and inversion without a "
                f"source graph need: leave the scales at 1 and name a source, or train with {what}_drop: 0.1"
            )

    # Training --------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Squared error of the predicted noise per image (B,), and its timesteps (B,) (DDPM eq. 14).

        What is drawn (dropped conditions, timesteps, noise) comes from `generator`, or torch's own.
        """
        batch = Batch.of(batch)
        z0 = self.latents(batch)
        drawn = {"generator": generator, "device": self.device}
        t = torch.randint(0, len(self.schedule), (len(z0),), **drawn)
        noise = torch.randn(z0.shape, dtype=z0.dtype, **drawn)
        uniform = torch.rand(2, len(z0), **drawn)
        cond = self.conditions(batch)
        without_graph = uniform[0] < self.graph_drop
        without_style = without_graph if self.global_stage_model is None else uniform[1] < self.style_drop
        cond = cond.drop(without_graph, without_style, self.null())
        eps = self.unet(self.schedule.add_noise(z0, noise, t), t, cond)
        return (eps.float() - noise.float()).square().mean((1, 2, 3)), t

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses, t = self.losses(batch)
        self._log_by_quartile("train/loss_simple", losses, t)
        return losses.mean()

    @torch.no_grad()
    def validation_step(self, batch: Batch, batch_idx: int):
        def losses():  # with the same noise each time, so that epochs and weights can be compared
            seed = batch_idx * self.trainer.world_size + self.global_rank
            return self.losses(batch, torch.Generator(self.device).manual_seed(seed))

        self._log_by_quartile("val/loss_simple", *losses())
        if self.model_ema is not None:
            with self.model_ema.applied(self):
                self._log_by_quartile("val/loss_simple_ema", *losses())

    def _log_by_quartile(self, name: str, losses: Tensor, t: Tensor):
        """The mean, and means over each quarter of the timesteps: the first quarter has the least noise."""
        training, rows = name.startswith("train"), len(losses)
        self.log(name, losses.mean(), prog_bar=True, batch_size=rows, sync_dist=not training)
        if training and (self.trainer.global_step + 1) % self.trainer.log_every_n_steps:
            return  # nobody would see it, and looking at values makes a GPU wait
        quartile = t * 4 // len(self.schedule)
        for q in quartile.unique().tolist():
            chosen = losses[quartile == q]
            self.log(f"{name}_q{q + 1}", chosen.mean(), batch_size=len(chosen), rank_zero_only=True)

    def on_fit_start(self):
        if getattr(self.trainer.datamodule, "cache", None):  # then they have nothing to do but for pictures
            offload_encoders(self)

    def on_train_batch_start(self, batch: Batch, batch_idx: int):
        if self.scale_by_std and self.global_step == batch_idx == 0:
            self.scale_factor.fill_(1.0)
            std = self.trainer.strategy.reduce(self.latents(Batch.of(batch)).std(), reduce_op="mean")
            self.scale_factor.fill_(1 / std)

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        if self.model_ema is not None:
            self.model_ema.update(self)

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        optimizer._step_supports_amp_scaling = False  # a fused one may unscale by itself, and then Lightning clips nothing
        total = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
            decay = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / total)) if self.cosine else 1.0
            return warmup * decay

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def saved(self) -> dict[str, Tensor]:
        ema = {} if self.model_ema is None else self.model_ema.state_dict(prefix="model_ema.")
        return {**super().saved(), **ema, "scale_factor": self.scale_factor}

    # Pictures --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_images(self, batch: Batch, n: int = 8, steps: int = 50, guidance: float = 2.0) -> dict[str, Tensor]:
        """Of a batch's first n images (n,3,H,W): inputs, unless the batch brings latents, reconstructions, and samples of
        the averaged weights under their graphs and styles, guided where training made that possible."""
        batch = Batch.of(batch)
        guidance = guidance if self.graph_drop and self.style_drop else 1.0
        inputs = {} if batch.latents else {"inputs": batch.image[:n]}
        z = self.latents(batch if batch.latents else Batch(batch.image[:n], batch.graph))[:n]
        with self.model_ema.applied(self) if self.model_ema else nullcontext():
            cond = self.conditions(batch).rows(n)
            samples = sample(self.denoiser(cond, guidance, guidance), self.schedule.ddim(steps), torch.randn_like(z))
        return {**inputs, "reconstructions": self.decode(z), "samples": self.decode(samples)}


def _refuse_unsettled(settled: dict):
    for key, value in settled.items():
        if key not in SETTLED:
            raise ValueError(f"model.params.{key} is not a parameter of LatentDiffusion: remove it, or mind its spelling")
        if value not in SETTLED[key]:
            raise ValueError(f"model.params.{key}: {value!r} is not supported; it can be {SETTLED[key][0]!r} or left out")


def _build(config: dict, frozen: bool) -> nn.Module:
    return build_frozen(config) if frozen else instantiate_from_config(config)
