"""URECA's training against numbers of the published code, through the trainer's own path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_cases import GoldenCase, golden_cases
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from ureca_cases import (
    GRADIENTS,
    LOGITS,
    assert_close,
    captioner_of,
    config_values,
    distance,
    make_folder,
)

from fastregion.language.internlm2 import PROJECTIONS, rename, split_wqkv
from fastregion.language.packed_attention import decode_packed
from fastregion.models import load
from fastregion.models.ureca import UrecaCaptioner
from fastregion.models.ureca.processing import normalise
from fastregion.regions import Region
from fastregion.training.data import Record, Turn
from fastregion.training.systems.ureca import (
    Options,
    UrecaBatch,
    UrecaTask,
)
from fastregion.training.systems.ureca_stages import train_lora, train_mask_encoder


def records_of(case: GoldenCase) -> list[Record]:
    """The case's conversations as rows."""

    def row(k: int, turns: list[dict[str, str]]) -> Record:
        return Record(
            id=str(k),
            image=lambda: case.image(f"image_{k}"),
            regions=lambda: (Region.from_mask(case.mask(f"mask_{k}")),),
            num_regions=1,
            turns=tuple(Turn(speaker=one["from"], text=one["value"]) for one in turns),
        )

    return [row(k, turns) for k, turns in enumerate(case.json("inputs.json")["conversations"])]


def task_of(case: GoldenCase, captioner: UrecaCaptioner, hide_zero_ids: bool = True) -> UrecaTask:
    return UrecaTask(captioner, Options(max_tiles=captioner.max_num, hide_zero_ids=hide_zero_ids))


def batch_of(case: GoldenCase, task: UrecaTask) -> UrecaBatch:
    rng = np.random.default_rng(0)
    return task.collate([task.sample(record, rng) for record in records_of(case)])


def answer_logits(task: UrecaTask, batch: UrecaBatch) -> Tensor:
    prompts, decoder = task.step.prompts(batch), task.captioner.decoder
    assert prompts.labels is not None
    logits: Tensor = decoder.lm_head(
        decode_packed(decoder, prompts, batch.visible)[prompts.labels != -100]
    )
    return logits


def mean(task: UrecaTask, batch: UrecaBatch) -> Tensor:
    total, targets, parts = task.step(batch)
    assert total.dtype == targets.dtype == torch.float32
    assert not targets.requires_grad
    assert not parts
    return total / targets


@golden_cases("ureca", "train_step")
def test_collation(case: GoldenCase, tmp_path: Path) -> None:
    captioner, given = captioner_of(case, tmp_path), case.tensors("inputs")
    task = task_of(case, captioner)
    batch = batch_of(case, task)
    for k, prompt in enumerate(batch.prompts):
        assert prompt.input_ids == given[f"sample{k}.input_ids"].tolist()
        assert prompt.labels == given[f"sample{k}.labels"].tolist()
    lengths = [len(prompt.input_ids) for prompt in batch.prompts]
    zeros = sum(list(prompt.input_ids).count(0) for prompt in batch.prompts)
    visible = torch.ones(sum(lengths), dtype=torch.bool) if batch.visible is None else batch.visible
    assert int((~visible).sum()) == zeros
    seen = nn.utils.rnn.pad_sequence(visible.split(lengths), batch_first=True)
    assert torch.equal(seen.long(), given["batch.attention_mask"])
    assert torch.equal(batch.masks[:, None].float(), given["batch.mask_values"])
    assert distance(normalise(batch.tiles), given["batch.pixel_values"]) <= 1e-6
    padded = task.step.prompts(batch).pad()
    assert torch.equal(padded.labels, given["batch.labels"])
    assert torch.equal(padded.position_ids, given["batch.position_ids"])
    assert batch_of(case, task_of(case, captioner, hide_zero_ids=False)).visible is None


@golden_cases("ureca", "train_step")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_stage_1(case: GoldenCase, tmp_path: Path, checkpointing: bool) -> None:
    captioner, expected = captioner_of(case, tmp_path), case.tensors("outputs")
    trained = train_mask_encoder(captioner)
    assert {f"grad.{name}" for name in trained} == {k for k in expected if k.startswith("grad.")}
    task = task_of(case, captioner)
    batch = batch_of(case, task)
    task.step.train()
    captioner.model.set_gradient_checkpointing(checkpointing)
    with torch.no_grad():
        assert distance(answer_logits(task, batch), expected["logits_answer"]) <= LOGITS
    first = mean(task, batch)
    assert abs(first.item() / expected["loss"].item() - 1) <= 1e-5
    first.backward()
    named = task_parameters(task)
    for name in trained:
        assert_close(named[name].grad, expected[f"grad.{name}"], GRADIENTS, name)
    assert all(p.grad is None for name, p in named.items() if name not in trained)

    settings = case.json("config.json")["optimizer"]
    groups = [
        {"params": [named[n] for n in trained if n.endswith("bias")], "weight_decay": 0.0},
        {"params": [named[n] for n in trained if not n.endswith("bias")]},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    total = nn.utils.clip_grad_norm_([named[n] for n in trained], settings["max_grad_norm"])
    assert abs(float(total) / expected["grad_norm"].item() - 1) <= GRADIENTS
    gradients = {name: named[name].grad.clone() for name in trained}
    optimizer.step()
    for name in trained:
        # Where a gradient is near 0, its sign is rounding, and so is the direction of the step.
        certain = gradients[name].abs() > 1e-4 * gradients[name].abs().max()
        error = (named[name] - expected[f"after_step.{name}"])[certain].abs().max()
        assert error <= 1e-2 * settings["lr"], name
    with torch.no_grad():
        assert abs(mean(task, batch).item() / expected["loss_after"].item() - 1) <= 1e-5


def task_parameters(task: UrecaTask) -> dict[str, nn.Parameter]:
    """By their published names."""
    published = task.captioner.layout.published
    return {published(name): p for name, p in task.captioner.model.named_parameters()}


@golden_cases("ureca", "train_step")
@torch.no_grad()
def test_hidden_zero_ids_count(case: GoldenCase, tmp_path: Path) -> None:
    """The published collation hides tokens with id 0; without that the loss is another one."""
    captioner, expected = captioner_of(case, tmp_path), case.tensors("outputs")
    task = task_of(case, captioner, hide_zero_ids=False)
    batch = batch_of(case, task)
    changed = abs(mean(task, batch).item() / expected["loss"].item() - 1) > 1e-5
    assert changed == any(0 in prompt.input_ids for prompt in batch.prompts)


WRAPPED = "language_model.base_model.model."


def unmerged(case: GoldenCase) -> dict[str, Tensor]:
    """The case as a file of the second stage that has not been merged."""
    low = case.tensors("lora_weights")
    stems = {key.removesuffix(".lora_A.default.weight") for key in low if "lora_A" in key}
    tensors = dict(low)
    for key, value in case.tensors("weights").items():
        if key.startswith("language_model."):
            key = WRAPPED + key.removeprefix("language_model.")
            stem, _, last = key.rpartition(".")
            key = f"{stem}.base_layer.{last}" if stem in stems else key
        tensors[key] = value
    return tensors


def our_lora(captioner: UrecaCaptioner, low: dict[str, Tensor], name: str) -> Tensor:
    """The value of one of our parameters in a published file."""
    key, heads = WRAPPED + name.split(".", 1)[1], captioner.layout.heads
    if heads is None:
        return low[key]
    for index, part in enumerate(PROJECTIONS):
        if part in key:
            fused = low[key.replace(part, ".attention.wqkv.")]
            return split_wqkv(fused, *heads)[index] if ".lora_B." in key else fused
    return low[rename(key, to_llama=False)]


@golden_cases("ureca", "train_step")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_stage_2(case: GoldenCase, tmp_path: Path, checkpointing: bool) -> None:
    captioner, expected = captioner_of(case, tmp_path), case.tensors("lora_outputs")
    about, low = case.json("config.json"), case.tensors("lora_weights")
    assert about["lora_alpha"] == 2 * about["lora_r"]
    names = train_lora(captioner, rank=about["lora_r"], dropout=0.0)
    task = task_of(case, captioner)
    batch = batch_of(case, task)
    model = captioner.model.train()
    model.set_gradient_checkpointing(checkpointing)
    with torch.no_grad():  # B is 0: nothing has changed yet
        start = mean(task, batch)
        assert abs(start.item() / case.tensors("outputs")["loss"].item() - 1) <= 1e-5
    model.load_state_dict({name: our_lora(captioner, low, name) for name in names}, strict=False)
    loss = mean(task, batch)
    assert abs(loss.item() / expected["loss"].item() - 1) <= 1e-5
    loss.backward()
    parameters = dict(model.named_parameters())
    gradients = captioner.layout.to_files({name: parameters[name].grad for name in names})
    assert gradients.keys() == low.keys()
    for key, gradient in gradients.items():
        assert_close(gradient, expected[f"grad.{key}"], GRADIENTS, key)
    assert {n for n, p in parameters.items() if p.grad is not None} == set(names)

    # Saved as published, and what is published is read.
    task.save(tmp_path / "saved")
    saved, published = load_file(tmp_path / "saved" / "model.safetensors"), unmerged(case)
    assert saved.keys() == published.keys()
    assert all(torch.equal(saved[key], value) for key, value in published.items())
    values = {**config_values(case), "use_llm_lora": about["lora_r"]}
    save_file(published, make_folder(case, tmp_path / "unmerged", values) / "model.safetensors")
    folded, again = load(tmp_path / "unmerged"), load(tmp_path / "saved")
    captioner.merge_lora()
    assert captioner.config == again.config
    model.eval()
    with torch.no_grad():
        for one in (captioner, folded, again):
            assert isinstance(one, UrecaCaptioner)
            assert one.config.use_llm_lora == 0
            found = answer_logits(UrecaTask(one, task.options), batch)
            assert distance(found, expected["logits_answer"]) <= LOGITS
    folded.save_pretrained(tmp_path / "merged")
    assert not any("lora" in key for key in load_file(tmp_path / "merged" / "model.safetensors"))
    assert load(tmp_path / "merged").config == folded.config
