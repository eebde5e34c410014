"""A batch of GAR's prompts: what the vision tower looks at, what is replayed, and the token ids.

A look is one tile with one mask. Prompts share looks: a tile that a region does not touch looks the
same for all such regions, and goes through the vision tower once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastregion import ops
from fastregion.models.gar.modeling import PromptLayout
from fastregion.models.gar.processing import cut_masks
from fastregion.regions import Region

__all__ = ["Assembly", "GarBatch", "Look", "merge"]

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Look:
    """One tile with one mask: what the vision tower sees at a time."""

    tile: int
    mask: bytes  # the rows of the bit-packed mask; empty where no region touches the tile


@dataclass(frozen=True, kw_only=True)
class GarBatch:
    """What ``GarCaptioner.encode`` takes.

    Attributes:
        tiles: uint8 ``[T, 3, s, s]`` of a picture or of a video's frames.
        looks: U different tiles with their masks; a tile that no region touches is one for all.
        masks: the masks of the looks, ``[U, s, s]``.
        grids: for each replayed region the rows of U that its grid's tiles are, and (rows,
            columns).
        boxes: float32 ``[R, 4]``, shares of width and height.
        prompts: rows of U and R in the place of tokens.
        prefixes: beginnings that prompts share, if they do; ``prompts`` are then the rest.
        prefix_of: for each prompt, the index of its beginning.
        kept: features of looks that later batches of the same picture need again.
    """

    tiles: Tensor
    looks: tuple[Look, ...]
    masks: ops.BitMasks
    grids: tuple[tuple[tuple[int, ...], tuple[int, int]], ...]
    boxes: Tensor
    prompts: tuple[PromptLayout, ...]
    prefixes: tuple[PromptLayout, ...]
    prefix_of: tuple[int, ...]
    kept: dict[Look, Tensor]

    def to(self, device: torch.device | str) -> GarBatch:
        """Move the tensors."""
        return replace(
            self,
            tiles=self.tiles.to(device),
            masks=ops.BitMasks(self.masks.words.to(device), self.masks.width),
            boxes=self.boxes.to(device),
        )


def merge(batches: Sequence[GarBatch]) -> GarBatch:
    """Batches of several pictures as one; their prompts are whole, and nothing is kept."""
    looks: list[Look] = []
    grids: list[tuple[tuple[int, ...], tuple[int, int]]] = []
    prompts: list[PromptLayout] = []
    first_tile = 0
    for batch in batches:
        row, region = len(looks), len(grids)
        looks += [replace(look, tile=look.tile + first_tile) for look in batch.looks]
        grids += [(tuple(k + row for k in rows), grid) for rows, grid in batch.grids]
        prompts += [
            replace(
                prompt,
                tiles=[k + row for k in prompt.tiles],
                regions={token: k + region for token, k in prompt.regions.items()},
            )
            for prompt in batch.prompts
        ]
        first_tile += len(batch.tiles)
    return GarBatch(
        tiles=torch.cat([batch.tiles for batch in batches]),
        looks=tuple(looks),
        masks=ops.BitMasks(
            torch.cat([batch.masks.words for batch in batches]), batches[0].masks.width
        ),
        grids=tuple(grids),
        boxes=torch.cat([batch.boxes for batch in batches]),
        prompts=tuple(prompts),
        prefixes=(),
        prefix_of=(),
        kept={},
    )


class Assembly:
    """A batch in the making: ``look`` at regions, then ``add`` prompts about them.

    Args:
        tiles: uint8 ``[T, 3, s, s]``.
        grid: (columns, rows) of the tiles of a picture; None for the frames of a video.
        crop_ids: placeholders of regions or frames, by their number.
    """

    def __init__(
        self,
        tiles: Tensor,
        grid: tuple[int, int] | None,
        crop_ids: Sequence[int],
    ) -> None:
        self._tiles, self._grid, self._crop_ids = tiles, grid, crop_ids
        self._looks: dict[Look, int] = {}
        self._words: list[Tensor] = []
        self._rows: list[int] = []  # of the looks of the newest prompts
        self._grids: list[tuple[tuple[int, ...], tuple[int, int]]] = []
        self._boxes: list[Box] = []
        self._prompts: list[PromptLayout] = []

    @property
    def images(self) -> tuple[int, int]:
        """Images in a prompt, and tiles of each."""
        count = len(self._tiles)
        return (count, 1) if self._grid is None else (1, count)

    def look(self, regions: Sequence[Region | None]) -> None:
        """Mark regions: all of them in the picture, or one in each frame of a video."""
        given = [region.pixels() for region in regions if region is not None]
        if self._grid is None:
            nothing = np.zeros_like(given[0][0])
            bits = np.stack([nothing if r is None else r.pixels()[0] for r in regions])
        else:
            bits = np.bitwise_or.reduce([bits for bits, _ in given])[None]
        masks = ops.BitMasks(torch.from_numpy(bits.view(np.int64)), given[0][1])
        words = cut_masks(masks, self._tiles.shape[-1], self._grid).words.flatten(0, 1)
        self._rows = []
        for tile, mask in enumerate(words):
            look = Look(tile=tile, mask=mask.numpy().tobytes() if mask.any() else b"")
            if look not in self._looks:
                self._looks[look] = len(self._looks)
                self._words.append(mask)
            self._rows.append(self._looks[look])

    def add(
        self,
        input_ids: Sequence[int],
        boxes: Mapping[int, Box],
        labels: Sequence[int] | None = None,
    ) -> None:
        """A prompt behind what was looked at last.

        Args:
            input_ids: with all placeholders.
            boxes: what is replayed in it, by the number of its placeholder.
            labels: ids to learn at each place, -100 elsewhere; or None.
        """
        first, rows = len(self._grids), self._rows
        for index in boxes:
            if self._grid is None:  # a frame is a map of its own
                self._grids.append(((rows[index],), (1, 1)))
            else:
                self._grids.append((tuple(rows[1:]), (self._grid[1], self._grid[0])))
        self._boxes += boxes.values()
        self._prompts.append(
            PromptLayout(
                input_ids=input_ids,
                tiles=tuple(rows),
                regions={self._crop_ids[index]: first + k for k, index in enumerate(boxes)},
                labels=labels,
            )
        )

    def _split(self) -> tuple[list[PromptLayout], list[PromptLayout], list[int]]:
        """Prompts that look at the same tiles cut into a common beginning and the rests."""
        prefixes: list[PromptLayout] = []
        rests: list[PromptLayout] = []
        prefix_of: list[int] = []
        for tiles, group in groupby(self._prompts, key=lambda prompt: prompt.tiles):
            prompts = list(group)
            ids = prompts[0].input_ids
            placeholders = set(self._crop_ids)
            # What is replayed belongs to one region, also where a group has only one.
            length = next(
                place
                for place, column in enumerate(zip(*(p.input_ids for p in prompts), strict=False))
                if len(set(column)) > 1 or column[0] in placeholders
            )
            prefix_of += [len(prefixes)] * len(prompts)
            prefixes.append(PromptLayout(input_ids=ids[:length], tiles=tiles, regions={}))
            rests += [
                replace(prompt, input_ids=prompt.input_ids[length:], tiles=(), start=length)
                for prompt in prompts
            ]
        return rests, prefixes, prefix_of

    def finish(self, kept: dict[Any, Any], *, share: bool = False) -> GarBatch:
        """The batch.

        Args:
            kept: what lives as long as the request.
            share: prompts that look at the same shall share their beginning.
        """
        prompts, prefixes, prefix_of = self._split() if share else (self._prompts, [], [])
        return GarBatch(
            tiles=self._tiles,
            looks=tuple(self._looks),
            masks=ops.BitMasks(torch.stack(self._words), self._tiles.shape[-1]),
            grids=tuple(self._grids),
            boxes=torch.tensor(self._boxes, dtype=torch.float32).view(-1, 4),
            prompts=tuple(prompts),
            prefixes=tuple(prefixes),
            prefix_of=tuple(prefix_of),
            kept=kept.setdefault("features", {}),
        )
