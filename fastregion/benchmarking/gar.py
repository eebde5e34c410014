"""GAR's way from a picture with regions to text, beside the published one.

Full width of GAR-1B (tower 1024, decoder 2048), one layer of each, random weights, float32, a small
vocabulary; tiles of 224 x 224 instead of 448 x 448, so that it does not take minutes. A tower layer
takes 7 GFLOP a tile, a decoder layer 100 GFLOP for a prompt: nothing here waits for memory, so the
floor is the number of tiles and tokens that have to be looked at.

Peer: "published" is the released way in plain torch: every region goes alone, all its tiles through
the tower, its whole prompt through transformers' ``generate``.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastregion.benchmarking.captioning import byte_tokenizer, published_answer
from fastregion.benchmarking.measure import Case, Ways
from fastregion.language import Tokenizer
from fastregion.models.gar import GarCaptioner, GarConfig
from fastregion.models.gar.batch import GarBatch
from fastregion.models.gar.processing import ProcessorConfig, normalise
from fastregion.models.gar.prompts import crop_token, region_name
from fastregion.models.request import RegionRequest
from fastregion.regions import Region

_NEW_TOKENS = 8
_TILE = 224
_SIZES = {4: (224, 224), 16: (384, 384)}  # pictures that get 2 x 2 and 4 x 4 tiles
_CENTRES = (
    (0.12, 0.15), (0.84, 0.11), (0.13, 0.86), (0.88, 0.88),
    (0.38, 0.37), (0.62, 0.13), (0.14, 0.62), (0.64, 0.63),
)  # fmt: skip


def gar_tokenizer() -> Tokenizer:
    """Bytes, and GAR's special tokens for 16 frames and 5 regions."""
    turns = ("begin_of_text", "start_header_id", "end_header_id", "eot_id")
    bos, *special = (f"<|{name}|>" for name in (*turns, "image", "video"))
    special += [*map(crop_token, range(16)), *map(region_name, range(5))]
    return byte_tokenizer([bos, *special], bos)


@lru_cache(maxsize=1)
def _captioner(max_num_tiles: int) -> GarCaptioner:
    tokenizer = gar_tokenizer()
    values = GarConfig.gar_1b(replay="released").to_dict()
    values["crop_tokens_ids"] = [tokenizer.token_id(crop_token(k)) for k in range(5)]
    base = values["mllm_config"]
    base["image_token_id"] = tokenizer.token_id("<|image|>")
    base["video_token_id"] = tokenizer.token_id("<|video|>")
    base["vision_config"]["model_args"] |= {
        "depth": 1,
        "img_size": [_TILE, _TILE],
        "ref_feat_shape": [_TILE // 14, _TILE // 14],
    }
    base["text_config"] |= {"num_hidden_layers": 1, "vocab_size": len(tokenizer)}
    processor = ProcessorConfig(tile_size=_TILE, max_num_tiles=max_num_tiles)
    captioner = GarCaptioner(GarConfig.from_dict(values), tokenizer, processor)
    captioner.model.init_weights()
    torch.nn.init.normal_(captioner.model.mask_patch_embedding.weight, std=0.02)
    return captioner


def _request(max_num_tiles: int, **options: Any) -> RegionRequest:
    """Eight ellipses of 2 % of the picture, most of them inside of one tile."""
    height, width = _SIZES[max_num_tiles]
    y, x = np.mgrid[:height, :width]
    y, x = y / height, x / width
    masks = [((x - cx) / 0.09) ** 2 + ((y - cy) / 0.07) ** 2 < 1 for cx, cy in _CENTRES]
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return RegionRequest(image, tuple(Region.from_mask(mask) for mask in masks), **options)


def _published_tiles(captioner: GarCaptioner, batch: GarBatch) -> list[Tensor]:
    """Features of each region's tiles, from plain layers on all of its tiles."""
    model: Any = captioner.model
    tower = model.vision_tower
    pixels = normalise(batch.tiles)
    masks = batch.masks.unpack()
    config = tower.config
    frequencies = 10000 ** (-torch.arange(config.head_dim // 4) / (config.head_dim // 4))
    side = config.grid[0]
    place = torch.arange(float(side)) + config.grid_offset
    row, column = torch.meshgrid(place, place, indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * frequencies for axis in (column, row)], dim=1)
    cosine, sine = angles.cos().repeat_interleave(2, 1), angles.sin().repeat_interleave(2, 1)

    def turned(x: Tensor) -> Tensor:
        patches = x[:, :, 1:]
        pairs = torch.stack((-patches[..., 1::2], patches[..., ::2]), -1).flatten(-2)
        return torch.cat((x[:, :, :1], patches * cosine + pairs * sine), dim=2)

    found = []
    for prompt in batch.prompts:
        planes = masks[list(prompt.tiles)][:, None].expand(-1, 3, -1, -1).float()
        added = F.conv2d(planes, model.mask_patch_embedding.weight, stride=config.patch_size)
        x = (tower.patch_embed.proj(pixels) + added).flatten(2).transpose(1, 2)
        x = torch.cat((tower.cls_token.expand(len(x), -1, -1), x), dim=1) + tower.pos_embed
        x = tower.norm_pre(x)
        for block in tower.blocks:
            attention = block.attn
            qkv = attention.qkv(block.norm1(x)).view(*x.shape[:2], 3, config.num_heads, -1)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(turned(q), turned(k), v)
            x = x + block.gamma_1 * attention.proj(out.transpose(1, 2).flatten(2))
            x = x + block.gamma_2 * block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
        tokens = model.projector.linear_2(F.gelu(model.projector.linear_1(x[:, 1:])))
        square = tokens.transpose(1, 2).unflatten(2, (side, side))
        found.append(F.adaptive_avg_pool2d(square, side // 2).flatten(2).transpose(1, 2))
    return found


def _published_answers(
    captioner: GarCaptioner, batch: GarBatch, new_tokens: int
) -> list[list[int]]:
    """Tokens of each region's answer, one region after the other."""
    model, config = captioner.model, captioner.config
    decoder: Any = model.decoder
    answers = []
    for k, (prompt, features) in enumerate(
        zip(batch.prompts, _published_tiles(captioner, batch), strict=True)
    ):
        ids = torch.tensor(prompt.input_ids)
        embeddings = decoder.get_input_embeddings()(ids)
        embeddings[ids == config.mllm_config.image_token_id] = features.flatten(0, 1)
        replayed = model.replay(features[1:], batch.grids[k][1], batch.boxes[k : k + 1])
        embeddings[ids == next(iter(prompt.regions))] = replayed[0]
        answers.append(published_answer(decoder, embeddings, new_tokens))
    return answers


def _make_vision(max_num_tiles: int, device: torch.device) -> Ways:
    captioner = _captioner(max_num_tiles)
    request = _request(max_num_tiles)
    batch = captioner.process(request)

    @torch.inference_mode()
    def ours() -> Any:
        batch.kept.clear()
        return captioner.encode(batch)

    @torch.inference_mode()
    def published() -> list[Tensor]:
        return _published_tiles(captioner, batch)

    def image_tokens(result: Any) -> Tensor:
        if isinstance(result, list):
            return torch.cat([features.flatten(0, 1) for features in result])
        ids = torch.cat([torch.tensor(prompt.input_ids) for prompt in batch.prompts])
        tokens: Tensor = result.embeddings[ids == captioner.config.mllm_config.image_token_id]
        return tokens

    return Ways(
        ours=ours,
        peers={"published": published},
        bytes=8 * (max_num_tiles + 1) * captioner.config.tokens_per_tile * 2048 * 4,
        tolerance=1e-5,
        comparable=image_tokens,
    )


def _make_answers(num_regions: int, share: bool, new_tokens: int, device: torch.device) -> Ways:
    captioner = _captioner(4)
    whole = _request(4)
    regions = list(whole.regions[:num_regions])
    batch = captioner.process(RegionRequest(whole.image, tuple(regions)))

    def ours() -> list[list[int]]:
        found = captioner.describe(
            whole.image,
            regions,
            max_new_tokens=new_tokens,
            return_details=True,
            share="prompts" if share else None,
        )
        return [list(one.token_ids) for one in found]

    @torch.inference_mode()
    def published() -> list[list[int]]:
        return _published_answers(captioner, batch, new_tokens)

    return Ways(
        ours=ours,
        peers={"published": published},
        bytes=sum(p.numel() * p.element_size() for p in captioner.model.parameters()),
        # Shared images give other answers: each region's is there, that is all that is equal.
        comparable=len if share else lambda result: result,
    )


CASES = (
    *(
        Case(
            operator="GAR vision",
            shape=f"8 regions, {side} x {side} tiles and thumbnail",
            dtype="float32",
            make=partial(_make_vision, side**2),
            devices=("cpu",),
        )
        for side in (2, 4)
    ),
    *(
        Case(
            operator="GAR describe",
            shape=f"{count} region{'s' * (count > 1)}, 2 x 2 tiles, "
            + ("first token" if new_tokens == 1 else f"{new_tokens} tokens")
            + (", shared prompts" if share else ""),
            dtype="float32",
            make=partial(_make_answers, count, share, new_tokens),
            devices=("cpu",),
        )
        for count, share, new_tokens in (
            (1, False, 1),
            (1, False, _NEW_TOKENS),
            (8, False, _NEW_TOKENS),
            (8, True, _NEW_TOKENS),
        )
    ),
)
