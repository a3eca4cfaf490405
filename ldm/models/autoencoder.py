"""First stages: autoencoders between images and latents of an eighth of their size, with LDM's key names.

Encoder, decoder and quantiser are those of taming-transformers. This module adds LDM's two convolutions around the
latent, the loading of weights, and a training loop that is small enough for a CPU.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from einops import rearrange
from pytorch_lightning import LightningModule
from taming.modules.diffusionmodules.model import Decoder, Encoder
from taming.modules.vqvae.quantize import VectorQuantizer2
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss, pixel_shuffle, pixel_unshuffle

from ldm.checkpoints.loading import OPTIONAL_KEYS, load_part
from ldm.checkpoints.saving import SavesTrainableParameters
from ldm.checkpoints.sidecars import AUTOENCODER_CONSTANTS
from ldm.models.lr_schedules import per_step, warmup_then_cosine
from ldm.modules.fused_attention import fuse_attention
from ldm.modules.losses.lossconfig import build_loss, hardest_l1

DISCRIMINATOR_BETAS = (0.5, 0.9)  # of Adam, as published; they soon forget the zero gradients before its start


class Autoencoder(SavesTrainableParameters, LightningModule):
    """Base of the quantised and the Gaussian first stage.

    Args:
        ddconfig: arguments of taming's Encoder and Decoder; `resolution` only decides which levels have attention.
        lossconfig: `{target, params}` of a PerceptualAdversarialLoss, which training adds to L1 and L2. Published configs
            set a loss here; a frozen first stage has none (torch.nn.Identity), and other losses are refused.
        monitor: logged value by which the best checkpoint is chosen.
        image_key: key of published configs, ignored because a batch is a tuple that starts with the image.
        patch_size: height and width of the pixel patches that are moved into channels (space to depth) before the
            encoder, which makes it cheaper; published first stages have patches of 1.
        hardest: share (0 to 1) of each image's pixels, those with the largest error, whose L1 is added to the loss
            (online bootstrapping, Wu et al. 1605.06885), since a mean over all pixels hardly depends on the edges of
            small objects.
        warmup_steps: steps of linear warm-up of the learning rate, before a cosine decay over the rest of the run.

    Raises:
        ValueError: `hardest` is out of range, or `lossconfig` names another loss.
    """

    learning_rate = 1e-4  # default; the trainer sets it
    scaled_latents = False  # whether latents have the U-Net's scale already (see ldm.models.tiny_autoencoder)

    def __init__(
        self,
        ddconfig: Mapping,
        lossconfig: Mapping | None,
        monitor: str | None,
        image_key: str,
        patch_size: int = 1,
        hardest: float = 0.0,
        warmup_steps: int = 0,
    ):
        super().__init__()
        if not 0 <= hardest <= 1:
            raise ValueError(f"hardest: {hardest} is not a share of the pixels: choose a value from 0 to 1")
        with contextlib.redirect_stdout(io.StringIO()):  # the decoder prints the shape of its latent
            channels = {key: ddconfig[key] * patch_size**2 for key in ("in_channels", "out_ch")}
            self.encoder, self.decoder = (part(**{**ddconfig, **channels}) for part in (Encoder, Decoder))
        fuse_attention(self)
        self.loss = build_loss(lossconfig)
        self.patch_size = patch_size
        self.downsampling = patch_size * 2 ** (len(ddconfig["ch_mult"]) - 1)
        self.monitor = monitor
        self.hardest, self.warmup_steps = hardest, warmup_steps
        self.weights_from: str | None = None

    def load_weights(self, ckpt_path: str | Path | None, ignore_keys: Sequence[str], init: str | None) -> bool:
        """Loads `ckpt_path` unless `init` is 'random', and returns whether it was loaded."""
        if init not in (None, "random"):
            raise ValueError(f"init: {init!r} is not supported: set it to 'random' or remove it")
        if init == "random":
            self.weights_from = "random (init: random)"
        elif ckpt_path is not None:
            load_part(self, ckpt_path, "first_stage", (*OPTIONAL_KEYS, r"^loss\."), ignore_keys)
            return True
        return False

    def diffusers_config(self) -> dict:
        """The settings under diffusers' names, to be compared with the config.json beside published weights."""
        return dict(AUTOENCODER_CONSTANTS)

    def encode(self, image: Tensor) -> Tensor:  # (B,3,H,W) in [-1,1] -> (B,C,H/f,W/f)
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:  # (B,C,H/f,W/f) -> (B,3,H,W)
        raise NotImplementedError

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the reconstruction (B,3,H,W) and the loss of the latent itself."""
        raise NotImplementedError

    def _encoder_output(self, image: Tensor) -> Tensor:  # (B,3,H,W) in [-1,1] -> (B,C,H/f,W/f)
        height, width = image.shape[-2:]
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(f"a {height} x {width} image does not divide by {self.downsampling}: pad or resize it")
        return self.quant_conv(self.encoder(pixel_unshuffle(image, self.patch_size)))

    def _decoder_output(self, z: Tensor) -> Tensor:  # (B,C,H/f,W/f) -> (B,3,H,W)
        return pixel_shuffle(self.decoder(self.post_quant_conv(z)), self.patch_size)

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
        self.log_dict(values, prog_bar=True, batch_size=len(image), sync_dist=split == "val")
        return loss

    def training_step(self, batch: tuple, batch_idx: int) -> Tensor:
        return self.batch_loss(batch, "train")

    def validation_step(self, batch: tuple, batch_idx: int) -> Tensor:
        return self.batch_loss(batch, "val")

    def configure_optimizers(self) -> tuple[list, list] | dict:
        """Adam with a cosine decay of the learning rate to 0 at the end of the run; the discriminator is its second group."""
        groups, steps = self._parameter_groups(), self.trainer.estimated_stepping_batches
        optimizer = torch.optim.Adam(groups, lr=self.learning_rate)
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


class VQModelInterface(Autoencoder):
    """LDM's quantised first stage. `encode` returns the latent before quantisation, and `decode` quantises it.

    Args:
        embed_dim: channels of the latent.
        n_embed: number of codes in the codebook.
        ddconfig, lossconfig, monitor, image_key, patch_size, hardest, warmup_steps: see Autoencoder.
        ckpt_path: checkpoint to load.
        ignore_keys: prefixes of its keys to leave out.
        init: 'random' for random weights.
        codebook_start: number of training batches in which the codebook is trained, but the decoder receives the
            latents before quantisation.
        restart_every: number of training batches between restarts of unused codes.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ValueError: a value is not supported.
    """

    def __init__(
        self,
        embed_dim: int,
        n_embed: int,
        ddconfig: Mapping,
        lossconfig: Mapping | None = None,
        ckpt_path: str | Path | None = None,
        ignore_keys: Sequence[str] = (),
        monitor: str | None = None,
        image_key: str = "image",
        init: str | None = None,
        patch_size: int = 1,
        codebook_start: int = 0,
        restart_every: int = 100,
        hardest: float = 0.0,
        warmup_steps: int = 0,
    ):
        super().__init__(ddconfig, lossconfig, monitor, image_key, patch_size, hardest, warmup_steps)
        if ddconfig.get("double_z"):
            raise ValueError("VQModelInterface predicts no variance of the latent: set ddconfig.double_z: false")
        self.quantize = VectorQuantizer2(n_embed, embed_dim, beta=0.25, legacy=False)
        self.quant_conv = nn.Conv2d(ddconfig["z_channels"], embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        self.codebook_start, self.restart_every = codebook_start, restart_every
        self.trained_batches = 0
        loaded = self.load_weights(ckpt_path, ignore_keys, init)
        # Uses of each code since the last restart; loaded codes start with one. A buffer would add a state-dict key.
        self.code_uses = torch.full((n_embed,), float(loaded))

    def encode(self, image: Tensor) -> Tensor:  # (B,3,H,W) -> (B,4,H/8,W/8), before quantisation
        return self._encoder_output(image)

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:  # (B,4,H/8,W/8) -> (B,3,H,W)
        return self._decoder_output(self.nearest_codes(z)[0] if quantize else z)

    def nearest_codes(self, z: Tensor) -> tuple:
        """Returns taming's (quantised latent, loss, (_, _, code indices))."""
        with torch.autocast(z.device.type, enabled=False):  # half precision would often select another code
            return self.quantize(z.float())

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encode(image)
        if self.training and self.trained_batches % self.restart_every == 0:
            self.restart_unused_codes(z.detach())
        started = self.trained_batches >= self.codebook_start
        quantised, latent_loss, (_, _, codes) = self.nearest_codes(z if started else z.detach())
        if self.training:
            self.code_uses = self.code_uses.to(z.device) + torch.bincount(
                codes.flatten(), minlength=len(self.code_uses)
            )
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


class AutoencoderKL(Autoencoder):
    """LDM's and Stable Diffusion's Gaussian first stage. `encode` returns the mean of the posterior.

    Args:
        embed_dim: channels of the latent.
        ddconfig, lossconfig, monitor, image_key, patch_size, hardest, warmup_steps: see Autoencoder.
        ckpt_path: checkpoint to load.
        ignore_keys: prefixes of its keys to leave out.
        init: 'random' for random weights.
        freeze_encoder: train the decoder only, on the latents as they are, so that a backbone trained on them stays valid.
        kl_weight: weight of the KL divergence from the standard normal, averaged over the elements of the latent.
        force_upcast: encode and decode in float32 under autocast too. Activations of SDXL's autoencoder exceed the range of
            float16, which makes its images black.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ValueError: a value is not supported.
    """

    def __init__(
        self,
        embed_dim: int,
        ddconfig: Mapping,
        lossconfig: Mapping | None = None,
        ckpt_path: str | Path | None = None,
        ignore_keys: Sequence[str] = (),
        monitor: str | None = None,
        image_key: str = "image",
        init: str | None = None,
        patch_size: int = 1,
        kl_weight: float = 1e-4,
        hardest: float = 0.0,
        warmup_steps: int = 0,
        freeze_encoder: bool = False,
        force_upcast: bool = False,
    ):
        super().__init__(ddconfig, lossconfig, monitor, image_key, patch_size, hardest, warmup_steps)
        if not ddconfig.get("double_z", True):
            raise ValueError("AutoencoderKL predicts mean and variance of the latent: set ddconfig.double_z: true")
        self.quant_conv = nn.Conv2d(2 * ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        self.kl_weight, self.force_upcast = kl_weight, force_upcast
        self.load_weights(ckpt_path, ignore_keys, init)
        self.freeze_encoder = freeze_encoder
        if freeze_encoder:
            for part in (self.encoder, self.quant_conv):
                part.requires_grad_(False)

    def saved_state(self) -> dict[str, Tensor]:
        """The whole first stage, a frozen encoder included, since it is exported as one file."""
        if not self.freeze_encoder:
            return super().saved_state()
        encoder = self.encoder.state_dict(prefix="encoder.") | self.quant_conv.state_dict(prefix="quant_conv.")
        return encoder | super().saved_state()

    def _encoder_output(self, image: Tensor) -> Tensor:
        if not self.force_upcast:
            return super()._encoder_output(image)
        with torch.autocast(image.device.type, enabled=False):
            return super()._encoder_output(image.float())

    def _decoder_output(self, z: Tensor) -> Tensor:
        if not self.force_upcast:
            return super()._decoder_output(z)
        with torch.autocast(z.device.type, enabled=False):
            return super()._decoder_output(z.float())

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:  # (B,3,H,W) -> (B,4,H/8,W/8), (B,4,H/8,W/8)
        """Returns mean and log-variance of the latent."""
        mean, logvar = self._encoder_output(image).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def encode(self, image: Tensor) -> Tensor:  # (B,3,H,W) -> (B,4,H/8,W/8)
        return self.posterior(image)[0]

    def decode(self, z: Tensor) -> Tensor:  # (B,4,H/8,W/8) -> (B,3,H,W)
        return self._decoder_output(z)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.posterior(image)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp() if self.training else mean
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return self.decode(z), self.kl_weight * kl
