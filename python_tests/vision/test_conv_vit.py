import pytest
import torch

from fastregion.vision.conv_vit import ConvViT, ConvViTConfig

CONFIG = ConvViTConfig(
    patch_size=4,
    patch_hidden_size=16,
    conv_hidden_size=20,
    hidden_size=24,
    num_layers=2,
    num_heads=3,
    tile_sizes=(16, 128),
)


def _tower() -> ConvViT:
    torch.manual_seed(0)
    return ConvViT(CONFIG).eval()


@pytest.mark.parametrize(("size", "tokens"), [(16, 1), (128, 64)])
def test_tokens_per_tile(size: int, tokens: int) -> None:
    tiles = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8)
    mask_embedding = torch.zeros(3, (size // 4) ** 2, 16)
    assert _tower()(tiles, mask_embedding).shape == (3, tokens, 24)


def test_no_tiles_give_no_tokens() -> None:
    tiles = torch.zeros(0, 16, 16, 3, dtype=torch.uint8)
    assert _tower()(tiles, torch.zeros(0, 16, 16)).shape == (0, 1, 24)


def test_patches_are_row_major_and_scaled() -> None:
    tiles = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    tiles[0, 4:8, 8:12] = 255  # row 1, column 2 of the patches
    patches = _tower().patches(tiles)
    assert patches.shape == (1, 16, 48)
    assert (patches[0, 6] == 2).all()
    assert (patches[0, [k for k in range(16) if k != 6]] == -2).all()


def _reached(tower: ConvViT, changed: torch.Tensor) -> torch.Tensor:
    """Which tokens of a 128 px tile differ when the mask embedding of some patches does."""
    tiles = torch.randint(0, 256, (1, 128, 128, 3), dtype=torch.uint8)
    with torch.no_grad():
        before = tower(tiles, torch.zeros(1, 1024, 16))
        after = tower(tiles, changed)
    return (before != after).any(dim=-1)[0].view(8, 8)


def test_convolutions_see_a_neighbourhood_and_attention_the_whole_tile() -> None:
    embedding = torch.zeros(1, 32, 32, 16)
    embedding[0, 2, 30] = 1.0  # token (0, 7)
    tower = _tower()
    assert _reached(tower, embedding.view(1, 1024, 16)).all()
    tower.blocks = torch.nn.ModuleList()
    reached = _reached(tower, embedding.view(1, 1024, 16))
    assert reached[0, 7]
    assert not reached[:, :2].any()
    assert not reached[6:].any()


def test_tile_sizes_keep_statistics_of_their_own() -> None:
    tower = _tower().train()
    tiles = torch.full((2, 16, 16, 3), 255, dtype=torch.uint8)
    tower(tiles, torch.zeros(2, 16, 16))
    assert tower.patch_norms["16"].running_mean.abs().sum() > 0
    assert tower.patch_norms["128"].running_mean.abs().sum() == 0


def test_a_tile_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    tower = _tower()
    tiles = torch.randint(0, 256, (3, 128, 128, 3), dtype=torch.uint8)
    masks = torch.randn(3, 1024, 16)
    alone = torch.cat([tower(tiles[k : k + 1], masks[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(tower(tiles, masks), alone, atol=1e-5, rtol=1e-5)


def test_configs_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size must be a multiple of num_heads"):
        ConvViTConfig(hidden_size=100, num_heads=6)
    with pytest.raises(ValueError, match=r"tile_sizes must be multiples of 4 \* patch_size = 16"):
        ConvViTConfig(tile_sizes=(72,))
