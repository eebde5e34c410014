"""A random GAR-1B at full size, in bfloat16 on a CPU: memory of loading, and the time by step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from full_size import describe_photograph

from fastregion.benchmarking.gar import gar_tokenizer
from fastregion.models.gar import GarCaptioner, GarConfig
from fastregion.models.gar.processing import ProcessorConfig
from fastregion.models.gar.prompts import crop_token

WEIGHTS = 2 * 1534139392  # bytes in bfloat16


@pytest.mark.slow
def test_gar_1b_describes_a_photograph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = gar_tokenizer()
    values = GarConfig.gar_1b(replay="released").to_dict()
    values["crop_tokens_ids"] = [tokenizer.token_id(crop_token(k)) for k in range(5)]
    values["mllm_config"]["image_token_id"] = tokenizer.token_id("<|image|>")
    values["mllm_config"]["video_token_id"] = tokenizer.token_id("<|video|>")
    captioner = GarCaptioner(
        GarConfig.from_dict(values),
        tokenizer,
        ProcessorConfig(tile_size=448, max_num_tiles=1),
        dtype=torch.bfloat16,
    )
    captioner.model.init_weights()
    captioner.save_pretrained(tmp_path)
    del captioner

    found = describe_photograph(tmp_path)
    with capsys.disabled():
        print(json.dumps(found, indent=2))
    assert found["loaded"] - found["before"] < 1.3 * WEIGHTS
