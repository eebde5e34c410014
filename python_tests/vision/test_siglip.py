"""The SigLIP tower against that of transformers, and what is added to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastregion._torchvision_guard import import_transformers
from fastregion.vision.gated_cross_attention import GatedCrossAttentionBlock
from fastregion.vision.siglip import SiglipConfig, SiglipTower

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 31,  # the last seven rows and columns of pixels are not seen
    "patch_size": 8,
}


@pytest.fixture
def tower() -> SiglipTower:
    torch.manual_seed(0)
    made = SiglipTower(SiglipConfig(**SIZES)).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(2, 3, 31, 31) * 2 - 1


@torch.inference_mode()
def test_without_masks_it_is_transformers_tower(tower: SiglipTower, pixels: Tensor) -> None:
    siglip = import_transformers("models.siglip")
    theirs = siglip.SiglipVisionModel(siglip.SiglipVisionConfig(**SIZES)).eval()
    ours = tower.vision_model.state_dict()
    prefix = "vision_model." if any(k.startswith("vision") for k in theirs.state_dict()) else ""
    theirs.load_state_dict(
        {prefix + name: value for name, value in ours.items() if "mask_patch" not in name}
    )
    states = theirs(pixel_values=pixels, output_hidden_states=True).hidden_states
    for num_layers in range(4):
        found = tower(pixels, None, num_layers=num_layers)
        torch.testing.assert_close(found, states[num_layers], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_masks_are_a_convolution_of_minus_one_to_one(tower: SiglipTower, pixels: Tensor) -> None:
    masks = torch.randint(0, 256, (2, 31, 31), dtype=torch.uint8)
    masks[0] = 0  # nothing inside is -1 everywhere, and not nothing
    layer = tower.vision_model.embeddings.mask_patch_embedding
    values = (masks[:, None].float() / 255 - 0.5) / 0.5
    added = F.conv2d(values, layer.weight, layer.bias, stride=8).flatten(2).transpose(1, 2)
    plain = tower(pixels, None, num_layers=0)
    found = tower(pixels, masks, num_layers=0)
    torch.testing.assert_close(found, plain + added, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_adapters_follow_their_layers(tower: SiglipTower, pixels: Tensor) -> None:
    adapters = [
        GatedCrossAttentionBlock(hidden_size=32, intermediate_size=48, num_heads=4)
        for _ in range(3)
    ]
    for adapter in adapters:
        adapter.attn_factor.fill_(0.5)
        adapter.mlp_factor.fill_(0.5)
    z = torch.randn(2, 5, 32)
    bias = torch.zeros(2, 5)
    bias[:, 1] = -torch.inf
    x = tower(pixels, None, num_layers=0)
    for layer, adapter in zip(tower.vision_model.encoder.layers[:2], adapters, strict=False):
        x = adapter(layer(x), z, bias)
    found = tower(pixels, None, num_layers=2, adapters=adapters, context=z, key_bias=bias)
    torch.testing.assert_close(found, x)
    assert not torch.allclose(found, tower(pixels, None, num_layers=2, adapters=adapters))


def test_pictures_of_another_size(tower: SiglipTower) -> None:
    with pytest.raises(ValueError, match=r"pixel_values: must be \[B, 3, 31, 31\], got shape"):
        tower(torch.zeros(1, 3, 32, 32), None, num_layers=1)
    with pytest.raises(ValueError, match="hidden_size must be a multiple of num_attention_heads"):
        SiglipConfig(**{**SIZES, "num_attention_heads": 5})
    with pytest.raises(ValueError, match="image_size must be at least patch_size 8, got 7"):
        SiglipConfig(**{**SIZES, "image_size": 7})
