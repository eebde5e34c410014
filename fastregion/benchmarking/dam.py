"""DAM's way from a picture with regions to text, beside the published one.

Full width of DAM-3B (tower 1152 with heads of 72, decoder 2560), random weights, float32, a small
vocabulary, reduced depth: a tower and adapters of three layers, of which features need two, and one
layer of the decoder. A tower layer takes 25 GFLOP for the 729 tokens of a view, an adapter as much,
the decoder's layer 65 GFLOP for a prompt of 407 tokens: the floor is arithmetic. Every byte is a
token here, so that the text in front of the image, which is read once for all regions, is a larger
part of a prompt than with the published vocabulary.

Peers: "published" is the released way in plain torch: every region goes alone, attention writes its
scores to memory, the last layer and adapter are computed and dropped, its prompt goes through
transformers' ``generate``. "needed" is the same without that last layer: at the depth here it is a
third of the tower, at the full one 4 %, so this is the peer to judge by.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.benchmarking.captioning import byte_tokenizer, published_answer
from fastregion.benchmarking.measure import Case, Ways
from fastregion.language import Tokenizer
from fastregion.models.dam import DamCaptioner, DamConfig
from fastregion.models.dam.captioner import DamBatch
from fastregion.models.dam.processing import normalise
from fastregion.models.dam.prompts import IMAGE_TOKEN_ID
from fastregion.models.request import RegionRequest
from fastregion.regions import Region

_NEW_TOKENS = 8
_LAYERS = 3
_SIZE = (480, 640)


def dam_tokenizer() -> Tokenizer:
    """Bytes, and Llama's three special tokens."""
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return byte_tokenizer(["<unk>", "<s>", "</s>"], "<s>", names)


@lru_cache(maxsize=1)
def _captioner() -> DamCaptioner:
    tokenizer = dam_tokenizer()
    values = DamConfig.dam_3b().to_dict()
    values["llm_cfg"] |= {"num_hidden_layers": 1, "vocab_size": len(tokenizer)}
    for part in ("vision_tower_cfg", "context_provider_cfg"):
        values[part]["num_hidden_layers"] = _LAYERS
    captioner = DamCaptioner(DamConfig.from_dict(values), tokenizer)
    captioner.model.init_weights()
    with torch.no_grad():
        for block in captioner.model.context_provider.blocks:
            block.attn_factor.fill_(0.5)
            block.mlp_factor.fill_(0.5)
        mask = captioner.model.vision_tower.vision_model.embeddings.mask_patch_embedding
        nn.init.normal_(mask.weight, std=0.02)
    return captioner


@lru_cache(maxsize=4)
def _request(num_regions: int) -> RegionRequest:
    """Ellipses all over the picture."""
    height, width = _SIZE
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    regions = []
    for cx, cy in rng.uniform(0.1, 0.9, (num_regions, 2)):
        inside = ((x / width - cx) / 0.09) ** 2 + ((y / height - cy) / 0.07) ** 2 < 1
        regions.append(Region.from_mask(inside))
    return RegionRequest(image, tuple(regions))


def _eager_attention(module: Any, x: Tensor, z: Tensor) -> Tensor:
    heads = module.num_heads
    q, k, v = (
        F.linear(source, layer.weight, layer.bias)
        .view(len(source), -1, heads, layer.out_features // heads)
        .transpose(1, 2)
        for layer, source in ((module.q_proj, x), (module.k_proj, z), (module.v_proj, z))
    )
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return F.linear(out, module.out_proj.weight, module.out_proj.bias)


def _mlp(module: Any, x: Tensor) -> Tensor:
    inner = F.gelu(F.linear(x, module.fc1.weight, module.fc1.bias), approximate="tanh")
    return F.linear(inner, module.fc2.weight, module.fc2.bias)


def _published_view(model: Any, view: Tensor, context: Tensor | None, num_layers: int) -> Tensor:
    """Features of one view ``[1, 4, S, S]``, float; layers past those needed are dropped."""
    tower = model.vision_tower.vision_model
    x = tower.embeddings.patch_embedding(view[:, :3])
    x = (x + tower.embeddings.mask_patch_embedding(view[:, 3:])).flatten(2).transpose(1, 2)
    x = x + tower.embeddings.position_embedding.weight
    needed: Tensor = x
    for index in range(num_layers):
        layer = tower.encoder.layers[index]
        normed = layer.layer_norm1(x)
        x = x + _eager_attention(layer.self_attn, normed, normed)
        x = x + _mlp(layer.mlp, layer.layer_norm2(x))
        if context is not None:
            block = model.context_provider.blocks[index]
            x = x + block.attn_factor * _eager_attention(
                block.cross_attn, block.layer_norm1(x), context
            )
            x = x + block.mlp_factor * _mlp(block.mlp, block.layer_norm2(x))
        if index + 1 == model.config.num_feature_layers:
            needed = x
    return needed


def _published_tokens(model: Any, batch: DamBatch, num_layers: int) -> list[Tensor]:
    """Image tokens of each region, one after the other."""
    found = []
    for index in range(len(batch.views)):
        pixels = normalise(batch.views[index : index + 1])
        z = _published_view(model, pixels[:, :4], None, num_layers)
        features = _published_view(model, pixels[:, 4:], z, num_layers)
        downsample, norm, first, gelu, second = model.mm_projector.layers
        tokens = F.linear(norm(downsample(features)), first.weight, first.bias)
        found.append(F.linear(gelu(tokens), second.weight, second.bias)[0])
    return found


def _published_answers(model: Any, batch: DamBatch, num_layers: int) -> list[list[int]]:
    answers = []
    image_tokens = _published_tokens(model, batch, num_layers)
    for prompt, tokens in zip(batch.prompts, image_tokens, strict=True):
        ids = list(prompt.input_ids)
        place = ids.index(IMAGE_TOKEN_ID)
        embed = model.llm.get_input_embeddings()
        embeddings = torch.cat(
            [embed(torch.tensor(ids[:place])), tokens, embed(torch.tensor(ids[place + 1 :]))]
        )
        answers.append(published_answer(model.llm, embeddings, _NEW_TOKENS))
    return answers


def _peers(published: Callable[[int], Any]) -> dict[str, Callable[[], Any]]:
    return {"published": partial(published, _LAYERS), "needed": partial(published, _LAYERS - 1)}


def _make_vision(device: torch.device) -> Ways:
    captioner = _captioner()
    batch = captioner.process(_request(1))

    @torch.inference_mode()
    def ours() -> Tensor:
        return captioner.model.embed_frames(batch.views)

    @torch.inference_mode()
    def published(num_layers: int) -> Tensor:
        return torch.stack(_published_tokens(captioner.model, batch, num_layers))

    return Ways(
        ours=ours,
        peers=_peers(published),
        bytes=sum(
            p.numel() * p.element_size()
            for part in (captioner.model.vision_tower, captioner.model.context_provider)
            for p in part.parameters()
        ),
        tolerance=1e-5,
    )


def _make_answers(num_regions: int, device: torch.device) -> Ways:
    captioner = _captioner()
    request = _request(num_regions)

    def ours() -> list[list[int]]:
        found = captioner.describe(
            request.image, list(request.regions), max_new_tokens=_NEW_TOKENS, return_details=True
        )
        return [list(one.token_ids) for one in found]

    @torch.inference_mode()
    def published(num_layers: int) -> list[list[int]]:
        request.kept.clear()
        return _published_answers(captioner.model, captioner.process(request), num_layers)

    return Ways(
        ours=ours,
        peers=_peers(published),
        bytes=sum(p.numel() * p.element_size() for p in captioner.model.parameters()),
    )


CASES = (
    Case(
        operator="DAM vision",
        shape=f"1 region, 2 views of 384 x 384, {_LAYERS - 1} layers",
        dtype="float32",
        make=_make_vision,
        devices=("cpu",),
    ),
    *(
        Case(
            operator="DAM describe",
            shape=f"{count} regions, {_NEW_TOKENS} tokens",
            dtype="float32",
            make=partial(_make_answers, count),
            devices=("cpu",),
        )
        for count in (8, 32)
    ),
)
