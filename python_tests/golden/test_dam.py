"""DAM against numbers of the published code: official weight names in, official numbers out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fastregion.vision.gated_cross_attention import GatedCrossAttentionBlock

pytestmark = pytest.mark.golden

# What the cases ask for: float32 sums in another order, on features of up to some tens.
FEATURES = {"rtol": 1e-4, "atol": 2e-3}


def cases(kind: str) -> list[Path]:
    """Folders of the cases of one kind, wherever they lie."""
    folder = Path(os.environ["FASTREGION_GOLDEN"])
    found = []
    for path in sorted(folder.rglob("case.json")):
        case = json.loads(path.read_text())
        if case.get("system") == "dam" and case.get("kind") == kind:
            found.append(path.parent)
    assert found, f"no case of kind {kind} below FASTREGION_GOLDEN"
    return found


def adapters(checkpoint: Path) -> list[GatedCrossAttentionBlock]:
    """The adapters of a checkpoint, by its own names."""
    config = json.loads((checkpoint / "context_provider" / "config.json").read_text())
    assert config["hidden_act"] == "gelu_pytorch_tanh"
    weights = load_file(checkpoint / "context_provider" / "model.safetensors")
    blocks = []
    for index in range(config["num_hidden_layers"]):
        block = GatedCrossAttentionBlock(
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_heads=config["num_attention_heads"],
            layer_norm_eps=config["layer_norm_eps"],
        )
        prefix = f"context_provider_module.layers.{index}."
        own = {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
        block.load_state_dict(own, strict=True)
        blocks.append(block.eval())
    return blocks


def model_of(case: Path) -> Path:
    config = json.loads((case / "config.json").read_text())
    return (case / config["model"]).resolve()


def adapter_steps() -> Iterator[tuple[GatedCrossAttentionBlock, dict[str, Tensor], Tensor]]:
    """Block, its published numbers by their short names, and the context, over all cases."""
    found = False
    for case in cases("describe"):
        outputs = load_file(case / "outputs.safetensors")
        for index, block in enumerate(adapters(model_of(case))):
            prefix = f"focal.adapter.{index}."
            step = {k.removeprefix(prefix): v for k, v in outputs.items() if k.startswith(prefix)}
            step["in"] = outputs.get(f"focal.encoder.{index}.out")
            if step["in"] is None or "out" not in step:
                continue  # cases of several frames hold less
            found = True
            yield block, step, outputs["context_features"]
    assert found, "no case holds what goes into an adapter and what comes out"


@torch.inference_mode()
def test_adapters() -> None:
    for block, step, z in adapter_steps():
        h = step["in"]
        normed = block.layer_norm1(h)
        attended = block.cross_attn(normed, z)
        for name, value in (("layer_norm1.out", normed), ("cross_attn.out", attended)):
            if name in step:
                torch.testing.assert_close(value, step[name], **FEATURES)
        out = block(h, z)
        torch.testing.assert_close(out, step["out"], **FEATURES)
        norm = torch.nn.LayerNorm(h.shape[2])
        again, next_normed = block.forward_and_norm(h, z, norm)
        torch.testing.assert_close(again, step["out"], **FEATURES)
        torch.testing.assert_close(next_normed, norm(step["out"]), **FEATURES)
        # The gates are used as they are: the paper's tanh gives other numbers on these weights.
        block.gate_activation = "tanh"
        assert not torch.allclose(block(h, z), step["out"], **FEATURES)
