import pytest
import torch

from fastregion.vision.merging_vit import MergingViT, MergingViTConfig

CONFIG = MergingViTConfig(
    patch_size=4,
    patch_hidden_size=16,
    hidden_size=24,
    num_layers=2,
    num_heads=3,
    tile_sizes=(16, 32),
)


def _tower() -> MergingViT:
    torch.manual_seed(0)
    return MergingViT(CONFIG).eval()


@pytest.mark.parametrize(("size", "tokens"), [(16, 4), (32, 16)])
def test_tokens_per_tile(size: int, tokens: int) -> None:
    tiles = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8)
    mask_embedding = torch.zeros(3, (size // 4) ** 2, 16)
    assert _tower()(tiles, mask_embedding).shape == (3, tokens, 24)


def test_patches_are_row_major_and_scaled() -> None:
    tiles = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    tiles[0, 4:8, 8:12] = 255  # row 1, column 2 of the patches
    patches = _tower().patches(tiles)
    assert patches.shape == (1, 16, 48)
    assert (patches[0, 6] == 1).all()
    assert (patches[0, [k for k in range(16) if k != 6]] == -1).all()


def test_merging_keeps_neighbours_together() -> None:
    # Without attention, a change in one patch reaches only the token of its 2x2 block.
    tower = _tower()
    tower.blocks = torch.nn.ModuleList()
    tiles = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    changed = tiles.clone()
    changed[0, 12:16, 20:24] = 255 - changed[0, 12:16, 20:24]  # patch (3, 5): block (1, 2)
    none = torch.zeros(1, 64, 16)
    differs = (tower(tiles, none) != tower(changed, none)).any(dim=-1)[0]
    assert differs.nonzero().flatten().tolist() == [1 * 4 + 2]


def test_the_mask_embedding_is_added_at_its_patch() -> None:
    tower = _tower()
    tower.blocks = torch.nn.ModuleList()
    tiles = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    embedding = torch.zeros(1, 16, 16)
    embedding[0, 15] = 1.0
    differs = (tower(tiles, embedding) != tower(tiles, 0 * embedding)).any(dim=-1)[0]
    assert differs.tolist() == [False, False, False, True]


def test_configs_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size must be a multiple of num_heads"):
        MergingViTConfig(hidden_size=100, num_heads=6)
    with pytest.raises(ValueError, match=r"tile_sizes must be multiples of 2 \* patch_size = 16"):
        MergingViTConfig(tile_sizes=(72,))
