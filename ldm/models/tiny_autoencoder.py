"""Tiny autoencoders (TAESD, github.com/madebyollin/taesd): small convolutional stand-ins for the first stage of a published
model, which they were distilled from. They decode in a fraction of the time, for previews, and for edits on small machines.

Their latents have the scale that the U-Net reads, so that a model with one has a scale_factor of 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.loading import load_part
from ldm.checkpoints.reading import read_state_dict

WIDTH = 64  # channels of every feature map
NORM_GROUPS = 4
BLOCKS = 3  # behind each change of resolution
HALVES = ("encoder", "decoder")
GATED_CHANNELS = 32  # of the latents of FLUX.2, whose tiny autoencoder has gates
NUMBER = re.compile(r"(?:(?:taesd_)?(encoder|decoder)\.)?(layers\.)?(\d+)\.(.+)")


class TinyBlock(nn.Module):
    """Three convolutions around a skip connection, behind a gate where the resolution is lowest.

    Args:
        gated: whether the block begins with a residual gate of 1x1 convolutions (key `pool`).
    """

    def __init__(self, gated: bool = False):
        super().__init__()
        self.conv = nn.Sequential(_conv(), nn.ReLU(), _conv(), nn.ReLU(), _conv())
        self.pool = None
        if gated:
            hidden = 4 * WIDTH
            first, second = nn.Conv2d(WIDTH, hidden, 1, bias=False), nn.Conv2d(hidden, WIDTH, 1, bias=False)
            self.pool = nn.Sequential(first, nn.GroupNorm(NORM_GROUPS, hidden), nn.ReLU(), second)

    def forward(self, x: Tensor) -> Tensor:  # (B,64,h,w) -> (B,64,h,w)
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(x + self.conv(x))


class SoftClamp(nn.Module):
    """Limits latents to -3 .. 3; the first layer of a decoder, which the keys count."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class TinyAutoencoder(nn.Module):
    """An encoder and a decoder of the TAESD family, with the keys of their published files under `encoder` and `decoder`.

    Args:
        latent_channels: C, 4 (Stable Diffusion 1, 2, XL), 16 (Stable Diffusion 3, FLUX) or 32 (FLUX.2).
        gated: whether the three innermost blocks of each half have gates; by default as the weights have them.
        ckpt_path: a file of both halves, the folder of diffusers' AutoencoderTiny, or the file of one half, beside which
            that of the other is (taef2_encoder.pth and taef2_decoder.pth).
        init: 'random' for random weights.

    Attributes:
        downsampling: f = 8, image pixels per latent.
        scaled_latents: true, see above.
        weights_from: where the weights are from; None without.

    Raises:
        CheckpointError: the weights are missing or do not fit.
        ValueError: `init` is not supported.
    """

    downsampling = 8
    scaled_latents = True

    def __init__(
        self,
        latent_channels: int = 4,
        gated: bool | None = None,
        ckpt_path: str | Path | None = None,
        init: str | None = None,
    ):
        super().__init__()
        if init not in (None, "random"):
            raise ValueError(f"init: {init!r} is not supported: set it to 'random' or remove it")
        state = read_tiny(Path(ckpt_path).expanduser()) if ckpt_path and not init else {}
        if state:
            _refuse_other_channels(state, latent_channels, str(ckpt_path))
        if gated is None:
            gated = any(".pool." in key for key in state) if state else latent_channels == GATED_CHANNELS
        self.latent_channels = latent_channels
        self.encoder = nn.Sequential(*_encoder_layers(latent_channels, gated))
        self.decoder = nn.Sequential(*_decoder_layers(latent_channels, gated))
        self.weights_from: str | None = "random (init: random)" if init else None
        if state:
            load_part(self, state, "first_stage", optional=(), name=str(ckpt_path))

    def encode(self, image: Tensor) -> Tensor:  # (B,3,H,W) in [-1,1] -> (B,C,H/8,W/8)
        """Returns the latent, in the U-Net's scale.

        Raises:
            ValueError: the image does not divide by 8.
        """
        height, width = image.shape[-2:]
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(f"a {height} x {width} image does not divide by {self.downsampling}: pad or resize it")
        return self.encoder((image + 1) / 2)

    def decode(self, z: Tensor) -> Tensor:  # (B,C,h,w) -> (B,3,8h,8w) in about [-1,1]
        return self.decoder(z) * 2 - 1


def read_tiny(path: Path) -> dict[str, Tensor]:
    """Reads a tiny autoencoder's weights with the keys of a TinyAutoencoder.

    Raises:
        CheckpointError: a file is missing, cannot be read, or does not say which half it is.
    """
    state = read_state_dict(path, "first_stage")
    half = next((name for name in HALVES if f"_{name}" in path.name), None)
    if has_both_halves(state):
        return rename_tiny(state, path)
    if half is None:
        raise CheckpointError(
            f"{path}: holds one half of a tiny autoencoder and does not say which; name it ..._encoder or ..._decoder, as it "
            "was published"
        )
    other = HALVES[1 - HALVES.index(half)]
    beside = path.with_name(path.name.replace(f"_{half}", f"_{other}"))
    if not beside.is_file():
        raise CheckpointError(
            f"{beside}: the {other} of this tiny autoencoder is missing; download it beside {path.name}"
        )
    return rename_tiny(state, path, half) | rename_tiny(read_state_dict(beside), beside, other)


def has_both_halves(state: Iterable[str]) -> bool:
    """Whether keys name both an encoder and a decoder."""
    found = {match[1] for key in state if (match := NUMBER.fullmatch(key))}
    return set(HALVES) <= found


def rename_tiny(state: Mapping[str, Tensor], path: Path, half: str | None = None) -> dict[str, Tensor]:
    """Renames keys to those of a TinyAutoencoder.

    diffusers calls the layers `layers`, and begins its decoder without the clamp, so that its numbers are one less there.

    Args:
        half: the half that all keys belong to, where they do not say it.
    """
    renamed = {}
    for key, value in state.items():
        match = NUMBER.fullmatch(key)
        if match is None:
            raise CheckpointError(
                f"{path}: not a tiny autoencoder of the TAESD family (key {key}); name one of its files"
            )
        own, layers, number, rest = match.groups()
        shift = bool(layers) and own == "decoder"
        renamed[f"{own or half}.{int(number) + shift}.{rest}"] = value
    return renamed


def _refuse_other_channels(state: Mapping[str, Tensor], channels: int, source: str) -> None:
    """Raises CheckpointError for latents of another number of channels."""
    stored = next((value.shape[1] for key, value in state.items() if key == "decoder.1.weight"), channels)
    if stored != channels:
        raise CheckpointError(
            f"{source}: a tiny autoencoder of {stored} channels, where the config has {channels}; set latent_channels: {stored} "
            "if these are the U-Net's, or name the weights of another one"
        )


def _conv(channels: int = WIDTH, out: int = WIDTH, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride, 1, bias=bias)


def _encoder_layers(latent_channels: int, gated: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [_conv(3), TinyBlock()]
    for stage in range(3):
        blocks = [TinyBlock(gated and stage == 2) for _ in range(BLOCKS)]
        layers += [_conv(stride=2, bias=False), *blocks]
    return [*layers, _conv(out=latent_channels)]


def _decoder_layers(latent_channels: int, gated: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [SoftClamp(), _conv(latent_channels), nn.ReLU()]
    for stage in range(3):
        blocks = [TinyBlock(gated and stage == 0) for _ in range(BLOCKS)]
        layers += [*blocks, nn.Upsample(scale_factor=2), _conv(bias=False)]
    return [*layers, TinyBlock(), _conv(out=3)]
