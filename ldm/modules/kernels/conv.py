"""The U-Net's convolution layer: torch's, with two faster paths for frozen weights that can be switched on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm.modules.kernels.frozen import FrozenConvolution
from ldm.modules.kernels.winograd import WinogradConvolution, transform_weight

# With fewer channels, cutting the input into tiles takes longer than Winograd's algorithm saves.
MIN_CHANNELS = {torch.float32: 96, torch.bfloat16: 192}
# For a map of fewer locations and a weight of more elements than these, tiles of 2 x 2 are faster than those of 4 x 4: the
# transformed weight of 4 x 4 takes more memory traffic than its few tiles save. In bfloat16, tiles of 4 x 4 would have 30 times the
# rounding error of a direct convolution, those of 2 x 2 have twice that.
SMALL_MAP, LARGE_WEIGHT = 16 * 16, 2**20


class Conv2d(nn.Conv2d):
    """nn.Conv2d with the same parameters, keys and initialisation.

    Both options apply only while the weight is frozen; a trainable weight always takes torch's path.

    Attributes:
        skip_saving_input: Do not save the input for the backward pass, which needs it only for the weight's gradient.
        winograd: Use Winograd's algorithm in float32 and bfloat16 on a CPU. It applies to 3 x 3 convolutions of stride and
            padding 1 (`supports_winograd`); elsewhere the input is not saved either.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.skip_saving_input = False
        self.winograd = False
        # Tile size -> (identity and version of the weight, transformed weight).
        self._transformed: dict[int, tuple[tuple[int, int], Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:  # (B,C,h,w) -> (B,O,h',w')
        if self.winograd and self._can_use_winograd(x):
            tile = self._tile_for(x)
            return WinogradConvolution.apply(x.to(self.weight.dtype), self.transformed_weight(tile), self.bias, tile)
        if (self.winograd or self.skip_saving_input) and self._can_skip_saving(x):
            return self._convolve_frozen(x)
        return super().forward(x)

    def supports_winograd(self) -> bool:
        """Whether the convolution is 3 x 3 with stride and padding 1, and wide enough for Winograd's algorithm to pay."""
        geometry = self.kernel_size, self.stride, self.padding, self.dilation, self.groups, self.padding_mode
        return geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and self._is_wide(torch.float32)

    def transformed_weight(self, tile: int) -> Tensor:
        """Returns the weight transformed for tiles of 2 x 2 or 4 x 4; cached until the weight changes."""
        version = self.weight.data_ptr(), self.weight._version
        if tile not in self._transformed or self._transformed[tile][0] != version:
            # A tensor made in inference mode, as in a validation, could not be used in training.
            with torch.inference_mode(False), torch.no_grad():
                self._transformed[tile] = version, transform_weight(self.weight, tile)
        return self._transformed[tile][1]

    def clear_transformed_weights(self) -> None:
        """Frees the cache of `transformed_weight`."""
        self._transformed = {}

    def _can_use_winograd(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or any(parameter.requires_grad for parameter in self.parameters()):
            return False
        computed_in = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        return computed_in == self.weight.dtype and computed_in in MIN_CHANNELS and self._is_wide(computed_in)

    def _is_wide(self, dtype: torch.dtype) -> bool:
        return min(self.in_channels, self.out_channels) >= MIN_CHANNELS[dtype]

    def _tile_for(self, x: Tensor) -> int:
        large = x.shape[2] * x.shape[3] >= SMALL_MAP or self.weight.numel() <= LARGE_WEIGHT
        return 4 if large and self.weight.dtype == torch.float32 else 2

    def _can_skip_saving(self, x: Tensor) -> bool:
        needed = x.requires_grad and torch.is_grad_enabled() and not self.weight.requires_grad
        return needed and self.groups == 1 and self.padding_mode == "zeros"

    def _convolve_frozen(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        autocasts = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
        if autocasts:  # autocast does not apply inside the backward of a custom function
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        return FrozenConvolution.apply(x, weight, bias, self.stride, self.padding, self.dilation)


def skip_saving_inputs(module: nn.Module, enabled: bool = True) -> None:
    """Sets `skip_saving_input` of all convolutions of a U-Net."""
    for layer in _convolutions(module):
        layer.skip_saving_input = enabled


def use_winograd(module: nn.Module, enabled: bool = True) -> None:
    """Sets `winograd` of all convolutions of a U-Net that support it, and frees their transformed weights."""
    for layer in _convolutions(module):
        layer.winograd = enabled and layer.supports_winograd()
        layer.clear_transformed_weights()


def _convolutions(module: nn.Module) -> list[Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, Conv2d)]
