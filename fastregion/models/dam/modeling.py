"""DAM: a focal prompt and a localized vision backbone.

    z = f_G(I + M)                    the whole picture and its mask, [B, N, D]
    z' = f_R(I' + M', z)              the focal crop and its mask, gated cross attention to z
    T(z')                             2 x 2 tokens to one, then the language model's width

``f_G`` and ``f_R`` are the same vision tower (paper, Eq. 4-5); after each of its layers ``f_R`` has
an adapter (Eq. 6-7) that lets the crop look at the whole picture. Only ``z'`` reaches the language
model. Features are taken in front of the tower's last layer, so that layer, the last adapter, the
final norm and the pooling head are weights without a use, and are not computed.

Where the crop is the whole picture the adapters have nothing to add: the features are then ``z``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from fastregion.language import PackedPrompts, build_decoder
from fastregion.models.dam.config import DamConfig
from fastregion.models.dam.processing import normalise
from fastregion.models.dam.prompts import IMAGE_TOKEN_ID
from fastregion.models.training_steps import (
    init_meta_parameters,
    next_token_loss,
    pack_prompts,
    set_decoder_checkpointing,
)
from fastregion.vision.downsample_projector import DownsampleProjector
from fastregion.vision.gated_cross_attention import GatedCrossAttentionBlock
from fastregion.vision.siglip import SiglipTower

__all__ = ["DamModel", "PromptLayout"]


@dataclass(frozen=True, kw_only=True)
class PromptLayout:
    """The token ids of one prompt and the frames that take the place of its image tokens.

    Attributes:
        input_ids: with one ``IMAGE_TOKEN_ID`` for each frame.
        frames: rows of the token tensor, in order.
        labels: ids to learn at each place of ``input_ids``, -100 elsewhere; or None.
        start: position of the first token; that of a prompt's rest is the length of its beginning.
    """

    input_ids: Sequence[int]
    frames: Sequence[int]
    labels: Sequence[int] | None = None
    start: int = 0


class Adapters(nn.Module):
    """The context provider: one gated cross-attention block for each layer of the tower."""

    def __init__(self, config: DamConfig) -> None:
        super().__init__()
        context, paper = config.context_provider, config.adapter_formula == "paper"
        self.layers = nn.ModuleList(
            GatedCrossAttentionBlock(
                hidden_size=context.hidden_size,
                intermediate_size=context.intermediate_size,
                num_heads=context.num_attention_heads,
                layer_norm_eps=context.layer_norm_eps,
                gate_activation="tanh" if paper else "raw",
                mlp_input="entry" if paper else "sum",
                gated=context.zero_init_output,
            )
            for _ in range(context.num_hidden_layers)
        )


class ContextProvider(nn.Module):
    """The adapters under the name that checkpoints give them."""

    def __init__(self, config: DamConfig) -> None:
        super().__init__()
        self.context_provider_module = Adapters(config)

    @property
    def blocks(self) -> Sequence[GatedCrossAttentionBlock]:
        """The adapters, by layer."""
        return cast(Sequence[GatedCrossAttentionBlock], self.context_provider_module.layers)


class DamModel(nn.Module):
    """Localized backbone, projector and Llama decoder; a submodule for each published folder.

    Parameters are made on the ``meta`` device: load them, or call :meth:`init_weights`.

    Args:
        config: sizes.
        dtype: floating-point type of the parameters.
    """

    def __init__(self, config: DamConfig, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.llm = build_decoder(config.llm, source="config.json: llm_cfg", dtype=dtype)
        with torch.device("meta"):
            self.vision_tower = SiglipTower(config.vision).to(dtype)
            self.mm_projector = DownsampleProjector(
                in_size=config.vision.hidden_size,
                out_size=self.llm.config.hidden_size,
                grid_size=config.vision.grid_size,
            ).to(dtype)
            self.context_provider = ContextProvider(config).to(dtype)

    def init_weights(self, seed: int = 0) -> DamModel:
        """Give every parameter that lies on ``meta`` memory and random values; returns self.

        Matrices are normal with a deviation of 0.02; the mask convolution and the gates are zero,
        as before training, so that the model describes its crops as the base model would; norms
        have their usual first values.
        """
        init_meta_parameters(self, seed)
        mask = self.vision_tower.vision_model.embeddings.mask_patch_embedding
        nn.init.zeros_(mask.weight)
        self.llm.tie_weights()
        return self

    def localized_features(self, views: Tensor) -> Tensor:
        """Features of frames: of the focal crop in its context, ``[F, N, D]``.

        Args:
            views: uint8 ``[F, 8, S, S]``; see ``processing.views``.
        """
        config = self.config.context_provider
        if self.training and (config.attention_dropout or config.residual_dropout):
            raise NotImplementedError(
                "context_provider_cfg: training with attention_dropout or residual_dropout is not "
                "supported; set both to 0"
            )
        full, crop = views[:, :4], views[:, 4:]
        if config.context_image_as_queries:
            full, crop = crop, full
        z = self._tower(full)  # Eq. 4
        focal = ~(full == crop).flatten(1).all(1)
        if config.treat_image_as_cimage:
            focal = torch.ones_like(focal)
        rows = focal.nonzero().squeeze(1)
        if not len(rows):
            return z
        key_bias = self._key_bias(full[rows, 3]) if config.masked_cross_attn else None
        z_focal = self._tower(crop[rows], context=z[rows], key_bias=key_bias)  # Eq. 5
        return z_focal if len(rows) == len(z) else z.index_copy(0, rows, z_focal)

    def embed_frames(self, views: Tensor) -> Tensor:
        """Image tokens of frames, uint8 ``[F, 8, S, S]`` to ``[F, T, hidden]``."""
        tokens: Tensor = self.mm_projector(self.localized_features(views))
        return tokens

    def _tower(
        self, view: Tensor, context: Tensor | None = None, key_bias: Tensor | None = None
    ) -> Tensor:
        """One pass of the tower over ``[B, 4, S, S]``."""
        tower = self.vision_tower
        dtype = tower.vision_model.embeddings.position_embedding.weight.dtype
        features: Tensor = tower(
            normalise(view[:, :3]).to(dtype),
            view[:, 3].contiguous(),
            num_layers=self.config.num_feature_layers,
            adapters=self.context_provider.blocks,
            context=context,
            key_bias=key_bias,
        )
        return features

    def _key_bias(self, masks: Tensor) -> Tensor:
        """0 for patches ``[B, N]`` that a mask ``[B, S, S]`` touches, -inf for the others."""
        patch, grid = self.config.vision.patch_size, self.config.vision.grid_size
        seen = masks[:, : grid * patch, : grid * patch]
        touched = seen.reshape(-1, grid, patch, grid, patch).amax((2, 4)).flatten(1) > 0
        dtype = self.llm.dtype
        return torch.zeros(touched.shape, dtype=dtype, device=masks.device).masked_fill(
            ~touched, -torch.inf
        )

    def pack(self, prompts: Sequence[PromptLayout], tokens: Tensor) -> PackedPrompts:
        """Lay out prompts, which may share frames.

        Args:
            prompts: at least one.
            tokens: ``[F, T, hidden]`` image tokens of frames.

        Returns:
            The prompts one behind the other.

        Raises:
            ValueError: a number of image places that differs from that of the frames.
        """
        table = self.llm.get_input_embeddings().weight
        first, per_frame = table.shape[0], tokens.shape[1]
        rows: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        for prompt in prompts:
            ids = np.asarray(prompt.input_ids, np.int64)
            places = ids == IMAGE_TOKEN_ID
            if places.sum() != len(prompt.frames):
                raise ValueError(
                    f"prompt: must have a place for each of {len(prompt.frames)} frames, "
                    f"got {places.sum()} in its ids"
                )
            counts = np.where(places, per_frame, 1)
            row = np.repeat(ids, counts)
            frames = np.asarray(prompt.frames, np.int64)[:, None]
            row[np.repeat(places, counts)] = (
                first + frames * per_frame + np.arange(per_frame)
            ).ravel()
            rows.append(row)
            if prompt.labels is not None:
                labels.append(np.repeat(np.asarray(prompt.labels, np.int64), counts))
        starts = [prompt.start for prompt in prompts]
        return pack_prompts([table, tokens.flatten(0, 1)], rows, starts, labels)

    def loss(self, prompts: PackedPrompts) -> Tensor:
        """Mean cross entropy of the labelled tokens; see :func:`next_token_loss`."""
        return next_token_loss(self.llm, prompts)

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Keep only the inputs of layers for the backward pass, and compute the rest again."""
        self.vision_tower.gradient_checkpointing = on
        set_decoder_checkpointing(self.llm, on)
