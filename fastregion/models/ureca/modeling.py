"""URECA: the picture and the mask of a region as two streams into one language model.

    V = mlp1(shuffle(ViT(tiles)))                       256 image tokens a tile
    Z = mask_encoder(mask tiles)                        N mask tokens a tile
    text <img> V_1 .. V_T </img> <mask> Z_1 .. Z_T </mask> question

The tiles of a picture are a grid, row by row, and a thumbnail at the end; those of a mask are the
same. The mask does not touch the image stream: V is the same for every region, and so is all that
the decoder makes of the prompt in front of the mask tokens. (The paper's text puts the mask tokens
in front of the image tokens; in the released code they follow.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastregion.language import PackedPrompts, build_decoder
from fastregion.language.internlm2 import INTERNLM2, llama_config
from fastregion.models.training_steps import (
    init_meta_parameters,
    next_token_loss,
    pack_prompts,
    set_decoder_checkpointing,
)
from fastregion.models.ureca.config import UrecaConfig
from fastregion.models.ureca.mask_encoder import (
    ConcatMaskEncoder,
    MaskEncoder,
    init_mask_encoder,
)
from fastregion.models.ureca.processing import normalise
from fastregion.vision.intern_vit import InternVit
from fastregion.vision.pixel_shuffle_projector import PixelShuffleProjector

__all__ = ["PromptLayout", "UrecaModel"]


@dataclass(frozen=True, kw_only=True)
class PromptLayout:
    """The token ids of one prompt and what takes the place of their placeholders.

    Attributes:
        input_ids: with a placeholder for each image token and each mask token.
        image: rows of the image tokens, one for each tile, in order.
        masks: rows of the mask tokens, one for each tile of each mask, in order.
        labels: ids to learn at each place, -100 elsewhere; or None.
        start: position of the first token; that of a prompt's rest is the length of its beginning.
    """

    input_ids: Sequence[int]
    image: Sequence[int]
    masks: Sequence[int]
    labels: Sequence[int] | None = None
    start: int = 0


class UrecaModel(nn.Module):
    """Vision tower, projector, mask encoder and decoder.

    Parameters are made on the ``meta`` device: load them, or call :meth:`init_weights`.

    Args:
        config: sizes.
        image_id: placeholder of an image token.
        mask_id: placeholder of a mask token.
        dtype: floating-point type of the parameters.
    """

    def __init__(
        self,
        config: UrecaConfig,
        *,
        image_id: int,
        mask_id: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config, self.image_id, self.mask_id = config, image_id, mask_id
        source, llm = "config.json: llm_config", config.llm
        if llm["model_type"] == INTERNLM2:
            llm = llama_config(llm, source)
        # The published class never ties the head to the embeddings, whatever a file says.
        llm = {**llm, "tie_word_embeddings": False}
        self.language_model = build_decoder(llm, source=source, dtype=dtype)
        width = self.language_model.config.hidden_size
        encoder = MaskEncoder if config.arch == 3 else ConcatMaskEncoder
        with torch.device("meta"):
            self.vision_model = InternVit(config.vision).to(dtype)
            self.mlp1 = PixelShuffleProjector(
                in_size=config.vision.hidden_size,
                out_size=width,
                grid_size=config.patch_grid,
                side=config.shuffle_side,
                version=config.ps_version,
            ).to(dtype)
            self.mask_tokens = encoder(config, width).to(dtype)

    def init_weights(self, seed: int = 0) -> UrecaModel:
        """Give every parameter that lies on ``meta`` memory and random values; returns self.

        Those that have been loaded stay. Matrices are normal with a deviation of 0.02, norms and
        LayerScale have their usual first values, the mask encoder those of the published training.
        """
        untrained = any(parameter.is_meta for parameter in self.mask_tokens.parameters())
        init_meta_parameters(self, seed, {"ls": self.config.vision.initializer_factor})
        if untrained:
            init_mask_encoder(self.mask_tokens, seed)
        return self

    def embed_tiles(self, tiles: Tensor) -> Tensor:
        """Image tokens of tiles, uint8 ``[T, 3, S, S]`` to ``[T, P, D]``."""
        tower = self.vision_model
        pixels = normalise(tiles).to(tower.embeddings.position_embedding.dtype)
        features = tower(pixels, num_layers=self.config.num_feature_layers)
        tokens: Tensor = self.mlp1(features[:, 1:])
        return tokens

    def embed_masks(self, tiles: Tensor, image_tokens: Tensor | None = None) -> Tensor:
        """Mask tokens of mask tiles.

        Args:
            tiles: uint8 ``[T, S, S]``.
            image_tokens: ``[T, P, D]`` of the same tiles; only arch 2 looks at them.

        Returns:
            ``[T, N, D]``.
        """
        tokens: Tensor = self.mask_tokens(tiles, image_tokens)
        return tokens

    def pack(
        self, prompts: Sequence[PromptLayout], image_tokens: Tensor, mask_tokens: Tensor
    ) -> PackedPrompts:
        """Lay out prompts.

        Args:
            prompts: at least one.
            image_tokens: ``[I, P, D]``, those of tiles; prompts may share them.
            mask_tokens: ``[M, N, D]``, those of mask tiles.

        Returns:
            The prompts one behind the other.

        Raises:
            ValueError: a number of places that differs from that of the tokens, an id outside of
                the vocabulary, or labels for some prompts only.
        """
        table = self.language_model.get_input_embeddings().weight
        vocabulary = table.shape[0]
        per_tile, per_mask = image_tokens.shape[1], mask_tokens.shape[1]
        first_mask = vocabulary + image_tokens.shape[0] * per_tile
        rows = []
        for prompt in prompts:
            ids = np.asarray(prompt.input_ids, np.int64)
            row = ids.copy()
            strange = ids[(ids < 0) | (ids >= vocabulary)]
            if len(strange):  # a row of the features, were it read
                raise ValueError(
                    f"prompt: token ids must be 0 to {vocabulary - 1} (vocab_size), "
                    f"got {strange[0]}"
                )
            for name, token_id, base, count, wanted in (
                ("image", self.image_id, vocabulary, per_tile, prompt.image),
                ("mask", self.mask_id, first_mask, per_mask, prompt.masks),
            ):
                places = ids == token_id
                values = np.asarray(wanted, np.int64)[:, None] * count + np.arange(count)
                if places.sum() != values.size:
                    raise ValueError(
                        f"prompt: must have {values.size} places for {name} tokens, "
                        f"got {places.sum()} in its ids"
                    )
                row[places] = base + values.ravel()
            rows.append(row)
        labels = [np.asarray(p.labels, np.int64) for p in prompts if p.labels is not None]
        if len(labels) not in (0, len(prompts)):
            raise ValueError(
                f"prompts: all must have labels or none, got them for {len(labels)} "
                f"of {len(prompts)}"
            )
        sources = [table, image_tokens.flatten(0, 1), mask_tokens.flatten(0, 1)]
        return pack_prompts(sources, rows, [prompt.start for prompt in prompts], labels)

    def loss(self, prompts: PackedPrompts, visible: Tensor | None = None) -> Tensor:
        """Mean cross entropy of the labelled tokens; see :func:`next_token_loss`."""
        return next_token_loss(self.language_model, prompts, visible)

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Keep only the inputs of layers for the backward pass, and compute the rest again."""
        self.vision_model.gradient_checkpointing = on
        set_decoder_checkpointing(self.language_model, on)
