"""Published checkpoints of URECA: names and shapes, InternLM2, LoRA tensors, damaged folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_ureca
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastregion.language import Tokenizer
from fastregion.language.internlm2 import fuse_wqkv, split_wqkv
from fastregion.models import load
from fastregion.models.ureca import UrecaCaptioner, UrecaConfig
from fastregion.models.ureca.checkpoint import UrecaLayout
from fastregion.models.ureca.modeling import UrecaModel

WIDTH = 1024  # of the vision tower
SIZES = {  # hidden, inside, layers, heads, key heads, tokens
    "1b": (896, 4864, 24, 14, 2, 151677),
    "2b": (2048, 8192, 24, 16, 8, 92556),
    "4b": (2048, 11008, 36, 16, 2, 151677),
    "8b": (4096, 14336, 32, 32, 8, 92556),
}


def published(size: str, count: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes as the published tables give them."""
    hidden, inside, layers, heads, kv_heads, tokens = SIZES[size]
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (1, 1, WIDTH),
        "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, 14, 14),
        "vision_model.embeddings.patch_embedding.bias": (WIDTH,),
        "vision_model.embeddings.position_embedding": (1, 1025, WIDTH),
        "mlp1.0.weight": (4096,),
        "mlp1.0.bias": (4096,),
        "mlp1.1.weight": (hidden, 4096),
        "mlp1.1.bias": (hidden,),
        "mlp1.3.weight": (hidden, hidden),
        "mlp1.3.bias": (hidden,),
        "mask_encoder.0.weight": (count, 1, 3, 3),
        "mask_encoder.0.bias": (count,),
        "mask_encoder.2.weight": (count, count, 3, 3),
        "mask_encoder.2.bias": (count,),
        "mask_linear.weight": (hidden, 12544),
        "mask_linear.bias": (hidden,),
        "language_model.model.norm.weight": (hidden,),
    }
    for n in range(24):
        block = f"vision_model.encoder.layers.{n}."
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}{norm}.weight": (WIDTH,), f"{block}{norm}.bias": (WIDTH,)}
        shapes |= {f"{block}ls1": (WIDTH,), f"{block}ls2": (WIDTH,)}
        for name, rows, columns in (
            ("attn.qkv", 3 * WIDTH, WIDTH), ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH), ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):  # fmt: skip
            shapes[f"{block}{name}.weight"], shapes[f"{block}{name}.bias"] = (
                (rows, columns),
                (rows,),
            )
    head_dim = hidden // heads
    kv = kv_heads * head_dim
    table = (tokens, hidden)
    if size in ("1b", "4b"):
        shapes["language_model.model.embed_tokens.weight"] = table
        shapes["language_model.lm_head.weight"] = table
        names = {"self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inside, hidden),
                 "mlp.up_proj": (inside, hidden), "mlp.down_proj": (hidden, inside),
                 "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}  # fmt: skip
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            names[f"self_attn.{name}_proj"] = (rows, hidden)
    else:
        shapes["language_model.model.tok_embeddings.weight"] = table
        shapes["language_model.output.weight"] = table
        names = {"attention.wqkv": (hidden + 2 * kv, hidden), "attention.wo": (hidden, hidden),
                 "feed_forward.w1": (inside, hidden), "feed_forward.w3": (inside, hidden),
                 "feed_forward.w2": (hidden, inside), "attention_norm": (hidden,),
                 "ffn_norm": (hidden,)}  # fmt: skip
    for n in range(layers):
        for name, shape in names.items():
            shapes[f"language_model.model.layers.{n}.{name}.weight"] = shape
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                shapes[f"language_model.model.layers.{n}.{name}.bias"] = shape[:1]
    return shapes


@pytest.mark.parametrize(("size", "count"), [("1b", 8), ("2b", 16), ("4b", 16), ("8b", 8)])
def test_full_size_names_and_shapes(size: str, count: int) -> None:
    config: UrecaConfig = getattr(UrecaConfig, f"ureca_{size}")(num_mask_token=count)
    again = UrecaConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    model = UrecaModel(config, image_id=1, mask_id=2)
    layout = UrecaLayout.of(config)
    named = {layout.published(name): p for name, p in model.state_dict().items()}
    assert all(tensor.is_meta for tensor in named.values())
    found = {key: tuple(tensor.shape) for key, tensor in layout.to_files(named).items()}
    assert found == published(size, count)
    assert config.tokens_per_tile == 256
    if (size, count) == ("8b", 8):
        # What the page of facts says of it.
        encoder = sum(p.numel() for p in model.mask_tokens.parameters())
        assert encoder == 12544 * 4096 + 4096 + 664
        assert found["language_model.model.layers.0.attention.wqkv.weight"] == (6144, 4096)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_ureca.captioner().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def describe(captioner: Any, image: np.ndarray) -> list[int]:
    captioner.max_num = 4
    found = captioner.describe(image, (9, 9, 30, 30), max_new_tokens=5, return_details=True)
    return list(found.token_ids)


def rewrite(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    tensors = change(load_file(file))
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)


def change_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    kept = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({k: v for k, v in kept.items() if v != "left out"}))


def test_wqkv_by_its_definition() -> None:
    heads, kv_heads, width, hidden = 6, 2, 3, 5
    fused = torch.randn((heads + 2 * kv_heads) * width, hidden)
    q, k, v = split_wqkv(fused, heads, kv_heads)
    rows = iter(fused.split(width))
    for group in range(kv_heads):
        for head in range(heads // kv_heads):
            place = (group * (heads // kv_heads) + head) * width
            assert torch.equal(q[place : place + width], next(rows))
        for part in (k, v):
            assert torch.equal(part[group * width : (group + 1) * width], next(rows))
    assert torch.equal(fuse_wqkv(q, k, v, kv_heads), fused)


@pytest.mark.parametrize("internlm2", [False, True])
@pytest.mark.parametrize("form", ["one file", "shards", "pickled"])
def test_round_trip(tmp_path: Path, image: np.ndarray, internlm2: bool, form: str) -> None:
    made = tiny_ureca.captioner(internlm2=internlm2)
    made.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    assert any(".attention.wqkv." in key for key in stored) == internlm2
    assert any(".self_attn." in key for key in stored) != internlm2
    if form == "shards":
        file.unlink()
        names = sorted(stored)
        weight_map = {}
        for k, part in enumerate((names[::2], names[1::2])):
            name = f"model-{k + 1:05}-of-00002.safetensors"
            save_file({key: stored[key] for key in part}, tmp_path / name)
            weight_map |= dict.fromkeys(part, name)
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    elif form == "pickled":
        torch.save(stored, tmp_path / "pytorch_model.bin")
        file.unlink()
    captioner = load(tmp_path)
    assert isinstance(captioner, UrecaCaptioner)
    assert captioner.config == made.config
    for (name, one), (_, other) in zip(
        made.model.named_parameters(), captioner.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    assert describe(captioner, image) == describe(made, image)
    embedding = captioner.decoder.get_input_embeddings()
    assert captioner.decoder.lm_head.weight is not embedding.weight  # whatever the file says


def test_bfloat16_files(tmp_path: Path, image: np.ndarray) -> None:
    tiny_ureca.captioner(internlm2=True).save_pretrained(tmp_path, dtype=torch.bfloat16)
    captioner = load(tmp_path)
    assert captioner.model.mlp1[1].weight.dtype == torch.bfloat16
    assert len(describe(captioner, image)) == 5
    assert load(tmp_path, dtype=torch.float32).model.mlp1[1].weight.dtype == torch.float32


RANK = 3


def with_lora(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """What an unmerged second stage would hold, by the page of facts."""
    torch.manual_seed(0)
    found = {}
    targets = ("attention.wqkv", "attention.wo", "feed_forward", "_proj")
    for key, value in stored.items():
        if key.startswith("language_model."):
            key = f"language_model.base_model.model.{key.removeprefix('language_model.')}"
            stem, _, last = key.rpartition(".")
            if any(target in stem for target in targets):
                key = f"{stem}.base_layer.{last}"
                if last == "weight":
                    found[f"{stem}.lora_A.default.weight"] = torch.randn(RANK, value.shape[1])
                    found[f"{stem}.lora_B.default.weight"] = torch.randn(value.shape[0], RANK)
        found[key] = value
    return found


@pytest.mark.parametrize("internlm2", [False, True])
def test_lora_tensors_are_folded(tmp_path: Path, image: np.ndarray, internlm2: bool) -> None:
    made = tiny_ureca.captioner(internlm2=internlm2)
    made.save_pretrained(tmp_path)
    plain = load_file(tmp_path / "model.safetensors")
    rewrite(tmp_path, with_lora)
    stored = load_file(tmp_path / "model.safetensors")
    change_config(tmp_path, use_llm_lora=RANK)
    captioner = load(tmp_path)
    assert isinstance(captioner, UrecaCaptioner)
    assert captioner.config.use_llm_lora == 0
    captioner.save_pretrained(tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert merged.keys() == plain.keys()
    folded = 0
    for key, value in merged.items():
        stem = f"language_model.base_model.model.{key.removeprefix('language_model.')}"
        stem = stem.removesuffix(".weight")
        a, b = (stored.get(f"{stem}.lora_{x}.default.weight") for x in "AB")
        expected = plain[key]
        if a is not None and b is not None:
            expected = expected + 2 * b @ a  # alpha = 2 r
            folded += 1
        torch.testing.assert_close(value, expected)
    assert folded == 2 * (5 if internlm2 else 7)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["use_llm_lora"] == 0
    assert describe(load(tmp_path / "merged"), image) == describe(captioner, image)


def refused(folder: Path, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(folder)


def test_lora_that_does_not_fit(folder: Path) -> None:
    rewrite(folder, with_lora)
    refused(folder, ValueError, r"beside LoRA tensors, but use_llm_lora of config.json is 0")
    change_config(folder, use_llm_lora=RANK + 1)
    refused(folder, ValueError, r"lora_A.*' must have shape \(4, 64\) \(use_llm_lora 4\)")
    change_config(folder, use_llm_lora=RANK)
    rewrite(
        folder, lambda t: {k: v for k, v in t.items() if "layers.1.mlp.up_proj.lora_B" not in k}
    )
    refused(folder, ValueError, "no file has the LoRA tensor '.*1.mlp.up_proj.lora_B")
    tiny_ureca.captioner().save_pretrained(folder)
    rewrite(folder, with_lora)
    rewrite(folder, lambda t: {k.replace("up_proj.base_layer", "up_proj"): t[k] for k in t})
    change_config(folder, use_llm_lora=RANK)
    refused(folder, ValueError, "has '.*0.mlp.up_proj.lora_A.* no file has a weight 'base_layer'")
    tiny_ureca.captioner().save_pretrained(folder)
    change_config(folder, use_llm_lora=RANK)
    refused(folder, ValueError, "use_llm_lora is 3, but no file has LoRA tensors")


def test_damaged_folders_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    stored = load_file(file)
    file.write_bytes(whole[:-100])
    refused(folder, ValueError, "is cut off: it ends before")
    file.write_bytes(whole)
    rewrite(folder, lambda t: {k: v for k, v in t.items() if k != "mlp1.3.bias"})
    refused(folder, ValueError, "no file has tensor 'mlp1.3.bias'")
    save_file({**stored, "extra": torch.zeros(1)}, file)
    refused(folder, ValueError, "has an unknown tensor 'extra'")
    save_file({k: v for k, v in stored.items() if not k.startswith("mask_encoder")}, file)
    refused(folder, ValueError, "no file has tensor 'mask_encoder.0.weight'")
    file.write_bytes(whole)
    change_config(folder, num_mask_token=16)
    refused(folder, ValueError, "num_mask_token must be 4, the rows of 'mask_encoder.0.weight'")
    change_config(folder, num_mask_token=4, arch=2, force_image_size=32)
    refused(folder, ValueError, r"arch 2|arch must be 3")
    change_config(folder, arch=3)
    load(folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<MASK_CONTEXT>", "<MASK_NOTHING>"))
    refused(folder, ValueError, "tokenizer: the vocabulary has no token '<MASK_CONTEXT>'")


def test_wqkv_that_does_not_fit(tmp_path: Path) -> None:
    tiny_ureca.captioner(internlm2=True).save_pretrained(tmp_path)
    key = "language_model.model.layers.0.attention.wqkv.weight"
    rewrite(tmp_path, lambda t: {**t, key: t[key][:-1]})
    refused(tmp_path, ValueError, r"wqkv.weight' must have a multiple of 8 rows \(4 \+ 2 x 2 heads")


def test_number_of_mask_tokens_from_the_weights(folder: Path, image: np.ndarray) -> None:
    change_config(folder, num_mask_token="left out", arch="left out", mask_thumbnail="left out")
    captioner = load(folder)
    assert isinstance(captioner, UrecaCaptioner)
    assert captioner.config.num_mask_token == 4
    assert captioner.config.arch == 3
    assert describe(captioner, image) == describe(tiny_ureca.captioner(), image)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"num_mask_tokens": 8}, ValueError, "unknown key 'num_mask_tokens'; .* 'num_mask_token'"),
        ({"template": "phi3-chat"}, NotImplementedError, "template must be one of .*mug-cap"),
        ({"pad2square": True}, NotImplementedError, "pad2square must be False, got True"),
        ({"use_backbone_lora": 16}, NotImplementedError, "use_backbone_lora must be 0, got 16"),
        ({"ps_version": "v3"}, ValueError, r"ps_version must be one of \['v1', 'v2'\], got 'v3'"),
        ({"select_layer": -9}, ValueError, r"select_layer must be in \[-3, 2\], got -9"),
        ({"downsample_ratio": 0.4}, ValueError, "downsample_ratio must be 1 over an integer"),
        ({"force_image_size": 30}, ValueError, "force_image_size must be a multiple of"),
        ({"num_mask_token": 0}, ValueError, "num_mask_token must be an integer of at least 1"),
        ({"min_dynamic_patch": 7}, ValueError, "min_dynamic_patch must be at most 6, got 7"),
        ({"use_thumbnail": 1}, ValueError, "use_thumbnail must be true or false, got 1"),
        ({"system_message": 3}, ValueError, "system_message must be a text or null, got 3"),
        ({"vision_config": None}, ValueError, "'vision_config' is missing"),
        ({"num_image_token": 256}, ValueError, "num_image_token must be 4, got 256"),
        ({"mask_thumbnail": "grey"}, ValueError, "mask_thumbnail must be one of"),
        ({"arch": 2}, ValueError, r"such that a tile has 16 x 16 tokens \(arch 2\), got 32"),
    ],
)
def test_refused_configs(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        UrecaConfig.from_dict({**tiny_ureca.config_values(), **values})


@pytest.mark.parametrize(
    ("part", "values", "error", "message"),
    [
        ("llm_config", {"architectures": ["Phi3ForCausalLM"]}, NotImplementedError, "Phi3For"),
        ("vision_config", {"hidden_act": "relu"}, NotImplementedError, "hidden_act must be 'gelu'"),
        (
            "vision_config",
            {"use_moe": True},
            NotImplementedError,
            "use_moe must be False, got True",
        ),
        ("vision_config", {"norm_type": "x"}, ValueError, "vision_config.norm_type must be one of"),
        ("vision_config", {"hiden_size": 4}, ValueError, "unknown key 'vision_config.hiden_size'"),
    ],
)
def test_refused_parts(
    part: str, values: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = tiny_ureca.config_values()
    given[part] |= values
    with pytest.raises(error, match=message):
        UrecaConfig.from_dict(given)


def test_tokens_that_a_tokenizer_lacks() -> None:
    config = UrecaConfig.from_dict(tiny_ureca.config_values())
    backend = Tokenizer(tiny_ureca.TOKENIZER.backend).backend.to_str()
    less = Tokenizer(type(tiny_ureca.TOKENIZER.backend).from_str(backend.replace("</mask>", "?")))
    with pytest.raises(ValueError, match="the vocabulary has no token '</mask>'"):
        UrecaCaptioner(config, less)
    small = tiny_ureca.config_values()
    small["llm_config"]["vocab_size"] = 20
    with pytest.raises(ValueError, match=r"must have at most the 20 tokens of config.json"):
        UrecaCaptioner(UrecaConfig.from_dict(small), tiny_ureca.TOKENIZER)
