"""Published checkpoints of DAM: names and shapes, folders, configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_dam
import torch
from safetensors.torch import load_file, save_file

from fastregion.models import auto, load
from fastregion.models.dam import DamCaptioner, DamConfig
from fastregion.models.dam.checkpoint import STATE_DICT
from fastregion.models.dam.modeling import DamModel

PARTS = ("llm", "vision_tower", "mm_projector", "context_provider")


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes of DAM-3B as the published tables give them."""
    width, mlp, hidden = 1152, 4304, 2560
    tower = "vision_tower.vision_tower.vision_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{tower}embeddings.patch_embedding.weight": (width, 3, 14, 14),
        f"{tower}embeddings.patch_embedding.bias": (width,),
        f"{tower}embeddings.mask_patch_embedding.weight": (width, 1, 14, 14),
        f"{tower}embeddings.mask_patch_embedding.bias": (width,),
        f"{tower}embeddings.position_embedding.weight": (729, width),
        f"{tower}head.probe": (1, 1, width),
        f"{tower}head.attention.in_proj_weight": (3 * width, width),
        f"{tower}head.attention.in_proj_bias": (3 * width,),
        f"{tower}head.attention.out_proj.weight": (width, width),
        f"{tower}head.attention.out_proj.bias": (width,),
        "mm_projector.layers.1.weight": (4 * width,),
        "mm_projector.layers.1.bias": (4 * width,),
        "mm_projector.layers.2.weight": (hidden, 4 * width),
        "mm_projector.layers.2.bias": (hidden,),
        "mm_projector.layers.4.weight": (hidden, hidden),
        "mm_projector.layers.4.bias": (hidden,),
        "llm.model.embed_tokens.weight": (32000, hidden),
        "llm.model.norm.weight": (hidden,),
        "llm.lm_head.weight": (32000, hidden),
    }
    blocks = [(f"{tower}encoder.layers.{n}.", "self_attn") for n in range(27)]
    adapters = [f"context_provider.context_provider_module.layers.{n}." for n in range(27)]
    blocks += [(prefix, "cross_attn") for prefix in adapters]
    for prefix in adapters:
        shapes[f"{prefix}attn_factor"] = shapes[f"{prefix}mlp_factor"] = (1,)
    norms = [f"{tower}post_layernorm", f"{tower}head.layernorm"]
    mlps = [f"{tower}head.mlp"]
    for prefix, attention in blocks:
        norms += [f"{prefix}layer_norm1", f"{prefix}layer_norm2"]
        mlps.append(f"{prefix}mlp")
        for name in "qkv":
            shapes[f"{prefix}{attention}.{name}_proj.weight"] = (width, width)
            shapes[f"{prefix}{attention}.{name}_proj.bias"] = (width,)
        shapes[f"{prefix}{attention}.out_proj.weight"] = (width, width)
        shapes[f"{prefix}{attention}.out_proj.bias"] = (width,)
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (width,)
    for name in mlps:
        shapes |= {f"{name}.fc1.weight": (mlp, width), f"{name}.fc1.bias": (mlp,)}
        shapes |= {f"{name}.fc2.weight": (width, mlp), f"{name}.fc2.bias": (width,)}
    for n in range(32):
        layer = f"llm.model.layers.{n}."
        for name in "qkvo":
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (hidden, hidden)
        for name in ("gate_proj", "up_proj"):
            shapes[f"{layer}mlp.{name}.weight"] = (6912, hidden)
        shapes[f"{layer}mlp.down_proj.weight"] = (hidden, 6912)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}{name}.weight"] = (hidden,)
    return shapes


def test_full_size_names_and_shapes() -> None:
    config = DamConfig.dam_3b()
    model = DamModel(DamConfig.from_dict(json.loads(json.dumps(config.to_dict()))))
    found = {STATE_DICT.published(n): tuple(p.shape) for n, p in model.named_parameters()}
    assert found == published()
    assert {STATE_DICT.published(name) for name in model.state_dict()} == set(found)
    assert all(parameter.is_meta for parameter in model.parameters())
    counts = {
        part: sum(p.numel() for p in model.get_submodule(part).parameters()) for part in PARTS
    }
    assert counts == {
        "llm": 2701560320,
        "vision_tower": 428452544,
        "mm_projector": 18364416,
        "context_provider": 411466662,
    }
    assert config.num_feature_layers == 26
    assert config.tokens_per_image == model.mm_projector.num_tokens == 196


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_dam.captioner().save_published(tmp_path / "DAM-tiny")
    return tmp_path / "DAM-tiny"


def describe(captioner: Any, image: np.ndarray) -> str:
    return captioner.describe(image, (9, 9, 30, 30), max_new_tokens=5)


@pytest.mark.parametrize("form", ["shards", "pickled", "strings", "own"])
def test_forms_of_a_checkpoint(folder: Path, image: np.ndarray, form: str) -> None:
    expected = tiny_dam.captioner()
    if form == "shards":
        file = folder / "llm" / "model.safetensors"
        stored = load_file(file)
        file.unlink()
        names = sorted(stored)
        weight_map = {}
        for k, part in enumerate((names[:5], names[5:])):
            name = f"model-{k + 1:05}-of-00002.safetensors"
            save_file({key: stored[key] for key in part}, folder / "llm" / name)
            weight_map |= dict.fromkeys(part, name)
        index = folder / "llm" / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    elif form == "pickled":
        file = folder / "context_provider" / "model.safetensors"
        torch.save(load_file(file), folder / "context_provider" / "pytorch_model.bin")
        file.unlink()
    elif form == "strings":
        (folder / "vision_tower").rename(folder / "tower")
        values = json.loads((folder / "config.json").read_text())
        values |= {"vision_tower_cfg": "tower", "auto_map": {"AutoModel": "x"}, "tune_x": True}
        (folder / "config.json").write_text(json.dumps(values))
    else:
        load(folder).save_pretrained(folder / "own")
        folder = folder / "own"
    captioner = load(folder)
    assert isinstance(captioner, DamCaptioner)
    assert describe(captioner, image) == describe(expected, image)
    assert captioner.eos_token_ids == (2,)


def test_joint_checkpoints_are_known_by_name(folder: Path, monkeypatch: Any) -> None:
    asked = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for name, joint in (("nvidia/DAM-3B", False), ("nvidia/DAM-3B-Video", True)):
        captioner = auto.load(name)
        assert isinstance(captioner, DamCaptioner)
        assert captioner.model_id == name
        assert captioner.config.image_video_joint is joint
    assert not any(p.endswith((".py", ".bin", "*")) for p in asked[0])
    captioner.save_pretrained(folder.parent / "kept")
    assert load(folder.parent / "kept").config.image_video_joint is True


def test_only_pickled_weights_are_downloaded_where_there_is_nothing_else(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = []

    def download(_name: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        auto.load("nvidia/DAM-3B")
    assert [("pytorch_model*.bin" in patterns) for patterns in asked] == [False, True]


def test_damaged_folders_are_named(folder: Path) -> None:
    def refused(error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            load(folder)

    weights = folder / "mm_projector" / "model.safetensors"
    stored = load_file(weights)
    first = next(iter(stored))
    save_file({key: value for key, value in stored.items() if key != first}, weights)
    refused(ValueError, f"mm_projector.*no file has tensor '{first}'")
    save_file({**stored, first: torch.zeros(3)}, weights)
    refused(ValueError, rf"mm_projector.*'{first}' must have shape .*, got \(3,\)")
    weights.unlink()
    refused(FileNotFoundError, r"mm_projector.* has no model\.safetensors")
    save_file(stored, weights)
    settings = folder / "vision_tower" / "preprocessor_config.json"
    values = json.loads(settings.read_text())
    settings.write_text(json.dumps(values | {"resample": 2}))
    refused(ValueError, "preprocessor_config.*resample must be 3, got 2")
    settings.unlink()
    refused(FileNotFoundError, r"vision_tower.*has no preprocessor_config\.json")
    settings.write_text(json.dumps(values))
    (folder / "context_provider" / "config.json").write_text("{")
    refused(ValueError, r"context_provider.*config\.json': not valid JSON")
    (folder / "context_provider").rename(folder / "elsewhere")
    refused(FileNotFoundError, "has no folder 'context_provider' for its context_provider_cfg")


class TestConfig:
    def test_round_trip(self) -> None:
        for config in (
            DamConfig.dam_3b(),
            DamConfig.dam_3b(image_video_joint=True, adapter_formula="paper"),
            tiny_dam.config(masked_cross_attn=True, residual_dropout=0.1, num_video_frames=3),
        ):
            assert DamConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("mm_vision_select_layer", None, "'mm_vision_select_layer' is missing"),
            ("mm_vision_select_layer", -5, r"must be in \[-4, 3\], got -5"),
            ("mm_vision_select_feature", "patch", "must be 'cls_patch'"),
            ("image_aspect_ratio", "pad", "image_aspect_ratio must be 'resize', got 'pad'"),
            ("s2", True, "s2 must be False"),
            ("mask_encoder_cfg", {}, "mask_encoder_cfg must be None"),
            ("vision_resolution", 448, "vision_resolution must be -1"),
            ("adapter_formula", "new", "adapter_formula must be 'released' or 'paper'"),
            ("context_provider_cfg", None, "'context_provider_cfg' is missing"),
            ("llm_cfg", "llm", "llm_cfg must be an object"),
            ("mm_projector_cfg.mm_projector_type", "linear", "must be 'mlp_downsample'"),
            ("vision_tower_cfg.architectures", ["CLIP"], "must name a SigLIP model"),
            ("vision_tower_cfg.num_mask_channels", 0, "num_mask_channels must be 1, got 0"),
            ("vision_tower_cfg.patch_sizes", 14, "nearest known is 'patch_size'"),
            ("vision_tower_cfg.num_attention_heads", 5, "a divisor of hidden_size 32"),
            ("vision_tower_cfg.image_size", 7, "image_size must be at least patch_size 8"),
            ("context_provider_cfg.context_provider_type", "cross_attn_at_the_end", "got 'cross"),
            ("context_provider_cfg.context_provider_layer_indices", [0], "must be null"),
            ("context_provider_cfg.hidden_act", "gelu", "hidden_act must be 'gelu_pytorch_tanh'"),
            ("context_provider_cfg.hidden_size", 64, "must be the 32 of vision_tower_cfg"),
            ("context_provider_cfg.num_hidden_layers", 2, "must be the 3 of vision_tower_cfg"),
            ("context_provider_cfg.masked_cross_attn", 1, "must be true or false"),
            ("context_provider_cfg.residual_dropout", 1.0, "at least 0 and below 1"),
        ],
    )
    def test_refusals(self, path: str, value: Any, message: str) -> None:
        values = json.loads(json.dumps(tiny_dam.config().to_dict()))
        place = values
        *parents, key = path.split(".")
        for parent in parents:
            place = place[parent]
        place[key] = value
        with pytest.raises((ValueError, NotImplementedError), match=rf"config\.json: .*{message}"):
            DamConfig.from_dict(values)

    def test_switches_that_exclude_each_other(self) -> None:
        with pytest.raises(ValueError, match="must be false with context_image_as_queries"):
            tiny_dam.config(masked_cross_attn=True, context_image_as_queries=True)
