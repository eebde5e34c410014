"""The pixel decoder: a transformer encoder on the coarsest map, and a feature pyramid on all.

    e = Encoder(input_proj(res5))                       stride 32, post-norm layers
    y_32 = layer_4(e)
    y_s = layer_s(adapter_s(res_s) + up(y_2s))          strides 16, 8, 4; nearest neighbours
    mask_features = conv(y_4)

``adapter``: 1x1 convolution and group norm; ``layer``: 3x3 convolution, group norm, ReLU. Nothing
hides the padding of pictures. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.models.pix2cap.attention import Attention
from fastregion.models.pix2cap.config import Pix2CapConfig
from fastregion.models.pix2cap.positions import sine_positions
from fastregion.ops import Linear

__all__ = ["PixelDecoder", "PixelFeatures"]

_NUM_GROUPS = 32


class PixelFeatures(NamedTuple):
    """What the transformer decoder looks at.

    Attributes:
        mask_features: ``[B, mask_dim, H / 4, W / 4]``.
        maps: ``[B, conv_dim, h, w]`` at strides 32, 16 and 8.
    """

    mask_features: Tensor
    maps: tuple[Tensor, Tensor, Tensor]


class NormedConv(nn.Conv2d):
    """A convolution without bias and a group norm; the norm is the convolution's, as published."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(_NUM_GROUPS, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]`` to ``[B, D, h, w]``."""
        out: Tensor = self.norm(super().forward(x))
        return out


class EncoderLayer(nn.Module):
    """Post-norm self-attention and feed-forward."""

    def __init__(self, hidden_size: int, num_heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = Attention(hidden_size, num_heads)
        self.linear1 = Linear(hidden_size, inner)
        self.linear2 = Linear(inner, hidden_size)
        self.norm1 = nn.LayerNorm(hidden_size)
        self.norm2 = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """``[B, N, C]`` and ``[N, C]`` to ``[B, N, C]``."""
        placed = x + positions
        x = self.norm1(x + self.self_attn(placed, placed, x))
        out: Tensor = self.norm2(x + self.linear2(F.relu(self.linear1(x))))
        return out


class Encoder(nn.Module):
    """The layers, under the published name."""

    def __init__(self, config: Pix2CapConfig) -> None:
        super().__init__()
        decoder = config.decoder
        self.layers = nn.ModuleList(
            EncoderLayer(config.encoder.convs_dim, decoder.nheads, decoder.dim_feedforward)
            for _ in range(config.encoder.transformer_enc_layers)
        )


class Transformer(nn.Module):
    """The encoder, under the published name."""

    def __init__(self, config: Pix2CapConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)


class PixelDecoder(nn.Module):
    """See the module."""

    def __init__(self, config: Pix2CapConfig) -> None:
        super().__init__()
        channels, width = config.focal.channels, config.encoder.convs_dim
        self.input_proj = nn.Conv2d(channels[-1], width, kernel_size=1)
        self.transformer = Transformer(config)
        for index, in_channels in enumerate(channels[:-1], start=1):
            self.add_module(f"adapter_{index}", NormedConv(in_channels, width, 1))
        for index in range(1, len(channels) + 1):
            self.add_module(f"layer_{index}", NormedConv(width, width, 3))
        self.mask_features = nn.Conv2d(width, config.encoder.mask_dim, kernel_size=3, padding=1)

    def encode(self, res5: Tensor) -> Tensor:
        """The encoder on the coarsest map, ``[B, C, h, w]`` to ``[B, conv_dim, h, w]``."""
        x = self.input_proj(res5)
        height, width = x.shape[2:]
        positions = sine_positions(height, width, x.shape[1], x)
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.transformer.encoder.layers:
            tokens = layer(tokens, positions)
        out: Tensor = tokens.transpose(1, 2).unflatten(2, (height, width))
        return out

    def forward(self, features: Sequence[Tensor]) -> PixelFeatures:
        """Maps of the backbone, res2..res5, to what the transformer decoder looks at."""
        y = self._layer(len(features), self.encode(features[-1]))
        maps = [y]
        for index in range(len(features) - 1, 0, -1):
            adapted = self.get_submodule(f"adapter_{index}")(features[index - 1])
            y = self._layer(index, adapted + F.interpolate(y, adapted.shape[2:], mode="nearest"))
            maps.append(y)
        return PixelFeatures(self.mask_features(y), (maps[0], maps[1], maps[2]))

    def _layer(self, index: int, x: Tensor) -> Tensor:
        return F.relu(self.get_submodule(f"layer_{index}")(x))
