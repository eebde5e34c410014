"""A random GAR-1B at full size, in bfloat16 on a CPU: memory of loading, and the time by step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastregion.benchmarking.gar import byte_tokenizer
from fastregion.models.gar import GarCaptioner, GarConfig
from fastregion.models.gar.processing import ProcessorConfig
from fastregion.models.gar.prompts import crop_token

PHOTO = Path(__file__).parents[3] / "examples" / "astronaut.jpg"
WEIGHTS = 2 * 1534139392  # bytes in bfloat16

SCRIPT = """
import json, resource, sys, time
import torch
import fastregion as fr
from fastregion._torchvision_guard import import_transformers
from fastregion.images import load_image
from fastregion.language import generate
from fastregion.models.gar import GarCaptioner
from fastregion.models.request import RegionRequest
from fastregion.regions import Region

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

import_transformers("models.llama").LlamaForCausalLM
before, start = peak(), time.perf_counter()
captioner = fr.load(sys.argv[1])
loaded, load_seconds = peak(), time.perf_counter() - start
image = load_image(sys.argv[2])
request = RegionRequest(image, (Region.from_box((150, 20, 300, 200), image.shape[:2]),))
steps = {}

def timed(name, call):
    start = time.perf_counter()
    result = call()
    steps[name] = time.perf_counter() - start
    return result

def answer(count):
    options = {"max_new_tokens": count, "eos_token_ids": ()}
    return generate(captioner.decoder, prompts, **options)[0].token_ids

with torch.inference_mode():
    prompts = timed("vision", lambda: captioner.encode(captioner.process(request)))
    timed("prefill", lambda: answer(1))
    tokens = timed("prefill and 8 tokens", lambda: answer(9))
print(json.dumps({
    "before": before, "loaded": loaded, "peak": peak(), "load_seconds": load_seconds,
    "steps": steps, "tokens": tokens, "prompt_tokens": prompts.total_tokens,
    "dtype": str(prompts.embeddings.dtype),
}))
"""


@pytest.mark.slow
def test_gar_1b_describes_a_photograph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = byte_tokenizer()
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

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(PHOTO)],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(json.dumps(found, indent=2))
    assert found["dtype"] == "torch.bfloat16"
    assert len(found["tokens"]) == 9
    assert found["loaded"] - found["before"] < 1.3 * WEIGHTS
