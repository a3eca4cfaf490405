"""First stages: an image as a latent an eighth of its size, and back, under the published key names.

Encoder, decoder and quantiser are taming-transformers'. Here they meet LDM's two convolutions around the
latent, the weights, and a training loop small enough for a CPU.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from einops import rearrange
from pytorch_lightning import LightningModule
from taming.modules.diffusionmodules.model import AttnBlock, Decoder, Encoder
from taming.modules.vqvae.quantize import VectorQuantizer2
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss, pixel_shuffle, pixel_unshuffle, scaled_dot_product_attention

from ldm.checkpoints.loading import load_part
from ldm.checkpoints.saving import SavesTrainableParameters


class FusedAttnBlock(AttnBlock):
    """taming's single-head attention without its (HW)^2 matrix, which at 1024 px is a gigabyte."""

    def forward(self, x: Tensor) -> Tensor:  # (B,C,H,W) -> (B,C,H,W)
        h = self.norm(x)
        q, k, v = (rearrange(conv(h), "b c h w -> b 1 (h w) c") for conv in (self.q, self.k, self.v))
        h = rearrange(scaled_dot_product_attention(q, k, v), "b 1 (h w) c -> b c h w", h=x.shape[2])
        return x + self.proj_out(h)


class Autoencoder(SavesTrainableParameters, LightningModule):
    """What the quantised and the Gaussian first stage share.

    ddconfig     taming's arguments of Encoder and Decoder; `resolution` says only where attention goes
    lossconfig   published configs name a loss here; a frozen stage has none (torch.nn.Identity), and training
                 uses the plain loss below, so any other is refused
    image_key    of published configs; batches are tuples whose first element is the image
    patch_size   the encoder sees patches of so many pixels squared as one with their channels (space to depth), which
                 costs a fraction; published first stages have none
    hardest      share of each picture's pixels, those furthest off, whose L1 counts once more (online bootstrapping, Wu et
                 al. 1605.06885): a mean over all pixels hardly sees the edges of what is small
    """

    learning_rate = 1e-4  # the trainer sets the one in force

    def __init__(
        self,
        ddconfig: Mapping,
        lossconfig: Mapping | None,
        monitor: str | None,
        image_key: str,
        patch_size: int = 1,
        hardest: float = 0.0,
    ):
        super().__init__()
        if not 0 <= hardest <= 1:
            raise ValueError(f"hardest: {hardest} is a share of the pixels, from 0 to 1")
        if lossconfig is not None and lossconfig["target"] != "torch.nn.Identity":
            raise ValueError(
                f"lossconfig: {lossconfig['target']} is not available; autoencoders train here on L1 + L2 and their "
                "latent's own term, so give `target: torch.nn.Identity` or leave lossconfig out"
            )
        with contextlib.redirect_stdout(io.StringIO()):  # the decoder prints its latent's shape
            channels = {key: ddconfig[key] * patch_size**2 for key in ("in_channels", "out_ch")}
            self.encoder, self.decoder = (part(**{**ddconfig, **channels}) for part in (Encoder, Decoder))
        for module in self.modules():
            if type(module) is AttnBlock:
                module.__class__ = FusedAttnBlock  # same parameters, same keys
        self.patch_size = patch_size
        self.downsampling = patch_size * 2 ** (len(ddconfig["ch_mult"]) - 1)
        self.monitor = monitor
        self.hardest = hardest
        self.weights_from: str | None = None

    def find_weights(self, ckpt_path: str | Path | None, ignore_keys: Sequence[str], init: str | None) -> bool:
        """Load `ckpt_path`, unless `init: random` says that this is a toy. Returns whether it was loaded."""
        if init not in (None, "random"):
            raise ValueError(f"init: {init!r} is not known; the one choice is `init: random`")
        if init == "random":
            self.weights_from = "random (init: random)"
        elif ckpt_path is not None:
            load_part(self, ckpt_path, "first_stage", ignore=ignore_keys)
            return True
        return False

    def features(self, image: Tensor) -> Tensor:  # (B,3,H,W) in [-1,1] -> (B,C,H/f,W/f)
        height, width = image.shape[-2:]
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(f"a {height} x {width} image does not divide by {self.downsampling}; pad or resize it")
        return self.quant_conv(self.encoder(pixel_unshuffle(image, self.patch_size)))

    def image(self, z: Tensor) -> Tensor:  # (B,C,H/f,W/f) -> (B,3,H,W)
        return pixel_shuffle(self.decoder(self.post_quant_conv(z)), self.patch_size)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The image through the latent and back, and the loss that the latent itself adds."""
        raise NotImplementedError

    def loss(self, batch: tuple, split: str) -> Tensor:
        image = batch[0]
        reconstruction, latent_loss = self.reconstruct(image)
        rec_loss = l1_loss(reconstruction, image) + mse_loss(reconstruction, image)
        loss = rec_loss + latent_loss
        if self.hardest:
            loss = loss + hardest_l1(reconstruction, image, self.hardest)
        values = {f"{split}/loss": loss, f"{split}/rec_loss": rec_loss, f"{split}/latent_loss": latent_loss}
        self.log_dict(values, prog_bar=True, batch_size=len(image), sync_dist=split == "val")
        return loss

    def training_step(self, batch: tuple, batch_idx: int) -> Tensor:
        return self.loss(batch, "train")

    def validation_step(self, batch: tuple, batch_idx: int) -> Tensor:
        return self.loss(batch, "val")

    def configure_optimizers(self) -> tuple[list, list]:
        """Adam, its learning rate falling along a cosine to nothing at the run's end."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": cosine, "interval": "step"}]

    @torch.no_grad()
    def log_images(self, batch: tuple, n: int = 8) -> dict[str, Tensor]:  # name -> (n,3,H,W) in [-1,1]
        image = batch[0][:n].to(self.device)
        return {"inputs": image, "reconstructions": self.decode(self.encode(image)).clamp(-1, 1)}


def hardest_l1(a: Tensor, b: Tensor, share: float) -> Tensor:  # (B,C,H,W), (B,C,H,W) -> ()
    """The mean absolute difference over that share of each image's pixels where it is greatest."""
    errors = (a - b).abs().mean(1).flatten(1)
    return errors.topk(math.ceil(share * errors.shape[1]), dim=1).values.mean()


class VQModelInterface(Autoencoder):
    """LDM's quantised first stage. The latent is what comes before quantisation; decode quantises it.

    codebook_start  training batches during which codes follow the latents, but the decoder sees the latents themselves
    restart_every   training batches between two restarts of the codes that nothing used in between
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
    ):
        super().__init__(ddconfig, lossconfig, monitor, image_key, patch_size, hardest)
        if ddconfig.get("double_z"):
            raise ValueError("a quantised latent has no variance: VQModelInterface needs ddconfig.double_z: false")
        self.quantize = VectorQuantizer2(n_embed, embed_dim, beta=0.25, legacy=False)
        self.quant_conv = nn.Conv2d(ddconfig["z_channels"], embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        self.codebook_start, self.restart_every = codebook_start, restart_every
        self.batches = 0  # trained on
        loaded = self.find_weights(ckpt_path, ignore_keys, init)
        # Of each code since the last restart, once for one that was loaded. No buffer, which would add a key.
        self.uses = torch.full((n_embed,), float(loaded))

    def encode(self, image: Tensor) -> Tensor:  # (B,3,H,W) -> (B,4,H/8,W/8), before quantisation
        return self.features(image)

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:  # (B,4,H/8,W/8) -> (B,3,H,W)
        return self.image(self.nearest_codes(z)[0] if quantize else z)

    def nearest_codes(self, z: Tensor) -> tuple:  # taming's (quantised, loss, (_, _, codes))
        with torch.autocast(z.device.type, enabled=False):  # half precision would often find another code
            return self.quantize(z.float())

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encode(image)
        if self.training and self.batches % self.restart_every == 0:
            self.restart_dead_codes(z.detach())
        started = self.batches >= self.codebook_start
        quantised, latent_loss, (_, _, codes) = self.nearest_codes(z if started else z.detach())
        if self.training:
            self.uses = self.uses.to(z.device) + torch.bincount(codes.flatten(), minlength=len(self.uses))
            self.batches += 1
        return self.image(quantised if started else z), latent_loss

    @torch.no_grad()
    def restart_dead_codes(self, z: Tensor) -> None:  # (B,4,h,w)
        """Move each code without a use since the last restart onto a random latent of `z`.

        At the first batch of a run from scratch that is every code, so the data seed the codebook, as in k-means.
        """
        codebook, self.uses = self.quantize.embedding.weight, self.uses.to(z.device)
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed:
            torch.distributed.all_reduce(self.uses)
        dead = (self.uses == 0).nonzero().flatten()
        latents = rearrange(z, "b c h w -> (b h w) c")
        codebook[dead] = latents[torch.randint(len(latents), (len(dead),), device=z.device)].to(codebook.dtype)
        if distributed:
            torch.distributed.broadcast(codebook, 0)
        self.log("train/codes_in_use", 1 - len(dead) / len(codebook))
        self.uses.zero_()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["code_uses"], checkpoint["code_batches"] = self.uses, self.batches

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.uses, self.batches = checkpoint["code_uses"], checkpoint["code_batches"]


class AutoencoderKL(Autoencoder):
    """LDM's and Stable Diffusion's Gaussian first stage. The latent is the posterior's mean.

    kl_weight   of the KL divergence to the unit normal, averaged over the latent's elements
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
    ):
        super().__init__(ddconfig, lossconfig, monitor, image_key, patch_size, hardest)
        if not ddconfig.get("double_z", True):
            raise ValueError("a Gaussian latent has a mean and a variance: AutoencoderKL needs ddconfig.double_z: true")
        self.quant_conv = nn.Conv2d(2 * ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        self.kl_weight = kl_weight
        self.find_weights(ckpt_path, ignore_keys, init)

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:  # (B,3,H,W) -> mean, logvar (B,4,H/8,W/8)
        mean, logvar = self.features(image).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def encode(self, image: Tensor) -> Tensor:  # (B,3,H,W) -> (B,4,H/8,W/8)
        return self.posterior(image)[0]

    def decode(self, z: Tensor) -> Tensor:  # (B,4,H/8,W/8) -> (B,3,H,W)
        return self.image(z)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.posterior(image)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp() if self.training else mean
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return self.decode(z), self.kl_weight * kl
