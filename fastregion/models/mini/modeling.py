r"""Mini: the GAR design at a few million parameters.

One pass of a small vision tower over a thumbnail of the picture, one detail tile per region (all of
it) and one texture tile (a piece of its inside at full resolution), with the regions' masks added
to the patch embeddings; the regions' features are then replayed (RoI-Align, correctly scaled)
behind their names in the prompt of a small Llama decoder. A name also carries where its region lies
and how large it is, there and where the instruction mentions it:

    <bos> thumbnail <Prompt0> replayed tokens ... <PromptR-1> replayed tokens
    \n instruction \n answer <eos>
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastregion import ops
from fastregion._torchvision_guard import import_transformers
from fastregion.models.mini.config import MiniConfig
from fastregion.models.mini.processing import RegionTiles
from fastregion.vision.conv_vit import ConvViT

_OCTAVES = 4  # of the sines that make thresholds of a coordinate easy to read
_COORDINATES = 7  # of the geometry, the rest being contacts
GEOMETRY_FEATURES = 11 + _COORDINATES * 2 * _OCTAVES


def geometry_features(geometry: Tensor) -> Tensor:
    """Geometry ``[R, 11]`` and its coordinates' sines and cosines at four octaves: ``[R, 67]``."""
    angle = (
        geometry[:, :_COORDINATES, None]
        * torch.pi
        * 2.0 ** torch.arange(_OCTAVES, device=geometry.device, dtype=geometry.dtype)
    )
    waves = torch.cat([angle.sin(), angle.cos()], dim=-1)
    return torch.cat([geometry, waves.flatten(1)], dim=1)


def mentioned_region(token_id: int, count: int, config: MiniConfig) -> int | None:
    """Which of a prompt's ``count`` regions a token is the name of, if of any."""
    names = config.region_token_ids[:count]
    return names.index(token_id) if token_id in names else None


class MiniModel(nn.Module):
    """Vision tower with mask embedding, projector and Llama decoder."""

    def __init__(self, config: MiniConfig) -> None:
        super().__init__()
        llama = import_transformers("models.llama")
        self.config = config
        vision = config.vision
        self.vision_tower = ConvViT(vision)
        # One channel: a mask is binary. The convolution has stride = kernel = patch, as in GAR.
        self.mask_patch_embedding = nn.Parameter(
            0.05 * torch.randn(vision.patch_hidden_size, 1, vision.patch_size, vision.patch_size)
        )
        hidden = config.decoder.hidden_size
        self.geometry_embedding = nn.Linear(GEOMETRY_FEATURES, hidden, bias=False)
        nn.init.zeros_(self.geometry_embedding.weight)
        self.projector = nn.Sequential(
            nn.Linear(vision.hidden_size, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden)
        )
        self.decoder = llama.LlamaForCausalLM(
            llama.LlamaConfig(
                vocab_size=config.decoder.vocab_size,
                hidden_size=hidden,
                intermediate_size=config.decoder.intermediate_size,
                num_hidden_layers=config.decoder.num_hidden_layers,
                num_attention_heads=config.decoder.num_attention_heads,
                num_key_value_heads=config.decoder.num_key_value_heads,
                max_position_embeddings=config.decoder.max_position_embeddings,
                tie_word_embeddings=True,
                rms_norm_eps=1e-5,
                initializer_range=0.6 * hidden**-0.5,  # the usual 0.02 suits widths of thousands
                attn_implementation="sdpa",
            )
        )

    def embed_tiles(self, tiles: Tensor, masks: Tensor) -> Tensor:
        """Tiles ``[T, S, S, 3]`` with masks ``[T, S, S]`` to tokens ``[T, (S / 4p)^2, hidden]``."""
        mask_embedding = ops.mask_patch_embed(masks, self.mask_patch_embedding)
        tokens: Tensor = self.projector(self.vision_tower(tiles, mask_embedding))
        return tokens

    def replay(self, features: Tensor, boxes: Tensor, size: int) -> Tensor:
        """Replays one box per tile.

        Args:
            features: ``[R, P, hidden]`` tokens of R square tiles.
            boxes: ``[R, 4]`` (x1, y1, x2, y2) in feature cells of its own tile.
            size: Bins a side.

        Returns:
            ``[R, size * size, hidden]``.
        """
        num_tiles, num_tokens = features.shape[:2]
        side = round(num_tokens**0.5)
        # The tiles stand below each other in one grid of R rows, so that one call serves all. Kept
        # between the centres of the border cells, no sample point reads the neighbouring tile.
        boxes = boxes.clamp(0.5, side - 0.5)
        shift = torch.arange(num_tiles, device=boxes.device, dtype=boxes.dtype) * side
        boxes = boxes + shift[:, None] * boxes.new_tensor([0.0, 1.0, 0.0, 1.0])
        return ops.roi_replay(features, (num_tiles, 1), boxes, (size, size))

    def embed_details(self, tiles: RegionTiles) -> Tensor:
        """The tokens replayed from the regions' own two tiles: ``[R, n, hidden]``."""
        config = self.config
        details = self.embed_tiles(tiles.details, tiles.detail_masks)
        textures = self.embed_tiles(tiles.textures, tiles.texture_masks)
        side = config.texture_size / config.vision.stride
        whole = tiles.detail_boxes.new_tensor([0.0, 0.0, side, side]).expand(len(textures), 4)
        return torch.cat(
            [
                self.replay(details, tiles.detail_boxes, config.replay_size),
                self.replay(textures, whole, config.texture_replay_size),
            ],
            dim=1,
        )

    def embed_regions(
        self, tiles: RegionTiles, regions_per_prompt: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Runs the vision pass and replays the regions.

        Args:
            tiles: Tiles of B prompts with R regions in all.
            regions_per_prompt: How many of the R regions, in order, belong to each prompt.

        Returns:
            Thumbnail tokens ``[B, P, hidden]`` and, for each region, its name and replayed tokens
            (from its own tiles, then from the thumbnail) ``[R, 1 + n, hidden]``.
        """
        config = self.config
        thumbnails = self.embed_tiles(tiles.thumbnails, tiles.thumbnail_masks)
        device = thumbnails.device
        owner = [b for b, count in enumerate(regions_per_prompt) for _ in range(count)]
        names = [config.region_token_ids[k] for count in regions_per_prompt for k in range(count)]
        named = self.decoder.get_input_embeddings()(torch.tensor(names, device=device))
        geometry = geometry_features(tiles.geometry).to(named.dtype)
        named = named + self.geometry_embedding(geometry)
        own = thumbnails[torch.tensor(owner, device=device)]
        blocks = torch.cat(
            [
                named[:, None],
                self.embed_details(tiles),
                self.replay(own, tiles.thumbnail_boxes, config.thumbnail_replay_size),
            ],
            dim=1,
        )
        return thumbnails, blocks

    def encode(
        self,
        tiles: RegionTiles,
        regions_per_prompt: Sequence[int],
        instruction_ids: Sequence[int] = (),
    ) -> ops.PackedTokens:
        """Runs the vision pass and lays out the prompts.

        Args:
            tiles: Tiles of B prompts with R regions in all.
            regions_per_prompt: How many of the R regions, in order, belong to each prompt.
            instruction_ids: Tokens at the end of every prompt.

        Returns:
            The prompts one behind the other, each ``<bos>``, thumbnail, the regions' names and
            replayed tokens, instruction.
        """
        thumbnails, blocks = self.embed_regions(tiles, regions_per_prompt)
        return self.lay_out(thumbnails, blocks, regions_per_prompt, instruction_ids)

    def lay_out(
        self,
        thumbnails: Tensor,
        blocks: Tensor,
        regions_per_prompt: Sequence[int],
        instruction_ids: Sequence[int] = (),
    ) -> ops.PackedTokens:
        """Packs what :meth:`embed_regions` returns into prompts; see :meth:`encode`."""
        config = self.config
        image, region, name = (config.decoder.vocab_size + k for k in range(3))  # placeholders
        prompts, named, first = [], [], 0
        for count in regions_per_prompt:
            rows = [mentioned_region(token, count, config) for token in instruction_ids]
            prompts.append(
                [
                    config.bos_token_id,
                    *[image] * thumbnails.shape[1],
                    *[region] * (count * blocks.shape[1]),
                    *(
                        token if row is None else name
                        for token, row in zip(instruction_ids, rows, strict=True)
                    ),
                ]
            )
            named += [first + row for row in rows if row is not None]
            first += count
        table = self.decoder.get_input_embeddings().weight
        # Under autocast they have another dtype than the table.
        thumbnails, blocks = thumbnails.to(table.dtype), blocks.to(table.dtype)
        tokens = {image: thumbnails, region: blocks}
        if named:
            tokens[name] = blocks[named, 0]
        return ops.pack_tokens(prompts, table, tokens)
