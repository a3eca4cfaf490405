"""First stages under their published names, with a training loop that is small enough for a CPU."""

from __future__ import annotations

import torch
from einops import rearrange
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from ldm.models import first_stage
from ldm.models.lr_schedules import fused_on, per_step, unscaled_by_lightning, warmup_then_cosine
from ldm.modules.losses.lossconfig import hardest_l1

DISCRIMINATOR_BETAS = (0.5, 0.9)  # of Adam, as published; they soon forget the zero gradients before its start


class Autoencoder(first_stage.Autoencoder, LightningModule):
    """Base of the quantised and the Gaussian first stage, with their training."""

    learning_rate = 1e-4  # default; the trainer sets it
    shown_in_training: tuple[str, ...] = ()

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the reconstruction (B,3,H,W) and the loss of the latent itself."""
        raise NotImplementedError

    def parts(self) -> dict[str, nn.Module]:
        """The parts by the names that messages use."""
        own = {name: part for name, part in self.named_children() if part is not self.loss}
        return own if self.loss is None else {**own, **self.loss.parts()}

    def waiting_parts(self) -> set[str]:
        """Names of the parts whose training has not started yet."""
        waiting = self.loss is not None and self.global_step < self.loss.discriminator_start
        return {"discriminator"} if waiting else set()

    def batch_loss(self, batch: tuple, split: str) -> Tensor:
        """Returns and logs the loss of a batch; `split` is 'train' or 'val'."""
        image = batch[0]
        reconstruction, latent_loss = self.reconstruct(image)
        rec_loss = l1_loss(reconstruction, image) + mse_loss(reconstruction, image)
        loss = rec_loss + latent_loss
        hardest = hardest_l1(reconstruction, image, self.hardest) if self.hardest else None
        if hardest is not None:
            loss = loss + hardest
        values = {"loss": loss, "rec_loss": rec_loss, "latent_loss": latent_loss}
        if self.loss is not None:
            pixel_loss = rec_loss if hardest is None else rec_loss + hardest
            last_layer = self.decoder.conv_out.weight
            added, more = self.loss(image, reconstruction, pixel_loss, last_layer, self.global_step)
            loss = loss + added
            values |= {"loss": loss, **more}
        values = {f"{split}/{name}": value for name, value in values.items()}
        validating = split == "val"
        if not validating:
            self.shown_in_training = tuple(values)
        self.log_dict(values, prog_bar=validating, batch_size=len(image), sync_dist=validating)
        return loss

    def training_step(self, batch: tuple, batch_idx: int) -> Tensor:
        return self.batch_loss(batch, "train")

    def validation_step(self, batch: tuple, batch_idx: int) -> Tensor:
        return self.batch_loss(batch, "val")

    def configure_optimizers(self) -> tuple[list, list] | dict:
        """Adam with a cosine decay of the learning rate to 0 at the end of the run; the discriminator is its second group."""
        groups, steps = self._parameter_groups(), self.trainer.estimated_stepping_batches
        adam = torch.optim.Adam(groups, lr=self.learning_rate, fused=fused_on(self.device))
        optimizer = unscaled_by_lightning(adam)
        if self.warmup_steps:
            return per_step(optimizer, warmup_then_cosine(self.warmup_steps, steps))
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": cosine, "interval": "step"}]

    def _parameter_groups(self) -> list:
        if self.loss is None:
            return list(self.parameters())
        own = [part for name, part in self.parts().items() if name not in self.loss.parts()]
        groups: list[dict] = [{"params": [parameter for part in own for parameter in part.parameters()]}]
        if self.loss.discriminator is not None:
            rate = self.learning_rate * self.loss.discriminator_rate
            parameters = list(self.loss.discriminator.parameters())
            groups.append({"params": parameters, "lr": rate, "betas": DISCRIMINATOR_BETAS})
        return groups

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clips the gradient of the discriminator apart from that of the first stage."""
        if self.loss is None or gradient_clip_algorithm == "value" or not gradient_clip_val:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], gradient_clip_val)

    @torch.no_grad()
    def log_images(self, batch: tuple, n: int = 8) -> dict[str, Tensor]:
        """Returns the first n inputs and their reconstructions, (n,3,H,W) in [-1,1]."""
        image = batch[0][:n].to(self.device)
        return {"inputs": image, "reconstructions": self.decode(self.encode(image)).clamp(-1, 1)}


class VQModelInterface(first_stage.VQModelInterface, Autoencoder):
    """LDM's quantised first stage. `encode` returns the latent before quantisation, and `decode` quantises it."""

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encode(image)
        if self.training and self.trained_batches % self.restart_every == 0:
            self.restart_unused_codes(z.detach())
        started = self.trained_batches >= self.codebook_start
        quantised, latent_loss, (_, _, codes) = self.nearest_codes(z if started else z.detach())
        if self.training:
            codes = codes.flatten()  # not bincount, for which a GPU would wait
            uses = torch.ones(len(codes), device=z.device)
            self.code_uses = self.code_uses.to(z.device).index_add(0, codes, uses)
            self.trained_batches += 1
        return self._decoder_output(quantised if started else z), latent_loss

    @torch.no_grad()
    def restart_unused_codes(self, z: Tensor) -> None:  # (B,4,h,w)
        """Sets each code that was not used since the last restart to a random latent vector of `z`.

        In the first batch of a run from scratch these are all codes, so that the data initialise the codebook.
        """
        codebook, self.code_uses = self.quantize.embedding.weight, self.code_uses.to(z.device)
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed:
            torch.distributed.all_reduce(self.code_uses)
        unused = (self.code_uses == 0).nonzero().flatten()
        latents = rearrange(z, "b c h w -> (b h w) c")
        codebook[unused] = latents[torch.randint(len(latents), (len(unused),), device=z.device)].to(codebook.dtype)
        if distributed:
            torch.distributed.broadcast(codebook, 0)
        self.log("train/codes_in_use", 1 - len(unused) / len(codebook))
        self.code_uses.zero_()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["code_uses"], checkpoint["code_batches"] = self.code_uses, self.trained_batches

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.code_uses, self.trained_batches = checkpoint["code_uses"], checkpoint["code_batches"]


class AutoencoderKL(first_stage.AutoencoderKL, Autoencoder):
    """LDM's and Stable Diffusion's Gaussian first stage. `encode` returns the mean of the posterior."""

    def saved_state(self) -> dict[str, Tensor]:
        """The whole first stage, a frozen encoder included, since it is exported as one file."""
        if not self.freeze_encoder:
            return super().saved_state()
        encoder = self.encoder.state_dict(prefix="encoder.") | self.quant_conv.state_dict(prefix="quant_conv.")
        return encoder | super().saved_state()

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.posterior(image)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp() if self.training else mean
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return self.decode(z), self.kl_weight * kl
