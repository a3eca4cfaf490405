"""The latent diffusion model under its published name, with its training by Lightning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ldm.data.datamodule import DataModuleFromConfig
from ldm.graph.batch import Batch
from ldm.models.diffusion import latent_diffusion
from ldm.models.diffusion.image_logging import images_to_log
from ldm.models.diffusion.training import DiffusionTraining
from ldm.models.runtime import offload_encoders
from ldm.modules.conditioning import Conditioning


class LatentDiffusion(latent_diffusion.LatentDiffusion, DiffusionTraining):
    """Predicts noise in the latent space of a first stage, conditioned on a scene graph and a reference image.

    Parameters are those of `latent_diffusion.LatentDiffusion`.
    """

    device = DiffusionTraining.device  # Lightning's

    def training_conditioning(self, batch: Batch, rows: int, random: dict[str, Any]) -> Conditioning:
        """Encodes a batch; in some rows graph, style or text, each by itself, are replaced by the null conditioning."""
        has_text = self.text_stage_model is not None
        uniform = torch.rand(3 if has_text else 2, rows, **random)
        cond = self.batch_conditioning(batch)
        drop_graph = uniform[0] < self.graph_drop
        drop_style = drop_graph if self.global_stage_model is None else uniform[1] < self.style_drop
        drop_text = uniform[2] < self.text_drop if has_text else None
        return cond.drop(drop_graph, drop_style, self._training_null(), drop_text)

    def _training_null(self) -> Conditioning:
        """`null`, which encodes its text only once if the text encoder does not change."""
        if self.text_stage_model is None or self.text_stage_trainable:
            return self.null()
        if self.device not in self._no_text:
            self._no_text[self.device] = self.encode_texts([""], negative=True)
        return Conditioning.from_tokens(self.null_tokens, self.null_style, self._no_text[self.device])

    def prediction(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        if self.inpaints:
            x = torch.cat([x, self.all_painted().to(x).expand(len(x), -1, -1, -1)], dim=1)
        return self.unet(x, t, cond)

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] - set by a connector
        if isinstance(data, DataModuleFromConfig) and data.cache:  # the encoders are then needed for image logs only
            offload_encoders(self, texts=not (self.text_stage_trainable or data.captions))

    def log_images(self, batch: Batch, n: int = 8, steps: int = 50, guidance: float = 2.0) -> dict[str, Tensor]:
        """Returns images for the training log; see `image_logging.images_to_log`."""
        return images_to_log(self, batch, n, steps, guidance)
