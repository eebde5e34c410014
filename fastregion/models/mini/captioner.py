"""The built-in captioner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fastregion.language import PackedPrompts, append_tokens
from fastregion.models.base import Captioner
from fastregion.models.mini.config import MiniConfig
from fastregion.models.mini.modeling import MiniModel
from fastregion.models.mini.processing import RegionTiles, TileCutter
from fastregion.models.request import RegionRequest, TooManyRegionsError

DEFAULT_INSTRUCTION = "Describe this region in detail."


def instruction_text(instruction: str) -> str:
    """An instruction as it stands between the regions and the answer."""
    return f"\n{instruction}\n"


@dataclass(frozen=True, kw_only=True)
class MiniBatch:
    """Tiles of B prompts and the instruction that they share."""

    tiles: RegionTiles
    regions_per_prompt: tuple[int, ...]
    instruction_ids: tuple[int, ...]


class MiniCaptioner(Captioner):
    """Says what can be seen of a region without knowing the thing's name.

    Colours, pattern, shape, size, place and surroundings; questions about one region and
    comparisons of up to five. It was trained on rendered scenes only.
    """

    model_type = "fastregion-mini"
    config_class = MiniConfig
    config: MiniConfig
    model: MiniModel

    def build_model(self) -> MiniModel:
        """The model with random weights."""
        return MiniModel(self.config)

    @property
    def decoder(self) -> nn.Module:
        """The Llama decoder."""
        decoder: nn.Module = self.model.decoder
        return decoder

    @property
    def eos_token_ids(self) -> Sequence[int]:
        """The end of an answer."""
        return (self.config.eos_token_id,)

    def process(self, request: RegionRequest) -> MiniBatch:
        """Cut the tiles and encode the instruction.

        Raises:
            TooManyRegionsError: A joint request about more regions than the model has names for.
        """
        most = len(self.config.region_token_ids)
        if request.joint and len(request.regions) > most:
            raise TooManyRegionsError(self.model_id, most, len(request.regions))
        masks = [region.mask for region in request.regions]
        groups = [masks] if request.joint else [[mask] for mask in masks]
        cutter = TileCutter(request.image, self.config)
        tiles = RegionTiles.concatenate([cutter.cut(group) for group in groups])
        instruction = instruction_text(request.instruction or DEFAULT_INSTRUCTION)
        return MiniBatch(
            tiles=tiles.to(self.device),
            regions_per_prompt=tuple(len(group) for group in groups),
            instruction_ids=tuple(self.tokenizer.encode(instruction)),
        )

    def encode(self, batch: MiniBatch) -> PackedPrompts:
        """One vision pass over all tiles."""
        packed = self.model.encode(batch.tiles, batch.regions_per_prompt, batch.instruction_ids)
        return PackedPrompts(packed.embeddings, packed.cu_seqlens, packed.positions)

    def append_text(self, prompts: PackedPrompts, texts: Sequence[str]) -> PackedPrompts:
        """Continue each prompt with an answer and the end token."""
        ids = [[*self.tokenizer.encode(text), self.config.eos_token_id] for text in texts]
        return append_tokens(prompts, ids, self.model.decoder.get_input_embeddings())
