"""Clips of scene graphs that change in time: a frozen image model with temporal layers, which alone are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ldm.checkpoints import shipped
from ldm.graph.batch import Batch, encode
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion import assembly
from ldm.models.diffusion.ddim import Denoiser, gaussian_noise, sample
from ldm.models.diffusion.training import DiffusionTraining
from ldm.models.loading import load_model
from ldm.models.runtime import offload_encoders
from ldm.modules.conditioning import Conditioning
from ldm.modules.ema import EMA
from ldm.modules.temporal import TemporalLayers, block_channels, clip_noise
from ldm.modules.temporal_animatediff import load_motion
from ldm.util.images import to_image


class VideoDiffusion(DiffusionTraining):
    """Predicts the noise of clips with the U-Net of an image model, whose blocks temporal layers follow.

    A clip of T frames is T consecutive rows of a batch: latents (B T,C,h,w), one scene graph per frame, and one style for all of
    them. The image model is frozen, its adapters included. At initialisation, each frame is that of the image model.

    Args:
        image_model: a run's folder, a checkpoint, or adapters of a LatentDiffusion.
        frames: T, frames of a training clip.
        shared_noise: share of the noise's variance that all frames of a clip have in common, in training (PYoCo, Ge et al.
            2305.10474). The rest is what the temporal layers learn to remove by comparing frames.
        sampling_noise: the same of the noise that sampling begins with; by default shared_noise.
        temporal_until: share of the timesteps, from the least noise on, at which the temporal layers run. Above, frames are those
            of the image model, whose layout and shared noise then decide what is where.
        box_step: boxes are moved to multiples of this fraction of the image, where those of the image model's training were.
        motion: AnimateDiff's motion modules for the image model, a file or a folder, in place of new layers of this project
            (`ldm.modules.temporal_animatediff`). They were trained with a shared_noise of 0.
        head_channels: channels of a head of the temporal attention.
        recompute: whether training recomputes the temporal layers' activations in the backward pass, which takes less memory.
        graph_drop: share of training clips whose graphs are replaced by the image model's null tokens.
        style_drop: share of training clips whose style is replaced by the image model's null style.
        use_ema: keeps an exponential moving average of the trainable parameters.
        ema_decay: its decay per step.
        warmup_steps: steps of linear warm-up of the learning rate.
        cosine: whether the learning rate then decays over the run, as half a cosine.
        weight_decay: of AdamW.
        monitor: logged value by which the best checkpoint is chosen; by default the validation loss.

    Attributes:
        is_trained: whether the temporal layers hold trained weights; without any they are the identity.

    Raises:
        UserError: the image model cannot be loaded.
        ValueError: a value is out of range, or the motion modules know no clips of this length.
    """

    def __init__(
        self,
        image_model: str,
        frames: int = 16,
        shared_noise: float = 0.5,
        sampling_noise: float | None = None,
        temporal_until: float = 1.0,
        box_step: float | None = None,
        motion: str | None = None,
        head_channels: int = 32,
        recompute: bool = False,
        graph_drop: float = 0.1,
        style_drop: float = 0.1,
        use_ema: bool = True,
        ema_decay: float = 0.999,
        warmup_steps: int = 0,
        cosine: bool = True,
        weight_decay: float = 0.01,
        monitor: str | None = None,
    ):
        super().__init__()
        if frames < 1:
            raise ValueError(f"model.params.frames: {frames}; give 1 or more")
        sampling_noise = shared_noise if sampling_noise is None else sampling_noise
        shares = {"shared_noise": shared_noise, "sampling_noise": sampling_noise, "temporal_until": temporal_until}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"model.params.{name}: {share} is no share; give a number from 0 to 1")
        if box_step is not None and not 0 < box_step <= 0.5:
            raise ValueError(
                f"model.params.box_step: {box_step}; give a fraction of the image, more than 0 and up to 0.5"
            )
        self.image = load_model(shipped.find_in_checkout(image_model))
        self.image.unet.weights_from = self.image.unet.weights_from or f"{image_model}"
        self.frames, self.shared_noise, self.sampling_noise = frames, shared_noise, sampling_noise
        self.box_step, self.timesteps = box_step, max(1, round(temporal_until * len(self.image.schedule)))
        self.graph_drop = graph_drop if self.image.graph_drop else 0.0
        self.style_drop = style_drop if self.image.style_drop else 0.0
        self.warmup_steps, self.cosine, self.weight_decay = warmup_steps, cosine, weight_decay
        self.scale_by_std, self.schedule = False, self.image.schedule
        self.monitor = monitor or ("val/loss_simple_ema" if use_ema else "val/loss_simple")
        self.register_buffer("scale_factor", self.image.scale_factor.clone())
        if motion is None:
            self.temporal = TemporalLayers(block_channels(self.image.unet), head_channels, recompute)
        else:
            self.temporal = load_motion(shipped.find_in_checkout(motion), recompute=recompute)
        self.temporal.attach(self.image.unet)
        self.temporal.set_clip(frames)  # raises for clips that are too long
        self.temporal.set_clip(1)
        self.is_trained = motion is not None
        self.model_ema = EMA(self, ema_decay) if use_ema else None
        assembly.keep_frozen_out_of_ddp(self)

    def setup(self, stage: str) -> None:
        """Raises UserError if the vocabulary of the data is larger than the graph encoder's."""
        if self.vocab is not None:
            assembly.refuse_small_vocabulary(self.image.cond_stage_model, self.vocab)

    def parts(self) -> dict[str, nn.Module]:
        """Returns the temporal layers and the image model's parts by the names that messages use."""
        return {"temporal layers": self.temporal, **self.image.parts()}

    def encoder_checksums(self) -> dict[str, str]:
        """Returns checksums of the frozen encoders, by name."""
        return self.image.encoder_checksums()

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] - set by a connector
        if getattr(data, "cache", None):  # the encoders are then needed for image logs only
            offload_encoders(self.image)

    def train(self, mode: bool = True) -> VideoDiffusion:
        """Sets the mode of the temporal layers; the image model stays in evaluation mode."""
        super().train(mode)
        self.image.eval()
        return self

    # Training --------------------------------------------------------------------------------------------------------

    def batch_latents(self, batch: Batch) -> Tensor:  # -> (B T,C,h,w)
        return self.image.batch_latents(batch)

    def draw(self, z0: Tensor, random: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Returns one timestep per clip, repeated for its frames (B T,), and noise (B T,C,h,w) that frames partly share."""
        clips = self._clips(len(z0))
        t = torch.randint(0, self.timesteps, (clips,), **random).repeat_interleave(self.frames)
        noise = torch.randn((clips, self.frames, *z0.shape[1:]), dtype=z0.dtype, **random)
        base = torch.randn((clips, 1, *z0.shape[1:]), dtype=z0.dtype, **random)
        return t, clip_noise(noise, base, self.shared_noise).flatten(0, 1)

    def training_conditioning(self, batch: Batch, rows: int, random: dict[str, Any]) -> Conditioning:
        """Encodes a batch; in some clips graphs or style, each by itself, are replaced by the null conditioning."""
        uniform = torch.rand(2, self._clips(rows), **random).repeat_interleave(self.frames, dim=1)
        with torch.no_grad():
            cond = self.image.batch_conditioning(self._on_steps(batch))
            drop_graph = uniform[0] < self.graph_drop
            drop_style = drop_graph if self.image.global_stage_model is None else uniform[1] < self.style_drop
            return cond.drop(drop_graph, drop_style, self.image.null())

    def prediction(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        self.temporal.set_clip(self.frames)
        return self.image.prediction(x, t, cond)

    def _on_steps(self, batch: Batch) -> Batch:
        return replace(batch, graph=batch.graph.with_boxes(to_steps(batch.graph.boxes, self.box_step)))

    def _clips(self, rows: int) -> int:
        if rows % self.frames:
            raise ValueError(
                f"{rows} frames are not whole clips of {self.frames}; set data.params.batch_size to a multiple"
            )
        return rows // self.frames

    # Sampling --------------------------------------------------------------------------------------------------------

    def condition(
        self, graphs: Sequence[SceneGraph], reference: Tensor | None = None, style: Tensor | None = None
    ) -> Conditioning:
        """Encodes the graphs of the frames of a clip, with one style (1,E), or that of one reference (1,3,H,W), for all frames.

        Raises:
            GraphError: a name is not in the vocabulary.
            UserError: the null style is needed, but was not trained.
        """
        graph = encode(graphs, self.image.vocab).to(self.image.device)
        graph = graph.with_boxes(to_steps(graph.boxes, self.box_step))
        if style is None and reference is not None and self.image.global_stage_model is not None:
            style = self.image.global_stage_model(reference)
        return self.image.condition(graph, style=None if style is None else style.expand(len(graphs), -1))

    def denoiser(
        self, cond: Conditioning, graph_scale: float = 1.0, style_scale: float = 1.0, frames: int | None = None
    ) -> Denoiser:
        """Returns eps(x, t) of clips of `frames` frames (default: T), with classifier-free guidance as of an image model."""
        predict = self.image.denoiser(cond, graph_scale, style_scale)
        everywhere = self.timesteps == len(self.schedule)

        def predict_clip(x: Tensor, t: Tensor, *args, **kwargs) -> Tensor:
            runs = (
                everywhere or int(t[0]) < self.timesteps
            )  # a GPU's timesteps are read only where that decides something
            with self.clips_of((self.frames if frames is None else frames) if runs else 1):
                return predict(x, t, *args, **kwargs)

        return predict_clip

    @contextmanager
    def clips_of(self, frames: int) -> Iterator[None]:
        """Within it the U-Net takes its batches as clips of `frames` frames, and afterwards as images."""
        self.temporal.set_clip(frames)
        try:
            yield
        finally:
            self.temporal.set_clip(1)

    @torch.no_grad()
    def decode_frames(self, z: Tensor) -> list[Image.Image]:  # (T,C,h,w)
        """Decodes the frames of a clip one by one, which bounds the memory."""
        return [to_image(self.image.decode(frame)[0]) for frame in z.split(1)]

    def noise(self, frames: int, generator: torch.Generator) -> Tensor:  # -> (T,C,h,w)
        """Draws the noise that a clip begins with."""
        shape = self.image.channels, self.image.latent_size, self.image.latent_size
        base = gaussian_noise((1, 1, *shape), generator)
        return clip_noise(gaussian_noise((1, frames, *shape), generator), base, self.sampling_noise)[0].to(
            self.image.device
        )

    @torch.no_grad()
    def log_images(self, batch: Batch, n: int = 16, steps: int = 20, guidance: float = 2.0) -> dict[str, Tensor]:
        """Returns the frames of the first clip, encoded and decoded, and sampled, for the training log."""
        batch = Batch.of(batch)
        z = self.batch_latents(batch)[: self.frames]
        cond = self.image.batch_conditioning(self._on_steps(batch)).rows(slice(self.frames))
        guidance = guidance if self.graph_drop and self.style_drop else 1.0
        denoiser = self.denoiser(cond, guidance, guidance)
        samples = sample(denoiser, self.schedule.ddim(steps), self.noise(self.frames, torch.Generator().manual_seed(0)))
        return {"reconstructions": self.image.decode(z[:n]), "samples": self.image.decode(samples[:n])}


def to_steps(boxes: Tensor, step: float | None) -> Tensor:  # (O,4) -> (O,4)
    """Moves boxes, without a change of size, so that their upper left corners are at multiples of `step`; None moves none."""
    if step is None:
        return boxes
    corner, size = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    moved = torch.minimum((corner / step).round() * step, 1 - size)
    return torch.where(boxes[:, :1] < 0, boxes, torch.cat([moved, moved + size], dim=1))
