import numpy as np
import torch

from fastregion.models.mini import MiniConfig
from fastregion.models.mini.config import MiniDecoderConfig
from fastregion.models.mini.modeling import MiniModel, geometry_features
from fastregion.models.mini.processing import RegionTiles, TileCutter
from fastregion.vision.conv_vit import ConvViTConfig

CONFIG = MiniConfig(
    vision=ConvViTConfig(
        patch_size=4,
        patch_hidden_size=16,
        conv_hidden_size=20,
        hidden_size=24,
        num_layers=1,
        num_heads=2,
        tile_sizes=(32, 64),
    ),
    decoder=MiniDecoderConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    ),
    thumbnail_size=32,
    detail_size=64,
    texture_size=32,
    replay_size=3,
    texture_replay_size=1,
)


def _model() -> MiniModel:
    torch.manual_seed(0)
    return MiniModel(CONFIG).eval()


def _tiles(*boxes: tuple[int, int, int, int]) -> RegionTiles:
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    masks = []
    for x0, y0, x1, y1 in boxes:
        mask = np.zeros((80, 100), bool)
        mask[y0:y1, x0:x1] = True
        masks.append(mask)
    return TileCutter(image, CONFIG).cut(masks)


def test_layout_of_a_prompt() -> None:
    model = _model()
    one, two = _tiles((5, 5, 30, 40)), _tiles((5, 5, 30, 40), (50, 20, 90, 70))
    packed = model.encode(RegionTiles.concatenate([one, two]), (1, 2), (7, 8, 9))
    # <bos>, 2 x 2 thumbnail tokens, for each region its name, 3 x 3, 1 and 2 x 2 replayed tokens,
    # and three tokens of instruction.
    assert packed.cu_seqlens.tolist() == [0, 23, 23 + 38]
    assert packed.positions.tolist() == [*range(23), *range(38)]
    embed = model.decoder.get_input_embeddings().weight
    second = packed.embeddings[23:]
    assert torch.equal(second[0], embed[CONFIG.bos_token_id])
    assert torch.equal(second[5], embed[CONFIG.region_token_ids[0]])
    assert torch.equal(second[20], embed[CONFIG.region_token_ids[1]])
    # A token that would be the name of a region, were there more of them, is a word like others.
    assert CONFIG.region_token_ids[4] == 7
    assert torch.equal(second[35:], embed[[7, 8, 9]])


def test_a_batch_gives_what_single_prompts_give() -> None:
    model = _model()
    parts = [_tiles((5, 5, 30, 40)), _tiles((50, 20, 90, 70)), _tiles((0, 0, 100, 80))]
    together = model.encode(RegionTiles.concatenate(parts), (1, 1, 1)).embeddings
    alone = torch.cat([model.encode(part, (1,)).embeddings for part in parts])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_replay_does_not_read_the_neighbouring_tile() -> None:
    features = torch.zeros(3, 16, 4)
    features[1] = 1.0
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]] * 3)
    replayed = _model().replay(features, boxes, 3)
    assert (replayed[1] == 1).all()
    assert (replayed[[0, 2]] == 0).all()


def test_a_name_carries_the_geometry() -> None:
    model = _model()
    torch.nn.init.normal_(model.geometry_embedding.weight)
    tiles = _tiles((5, 5, 30, 40))
    expected = model.decoder.get_input_embeddings().weight[CONFIG.region_token_ids[0]]
    expected = expected + model.geometry_embedding(geometry_features(tiles.geometry))[0]
    torch.testing.assert_close(model.encode(tiles, (1,)).embeddings[5], expected)


def test_a_mention_of_a_region_is_its_name() -> None:
    model = _model()
    torch.nn.init.normal_(model.geometry_embedding.weight)
    one, two = _tiles((5, 5, 30, 40)), _tiles((5, 5, 30, 40), (50, 20, 90, 70))
    zero, first = CONFIG.region_token_ids[:2]
    packed = model.encode(RegionTiles.concatenate([one, two]), (1, 2), (first, 9, zero))
    embed = model.decoder.get_input_embeddings().weight
    alone, pair = packed.embeddings[:23], packed.embeddings[23:]
    assert torch.equal(alone[20], embed[first])  # there is no second region
    assert torch.equal(alone[22], alone[5])
    assert torch.equal(pair[35], pair[20])
    assert torch.equal(pair[36], embed[9])
    assert torch.equal(pair[37], pair[5])


def test_replay_follows_the_box() -> None:
    ramp = torch.arange(4.0).repeat(4).view(1, 16, 1)  # value = column
    left = _model().replay(ramp, torch.tensor([[0.0, 0.0, 2.0, 4.0]]), 2)
    right = _model().replay(ramp, torch.tensor([[2.0, 0.0, 4.0, 4.0]]), 2)
    assert left.mean() < 1.0
    assert right.mean() > 2.0


def test_masks_and_gradients_reach_every_part() -> None:
    model = _model()
    tiles = _tiles((5, 5, 30, 40))
    prefix = model.encode(tiles, (1,)).embeddings
    prefix.square().sum().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("decoder") or "embed" in name:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    other = model.encode(_tiles((5, 5, 30, 41)), (1,)).embeddings
    assert not torch.equal(prefix[1:5], other[1:5])
