"""SigLIP with a mask patch embedding: the vision tower of DAM, without and with context adapters.

    x_0 = P(picture) + M(mask) + e                 P, M: convolutions with stride = kernel = patch
    x <- x + Attn(LN_1(x)),   x <- x + MLP(LN_2(x))                             in every layer
    x <- Adapter_l(x, z)                           after layer l, where there is a context z

``e`` are learned positions; tokens are row-major, there is no class token. Rows and columns of
pixels past the last whole patch are not seen. Only as many layers (and adapters) are computed as
the caller asks for: DAM takes the features in front of the last layer, so its last layer, the norm
behind it and the pooling head are parameters that are stored and never used.

Parameter names are those of the published checkpoints, which are transformers'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastregion import ops
from fastregion.vision.gated_cross_attention import CrossAttention, GatedCrossAttentionBlock
from fastregion.vision.layers import MLP

__all__ = ["SiglipConfig", "SiglipTower"]

# A mask is -1 outside and 1 inside: it goes through the normalisation of pictures.
_OUTSIDE = -1.0


@dataclass(frozen=True, kw_only=True)
class SiglipConfig:
    """Sizes of the tower.

    Attributes:
        hidden_size: D, width of a token.
        intermediate_size: width inside the MLPs.
        num_hidden_layers: number of layers.
        num_attention_heads: attention heads; D is a multiple of it.
        image_size: pixels a side of a picture, at least ``patch_size``.
        patch_size: pixels a side of a patch.
        layer_norm_eps: of all layer norms.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                "hidden_size must be a multiple of num_attention_heads, "
                f"got {self.hidden_size} and {self.num_attention_heads}"
            )
        if self.image_size < self.patch_size:
            raise ValueError(
                f"image_size must be at least patch_size {self.patch_size}, got {self.image_size}"
            )

    @property
    def grid_size(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """N, tokens of a picture."""
        return self.grid_size**2


class Embeddings(nn.Module):
    """Patches of picture and mask, and positions."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.mask_patch_embedding = nn.Conv2d(1, width, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Embedding(config.num_patches, width)

    def forward(self, pixel_values: Tensor, masks: Tensor | None) -> Tensor:
        """``[B, 3, S, S]`` and uint8 levels ``[B, S, S]`` (None: no mask) to ``[B, N, D]``."""
        # Under autocast a convolution gives another dtype than that of the weights.
        patches = self.patch_embedding(pixel_values).to(self.position_embedding.weight.dtype)
        patches = patches.flatten(2).transpose(1, 2).contiguous()
        if masks is not None:
            embedding = self.mask_patch_embedding
            patches = ops.mask_patch_embed(
                masks, embedding.weight, embedding.bias, patches, outside=_OUTSIDE
            )
        placed: Tensor = patches + self.position_embedding.weight
        return placed


def _mlp(config: SiglipConfig) -> MLP:
    return MLP(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        approximate="tanh",
    )


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.self_attn = CrossAttention(hidden_size=width, num_heads=config.num_attention_heads)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = _mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, D]`` to the same."""
        normed = self.layer_norm1(x)
        x = x + self.self_attn(normed, normed)
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class Encoder(nn.Module):
    """The layers."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))


class PoolingHead(nn.Module):
    """Parameters of SigLIP's attention pooling: part of checkpoints, never computed here."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.attention = nn.MultiheadAttention(width, config.num_attention_heads, batch_first=True)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = _mlp(config)


class VisionTransformer(nn.Module):
    """What checkpoints call ``vision_model``."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = PoolingHead(config)


class SiglipTower(nn.Module):
    """The tower; see the module for the formula.

    Attributes:
        config: sizes.
        gradient_checkpointing: keep only the inputs of the layers for the backward pass and
            compute the rest again.
    """

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.vision_model = VisionTransformer(config)

    def forward(
        self,
        pixel_values: Tensor,
        masks: Tensor | None,
        *,
        num_layers: int,
        adapters: Sequence[GatedCrossAttentionBlock] = (),
        context: Tensor | None = None,
        key_bias: Tensor | None = None,
    ) -> Tensor:
        """Features of pictures.

        Args:
            pixel_values: ``[B, 3, S, S]`` normalised to -1..1, in the dtype of the weights.
            masks: uint8 ``[B, S, S]``, 0 outside to 255 inside; None leaves out the mask
                convolution, its bias included.
            num_layers: how many layers are computed.
            adapters: one for each layer at least, with a context.
            context: z, ``[B, M, D]``, what the adapters attend to; None for a pass without them.
            key_bias: ``[B, M]``, added to the adapters' scores of a key.

        Returns:
            ``[B, N, D]``, the state behind the last computed layer (and its adapter), not
            normalised.

        Raises:
            ValueError: pictures of another shape.
        """
        size = self.config.image_size
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != (3, size, size):
            raise ValueError(
                f"pixel_values: must be [B, 3, {size}, {size}], "
                f"got shape {tuple(pixel_values.shape)}"
            )
        x: Tensor = self.vision_model.embeddings(pixel_values, masks)
        for index, layer in enumerate(self.vision_model.encoder.layers[:num_layers]):
            x = self._run(layer, x)
            if context is not None:
                x = self._run(adapters[index], x, context, key_bias)
        return x

    def _run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        out: Tensor
        if self.gradient_checkpointing and torch.is_grad_enabled():
            out = checkpoint(block, *inputs, use_reentrant=False)
        else:
            out = block(*inputs)
        return out
