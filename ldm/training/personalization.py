"""Callbacks of runs that learn from a few pictures: class images, sampled once, and the files that other programs read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytorch_lightning as pl
import torch

from ldm.data.personalized import CLASS_PICTURES, Personalized
from ldm.models.diffusion.personalization import Personalization
from ldm.models.personal_files import write_learned
from ldm.util.errors import UserError
from ldm.util.image_folder import read_record, save_image
from ldm.util.images import to_image

logger = logging.getLogger(__name__)

FOLDER = "learned"  # in the log folder


class ClassPictures(pl.Callback):
    """Samples the class images that prior preservation needs, from the model as it is before training.

    They stay in `class_dir/images`; a later run with the same prompt makes only what is missing. Own photographs of the class are
    used instead if `class_dir` itself has some.

    Args:
        steps: DDIM steps.
        scale: guidance scale.
    """

    def __init__(self, steps: int = 50, scale: float = 7.5):
        self.steps, self.scale = steps, scale

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        dataset = data.datasets.get("train") if data is not None else None
        if not (isinstance(dataset, Personalized) and isinstance(pl_module, Personalization) and dataset.class_dir):
            return
        if not self._has_own(dataset.class_dir):
            mine = range(trainer.global_rank, dataset.class_images, trainer.world_size)
            self.make(pl_module, dataset.class_dir, f"{dataset.class_prompt}", mine)
        trainer.strategy.barrier()
        dataset.class_files()

    def make(self, model: Personalization, folder: Path, prompt: str, numbers: range) -> None:
        """Samples the class images of these numbers that the folder lacks.

        Raises:
            UserError: the folder has pictures of another prompt.
        """
        size = (model.channels, model.latent_size, model.latent_size)
        missing = []
        for number in numbers:
            record = {"file": f"{CLASS_PICTURES}/{number:06}.png", "prompt": prompt, "seed": number}
            record |= {"steps": self.steps, "scale": self.scale}
            found = read_record(folder / record["file"])
            if found is None:
                missing.append(record)
            elif found.get("prompt") != prompt:
                raise UserError(
                    f"{folder / record['file']}: a picture of {found.get('prompt')!r}, not of {prompt!r}; choose another class_dir"
                )
        if missing:
            logger.info("sampling %d class images of %r into %s", len(missing), prompt, folder)
        (folder / CLASS_PICTURES).mkdir(parents=True, exist_ok=True)
        for record in missing:
            noise = torch.randn(1, *size, generator=torch.Generator().manual_seed(record["seed"]))
            with model.untrained():
                image = model.sample([prompt], noise, self.steps, self.scale)[0]
            save_image(folder / record["file"], to_image(image), record)

    @staticmethod
    def _has_own(folder: Path) -> bool:
        return folder.is_dir() and not (folder / CLASS_PICTURES).is_dir() and any(folder.iterdir())


class LearnedFiles(pl.Callback):
    """Writes what was learned for other programs, to `learned/` in the log folder, at the end of training.

    learned_embeds.safetensors has the words, pytorch_lora_weights.safetensors the LoRA, both in diffusers' form.
    `scripts/export.py learned` writes other forms.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and isinstance(pl_module, Personalization):
            for path in write_learned(pl_module, Path(trainer.default_root_dir, FOLDER)):
                logger.info("learned: %s", path)
