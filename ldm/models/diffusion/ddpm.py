"""The latent diffusion model under its published name, with its training by Lightning."""

from __future__ import annotations

from torch import Tensor

from ldm.data.datamodule import DataModuleFromConfig
from ldm.graph.batch import Batch
from ldm.models.diffusion import latent_diffusion
from ldm.models.diffusion.image_logging import images_to_log
from ldm.models.diffusion.training import DiffusionTraining
from ldm.models.runtime import offload_encoders


class LatentDiffusion(latent_diffusion.LatentDiffusion, DiffusionTraining):
    """Predicts noise in the latent space of a first stage, conditioned on a scene graph and a reference image.

    Parameters are those of `latent_diffusion.LatentDiffusion`.
    """

    device = DiffusionTraining.device  # Lightning's

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] - set by a connector
        if isinstance(data, DataModuleFromConfig) and data.cache:  # the encoders are then needed for image logs only
            offload_encoders(self, texts=not (self.text_stage_trainable or data.captions))

    def log_images(self, batch: Batch, n: int = 8, steps: int = 50, guidance: float = 2.0) -> dict[str, Tensor]:
        """Returns images for the training log; see `image_logging.images_to_log`."""
        return images_to_log(self, batch, n, steps, guidance)
