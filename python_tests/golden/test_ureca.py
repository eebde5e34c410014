"""URECA against numbers of the published code: official weight names in, official numbers out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_cases import GoldenCase, golden_cases
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from ureca_cases import GRADIENTS, LOGITS, assert_close, captioner_of, distance

from fastregion.images import resize_image
from fastregion.language import PackedPrompts
from fastregion.language.decoder import IncrementalDecoder
from fastregion.models import load
from fastregion.models.request import RegionRequest
from fastregion.models.shared_prompts import SharedPrompts
from fastregion.models.ureca import UrecaCaptioner, UrecaConfig
from fastregion.models.ureca.mask_encoder import ConcatMaskEncoder, MaskEncoder
from fastregion.models.ureca.modeling import PromptLayout
from fastregion.models.ureca.processing import (
    Tiling,
    candidate_grids,
    choose_grid,
    normalise,
)
from fastregion.models.ureca.prompts import chat, expand
from fastregion.regions import Region
from fastregion.vision.intern_vit import InternVitConfig

ENCODER, FEATURES = 1e-5, 2e-5


def case_mask_tiles(captioner: UrecaCaptioner, case: GoldenCase, name: str) -> Tensor:
    return captioner.tiling.mask(Region.from_mask(case.mask(name)))


# ---- preprocessing ----


def tiling_of(about: dict[str, Any]) -> Tiling:
    return Tiling(
        size=about["image_size"],
        min_num=about["min_num"],
        max_num=about["max_num"],
        use_thumbnail=about["use_thumbnail"],
        dynamic=True,
        dynamic_mask=True,
        mask_thumbnail="released",
    )


@golden_cases("ureca", "preprocess")
def test_preprocessing_is_exact(case: GoldenCase) -> None:
    for about in case.json("index.json"):
        name, tiling = about["case"], tiling_of(about)
        if not (case.folder / f"{name}.safetensors").is_file():
            continue
        expected = case.tensors(name)
        image, region = case.image(f"{name}_image"), Region.from_mask(case.mask(f"{name}_mask"))
        assert image.shape[:2] == (about["height"], about["width"])
        assert tiling.grid(*image.shape[:2]) == (about["grid_cols"], about["grid_rows"])
        tiles = tiling.image(image)
        assert torch.equal(tiles.permute(0, 2, 3, 1), expected["image_tiles_u8"]), name
        assert distance(normalise(tiles), expected["pixel_values"]) <= 1e-6
        masks = tiling.mask(region)
        assert torch.equal(masks, expected["mask_tiles_u8"]), name
        assert torch.equal(masks[:, None].float(), expected["mask_values"])
        assert (len(tiles), len(masks)) == (about["num_tiles"], about["num_mask_tiles"])
        static = replace(tiling, dynamic_mask=False).mask(region)
        assert torch.equal(static[:, None].float(), expected["static_mask_values"]), name
        if len(tiles) > 1:  # what these comparisons would find
            assert not torch.equal(tiles.roll(1, 0).permute(0, 2, 3, 1), expected["image_tiles_u8"])
            clean = replace(tiling, mask_thumbnail="clean").mask(region)
            assert torch.equal(clean[:-1], masks[:-1])
            grey = np.repeat(255 * region.mask.astype(np.uint8)[..., None], 3, axis=2)
            small = resize_image(grey, (about["image_size"],) * 2, Image.Resampling.BICUBIC)
            assert np.array_equal(clean[-1].numpy(), small[..., 0])


@golden_cases("ureca", "preprocess")
def test_grids(case: GoldenCase) -> None:
    table = case.json("grid_table.json")
    for width, height, low, high, size, columns, rows in table["rows"]:
        grid = choose_grid(width, height, size, low, high)
        assert grid == (columns, rows), f"{width} x {height}, {low} to {high} tiles"
    for limits, order in table["candidate_order"].items():
        low, high = map(int, limits.split(","))
        found = candidate_grids(low, high)
        if low > 1:  # elsewhere the order has no effect
            assert found == [tuple(grid) for grid in order], limits
        assert sorted(found) == sorted(map(tuple, order))


def digests(tiles: Tensor) -> list[str]:
    return [hashlib.sha256(tile.numpy().tobytes()).hexdigest() for tile in tiles]


@golden_cases("ureca", "preprocess")
def test_large_tiles(case: GoldenCase) -> None:
    """Cases that hold digests of their tiles."""
    for about in case.json("index.json"):
        if "image_tile_sha256" not in about:
            continue
        name, tiling = about["case"], tiling_of(about)
        tiles = tiling.image(case.image(f"{name}_image"))
        masks = tiling.mask(Region.from_mask(case.mask(f"{name}_mask")))
        assert digests(tiles.permute(0, 2, 3, 1).contiguous()) == about["image_tile_sha256"]
        assert digests(masks) == about["mask_tile_sha256"]
        pixels = normalise(tiles).double().flatten(1)
        for key, found in (("mean", pixels.mean(1)), ("std", pixels.std(1))):
            expected = torch.tensor(about[f"pixel_values_{key}"]).double()
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# ---- mask encoders ----


def encoder_of(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    about = json.loads((folder / "config.json").read_text())
    config = UrecaConfig(
        llm={"model_type": "qwen2"},
        vision=InternVitConfig(
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=about["image_size"],
            patch_size=about["patch_size"],
        ),
        image_size=about["image_size"],
        num_mask_token=about["num_mask_token"],
        downsample_ratio=about["downsample_ratio"],
        ps_version=about["ps_version"],
        arch=about["arch"],
    )
    kind = MaskEncoder if about["arch"] == 3 else ConcatMaskEncoder
    encoder = kind(config, about["llm_hidden_size"])
    encoder.load_state_dict(load_file(folder / "weights.safetensors"))
    return encoder, about


@golden_cases("ureca", "mask_encoder")
def test_mask_encoder(case: GoldenCase) -> None:
    folders = sorted(file.parent for file in case.folder.glob("*/config.json"))
    assert folders
    for folder in folders:
        encoder, about = encoder_of(folder)
        given = load_file(folder / "inputs.safetensors")
        expected = load_file(folder / "outputs.safetensors")
        tiles, image_tokens = given["mask_values"][:, 0], given.get("projected_pixel_embeds")
        with torch.inference_mode():
            tokens = encoder(tiles, image_tokens)
        assert_close(tokens, expected["mask_tokens"], ENCODER, f"{folder.name}")
        tokens = encoder(tiles, image_tokens)
        assert_close(tokens, expected["mask_tokens"], ENCODER, f"{folder.name}, to be trained")
        (tokens * given["cotangent"]).sum().backward()
        for name, parameter in encoder.named_parameters():
            gradient = expected[f"grad.{name}"]
            assert_close(parameter.grad, gradient, GRADIENTS, f"{folder.name}: {name}")
        with torch.no_grad():  # a mask in 0..1 is another input
            assert distance(encoder(tiles // 255, image_tokens), tokens) > 1e-2
        assert about["num_mask_token"] == tokens.shape[1]


# ---- the whole model ----


def record(captioner: UrecaCaptioner, tiles: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """What vision tower, projector and mask encoder compute, by the names of the cases."""
    found: dict[str, Tensor] = {}
    model, hooks = captioner.model, []

    def keep(module: nn.Module, name: str) -> None:
        hooks.append(
            module.register_forward_hook(lambda _m, _a, output: found.update({name: output}))
        )

    keep(model.vision_model.embeddings, "vit_embeddings")
    for index, layer in enumerate(model.vision_model.encoder.layers):
        keep(layer, f"vit_layer_{index}")
    keep(model.mlp1, "mlp1_out")
    hooks.append(
        model.mlp1[0].register_forward_pre_hook(
            lambda _m, args: found.update({"pixel_shuffle_out": args[0]})
        )
    )
    if captioner.config.arch == 2:
        keep(model.mask_tokens.mask_linear, "mask_linear_out")
        for part in ("mask_encoder", "concat_mask_encoder"):
            for index, layer in enumerate(model.mask_tokens.get_submodule(part)):
                keep(layer, f"{part}_{index}")
    try:
        image_tokens = model.embed_tiles(tiles)
        found["mask_tokens"] = model.embed_masks(masks, image_tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def whole_prompt(captioner: UrecaCaptioner, ids: list[int], found: dict[str, Tensor]) -> Any:
    layout = PromptLayout(
        input_ids=ids,
        image=range(len(found["mlp1_out"])),
        masks=range(len(found["mask_tokens"])),
    )
    return captioner.model.pack([layout], found["mlp1_out"], found["mask_tokens"])


def check_forward(case: GoldenCase, captioner: UrecaCaptioner) -> tuple[Any, dict[str, Tensor]]:
    given, expected = case.tensors("inputs"), case.tensors("outputs")
    about = case.json("outputs.json")
    tiles = captioner.tiling.image(case.image("image"))
    masks = case_mask_tiles(captioner, case, "mask")
    if not torch.equal(masks[:, None].float(), given["mask_values"]):  # not tiled, it does not say
        captioner.config = replace(captioner.config, dynamic_mask_size=False)
        masks = case_mask_tiles(captioner, case, "mask")
    assert distance(normalise(tiles), given["pixel_values"]) <= 1e-6
    assert torch.equal(masks[:, None].float(), given["mask_values"])

    found = record(captioner, tiles, masks)
    compared = set()
    for name, value in found.items():
        if name not in expected:
            continue
        actual = value[: len(expected[name])] if name.startswith("vit_layer") else value
        assert_close(actual, expected[name], FEATURES, name)
        compared.add(name)
    assert {"vit_embeddings", "pixel_shuffle_out", "mlp1_out", "mask_tokens"} <= compared

    question = about["question"]
    config = captioner.config
    text = expand(
        question,
        len(tiles) * config.tokens_per_tile,
        [len(masks) * config.num_mask_token],
    )
    query = chat(config.system, text)
    assert query == about["query"]
    ids = captioner.tokenizer.encode(query, add_special_tokens=True)
    assert ids == given["input_ids"][0].tolist()
    prompts = whole_prompt(captioner, ids, found)
    assert_close(prompts.embeddings, expected["inputs_embeds"][0], FEATURES, "inputs_embeds")
    runner = IncrementalDecoder(captioner.decoder)
    logits = runner.logits(runner.prefill(prompts))
    assert distance(logits, expected["logits"][0]) <= LOGITS
    assert int(logits[-1].argmax()) == about.get("argmax_last", int(logits[-1].argmax()))
    return prompts, found


def unshared(captioner: UrecaCaptioner, request: RegionRequest) -> PackedPrompts:
    """The prompts as in training, where each holds the picture's tokens itself."""
    with torch.enable_grad():
        prompts = captioner.encode(captioner.process(request))
    assert isinstance(prompts, PackedPrompts)
    return prompts


@golden_cases("ureca", "describe")
@torch.no_grad()
def test_describe(case: GoldenCase, tmp_path: Path) -> None:
    captioner, about = captioner_of(case, tmp_path), case.json("outputs.json")
    check_forward(case, captioner)
    tokens = about["greedy_ids"]
    image, mask = case.image("image"), case.mask("mask")
    # The whole way, with the picture read once: what stands in front of the mask, then the rest.
    end = captioner.eos_token_ids[0]
    answer = captioner.describe(image, mask, max_new_tokens=len(tokens), return_details=True)
    expected = tokens[: tokens.index(end) + 1] if end in tokens else tokens
    assert list(answer.token_ids) == expected
    other = captioner.describe(
        image, mask, about["question"], max_new_tokens=len(tokens), return_details=True
    )
    assert list(other.token_ids) == expected
    request = RegionRequest(image, (Region.from_mask(mask),))
    assert isinstance(captioner.encode(captioner.process(request)), SharedPrompts)
    assert_close(
        unshared(captioner, request).embeddings,
        case.tensors("outputs")["inputs_embeds"][0],
        FEATURES,
        "inputs_embeds",
    )


@golden_cases("ureca", "describe_arch2")
@torch.no_grad()
def test_arch_2(case: GoldenCase, tmp_path: Path) -> None:
    captioner = captioner_of(case, tmp_path)
    assert captioner.config.arch == 2
    prompts, found = check_forward(case, captioner)
    # The image is part of the mask tokens: without it they are others.
    masks = case_mask_tiles(captioner, case, "mask")
    blind = captioner.model.embed_masks(masks, torch.zeros_like(found["mlp1_out"]))
    assert distance(blind, found["mask_tokens"]) > 1e-2
    # Batches of regions, each beside the same picture.
    image, region = case.image("image"), Region.from_mask(case.mask("mask"))
    both = unshared(captioner, RegionRequest(image, (region, region)))
    assert_close(both.select([1]).embeddings, prompts.embeddings, FEATURES, "second region")


@golden_cases("ureca", "describe")
@torch.inference_mode()
def test_every_part_counts(case: GoldenCase, tmp_path: Path) -> None:
    """What the tests above would find if a part were switched off or stood elsewhere."""
    captioner, expected = captioner_of(case, tmp_path), case.tensors("outputs")
    _, found = check_forward(case, captioner)
    model, logits = captioner.model, expected["logits"][0]
    ids = case.tensors("inputs")["input_ids"][0].tolist()
    runner = IncrementalDecoder(captioner.decoder)

    def error(ids: list[int] = ids, **changed: Tensor) -> float:
        prompts = whole_prompt(captioner, ids, {**found, **changed})
        return distance(runner.logits(runner.prefill(prompts))[-1], logits[-1])

    assert error() <= LOGITS
    far = 10 * LOGITS
    image_tokens, mask_tokens = found["mlp1_out"], found["mask_tokens"]
    tiles = captioner.tiling.image(case.image("image"))
    masks = case_mask_tiles(captioner, case, "mask")
    if len(tiles) > 1:
        assert error(mlp1_out=image_tokens.roll(1, 0)) > far, "the thumbnail first"
    if len(masks) > 1:
        assert error(mask_tokens=model.embed_masks(masks // 255)) > far, "a mask in 0..1"
        assert error(mask_tokens=mask_tokens.roll(1, 0)) > far, "the mask's thumbnail first"
        scrambled = mask_tokens.transpose(0, 1).reshape(mask_tokens.shape)
        assert error(mask_tokens=scrambled) > far, "tile-major mask tokens"
    image_id, mask_id = model.image_id, model.mask_id
    first, second = (
        [k for k, token in enumerate(ids) if token == one] for one in (image_id, mask_id)
    )
    image_block, between, mask_block = (
        ids[first[0] - 1 : first[-1] + 2],
        ids[first[-1] + 2 : second[0] - 1],
        ids[second[0] - 1 : second[-1] + 2],
    )
    swapped = [
        *ids[: first[0] - 1], *mask_block, *between, *image_block, *ids[second[-1] + 2 :]
    ]  # fmt: skip
    assert len(swapped) == len(ids)
    assert error(swapped) > far, "mask tokens in front of image tokens"
    kept = model.mlp1.version
    model.mlp1.version = "v1" if kept == "v2" else "v2"
    assert error(mlp1_out=model.embed_tiles(tiles)) > far, "rows and columns of the shuffle"
    model.mlp1.version = kept
    last = captioner.config.select_layer == -1
    model.config = replace(captioner.config, select_layer=-2 if last else -1)
    assert error(mlp1_out=model.embed_tiles(tiles)) > far, "the layer of the features"
    model.config = captioner.config
    assert error() <= LOGITS


@golden_cases("ureca", "describe")
def test_layout(case: GoldenCase, tmp_path: Path) -> None:
    """Published names to ours and back: the same tensors, and the same numbers again."""
    captioner = captioner_of(case, tmp_path)
    captioner.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    original = case.tensors("weights")
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[key], value) for key, value in original.items())
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["use_llm_lora"] == 0
    again = load(tmp_path / "saved")
    assert isinstance(again, UrecaCaptioner)
    assert again.config == captioner.config
    for (name, one), (_, other) in zip(
        captioner.model.named_parameters(), again.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
