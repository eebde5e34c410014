"""GAR: which pixels a prompt is about is told to the vision tower, and its features are replayed.

    F = projector(tower(P(tiles) + M(masks)))                   mask embedding M: a convolution
    z_r = RoI-Align(merge(F_1..F_T), box_r)                     feature replay, 16 x 16 tokens

The tiles are a thumbnail (tile 0, left out of the merged map) and a grid. In the prompt, image
tokens stand in front of the text and every region's replayed tokens behind its name. The masks of
all regions of a prompt are merged into one: the tower cannot tell regions apart, names and
replayed tokens do.

The released weights differ from the paper: their boxes are scaled by 1/28 twice, so ``z_r`` comes
from the top left corner of the map (``GarConfig.replay``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastregion import ops
from fastregion.language import PackedPrompts, build_decoder
from fastregion.models.gar.config import GarConfig
from fastregion.models.training_steps import (
    init_meta_parameters,
    next_token_loss,
    pack_prompts,
    set_decoder_checkpointing,
)
from fastregion.vision.perception_encoder import PerceptionEncoder
from fastregion.vision.pooled_projector import PooledProjector

__all__ = ["GarModel", "PromptLayout"]

# Pixels of a tile for each cell of its feature map, by which the released code divides boxes that
# are in cells already. A constant there: it does not follow the tile size.
_RELEASED_STRIDE = 28


@dataclass(frozen=True, kw_only=True)
class PromptLayout:
    """The token ids of one prompt and what takes the place of their placeholders.

    Attributes:
        input_ids: with one image placeholder for each image token and one crop placeholder for
            each replayed token.
        tiles: rows of the feature tensor whose tokens are the image tokens, in order.
        regions: by crop placeholder, the row of the replayed tokens that take its places.
        labels: ids to learn at each place, -100 elsewhere; or None.
        start: position of the first token; that of a prompt's rest is the length of its beginning.
    """

    input_ids: Sequence[int]
    tiles: Sequence[int]
    regions: Mapping[int, int]
    labels: Sequence[int] | None = None
    start: int = 0


class GarModel(nn.Module):
    """Vision tower with mask embedding, projector, replay and Llama decoder.

    Parameters are made on the ``meta`` device: load them, or call :meth:`init_weights`.

    Args:
        config: sizes.
        dtype: floating-point type of the parameters.
    """

    def __init__(self, config: GarConfig, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        base, vision = config.mllm_config, config.vision
        self.decoder = build_decoder(
            base.text_config, source="config.json: mllm_config.text_config", dtype=dtype
        )
        width = self.decoder.config.hidden_size
        with torch.device("meta"):
            self.vision_tower = PerceptionEncoder(vision).to(dtype)
            self.projector = PooledProjector(
                vision.hidden_size, width, vision.grid, base.projector_pooling_ratio
            ).to(dtype)
            # Three equal input channels: the published convolution reads an RGB id picture.
            self.mask_patch_embedding = nn.Conv2d(
                3,
                vision.hidden_size,
                kernel_size=vision.patch_size,
                stride=vision.patch_size,
                bias=False,
            ).to(dtype)

    def init_weights(self, seed: int = 0) -> GarModel:
        """Give every parameter that lies on ``meta`` memory and random values; returns self.

        Those that have been loaded stay. Matrices are normal with a deviation of 0.02; the mask
        convolution is zero, as before training; norms and LayerScale have their usual first values.
        """
        untrained = self.mask_patch_embedding.weight.is_meta
        init_meta_parameters(self, seed, {"gamma": self.config.vision.layer_scale})
        if untrained:
            nn.init.zeros_(self.mask_patch_embedding.weight)
        self.decoder.tie_weights()
        return self

    def embed_tiles(self, pixel_values: Tensor, masks: Tensor | ops.BitMasks | None) -> Tensor:
        """Image tokens of tiles.

        Args:
            pixel_values: ``[T, 3, s, s]`` in -1..1.
            masks: ``[T, s, s]`` binary, the union of the regions; None adds no mask embedding.

        Returns:
            ``[T, P, D]`` with P tokens a tile, row-major.
        """
        tower = self.vision_tower
        dtype = tower.pos_embed.dtype  # under autocast a convolution gives another one
        patches = tower.patch_embed(pixel_values.to(dtype)).to(dtype).contiguous()
        if masks is not None and torch.is_grad_enabled():
            weight = self.mask_patch_embedding.weight
            patches = ops.mask_patch_embed(masks, weight, add_to=patches)
        elif masks is not None:
            ops.mask_patch_embed_(patches, masks, self.mask_patch_embedding.weight)
        tokens: Tensor = self.projector(tower.patch_tokens(tower.encode(patches)))
        return tokens

    def replay(self, features: Tensor, grid: tuple[int, int], boxes: Tensor) -> Tensor:
        """Replay regions.

        Args:
            features: ``[rows * columns, P, D]`` tokens of the grid's tiles, thumbnail left out.
            grid: (rows, columns) of tiles.
            boxes: ``[R, 4]`` as (x1, y1, x2, y2), shares of the picture's width and height.

        Returns:
            ``[R, P, D]``.
        """
        height, width = self.config.token_grid
        cells = boxes.new_tensor([grid[1] * width, grid[0] * height] * 2)
        boxes = boxes * cells
        if self.config.replay == "released":
            boxes = boxes / _RELEASED_STRIDE
        return ops.roi_replay(
            features, grid, boxes, self.config.token_grid, tile_size=self.config.token_grid
        )

    def pack(
        self, prompts: Sequence[PromptLayout], features: Tensor, replayed: Tensor
    ) -> PackedPrompts:
        """Lay out prompts, which may share image tokens.

        Args:
            prompts: at least one.
            features: ``[U, P, D]`` image tokens of tiles.
            replayed: ``[R, P, D]`` replayed tokens of regions.

        Returns:
            The prompts one behind the other.

        Raises:
            ValueError: a number of placeholders that differs from that of the tokens, an id outside
                the vocabulary, or labels for some prompts only.
        """
        table = self.decoder.get_input_embeddings().weight
        per_tile = self.config.tokens_per_tile
        tile_base = table.shape[0]
        region_base = tile_base + features.shape[0] * per_tile
        block = np.arange(per_tile)
        rows = []
        for prompt in prompts:
            ids = np.asarray(prompt.input_ids, np.int64)
            row, is_text = ids.copy(), np.ones(len(ids), bool)
            tiles = np.asarray(prompt.tiles, np.int64)[:, None] * per_tile + block
            fills = {self.config.mllm_config.image_token_id: ("image", tile_base + tiles.ravel())}
            for token_id, region in prompt.regions.items():
                replay = region_base + region * per_tile + block
                fills[token_id] = f"crop placeholder {token_id}", replay
            for token_id, (name, values) in fills.items():
                places = ids == token_id
                is_text &= ~places
                _place(row, places, values, name)
            strange = ids[is_text & ((ids < 0) | (ids >= tile_base))]
            if len(strange):  # a row of the features, were it read
                raise ValueError(
                    f"prompt: token ids must be 0 to {tile_base - 1} (vocab_size), got {strange[0]}"
                )
            rows.append(row)
        labels = [np.asarray(p.labels, np.int64) for p in prompts if p.labels is not None]
        if len(labels) not in (0, len(prompts)):
            raise ValueError(
                f"prompts: all must have labels or none, got them for {len(labels)} "
                f"of {len(prompts)}"
            )
        sources = [table, features.flatten(0, 1), replayed.flatten(0, 1)]
        return pack_prompts(sources, rows, [prompt.start for prompt in prompts], labels)

    def loss(self, prompts: PackedPrompts) -> Tensor:
        """Mean cross entropy of the labelled tokens; see :func:`next_token_loss`."""
        return next_token_loss(self.decoder, prompts)

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Keep only the inputs of layers for the backward pass, and compute the rest again."""
        self.vision_tower.gradient_checkpointing = on
        set_decoder_checkpointing(self.decoder, on)


def _place(row: np.ndarray, places: np.ndarray, values: np.ndarray, name: str) -> None:
    count = int(places.sum())
    if count != len(values):
        raise ValueError(
            f"prompt: must have {len(values)} places for {name} tokens, got {count} in its ids"
        )
    row[places] = values
