"""FocalNet with the options of X-Decoder and Pix2Cap: the image backbone (Yang et al., 2022).

Focal modulation replaces attention: each place gathers its surroundings by depthwise convolutions
that widen from level to level, and multiplies its own query with what it has gathered:

    q, ctx_0, g = f(x)                                 C, C and L + 1 channels
    ctx_l = GELU(depthwise_l(ctx_{l-1}))               kernel k_l = window + 2 (l - 1), l = 1..L
    ctx_{L+1} = GELU(mean over all places of ctx_L)
    m = (sum over l of ctx_l g_l) / (L + 1)            g_l: one number a place, no activation
    Mod(x) = proj(q * h(m))

    x <- x + gamma_1 LN_1(Mod(x)),   x <- x + gamma_2 LN_2(MLP(x))        in every block

Four stages at strides 4, 8, 16 and 32; each doubles the channels of the one before. Features stay
channels-last, ``[B, H, W, C]``, where every linear layer reads them as they are.

Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.ops import Linear
from fastregion.ops.linear import linear

__all__ = ["FocalNet", "FocalNetConfig"]

_FIRST_GAMMA = 1e-4


@dataclass(frozen=True, kw_only=True)
class FocalNetConfig:
    """Sizes of the backbone; the defaults are those of FocalNet-L.

    Attributes:
        embed_dim: channels of the first stage.
        depths: blocks of each stage.
        focal_levels: L of each stage.
        focal_windows: kernel of the first level of each stage, odd.
        patch_size: stride of the stem.
        mlp_ratio: width inside the MLPs over the channels.
        drop_path_rate: chance that training leaves out a branch of the last block; rises linearly
            from 0 in the first.
    """

    embed_dim: int = 192
    depths: tuple[int, ...] = (2, 2, 18, 2)
    focal_levels: tuple[int, ...] = (4, 4, 4, 4)
    focal_windows: tuple[int, ...] = (3, 3, 3, 3)
    patch_size: int = 4
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.3

    def __post_init__(self) -> None:
        for name in ("focal_levels", "focal_windows"):
            if len(getattr(self, name)) != len(self.depths):
                raise ValueError(
                    f"{name} must have a number for each of {len(self.depths)} stages, "
                    f"got {getattr(self, name)}"
                )
        if any(window % 2 == 0 for window in self.focal_windows):
            raise ValueError(f"focal_windows must be odd, got {self.focal_windows}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {self.drop_path_rate}")

    @property
    def channels(self) -> tuple[int, ...]:
        """C of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))


class FocalModulation(nn.Module):
    """Mod(x); see the module for the formula."""

    def __init__(self, channels: int, num_levels: int, window: int) -> None:
        super().__init__()
        self.channels, self.num_levels = channels, num_levels
        self.f = Linear(channels, 2 * channels + num_levels + 1)
        self.h = nn.Conv2d(channels, channels, kernel_size=1)
        self.proj = Linear(channels, channels)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(_depthwise(channels, window + 2 * level), nn.GELU())
            for level in range(num_levels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to the same."""
        q, context, gates = self.f(x).split([self.channels, self.channels, self.num_levels + 1], -1)
        context = context.permute(0, 3, 1, 2)  # channels stay last in memory
        gathered = torch.zeros_like(q)
        for level, layer in enumerate(self.focal_layers):
            context = layer(context)
            gathered = gathered + context.permute(0, 2, 3, 1) * gates[..., level : level + 1]
        everywhere = F.gelu(context.mean((2, 3)))[:, None, None]
        gathered = (gathered + everywhere * gates[..., self.num_levels :]) / (self.num_levels + 1)
        modulator = linear(gathered, self.h.weight.flatten(1), self.h.bias)
        out: Tensor = self.proj(q * modulator)
        return out


def _depthwise(channels: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)


class MLP(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, inner)
        self.fc2 = Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Works on the last dimension."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Modulation and MLP; the norms come behind the branches."""

    def __init__(
        self, channels: int, num_levels: int, window: int, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.modulation = FocalModulation(channels, num_levels, window)
        self.norm1 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, int(channels * mlp_ratio))
        self.norm2 = nn.LayerNorm(channels)
        self.gamma_1 = nn.Parameter(torch.full((channels,), _FIRST_GAMMA))
        self.gamma_2 = nn.Parameter(torch.full((channels,), _FIRST_GAMMA))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to the same."""
        x = x + self._drop(self.gamma_1 * self.norm1(self.modulation(x)))
        return x + self._drop(self.gamma_2 * self.norm2(self.mlp(x)))

    def _drop(self, branch: Tensor) -> Tensor:
        """In training, leave out the branch of some pictures and strengthen it in the others."""
        if not (self.training and self.drop_path):
            return branch
        kept = branch.new_empty(branch.shape[0], 1, 1, 1).bernoulli_(1 - self.drop_path)
        return branch * (kept / (1 - self.drop_path))


class ConvNorm(nn.Module):
    """A convolution with a stride, and a layer norm: the stem, and the way to the next stage."""

    def __init__(
        self, channels: int, out_channels: int, *, kernel: int, stride: int, padding: int
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, out_channels, kernel, stride=stride, padding=padding)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to ``[B, H / stride, W / stride, D]``, rounded up."""
        stride = self.proj.stride[0]
        height, width = x.shape[1:3]
        x = F.pad(x.permute(0, 3, 1, 2), (0, -width % stride, 0, -height % stride))
        out: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return out


class Stage(nn.Module):
    """Blocks at one stride, and the way to the next one."""

    def __init__(self, config: FocalNetConfig, stage: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        channels = config.channels[stage]
        self.blocks = nn.ModuleList(
            Block(
                channels,
                config.focal_levels[stage],
                config.focal_windows[stage],
                config.mlp_ratio,
                drop_path,
            )
            for drop_path in drop_paths
        )
        if stage + 1 < len(config.depths):
            self.downsample = ConvNorm(channels, 2 * channels, kernel=3, stride=2, padding=1)


class FocalNet(nn.Module):
    """Pictures to feature maps of four strides."""

    def __init__(self, config: FocalNetConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = ConvNorm(
            3, config.embed_dim, kernel=7, stride=config.patch_size, padding=2
        )
        num_blocks = sum(config.depths)
        rates = [
            config.drop_path_rate * block / max(num_blocks - 1, 1) for block in range(num_blocks)
        ]
        starts = [sum(config.depths[:stage]) for stage in range(len(config.depths))]
        self.layers = nn.ModuleList(
            Stage(config, stage, rates[start : start + depth])
            for stage, (start, depth) in enumerate(zip(starts, config.depths, strict=True))
        )
        for stage, channels in enumerate(config.channels):
            self.add_module(f"norm{stage}", nn.LayerNorm(channels))

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """Feature maps.

        Args:
            pixel_values: ``[B, 3, H, W]``, normalised.

        Returns:
            res2..res5: for stage i ``[B, C_i, H / (4 * 2**i), W / (4 * 2**i)]``, rounded up, each
            through a norm of its own; channels lie last in memory.

        Raises:
            ValueError: pictures of another shape.
        """
        if pixel_values.dim() != 4 or pixel_values.shape[1] != 3:
            raise ValueError(
                f"pixel_values: must be [B, 3, H, W], got shape {tuple(pixel_values.shape)}"
            )
        x: Tensor = self.patch_embed(pixel_values.permute(0, 2, 3, 1))
        features = []
        for index, stage in enumerate(self.layers):
            for block in stage.blocks:  # type: ignore[union-attr]
                x = block(x)
            norm = self.get_submodule(f"norm{index}")
            features.append(norm(x).permute(0, 3, 1, 2))
            if index + 1 < len(self.layers):
                x = stage.downsample(x)  # type: ignore[operator]
        return features
