"""Configuration of the built-in captioner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fastregion.vision.conv_vit import ConvViTConfig


@dataclass(frozen=True, kw_only=True)
class MiniDecoderConfig:
    """Sizes of the Llama decoder; the names are those of transformers' ``LlamaConfig``."""

    vocab_size: int = 640
    hidden_size: int = 128
    intermediate_size: int = 384
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    max_position_embeddings: int = 1024


@dataclass(frozen=True, kw_only=True)
class MiniConfig:
    """Everything that shapes mini's weights and inputs.

    ``thumbnail_size`` and ``detail_size`` are pixels a side. The detail tile of a region is a
    square of ``detail_margin`` times the longer side of its box, at least ``min_detail`` pixels,
    centred on the box; what lies outside the image is gray. Features are replayed from a square of
    ``replay_margin`` times the longer side. The texture tile shows, at ``texture_size`` pixels a
    side, a square from the inside of the region that holds ``texture_periods`` repetitions of the
    finest pattern that counts as one: what a detail tile of a large region loses.
    ``region_token_ids`` are the tokens ``<Prompt0>``, ``<Prompt1>``, ...; there are as many as a
    prompt may have regions.
    """

    model_type: str = "fastregion-mini"
    vision: ConvViTConfig = field(default_factory=ConvViTConfig)
    decoder: MiniDecoderConfig = field(default_factory=MiniDecoderConfig)
    thumbnail_size: int = 80
    detail_size: int = 128
    detail_margin: float = 1.3
    min_detail: int = 16
    texture_size: int = 96
    texture_periods: float = 8.0
    replay_margin: float = 1.1
    replay_size: int = 6
    texture_replay_size: int = 3
    thumbnail_replay_size: int = 2
    bos_token_id: int = 1
    eos_token_id: int = 2
    region_token_ids: tuple[int, ...] = (3, 4, 5, 6, 7)

    def __post_init__(self) -> None:
        for name in ("thumbnail_size", "detail_size", "texture_size"):
            if getattr(self, name) not in self.vision.tile_sizes:
                raise ValueError(
                    f"{name} must be one of vision.tile_sizes {self.vision.tile_sizes}, "
                    f"got {getattr(self, name)}"
                )
        if not 1 <= self.replay_margin <= self.detail_margin:
            raise ValueError(
                f"replay_margin must be in [1, detail_margin = {self.detail_margin}], "
                f"got {self.replay_margin}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns the nested dictionary that ``config.json`` holds."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MiniConfig:
        """Rebuilds a configuration; an unknown key is an error."""
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"config.json: unknown key {unknown[0]!r}; known are {sorted(known)}")
        values = dict(values)
        if "region_token_ids" in values:
            values["region_token_ids"] = tuple(values["region_token_ids"])
        vision = dict(values.pop("vision", {}))
        if "tile_sizes" in vision:
            vision["tile_sizes"] = tuple(vision["tile_sizes"])
        return cls(
            vision=ConvViTConfig(**vision),
            decoder=MiniDecoderConfig(**values.pop("decoder", {})),
            **values,
        )
