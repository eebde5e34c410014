"""What GAR's prompts need but its weights: tiles of a picture, placeholders, and token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fastregion.images import RgbImage
from fastregion.language import ChatTemplate, Tokenizer
from fastregion.models.gar.batch import Assembly
from fastregion.models.gar.config import GarConfig
from fastregion.models.gar.processing import ProcessorConfig, choose_grid, cut_tiles
from fastregion.models.gar.prompts import IMAGE_TOKEN, crop_token

__all__ = ["MAX_FRAMES", "Preparation"]

MAX_FRAMES = 16  # of a video: as many as there were reserved tokens for, in training


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How pictures are cut and conversations are written, without the model.

    Attributes:
        config: sizes and placeholders.
        tokenizer: with the names and reserved tokens of regions.
        processor: how pictures are cut.
        template: how a conversation is written.
    """

    config: GarConfig
    tokenizer: Tokenizer
    processor: ProcessorConfig
    template: ChatTemplate

    def tiles(self, image: RgbImage) -> tuple[Tensor, tuple[int, int]]:
        """Tiles ``[1 + columns * rows, 3, s, s]`` of a picture, and (columns, rows)."""
        size = self.processor.tile_size
        height, width = image.shape[:2]
        grid = choose_grid(width, height, size, self.processor.max_num_tiles)
        return cut_tiles(image, size, grid), grid

    def assembly(self, tiles: Tensor, grid: tuple[int, int] | None) -> Assembly:
        """A batch to be made of tiles; ``grid`` is None for frames of a video."""
        count = max(self.config.prompt_numbers, MAX_FRAMES)
        crop_ids = [self.tokenizer.token_id(crop_token(k)) for k in range(count)]
        return Assembly(tiles, grid, crop_ids)

    def block(self, index: int) -> str:
        """The placeholders of a region or frame."""
        return crop_token(index) * self.config.tokens_per_tile

    def input_ids(
        self, turns: Sequence[tuple[str, str]], batch: Assembly, *, answered: bool = False
    ) -> list[int]:
        """Ids of a conversation behind the images of a batch, every image token in its place.

        Args:
            turns: pairs of role (``user`` or ``assistant``) and text, the first of the user.
            batch: whose images stand in front of the first text.
            answered: the last turn is the assistant's, as in training. Otherwise its beginning is
                written, and the template's BOS token is doubled by the tokenizer's, as in the
                published evaluation.

        Raises:
            ValueError: the template does not write the images.
        """
        images, tiles_per_image = batch.images
        contents = [[{"type": "text", "text": text}] for _, text in turns]
        contents[0] = [{"type": "image"}] * images + contents[0]
        messages = [
            {"role": role, "content": content}
            for (role, _), content in zip(turns, contents, strict=True)
        ]
        rendered = self.template.render(messages, add_generation_prompt=not answered)
        ids = self.tokenizer.encode(rendered, add_special_tokens=not answered)
        image_id = self.config.mllm_config.image_token_id
        if ids.count(image_id) != images:
            raise ValueError(
                f"{self.template.origin}: must write {IMAGE_TOKEN} once for each of {images} "
                f"images, got {ids.count(image_id)}"
            )
        count = tiles_per_image * self.config.tokens_per_tile
        return [i for id_ in ids for i in ([id_] * count if id_ == image_id else [id_])]
