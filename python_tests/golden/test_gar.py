"""GAR against numbers of the published implementation."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_cases import GoldenCase, golden_cases
from golden_gar import Official, assert_close, region_numbers
from torch import Tensor

from fastregion.language import ChatTemplate, PackedPrompts, append_tokens, generate
from fastregion.language.decoder import IncrementalDecoder
from fastregion.models.gar import GarConfig
from fastregion.models.gar.modeling import GarModel
from fastregion.models.gar.processing import (
    choose_grid,
    cut_masks,
    cut_tiles,
    normalise,
    region_box,
    region_ids,
)
from fastregion.models.gar.prompts import (
    CHAT_TEMPLATE,
    crop_token,
    named_regions,
    question_text,
    region_text,
)
from fastregion.regions import Region
from fastregion.vision.perception_encoder import PerceptionEncoder, rotary_table
from fastregion.vision.pooled_projector import PooledProjector

TOWER = "mllm.model.vision_tower.timm_model."
PROJECTOR = "mllm.model.multi_modal_projector."
FEATURES = 2e-4  # absolute tolerance up to the language model's input
LOGITS = 1e-3


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }


@golden_cases("gar", "vision_tower")
@torch.inference_mode()
def test_vision_tower(case: GoldenCase) -> None:
    config = GarConfig.from_dict(case.json("config.json"))
    weights, given = case.tensors("weights"), case.tensors("inputs")
    expected = case.tensors("outputs")
    tower = PerceptionEncoder(config.vision)
    tower.load_state_dict(part(weights, TOWER))
    linear = part(weights, PROJECTOR)
    projector = PooledProjector(
        config.vision.hidden_size,
        len(linear["linear_1.bias"]),
        config.vision.grid,
        config.mllm_config.projector_pooling_ratio,
    )
    projector.load_state_dict(linear)
    masks = given["mask_embeds"].flatten(2).transpose(1, 2)

    table = rotary_table(
        config.vision.grid,
        config.vision.reference_grid,
        config.vision.grid_offset,
        config.vision.head_dim,
        torch.device("cpu"),
    ).repeat_interleave(2, dim=1)
    assert_close(torch.cat((table.imag, table.real), 1), expected["rope"], FEATURES, "rope")

    patches = tower.patch_embed(given["pixel_values"])
    assert_close(patches[:1], expected["patch_embed"], FEATURES, "patch_embed")
    placed = tower.add_positions(patches + masks)
    assert_close(placed[:1], expected["after_pos_embed"], FEATURES, "after_pos_embed")
    assert_close(tower.norm_pre(placed)[:1], expected["norm_pre"], FEATURES, "norm_pre")

    blocks: list[Tensor] = []
    for block in tower.blocks:
        block.register_forward_hook(lambda _module, _args, output: blocks.append(output))
    last = tower(given["pixel_values"], masks)
    for index, output in enumerate(blocks):
        if f"block_{index}" in expected:
            assert_close(output[:1], expected[f"block_{index}"], FEATURES, f"block_{index}")
    assert_close(last, expected["last_hidden"], FEATURES, "last_hidden")

    projected = projector.project(tower.patch_tokens(last))
    assert_close(projected[:1], expected["projector_mlp"], FEATURES, "projector_mlp")
    features = projector(tower.patch_tokens(last))
    assert_close(features, expected["image_features"], FEATURES, "image_features")
    bare = projector(tower.patch_tokens(tower(given["pixel_values"])))
    assert_close(bare, expected["image_features_without_mask"], FEATURES, "without mask")
    with pytest.raises(AssertionError, match="image_features"):  # the mask is not without effect
        assert_close(bare, expected["image_features"], FEATURES, "image_features")


@golden_cases("gar", "preprocess")
def test_preprocessing_is_exact(case: GoldenCase) -> None:
    expected = case.tensors("outputs")
    for i, item in enumerate(case.json("inputs.json")):
        image = case.image(f"image_{i}")
        masks = [case.mask(f"mask_{i}_{j}") for j in range(len(item["prompt_ids"]))]
        size = item["tile_size"]
        grid = choose_grid(item["width"], item["height"], size, item["max_num_tiles"])
        assert list(grid) == item["grid"] == expected[f"aspect_ratio_{i}"].tolist()

        tiles = cut_tiles(image, size, grid)
        assert torch.equal(tiles, expected[f"pixel_u8_{i}"]), f"pixels of image {i}"
        if f"pixel_values_{i}" in expected:
            assert torch.equal(normalise(tiles), expected[f"pixel_values_{i}"][0])

        outside = 5
        picture = region_ids(masks, item["prompt_ids"], outside)
        assert np.array_equal(picture, expected[f"visual_prompt_{i}"].numpy())
        # Every region's tiles, and with them the id at each place.
        found = torch.full((item["tiles"], size, size), outside, dtype=torch.uint8)
        for number in item["prompt_ids"]:
            found[cut_masks((picture == number)[None], size, grid).unpack()[0]] = number
        assert torch.equal(found, expected[f"mask_ids_{i}"]), f"ids of image {i}"
        if f"global_mask_values_{i}" in expected:
            assert torch.equal(found, region_numbers(expected[f"global_mask_values_{i}"][0]))

        boxes = [region_box(Region.from_mask(mask)) for mask in masks]
        assert [list(box) for box in boxes] == item["bboxes"]

        with pytest.raises(AssertionError):  # the thumbnail stands in front
            assert torch.equal(tiles.roll(-1, 0), expected[f"pixel_u8_{i}"])
    table = case.json("grid_table.json")
    for width, height, most, columns, rows, rule in table["rows"]:
        chosen = choose_grid(width, height, table["tile_size"], most)
        assert chosen == (columns, rows), f"{width} x {height}, {most} tiles: {rule}"


@golden_cases("gar", "prompts")
def test_prompts(case: GoldenCase) -> None:
    found = case.json("prompts.json")
    special = case.json("config.json")["special_token_ids"]
    template = ChatTemplate(CHAT_TEMPLATE)
    count = 256

    def block(index: int) -> str:
        return crop_token(index) * count

    def box(mask: int) -> list[float]:
        return list(region_box(Region.from_mask(case.mask(f"mask_{mask}"))))

    for entry in found["inference"]:
        if entry["kind"] == "single_region_caption":
            (index,) = named_regions(entry["prompt_token"])
            text = region_text(index, block(index))
            boxes = {index: box(entry["mask"])}
            order, masks = [index], [entry["mask"]]
        else:
            order, masks = named_regions(entry["question"]), entry["masks"]
            text = question_text(order, [block(index) for index in order], entry["question"])
            # The published evaluation gives every region the last one's box.
            boxes = {index: box(masks[-1]) for index in order}
        content = [{"type": "image"}, {"type": "text", "text": text}]
        prompt = template.render([{"role": "user", "content": content}])
        assert hashlib.sha256(prompt.encode()).hexdigest() == entry["prompt_sha256"], prompt
        named = {str(special[crop_token(index)]): value for index, value in boxes.items()}
        assert [named] == entry["bboxes"]
        picture = region_ids([case.mask(f"mask_{mask}") for mask in masks], sorted(order), 5)
        numbers, counts = np.unique(picture, return_counts=True)
        assert dict(zip(map(str, numbers), counts, strict=True)) == entry["visual_prompt_counts"]


@golden_cases("gar", "roi_replay")
def test_replay(case: GoldenCase, gar_model: GarModel) -> None:
    given, expected = case.tensors("inputs"), case.tensors("outputs")
    for i, group in enumerate(case.json("inputs.json")):
        columns, rows = group["grid"]
        features = given[f"image_features_{i}"][1:]
        boxes = torch.tensor(group["boxes"])
        gar_model.config = replace(gar_model.config, replay="released")
        found = gar_model.replay(features, (rows, columns), boxes)
        for k, tokens in enumerate(found):
            assert_close(tokens, expected[f"replay_{i}_{k}"], 1e-5, f"replay {k} of group {i}")
        gar_model.config = replace(gar_model.config, replay="aligned")
        aligned = gar_model.replay(features, (rows, columns), boxes)
        assert float((aligned - found).abs().max()) > 1e-2  # the paper's is another place


@pytest.fixture(scope="module")
def gar_model() -> GarModel:
    """A model whose weights are not used: small on the meta device."""
    return GarModel(GarConfig.gar_1b())


def check_generation(
    official: Official, prompts: PackedPrompts, expected: dict[str, Tensor]
) -> None:
    decoder = official.model.decoder
    runner = IncrementalDecoder(decoder)
    logits = runner.logits(runner.prefill(prompts))
    if "logits_tail" in expected:
        tail = expected["logits_tail"]
        assert_close(logits[-len(tail) :], tail, LOGITS, "logits_tail")
        assert_close(logits[expected["probe_index"]], expected["logits_probe"], LOGITS, "probe")
    tokens = expected["tokens"].tolist()
    (found,) = generate(decoder, prompts, max_new_tokens=len(tokens), eos_token_ids=())
    assert found.token_ids == tokens
    whole = append_tokens(prompts, [tokens[:-1]], decoder.get_input_embeddings())
    steps = runner.logits(runner.prefill(whole)[-len(tokens) :])
    assert_close(steps, expected["step_logits"], LOGITS, "step_logits")


@golden_cases("gar", "describe")
@torch.inference_mode()
def test_describe(case: GoldenCase, tmp_path: Path) -> None:
    official, expected = Official(case, tmp_path), case.tensors("outputs")
    settings = case.json("preprocessor_config.json")
    about = case.json("inputs.json")

    # The tensors that the model gets are those of our own preprocessing.
    image = case.image("image")
    grid = choose_grid(
        image.shape[1], image.shape[0], settings["tile_size"], settings["max_num_tiles"]
    )
    assert list(grid) == official.given["aspect_ratios"][0].tolist()
    pixels = normalise(cut_tiles(image, settings["tile_size"], grid))
    assert torch.equal(pixels, official.given["pixel_values"])
    masks = [case.mask(f"mask_{k}") for k in range(len(about["prompt_ids"]))]
    outside = official.config.prompt_numbers
    union = region_ids(masks, about["prompt_ids"], outside) != outside
    tiles = cut_masks(union[None], settings["tile_size"], grid).unpack()[0]
    assert torch.equal(tiles, official.masks)
    assert torch.equal(tiles[:, None].expand(-1, 3, -1, -1), expected["mask_binary"].bool())
    tokens = [official.config.crop_tokens_ids[k] for k in about["prompt_ids"]]
    boxes = [region_box(Region.from_mask(mask)) for mask in masks]
    assert {str(t): list(b) for t, b in zip(tokens, boxes, strict=True)} == official.boxes

    features = official.features(official.masks)
    assert_close(features, expected["image_features"], FEATURES, "image_features")
    replayed = official.replay(features)
    for k, token in enumerate(official.boxes):
        assert_close(replayed[k], expected[f"replay_{token}"], FEATURES, f"replay {token}")
    prompts = official.prompts(features, replayed)
    assert_close(prompts.embeddings, expected["inputs_embeds"][0], FEATURES, "inputs_embeds")
    check_generation(official, prompts, expected)


@golden_cases("gar", "describe")
@torch.inference_mode()
def test_every_part_counts(case: GoldenCase, tmp_path: Path) -> None:
    """What the test above would find if a part were switched off."""
    official, expected = Official(case, tmp_path), case.tensors("outputs")
    features = official.features(official.masks)

    def distance(features: Tensor, replayed: Tensor) -> float:
        found = official.prompts(features, replayed).embeddings
        return float((found - expected["inputs_embeds"][0]).abs().max())

    replayed = official.replay(features)
    assert distance(features, replayed) <= FEATURES
    unmasked = official.features(None)
    assert distance(unmasked, official.replay(unmasked)) > 10 * FEATURES
    table = official.model.decoder.get_input_embeddings().weight
    crop = torch.tensor([int(token) for token in official.boxes])
    without = table[crop][:, None].expand_as(replayed)  # the placeholders' own embeddings
    assert distance(features, without) > 10 * FEATURES
    last_thumbnail = features.roll(-1, 0)
    assert distance(last_thumbnail, official.replay(last_thumbnail)) > 10 * FEATURES
    values = list(official.boxes.values())
    for moved in ([[y1, x1, y2, x2] for x1, y1, x2, y2 in values], values[1:] + values[:1]):
        if moved != values:
            official.boxes = dict(zip(official.boxes, moved, strict=True))
            assert distance(features, official.replay(features)) > 5 * FEATURES
    official.model.config = replace(official.config, replay="aligned")
    official.boxes = dict(zip(official.boxes, values, strict=True))
    assert distance(features, official.replay(features)) > 10 * FEATURES


@golden_cases("gar", "video")
@torch.inference_mode()
def test_video(case: GoldenCase, tmp_path: Path) -> None:
    official, expected = Official(case, tmp_path), case.tensors("outputs")
    size = official.config.vision.image_size[0]
    about = case.json("inputs.json")
    count = len(about["frame_tokens"])
    frames = [cut_tiles(case.image(f"frame_{k}"), size, None) for k in range(count)]
    assert torch.equal(normalise(torch.cat(frames)), official.given["pixel_values"])
    masks = [case.mask(f"mask_{k}") for k in range(count)]
    tiles = torch.cat([cut_masks(mask[None], size, None).unpack()[0] for mask in masks])
    assert torch.equal(tiles, official.masks)
    boxes = [region_box(Region.from_mask(mask)) for mask in masks]
    assert [list(box) for box in boxes] == list(official.boxes.values())

    features = official.features(official.masks)
    assert_close(features, expected["image_features"], FEATURES, "image_features")
    given = torch.tensor(list(official.boxes.values()))
    replayed = torch.cat(
        [official.model.replay(features[k : k + 1], (1, 1), given[k : k + 1]) for k in range(count)]
    )
    for k, token in enumerate(official.boxes):
        assert_close(replayed[k], expected[f"replay_{token}"], FEATURES, f"replay {token}")
    prompts = official.prompts(features, replayed)
    assert_close(prompts.embeddings, expected["inputs_embeds"][0], FEATURES, "inputs_embeds")
    check_generation(official, prompts, expected)
