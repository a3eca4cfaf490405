"""First stages: autoencoders between images and latents of an eighth of their size, with LDM's key names.

Encoder, decoder and quantiser are those of taming-transformers. This module adds LDM's two convolutions around the
latent, and the loading of weights. `autoencoder` has the same classes with their training by Lightning, whose import takes seconds.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from taming.modules.diffusionmodules.model import Decoder, Encoder
from taming.modules.vqvae.quantize import VectorQuantizer2
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ldm.checkpoints.loading import OPTIONAL_KEYS, load_part
from ldm.checkpoints.saving import SavesTrainableParameters
from ldm.checkpoints.sidecars import AUTOENCODER_CONSTANTS
from ldm.modules.fused_attention import fuse_attention
from ldm.modules.losses.lossconfig import build_loss


class Autoencoder(SavesTrainableParameters):
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

    def _encoder_output(self, image: Tensor) -> Tensor:  # (B,3,H,W) in [-1,1] -> (B,C,H/f,W/f)
        height, width = image.shape[-2:]
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(f"a {height} x {width} image does not divide by {self.downsampling}: pad or resize it")
        return self.quant_conv(self.encoder(pixel_unshuffle(image, self.patch_size)))

    def _decoder_output(self, z: Tensor) -> Tensor:  # (B,C,H/f,W/f) -> (B,3,H,W)
        return pixel_shuffle(self.decoder(self.post_quant_conv(z)), self.patch_size)


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
