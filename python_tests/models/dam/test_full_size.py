"""A random DAM-3B at full size, in bfloat16 on a CPU: memory of loading, and the time by step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from full_size import describe_photograph

from fastregion.benchmarking.dam import dam_tokenizer
from fastregion.models.dam import DamCaptioner, DamConfig


@pytest.mark.slow
def test_dam_3b_describes_a_photograph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = dam_tokenizer()
    values = DamConfig.dam_3b().to_dict()
    values["llm_cfg"]["vocab_size"] = len(tokenizer)
    captioner = DamCaptioner(DamConfig.from_dict(values), tokenizer, dtype=torch.bfloat16)
    captioner.model.init_weights()
    weights = 2 * sum(parameter.numel() for parameter in captioner.model.parameters())
    captioner.save_published(tmp_path)
    del captioner

    found = describe_photograph(tmp_path)
    with capsys.disabled():
        print(json.dumps(found, indent=2))
    assert found["prompt_tokens"] > 196
    assert found["loaded"] - found["before"] < 1.3 * weights
