"""Trains a frozen text-to-image model on a few pictures: new words of its text encoder, and LoRA of U-Net and text encoder.

Textual inversion (Gal et al. 2208.01618), DreamBooth with prior preservation (Ruiz et al. 2208.12242), pivotal tuning (words first,
then LoRA), masked loss, and min-SNR weighting (Hang et al. 2303.09556).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ldm.data.personalized import Examples
from ldm.data.protocols import CaptionedPictures
from ldm.models.diffusion import assembly
from ldm.models.diffusion.ddim import sample
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.denoising_loss import mean_errors
from ldm.models.diffusion.triggers import refuse_other_triggers, warn_of_cut_captions
from ldm.models.diffusion.word_settings import read_taught_words
from ldm.models.lr_schedules import per_step, unscaled_by_lightning, warmup_times_cosine
from ldm.modules import conditioning
from ldm.modules.conditioning import Conditioning
from ldm.modules.ema import EMA
from ldm.modules.encoders.modules import TextEncoder
from ldm.modules.encoders.words import add_word
from ldm.modules.graph_encoder import NoGraphEncoder
from ldm.modules.learned_words import LearnedWords
from ldm.modules.lora import lora_layers
from ldm.modules.lora_targets import add_lora_layers
from ldm.util.errors import ConfigError
from ldm.util.moving import mover
from ldm.util.signatures import with_inherited

logger = logging.getLogger(__name__)

GROUPS = ("words", "unet", "text")  # of trained parameters, each with a learning rate


class Personalization(LatentDiffusion):
    """A LatentDiffusion of text alone that learns words, LoRA, or both from `ldm.data.personalized.Personalized`.

    Args:
        words: the words to learn, a list of {word, init, vectors}: the word as captions contain it, the text from whose tokens it starts
            (default: random), the number of its vectors (default: 1).
        words_from: file of learned words to start from (flag --embedding_manager_ckpt); without `words`, those in it are trained.
        lora: adapters, a list of {part: unet or text, targets, rank, alpha}; see `ldm.modules.lora_targets.LoRATarget`.
        prior_weight: weight of the prior-preservation loss, that of the class images.
        min_snr: gamma of min-SNR weighting, such as 5; by default no weighting.
        rates: learning rates by group, of `words`, `unet` and `text` (the text encoder's LoRA or weights); by default all have
            model.base_learning_rate. These are not scaled by lightning.scale_lr.
        words_steps: pivotal tuning: words are trained until this step, and only the rest after it. By default all together.
        progressive_steps: a word begins with one vector, and gets another one after each so many steps; by default all at once.
        words_decay: weight decay of the words' vectors; other words have none, since nothing trains them.
        sample_prompts: texts whose samples are logged, by the model as it was beside the one that is trained.
        text_drop: share of training rows whose text is replaced by the empty one.
        use_ema: keeps an exponential moving average of the trainable parameters.
        ema_decay: its decay per step.
        diffusion: further parameters, those of LatentDiffusion.

    Raises:
        ConfigError: nothing would be trained, or a value is wrong.
        UserError: a word cannot be a learned word, or its vectors do not fit the text encoder.
    """

    text_stage_model: TextEncoder

    def __init__(
        self,
        words: list[dict] | None = None,
        words_from: str | None = None,
        lora: list[dict] | None = None,
        prior_weight: float = 1.0,
        min_snr: float | None = None,
        rates: dict | None = None,
        words_steps: int | None = None,
        progressive_steps: int | None = None,
        words_decay: float = 0.0,
        sample_prompts: list[str] | None = None,
        text_drop: float = 0.0,
        use_ema: bool = False,
        ema_decay: float = 0.99,
        **diffusion: Any,
    ):
        super().__init__(text_drop=text_drop, use_ema=False, **diffusion)
        if self.text_stage_model is None or not isinstance(self.cond_stage_model, NoGraphEncoder):
            raise ConfigError(
                "Personalization trains a model of text alone: name a text_stage_config, and set cond_stage_config and "
                "global_stage_config to null"
            )
        self.prior_weight, self.min_snr, self.words_decay = prior_weight, min_snr, words_decay
        self.words_steps, self.progressive_steps = words_steps, progressive_steps
        self.sample_prompts = list(sample_prompts or ())
        self.rates = _check_rates(rates or {})
        for tower in self.text_stage_model.towers():
            tower.model.token_embedding.requires_grad_(False)  # words that were known keep their bits
        self.taught = read_taught_words(words or [], words_from, self.text_stage_model)
        for word in self.taught:
            add_word(self.text_stage_model, word.name, word.vectors)
        for learned in self.learned:
            learned.vectors.requires_grad_(True)
        add_lora_layers(self.unet, self.text_stage_model, lora or [], "model.params.lora")
        if not any(p.requires_grad for p in self.parameters()):
            raise ConfigError(
                "nothing would be trained: give model.params.words or lora (--placeholder_string, --init_word)"
            )
        self.model_ema = EMA(self, ema_decay) if use_ema else None
        self.monitor = diffusion.get("monitor") or ("val/loss_simple_ema" if use_ema else "val/loss_simple")
        assembly.keep_frozen_out_of_ddp(self)

    @property
    def learned(self) -> list[LearnedWords]:
        """The learned words of each text tower; none if only LoRA is trained."""
        return [tower.learned for tower in self.text_stage_model.towers() if tower.learned is not None]

    def setup(self, stage: str) -> None:
        """Raises UserError in training if the captions do not contain exactly the words that are trained."""
        super().setup(stage)
        data = getattr(self._trainer, "datamodule", None) if stage == "fit" else None
        for name, dataset in (data.datasets if data is not None else {}).items():
            if isinstance(dataset, CaptionedPictures):
                captions = dataset.captions()
                if name == "train":
                    refuse_other_triggers([word.name for word in self.taught], captions)
                warn_of_cut_captions(captions)

    # Loss ------------------------------------------------------------------------------------------------------------

    def losses(self, batch: Examples, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Returns the loss of each picture (B,), with the prior-preservation loss added, and the timesteps (B,) of the pictures.

        The noise of a picture depends on its seed alone: neither on the other pictures of the batch nor on the number of processes.
        """
        z0 = self.encode(batch.image)
        t, noise, uniform = self.draw(batch.seeds, z0.shape)
        texts = ["" if u < self.text_drop else text for u, text in zip(uniform, batch.texts)]
        cond = self.condition_on(texts)
        output = self.prediction(self.schedule.add_noise(z0, noise, t), t, cond)
        errors = (output.float() - self.schedule.target(z0, noise, t).float()).square()
        losses = mean_errors(errors, batch.weights) * self.snr_weights(t) * self.timestep_weights(t)
        count = batch.count
        own, prior = losses[:count], losses[count:]
        return (own + self.prior_weight * prior if len(prior) else own), t[:count]

    def draw(self, seeds: Sequence[int], shape: Sequence[int]) -> tuple[Tensor, Tensor, list[float]]:
        """Returns timesteps (R,), noise of `shape` (R,C,h,w), and R uniform numbers, each from a seed of its own."""
        timesteps, noise, uniform = [], [], []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            timesteps.append(torch.randint(0, len(self.schedule), (1,), generator=generator))
            noise.append(torch.randn(*shape[1:], generator=generator))
            uniform.append(float(torch.rand(1, generator=generator)))
        move = mover(self.device)
        return move(torch.cat(timesteps)), move(torch.stack(noise)), uniform

    def condition_on(self, texts: Sequence[str], negative: bool = False) -> Conditioning:
        """Encodes texts, without graph and style."""
        blank = conditioning.cat(*[Conditioning.from_tokens(self.null_tokens, self.null_style)] * len(texts))
        return blank._replace(text=self.encode_texts(list(texts), negative=negative))

    def snr_weights(self, t: Tensor) -> Tensor | float:  # (R,) -> (R,)
        """min(SNR, gamma) / SNR for models of the noise, and / (SNR + 1) for those of v (2303.09556, section 3.4)."""
        if self.min_snr is None:
            return 1.0
        alphas = mover(t.device)(self.schedule.alphas_cumprod)[t]
        snr = alphas / (1 - alphas)
        return (snr.clamp(max=self.min_snr) / (snr + (self.schedule.prediction == "v"))).float()

    # Training --------------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Examples, batch_idx: int) -> None:
        if self.progressive_steps is None:
            return
        count = 1 + self.global_step // self.progressive_steps
        for learned in self.learned:
            learned.in_use.fill_(0 if count >= max(map(len, learned.words.values())) else count)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leaves out the parameters whose turn it is not: without a gradient, AdamW neither moves nor decays them."""
        if self.words_steps is not None:
            now = ("words",) if self.global_step < self.words_steps else GROUPS[1:]
            for group, parameters in self.groups().items():
                for parameter in parameters if group not in now else ():
                    parameter.grad = None

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The trained parameters by group."""
        found: dict[str, list[nn.Parameter]] = {group: [] for group in GROUPS}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                is_text = name.startswith("text_stage_model.")
                group = "words" if name.endswith("learned.vectors") else "text" if is_text else "unet"
                found[group].append(parameter)
        return {group: parameters for group, parameters in found.items() if parameters}

    def configure_optimizers(self) -> dict:
        groups = [
            {
                "params": parameters,
                "lr": self.rates.get(group, self.learning_rate),
                "weight_decay": self.words_decay if group == "words" else self.weight_decay,
            }
            for group, parameters in self.groups().items()
        ]
        optimizer = unscaled_by_lightning(torch.optim.AdamW(groups, fused=True))
        total = self.trainer.estimated_stepping_batches
        return per_step(optimizer, warmup_times_cosine(self.warmup_steps, total, self.cosine))

    def saved_state(self) -> dict[str, Tensor]:
        """What is trained, and how many vectors of each word are in use."""
        counts = {name: value for name, value in self.named_buffers() if name.endswith("learned.in_use")}
        return {**super().saved_state(), **counts}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Stores the words' names in the config, so that a checkpoint needs no file of words."""
        super().on_save_checkpoint(checkpoint)
        if checkpoint["config"]:
            model = checkpoint["config"]["model"]
            params = {**model["params"], "words": [word.settings() for word in self.taught], "words_from": None}
            checkpoint["config"] = {**checkpoint["config"], "model": {**model, "params": params}}

    # Samples ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """The model as it was: words at their initial vectors, and no LoRA."""
        layers = [layer for part in (self.unet, self.text_stage_model) for layer in lora_layers(part).values()]
        alphas, vectors = [layer.alpha for layer in layers], [each.vectors.data for each in self.learned]
        try:
            for layer in layers:
                layer.alpha = 0.0
            for each in self.learned:
                each.vectors.data = each.initial.to(each.vectors)
            yield
        finally:
            for layer, alpha in zip(layers, alphas):
                layer.alpha = alpha
            for each, rows in zip(self.learned, vectors):
                each.vectors.data = rows

    @torch.no_grad()
    def sample(self, texts: Sequence[str], noise: Tensor, steps: int = 50, scale: float = 7.5) -> Tensor:
        """Samples images (B,3,H,W) in about [-1,1] of B texts from noise (B,C,h,w) by DDIM."""
        null = self.condition_on([""] * len(texts), negative=True)
        denoiser = self.denoiser(self.condition_on(texts), scale, scale, null=null)
        return self.decode(sample(denoiser, self.schedule.ddim(steps), noise.to(self.device)))

    def log_images(self, batch: Examples, n: int = 4, steps: int = 50, guidance: float = 7.5) -> dict[str, Tensor]:
        """Returns samples of the fixed prompts (by default of the batch's texts) by the untrained and the trained model."""
        texts = self.sample_prompts[:n] or list(batch.texts[:n])
        shape = (self.channels, self.latent_size, self.latent_size)
        noise = torch.stack(
            [torch.randn(*shape, generator=torch.Generator().manual_seed(i)) for i in range(len(texts))]
        )
        with self.untrained():
            base = self.sample(texts, noise, steps, guidance)
        return {"inputs": batch.image[:n], "base": base, "trained": self.sample(texts, noise, steps, guidance)}


Personalization.__signature__ = with_inherited(  # pyright: ignore[reportAttributeAccessIssue]
    inspect.signature(Personalization), inspect.signature(LatentDiffusion)
)


def _check_rates(rates: Mapping[str, Any]) -> dict[str, float]:
    for group, rate in rates.items():
        if group not in GROUPS or type(rate) not in (int, float) or not rate >= 0:
            raise ConfigError(f"model.params.rates: {group}: {rate!r}; give learning rates of words, unet and text")
    return {group: float(rate) for group, rate in rates.items()}
