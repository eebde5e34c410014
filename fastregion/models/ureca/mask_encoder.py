"""URECA's mask encoders: from mask tiles to tokens of the language model.

arch 3, the published model's, sees the mask alone (paper, Algorithm 1):

    f = ReLU(conv_2(ReLU(conv_1(m))))                   [T, N, S/4, S/4], 3 x 3, stride 2
    z_n = W f_n + b                                     one linear layer over a channel's whole map

so the N tokens of a tile are the N channels. (The paper writes a two-layer MLP; the released code
has one linear layer.) arch 2 looks at the image features of the same tile too:

    u = GELU(W LN(shuffle(ReLU(patches(m)))) + b)       [T, 256, D]
    f = conv_3(conv_2(conv_1([u; v])))                  v: image tokens; each 3 x 3, stride 2, ReLU
    z_n = W' f_n + b'                                   [T, N, D] from maps of 2 x 2

where u and v are maps ``[D, 16, 16]`` of their tokens.

Parameter names below the module are those of the published checkpoints.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from fastregion import ops
from fastregion.models.ureca.config import UrecaConfig
from fastregion.ops import Linear
from fastregion.vision.space_to_depth import space_to_depth

__all__ = ["ConcatMaskEncoder", "MaskEncoder", "init_mask_encoder"]

_MAP = 16  # cells a side of the maps of arch 2
_SHARE = 32  # channels of the language model for one of the patches, arch 2


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)


class MaskEncoder(nn.Module):
    """arch 3; see the module for the formula."""

    def __init__(self, config: UrecaConfig, width: int) -> None:
        super().__init__()
        count = config.num_mask_token
        self.mask_encoder = nn.Sequential(
            _conv(1, count), nn.ReLU(), _conv(count, count), nn.ReLU()
        )
        self.mask_linear = Linear((config.image_size // 4) ** 2, width)

    def forward(self, tiles: Tensor, image_tokens: Tensor | None = None) -> Tensor:
        """uint8 tiles ``[T, S, S]`` to ``[T, N, D]``; the image does not matter."""
        first, second = (cast(nn.Conv2d, self.mask_encoder[k]) for k in (0, 2))
        assert first.bias is not None
        assert second.bias is not None
        return ops.mask_encode(
            tiles,
            first.weight,
            first.bias,
            second.weight,
            second.bias,
            self.mask_linear.weight,
            self.mask_linear.bias,
        )


class ConcatMaskEncoder(nn.Module):
    """arch 2; see the module for the formula."""

    def __init__(self, config: UrecaConfig, width: int) -> None:
        super().__init__()
        count, channels = config.num_mask_token, width // _SHARE
        self.grid_size, self.side = config.patch_grid, config.shuffle_side
        self.column_major = config.ps_version == "v1"
        patch = config.vision.patch_size
        wide = self.side**2 * channels
        self.mask_encoder = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=patch, stride=patch), nn.ReLU()
        )
        self.mask_linear = nn.Sequential(nn.LayerNorm(wide), Linear(wide, width), nn.GELU())
        self.concat_mask_encoder = nn.Sequential(
            _conv(2 * width, 2 * count), nn.ReLU(),
            _conv(2 * count, count), nn.ReLU(),
            _conv(count, count), nn.ReLU(),
        )  # fmt: skip
        self.concat_mask_linear = Linear((_MAP // 8) ** 2, width)

    def forward(self, tiles: Tensor, image_tokens: Tensor | None = None) -> Tensor:
        """Mask and image of tiles to mask tokens.

        Args:
            tiles: uint8 ``[T, S, S]``.
            image_tokens: ``[T, 256, D]``, projected ones of the same tiles.

        Returns:
            ``[T, N, D]``.

        Raises:
            ValueError: another number of image tiles than of mask tiles.
        """
        shape = None if image_tokens is None else tuple(image_tokens.shape)
        if image_tokens is None or len(image_tokens) != len(tiles):
            raise ValueError(
                f"image_tokens: must be those of the {len(tiles)} mask tiles, got {shape}"
            )
        planes = tiles[:, None].to(image_tokens.dtype)
        patches = self.mask_encoder(planes).flatten(2).transpose(1, 2)
        cells = space_to_depth(
            patches, self.grid_size, side=self.side, column_major=self.column_major
        )
        maps = (self.mask_linear(cells), image_tokens)
        both = torch.cat([x.transpose(1, 2).unflatten(2, (_MAP, _MAP)) for x in maps], dim=1)
        tokens: Tensor = self.concat_mask_linear(self.concat_mask_encoder(both).flatten(2))
        return tokens


def init_mask_encoder(encoder: nn.Module, seed: int) -> None:
    """The published first values: normal with a deviation of sqrt(2 / (fan_in + fan_out)).

    ``fan_out`` of a convolution is its number of channels, without the size of the kernel; biases
    are 0, norms as usual.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in, fan_out = module.weight[0].numel(), module.weight.shape[0]
            deviation = math.sqrt(2 / (fan_in + fan_out))
            value = torch.empty(module.weight.shape).normal_(0, deviation, generator=generator)
            with torch.no_grad():
                module.weight.copy_(value)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
