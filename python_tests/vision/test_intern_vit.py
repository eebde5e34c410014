"""InternViT and its projector against their formulas; the golden cases hold the numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastregion.vision.intern_vit import Block, InternVit, InternVitConfig
from fastregion.vision.pixel_shuffle_projector import PixelShuffleProjector
from fastregion.vision.space_to_depth import space_to_depth

CONFIG = InternVitConfig(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=3,
    image_size=32,
    patch_size=8,
)


def random(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3)


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def plain_block(block: Block, config: InternVitConfig, x: Tensor) -> Tensor:
    """The formula of the module, one operation after the other."""

    def norm(module: torch.nn.Module, x: Tensor) -> Tensor:
        if config.norm_type == "rms_norm":
            return rms(x, module.weight, config.layer_norm_eps)
        return F.layer_norm(x, x.shape[-1:], module.weight, module.bias, config.layer_norm_eps)

    qkv = F.linear(norm(block.norm1, x), block.attn.qkv.weight, block.attn.qkv.bias)
    q, k, v = qkv.chunk(3, dim=-1)
    if config.qk_normalization:
        q = rms(q, block.attn.q_norm.weight, config.layer_norm_eps)
        k = rms(k, block.attn.k_norm.weight, config.layer_norm_eps)
    q, k, v = (part.unflatten(-1, (3, 8)).transpose(1, 2) for part in (q, k, v))
    out = (q @ k.mT * 8**-0.5).softmax(-1) @ v
    x = x + block.ls1 * block.attn.proj(out.transpose(1, 2).flatten(2))
    return x + block.ls2 * block.mlp.fc2(F.gelu(block.mlp.fc1(norm(block.norm2, x))))


@pytest.mark.parametrize("norm_type", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("qk_normalization", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_block_is_its_formula(norm_type: str, qk_normalization: bool, qkv_bias: bool) -> None:
    config = replace(
        CONFIG, norm_type=norm_type, qk_normalization=qk_normalization, qkv_bias=qkv_bias
    )
    block = Block(config)
    random(block)
    x = torch.randn(2, 17, 24)
    torch.testing.assert_close(block(x), plain_block(block, config, x), rtol=1e-4, atol=1e-4)
    assert (block.attn.qkv.bias is not None) == qkv_bias


def test_only_the_asked_layers_and_checkpointing() -> None:
    tower = InternVit(CONFIG)
    random(tower)
    pixels = torch.randn(2, 3, 32, 32)
    x = tower.embeddings(pixels)
    assert torch.equal(tower(pixels, num_layers=0), x)
    torch.testing.assert_close(tower(pixels, num_layers=1), tower.encoder.layers[0](x))
    grads = []
    for tower.gradient_checkpointing in (False, True):
        tower.zero_grad()
        tower(pixels, num_layers=2).square().sum().backward()
        grads.append(tower.embeddings.class_embedding.grad.clone())
        assert tower.encoder.layers[2].ls1.grad is None
    torch.testing.assert_close(*grads)


def test_positions_are_resized_bicubically() -> None:
    tower = InternVit(CONFIG)
    random(tower)
    pixels = torch.randn(1, 3, 48, 40)
    found = tower(pixels, num_layers=0)
    assert found.shape == (1, 1 + 6 * 5, 24)
    patches = tower.embeddings.patch_embedding(pixels).flatten(2).mT
    table = tower.embeddings.position_embedding
    grid = F.interpolate(table[:, 1:].mT.unflatten(2, (4, 4)), (6, 5), mode="bicubic")
    torch.testing.assert_close(found[:, 1:] - patches, grid.flatten(2).mT)
    torch.testing.assert_close(found[:, 0], tower.embeddings.class_embedding[0] + table[:, 0])
    # Of the grid that they are made for they are the table itself.
    same = F.interpolate(table[:, 1:].mT.unflatten(2, (4, 4)), (4, 4), mode="bicubic")
    torch.testing.assert_close(same.flatten(2).mT, table[:, 1:])


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 33, 32), (1, 3, 32, 36)])
def test_tiles_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pixel_values: must be \[T, 3, H, W\] with H and W mult"):
        InternVit(CONFIG)(torch.zeros(shape), num_layers=1)


def test_drop_path_cannot_be_trained_with() -> None:
    tower = InternVit(replace(CONFIG, drop_path_rate=0.1))
    pixels = torch.zeros(1, 3, 32, 32)
    with pytest.raises(NotImplementedError, match=r"vision_config.drop_path_rate: training"):
        tower(pixels, num_layers=1)
    tower.requires_grad_(False)(pixels, num_layers=1)  # frozen, as published
    tower.requires_grad_(True).eval()(pixels, num_layers=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_attention_heads": 5}, "hidden_size must be a multiple of num_attention_heads"),
        ({"image_size": 7}, "image_size must be at least patch_size 8, got 7"),
        ({"norm_type": "none"}, "norm_type must be one of"),
    ],
)
def test_refused_configs(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **values)


@pytest.mark.parametrize(("version", "side"), [("v1", 2), ("v2", 2), ("v2", 4), ("v1", 1)])
def test_pixel_shuffle(version: str, side: int) -> None:
    size, width = 8, 3
    projector = PixelShuffleProjector(
        in_size=width, out_size=5, grid_size=size, side=side, version=version
    )
    x = torch.randn(2, size * size, width)
    f = x.view(2, size, size, width)
    found = projector.shuffle(x)
    count = size // side
    for i in range(count):
        for j in range(count):
            cell = f[:, i * side : (i + 1) * side, j * side : (j + 1) * side].reshape(2, -1)
            place = i * count + j if version == "v2" else j * count + i
            assert torch.equal(found[:, place], cell)
    y = projector[3](F.gelu(projector[1](projector[0](found))))
    torch.testing.assert_close(projector(x), y)
    with pytest.raises(ValueError, match=r"x: must be \[B, 64, D\], got shape \(2, 63, 3\)"):
        space_to_depth(x[:, 1:], size)
