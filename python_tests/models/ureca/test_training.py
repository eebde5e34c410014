"""The two stages of URECA's training, on a tiny model."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_ureca
import torch
from captioner_checks import NEW
from safetensors.torch import load_file, save_file

from fastregion.language.internlm2 import fuse_wqkv
from fastregion.models.ureca import UrecaCaptioner
from fastregion.models.ureca.mask_encoder import init_mask_encoder
from fastregion.models.ureca.training import (
    TrainingBatch,
    batch_loss,
    collate,
    new_captioner,
    train_lora,
    train_mask_encoder,
    training_sample,
)
from fastregion.regions import Region

SIZE = (50, 70)
REGION = Region.from_box((40, 30, 70, 50), SIZE)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def batch_of(captioner: UrecaCaptioner, image: np.ndarray) -> TrainingBatch:
    """Two pictures with different numbers of tiles."""
    turns = [
        {"from": "human", "value": "<image>\n<mask>\nWhat is it?"},
        {"from": "gpt", "value": "A thing!"},
    ]
    other = Region.from_box((0, 0, 9, 9), (20, 20))
    return collate(
        [
            training_sample(captioner, image, REGION, turns),
            training_sample(captioner, image[:20, :20], other, turns),
        ]
    )


def test_stage_1_trains_the_mask_encoder(image: np.ndarray) -> None:
    captioner = tiny_ureca.captioner()
    trained = train_mask_encoder(captioner)
    assert set(trained) == {
        f"{part}.{kind}"
        for part in ("mask_encoder.0", "mask_encoder.2", "mask_linear")
        for kind in ("weight", "bias")
    }
    batch = batch_of(captioner, image)
    assert len(batch.tiles) == len(batch.masks) == 6
    captioner.model.train()
    losses, gradients = [], []
    for checkpointing in (False, True):
        captioner.model.set_gradient_checkpointing(checkpointing)
        captioner.model.zero_grad()
        loss = batch_loss(captioner, batch)
        loss.backward()
        losses.append(loss.item())
        gradients.append(captioner.model.mask_tokens.mask_linear.weight.grad.clone())
    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0
    optimizer = torch.optim.AdamW([p for p in captioner.model.parameters() if p.requires_grad])
    for _ in range(8):
        optimizer.zero_grad()
        batch_loss(captioner, batch).backward()
        optimizer.step()
    assert batch_loss(captioner, batch).item() < losses[0]
    with pytest.raises(ValueError, match=r"mask: expected shape \(50, 70\) to match the image"):
        training_sample(captioner, image, Region.from_box((0, 0, 2, 2), (70, 50)), [])


@pytest.mark.parametrize("internlm2", [False, True])
def test_stage_2_trains_lora_alone(tmp_path: Path, image: np.ndarray, internlm2: bool) -> None:
    captioner = tiny_ureca.captioner(internlm2=internlm2)
    before = {name: p.detach().clone() for name, p in captioner.model.named_parameters()}
    start = captioner.score(image, REGION, "A thing!")
    trained = train_lora(captioner, rank=4)
    # Queries, keys and values of InternLM2 are one layer: they share what goes in.
    assert len(trained) == 2 * (2 * 7 - (2 if internlm2 else 0))
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    layer = captioner.decoder.model.layers[0].self_attn.q_proj
    assert (layer.scale, layer.dropout) == (2.0, 0.05)
    assert layer.lora_A["default"].weight.abs().max() <= 1 / math.sqrt(32)
    assert not layer.lora_B["default"].weight.any()
    batch = batch_of(captioner, image)
    captioner.model.train()
    first = batch_loss(captioner, batch)
    parameters = [p for p in captioner.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(8):
        optimizer.zero_grad()
        batch_loss(captioner, batch).backward()
        optimizer.step()
    captioner.model.eval()
    trained_loss = batch_loss(captioner, batch).item()
    assert trained_loss < first.item()
    with pytest.raises(TypeError, match="merge adapters into the weights first"):
        captioner.describe(image, REGION, **NEW)
    with pytest.raises(ValueError, match=r"has LoRA layers; call merge_lora\(\) before saving"):
        captioner.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="decoder: has LoRA layers already"):
        train_lora(captioner, rank=4)
    captioner.merge_lora()
    assert batch_loss(captioner, batch).item() == pytest.approx(trained_loss, rel=1e-5)
    after = dict(captioner.model.named_parameters())
    assert after.keys() == before.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert len(changed) == 2 * 7
    assert all("_proj.weight" in name for name in changed)
    captioner.save_pretrained(tmp_path)
    assert captioner.score(image, REGION, "A thing!") > start


@pytest.mark.parametrize(
    ("rank", "dropout", "message"),
    [(0, 0.0, "rank: must be at least 1, got 0"), (2, 1.0, r"dropout: must be in \[0, 1\), got 1")],
)
def test_refused_lora(rank: int, dropout: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_lora(tiny_ureca.captioner(), rank=rank, dropout=dropout)


@pytest.mark.parametrize("internlm2", [False, True])
def test_a_new_mask_encoder_on_a_base_model(
    tmp_path: Path, image: np.ndarray, internlm2: bool
) -> None:
    """An InternVL2.5 folder has neither a mask encoder nor its tokens."""
    made = tiny_ureca.captioner(internlm2=internlm2)
    made.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    old = len(made.tokenizer) - 3
    tables = [key for key, value in stored.items() if value.shape == (old + 3, 32)]
    assert len(tables) == 2
    base = {key: value for key, value in stored.items() if not key.startswith("mask_")}
    base |= {key: base[key][:old].contiguous() for key in tables}
    save_file(base, tmp_path / "model.safetensors")
    values = json.loads((tmp_path / "config.json").read_text())
    for key in ("num_mask_token", "dynamic_mask_size", "arch", "mask_thumbnail"):
        del values[key]
    values |= {"template": "internvl2_5"}
    values["llm_config"]["vocab_size"] = old
    (tmp_path / "config.json").write_text(json.dumps(values))
    without_masks(tmp_path / "tokenizer.json")

    captioner = new_captioner(tmp_path, num_mask_token=5)
    assert [captioner.tokenizer.token_id(t) for t in ("<MASK_CONTEXT>", "<mask>", "</mask>")] == [
        old, old + 1, old + 2
    ]  # fmt: skip
    assert captioner.config.num_mask_token == 5
    embedding = captioner.decoder.get_input_embeddings().weight.detach()
    head = captioner.decoder.lm_head.weight.detach()
    assert embedding.shape == head.shape == (old + 3, 32)
    assert embedding[old:].std() == pytest.approx(0.02, rel=0.5)
    torch.testing.assert_close(head[old:], head[:old].mean(0, keepdim=True).expand(3, -1))
    again = new_captioner(tmp_path, num_mask_token=5)
    for (name, one), (_, other) in zip(
        captioner.model.named_parameters(), again.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    captioner.max_num = 4
    train_mask_encoder(captioner)
    batch_loss(captioner, batch_of(captioner, image)).backward()
    captioner.save_pretrained(tmp_path / "stage1")
    assert isinstance(captioner.describe(image, REGION, **NEW), str)


def without_masks(file: Path) -> None:
    """Take the last three tokens out of a vocabulary."""
    values = json.loads(file.read_text())
    names = ("<MASK_CONTEXT>", "<mask>", "</mask>")
    values["added_tokens"] = [t for t in values["added_tokens"] if t["content"] not in names]
    vocabulary = values["model"]["vocab"]
    kept = sorted((k for k in vocabulary if k not in names), key=vocabulary.get)
    values["model"]["vocab"] = {token: place for place, token in enumerate(kept)}
    for token in values["added_tokens"]:
        token["id"] = values["model"]["vocab"][token["content"]]
    file.write_text(json.dumps(values))


def test_first_values_of_the_mask_encoder() -> None:
    encoder = tiny_ureca.captioner(num_mask_token=64).model.mask_tokens
    init_mask_encoder(encoder, 0)
    for layer, fan_in, fan_out in (
        (encoder.mask_encoder[0], 9, 64),  # fan_out without the size of the kernel
        (encoder.mask_encoder[2], 64 * 9, 64),
        (encoder.mask_linear, 64, 32),
    ):
        deviation = math.sqrt(2 / (fan_in + fan_out))
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.1)
        assert not layer.bias.any()


def test_lora_of_internlm2_is_that_of_its_fused_layer() -> None:
    captioner = tiny_ureca.captioner(internlm2=True)
    train_lora(captioner, rank=3)
    attention = captioner.decoder.model.layers[1].self_attn
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    for layer in layers:
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    _, kv_heads = captioner.layout.heads
    a = layers[0].lora_A["default"].weight
    assert all(layer.lora_A["default"].weight is a for layer in layers)
    b = fuse_wqkv(*(layer.lora_B["default"].weight for layer in layers), kv_heads)
    fused = fuse_wqkv(*(layer.weight for layer in layers), kv_heads) + 2 * b @ a
    captioner.merge_lora()
    merged = (attention.q_proj, attention.k_proj, attention.v_proj)
    torch.testing.assert_close(fuse_wqkv(*(layer.weight for layer in merged), kv_heads), fused)


def test_a_batch_without_anything_to_learn_is_refused(image: np.ndarray) -> None:
    captioner = tiny_ureca.captioner()
    region = Region.from_box((5, 5, 30, 30), image.shape[:2])
    turns = [{"from": "human", "value": "<image>\n<mask>\nWhat?"}, {"from": "gpt", "value": "A."}]
    sample = training_sample(captioner, image, region, turns)
    sample = replace(sample, labels=[-100] * len(sample.labels))
    with pytest.raises(ValueError, match="labels must mark a token to learn, got none"):
        batch_loss(captioner, collate([sample]))


def test_mixed_precision(image: np.ndarray) -> None:
    captioner = tiny_ureca.captioner()
    train_mask_encoder(captioner)
    batch = batch_of(captioner, image)
    expected = batch_loss(captioner, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = batch_loss(captioner, batch)
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    loss.backward()
    grads = [p.grad for p in captioner.model.mask_tokens.parameters()]
    assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in grads)
