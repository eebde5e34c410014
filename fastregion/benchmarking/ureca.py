"""URECA's way from a picture with regions to text, beside the published one.

Full width of URECA-1B (tower 1024, decoder 896, masks of 12544 positions), one layer of the tower
and one of the decoder, random weights, float32, a small vocabulary. Of a picture with six tiles and
a thumbnail, 1,792 of some 2,100 tokens of a prompt are the picture's, which are the same for all
regions: the floor is one picture, and the rest of each prompt.

Peer: "published" is the released way in plain torch: every region goes alone, with all tiles of the
picture through the tower, and its whole prompt through transformers' ``generate``.
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
from fastregion.language import Tokenizer, generate
from fastregion.models.request import RegionRequest
from fastregion.models.ureca import UrecaCaptioner, UrecaConfig
from fastregion.models.ureca.captioner import UrecaBatch
from fastregion.models.ureca.processing import normalise
from fastregion.models.ureca.prompts import SPECIAL_TOKENS
from fastregion.regions import Region

_NEW_TOKENS = 8
_TOWER_LAYERS, _DECODER_LAYERS = 1, 1
# Pictures (height, width) by the number of their tiles, the thumbnail counted.
_SIZES = {1: (448, 448), 7: (600, 900)}


def ureca_tokenizer(*, bos: bool = False) -> Tokenizer:
    """Bytes, and URECA's special tokens; with ``bos`` a text begins with ``<s>``."""
    return byte_tokenizer(["<unk>", "<s>", *SPECIAL_TOKENS], "<s>" if bos else None)


@lru_cache(maxsize=1)
def _captioner() -> UrecaCaptioner:
    tokenizer = ureca_tokenizer()
    values = UrecaConfig.ureca_1b().to_dict()
    values["vision_config"]["num_hidden_layers"] = _TOWER_LAYERS
    values["llm_config"] |= {"num_hidden_layers": _DECODER_LAYERS, "vocab_size": len(tokenizer)}
    captioner = UrecaCaptioner(UrecaConfig.from_dict(values), tokenizer, max_num=6)
    captioner.model.init_weights()
    return captioner


def _request(num_regions: int, num_tiles: int) -> RegionRequest:
    """Ellipses all over the picture."""
    height, width = _SIZES[num_tiles]
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    regions = []
    for cx, cy in rng.uniform(0.1, 0.9, (num_regions, 2)):
        inside = ((x / width - cx) / 0.12) ** 2 + ((y / height - cy) / 0.1) ** 2 < 1
        regions.append(Region.from_mask(inside))
    return RegionRequest(image, tuple(regions))


def _published_image_tokens(model: Any, tiles: Tensor) -> Tensor:
    """Image tokens ``[T, P, D]`` of all tiles, from plain layers."""
    tower = model.vision_model
    x = tower.embeddings.patch_embedding(normalise(tiles)).flatten(2).transpose(1, 2)
    first = tower.embeddings.class_embedding.expand(len(x), -1, -1)
    x = torch.cat((first, x), dim=1) + tower.embeddings.position_embedding
    for block in tower.encoder.layers:
        attention, mlp = block.attn, block.mlp
        qkv = F.linear(block.norm1(x), attention.qkv.weight, attention.qkv.bias)
        q, k, v = qkv.view(*x.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + block.ls1 * F.linear(out, attention.proj.weight, attention.proj.bias)
        inner = F.gelu(F.linear(block.norm2(x), mlp.fc1.weight, mlp.fc1.bias))
        x = x + block.ls2 * F.linear(inner, mlp.fc2.weight, mlp.fc2.bias)
    norm, first_layer, gelu, second = model.mlp1
    side = model.config.patch_grid
    cells = x[:, 1:].view(len(x), side // 2, 2, side // 2, 2, -1).permute(0, 1, 3, 2, 4, 5)
    cells = cells.reshape(len(x), (side // 2) ** 2, -1)
    inner = gelu(F.linear(norm(cells), first_layer.weight, first_layer.bias))
    return F.linear(inner, second.weight, second.bias)


def _published_mask_tokens(model: Any, masks: Tensor) -> Tensor:
    planes = model.mask_tokens.mask_encoder(masks[:, None].float()).flatten(2)
    linear = model.mask_tokens.mask_linear
    return F.linear(planes, linear.weight, linear.bias)


def _published_answers(
    captioner: UrecaCaptioner, batch: UrecaBatch, new_tokens: int, image_tokens: Tensor | None
) -> list[list[int]]:
    """Tokens of each region's answer, one region after the other."""
    model: Any = captioner.model
    answers = []
    for prompt in batch.prompts:
        seen = image_tokens
        if seen is None:
            seen = _published_image_tokens(model, batch.tiles)
        masks = _published_mask_tokens(model, batch.masks[list(prompt.masks)])
        ids = torch.tensor(prompt.input_ids)
        embeddings = model.language_model.get_input_embeddings()(ids)
        embeddings[ids == model.image_id] = seen.flatten(0, 1)
        embeddings[ids == model.mask_id] = masks.flatten(0, 1)
        answers.append(published_answer(model.language_model, embeddings, new_tokens))
    return answers


def _make_vision(num_regions: int, num_tiles: int, device: torch.device) -> Ways:
    captioner = _captioner()
    batch = captioner.process(_request(num_regions, num_tiles))
    model: Any = captioner.model

    @torch.inference_mode()
    def ours() -> list[Tensor]:
        return [model.embed_tiles(batch.tiles)] * num_regions  # one for all

    @torch.inference_mode()
    def published() -> list[Tensor]:
        return [_published_image_tokens(model, batch.tiles) for _ in batch.prompts]

    return Ways(
        ours=ours,
        peers={"published": published},
        bytes=sum(
            p.numel() * p.element_size()
            for part in (model.vision_model, model.mlp1)
            for p in part.parameters()
        ),
        tolerance=1e-5,
    )


def _make_prefill(num_regions: int, num_tiles: int, device: torch.device) -> Ways:
    """From image tokens to the first token of every answer."""
    captioner = _captioner()
    batch = captioner.process(_request(num_regions, num_tiles))
    with torch.inference_mode():
        image_tokens = _published_image_tokens(captioner.model, batch.tiles)

    @torch.inference_mode()
    def ours() -> list[list[int]]:
        batch.kept.clear()
        batch.kept["image_tokens"] = image_tokens
        prompts: Any = captioner.encode(batch)
        found = generate(captioner.decoder, max_new_tokens=1, eos_token_ids=(), **vars(prompts))
        return [one.token_ids for one in found]

    @torch.inference_mode()
    def published() -> list[list[int]]:
        return _published_answers(captioner, batch, 1, image_tokens)

    return Ways(
        ours=ours, peers={"published": published}, bytes=_bytes(captioner.model.language_model)
    )


def _make_answers(num_regions: int, num_tiles: int, device: torch.device) -> Ways:
    captioner = _captioner()
    request = _request(num_regions, num_tiles)
    batch = captioner.process(request)

    def ours() -> list[list[int]]:
        found = captioner.describe(
            request.image,
            list(request.regions),
            max_new_tokens=_NEW_TOKENS,
            return_details=True,
        )
        return [list(one.token_ids) for one in found]

    @torch.inference_mode()
    def published() -> list[list[int]]:
        return _published_answers(captioner, batch, _NEW_TOKENS, None)

    return Ways(ours=ours, peers={"published": published}, bytes=_bytes(captioner.model))


def _bytes(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


CASES = (
    Case(
        operator="URECA vision",
        shape=f"32 regions, 1 tile of 448 x 448, {_TOWER_LAYERS} layer",
        dtype="float32",
        make=partial(_make_vision, 32, 1),
        devices=("cpu",),
    ),
    Case(
        operator="URECA prefill",
        shape=f"32 regions, 7 tiles, {_DECODER_LAYERS} layer, first token",
        dtype="float32",
        make=partial(_make_prefill, 32, 7),
        devices=("cpu",),
    ),
    Case(
        operator="URECA describe",
        shape=f"32 regions, 1 tile, {_NEW_TOKENS} tokens",
        dtype="float32",
        make=partial(_make_answers, 32, 1),
        devices=("cpu",),
    ),
)
