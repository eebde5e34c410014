"""Low-rank updates: the base stays, merged is unmerged, and files of both kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_dam
import tiny_gar
import torch
from torch import Tensor

from fastregion import load
from fastregion.models.base import Captioner
from fastregion.regions import Region
from fastregion.training.data import Record
from fastregion.training.lora import (
    add_lora,
    has_lora,
    load_adapter,
    merge_lora,
    merged_lora,
    save_adapter,
)
from fastregion.training.systems.dam import DamTask
from fastregion.training.systems.gar import GarTask

pytest.importorskip("peft")

TINY: dict[str, Any] = {"gar": (tiny_gar, GarTask), "dam": (tiny_dam, DamTask)}
ALSO = {
    "gar": ("mask_patch_embedding.*",),
    "dam": ("context_provider.*", "*.mask_patch_embedding.*"),
}


@pytest.fixture(params=sorted(TINY))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fresh(kind: str) -> Captioner:
    captioner: Captioner = TINY[kind][0].captioner()
    return captioner


def batch_of(task: Any) -> Any:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    region = Region.from_box((5, 8, 40, 30), (40, 60))
    row = Record(
        id="0",
        image=lambda: image,
        regions=lambda: (region,),
        num_regions=1,
        captions=(("a thing",),),
    )
    return task.collate([task.sample(row, np.random.default_rng(1))])


def weights(captioner: Captioner) -> dict[str, Tensor]:
    return {
        name.replace(".base_layer", ""): value.detach().clone()
        for name, value in captioner.model.named_parameters()
        if ".lora_" not in name
    }


def train(captioner: Captioner, kind: str, steps: int = 3) -> Any:
    task = TINY[kind][1](captioner)
    batch = batch_of(task)
    trained = [p for p in captioner.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    task.step.train()
    for _ in range(steps):
        total, targets, _ = task.step(batch)
        optimizer.zero_grad()
        (total / targets).backward()
        optimizer.step()
    task.step.eval()
    return task, batch


def loss_of(task: Any, batch: Any) -> Tensor:
    with torch.no_grad():
        loss: Tensor = task.step(batch).total
    return loss


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_only_what_is_asked_for_moves(kind: str, dropout: float) -> None:
    captioner = fresh(kind)
    bare = TINY[kind][1](captioner)
    before = loss_of(bare, batch_of(bare))
    start = weights(captioner)
    names = add_lora(captioner, rank=4, alpha=8, dropout=dropout, also_train=ALSO[kind])
    plain = [name for name in names if ".lora_" not in name]
    assert len(names) - len(plain) == 2 * 2 * 7  # A and B, two blocks, seven layers
    assert plain
    assert has_lora(captioner)
    task = TINY[kind][1](captioner)
    task.step.eval()
    assert torch.equal(loss_of(task, batch_of(task)), before)  # B is 0
    train(captioner, kind)
    moved = {
        captioner.layout.published(name)
        for name, value in weights(captioner).items()
        if not torch.equal(value, start[name])
    }
    assert moved <= set(plain)
    assert moved  # some of the mask's path is not reached by this little data


def test_merged_is_unmerged(kind: str, tmp_path: Path) -> None:
    captioner = fresh(kind)
    add_lora(captioner, rank=4, alpha=8, also_train=ALSO[kind])
    task, batch = train(captioner, kind)
    trained = loss_of(task, batch)
    untrained = loss_of(TINY[kind][1](fresh(kind)), batch)
    assert abs(trained - untrained) > 0.1
    state = {name: value.clone() for name, value in captioner.model.state_dict().items()}
    image = np.random.default_rng(2).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    with merged_lora(captioner):
        torch.testing.assert_close(loss_of(task, batch), trained, rtol=1e-5, atol=0)
        text = captioner.describe(image, (5, 5, 30, 30), max_new_tokens=6)
    after = captioner.model.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in state.items())

    task.save(tmp_path)  # as a checkpoint of its kind, and as an adapter
    again = load(tmp_path)
    assert not has_lora(again)
    assert again.describe(image, (5, 5, 30, 30), max_new_tokens=6) == text
    torch.testing.assert_close(loss_of(TINY[kind][1](again), batch), trained, rtol=1e-5, atol=0)
    adapted = fresh(kind)
    load_adapter(adapted, tmp_path / "adapter")
    assert torch.equal(loss_of(TINY[kind][1](adapted), batch), trained)
    merge_lora(adapted)
    assert not has_lora(adapted)
    assert adapted.describe(image, (5, 5, 30, 30), max_new_tokens=6) == text


def test_gradient_checkpointing(kind: str) -> None:
    """Frozen embeddings in front of blocks that are computed again."""
    gradients = []
    for on in (False, True):
        captioner = fresh(kind)
        torch.manual_seed(0)
        add_lora(captioner, rank=2, alpha=4)
        captioner.model.set_gradient_checkpointing(on)  # type: ignore[operator]
        task = TINY[kind][1](captioner)
        task.step.train()
        task.step(batch_of(task)).total.backward()
        gradients.append({n: p.grad for n, p in captioner.model.named_parameters()})
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert (gradient is None) == (other is None) == (".lora_" not in name)
        if gradient is not None and other is not None:
            torch.testing.assert_close(other, gradient)


def test_peft_reads_the_adapter(tmp_path: Path) -> None:
    captioner = fresh("dam")
    add_lora(captioner, rank=4, alpha=8, targets=("llm.*.q_proj", "llm.*.v_proj"))
    train(captioner, "dam")
    save_adapter(captioner, tmp_path)
    import peft

    config = peft.LoraConfig.from_pretrained(tmp_path)
    assert (config.r, config.lora_alpha, len(config.target_modules)) == (4, 8, 4)
    # The published names of DAM's decoder are those of its module.
    model = peft.PeftModel.from_pretrained(fresh("dam").model, tmp_path)
    found = {
        name.removeprefix("base_model.model."): value
        for name, value in model.named_parameters()
        if ".lora_" in name
    }
    ours = {n: p for n, p in captioner.model.named_parameters() if ".lora_" in n}
    assert found.keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in found.items())


class TestRefusals:
    def test_patterns(self) -> None:
        with pytest.raises(ValueError, match=r"lora\.targets: 'q_proj' fits no"):
            add_lora(fresh("gar"), rank=4, alpha=8, targets=("q_proj",))
        with pytest.raises(ValueError, match=r"lora\.also_train: 'mask' fits no"):
            add_lora(fresh("gar"), rank=4, alpha=8, also_train=("mask",))
        with pytest.raises(ValueError, match="shares its weight with another layer"):
            add_lora(fresh("gar"), rank=4, alpha=8, targets=("mllm.lm_head",))

    def test_twice(self) -> None:
        captioner = fresh("gar")
        with pytest.raises(ValueError, match="captioner: has no LoRA layers"):
            save_adapter(captioner, "nowhere")
        add_lora(captioner, rank=4, alpha=8)
        with pytest.raises(ValueError, match="has LoRA layers already"):
            add_lora(captioner, rank=4, alpha=8)

    def test_files(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"has no adapter_config\.json"):
            load_adapter(fresh("gar"), tmp_path)
        captioner = fresh("gar")
        add_lora(captioner, rank=4, alpha=8)
        save_adapter(captioner, tmp_path)
        with pytest.raises(ValueError, match="fits no parameter"):
            load_adapter(fresh("dam"), tmp_path)
        file = tmp_path / "adapter_config.json"
        values = json.loads(file.read_text())
        file.write_text(json.dumps(values | {"r": 2}))
        with pytest.raises(ValueError, match=r"must have shape \(2, 32\), got \(4, 32\)"):
            load_adapter(fresh("gar"), tmp_path)
        file.write_text(json.dumps(values | {"use_rslora": True}))  # of another scale
        with pytest.raises(NotImplementedError, match="use_rslora is not supported"):
            load_adapter(fresh("gar"), tmp_path)
        del values["r"]
        file.write_text(json.dumps(values))
        with pytest.raises(ValueError, match=r"adapter_config\.json has no key 'r'"):
            load_adapter(fresh("gar"), tmp_path)
        file.write_text(json.dumps(values | {"r": "4"}))
        with pytest.raises(ValueError, match="r must not be '4'"):
            load_adapter(fresh("gar"), tmp_path)
        file.write_text(json.dumps(values | {"r": 4}))
        (tmp_path / "adapter_model.safetensors").write_bytes(b"no tensors")
        with pytest.raises(ValueError, match=r"adapter_model\.safetensors: damaged"):
            load_adapter(fresh("gar"), tmp_path)
