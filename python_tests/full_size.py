"""A full-size model in a folder, loaded and asked in a process of its own: memory and time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PHOTO = Path(__file__).parents[1] / "examples" / "astronaut.jpg"

SCRIPT = """
import json, sys, time
from pathlib import Path
import torch
import fastregion as fr
from fastregion._torchvision_guard import import_transformers
from fastregion.images import load_image
from fastregion.language import stream
from fastregion.models.request import RegionRequest
from fastregion.regions import Region

def peak():
    # The process's own; getrusage starts with what the parent had when it forked.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])

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

with torch.inference_mode():
    prompts = timed("vision", lambda: captioner.encode(captioner.process(request)))
    pieces = stream(captioner.decoder, prompts, max_new_tokens=9, eos_token_ids=())
    tokens = [timed("prefill", lambda: next(pieces)).token_id]
    tokens += timed("decode 8 tokens", lambda: [piece.token_id for piece in pieces])
found = timed("describe", lambda: captioner.describe(
    image, request.regions[0], max_new_tokens=8, return_details=True))
assert isinstance(found.text, str) and len(found.token_ids) <= 8
print(json.dumps({
    "before": before, "loaded": loaded, "peak": peak(), "load_seconds": load_seconds,
    "steps": steps, "tokens": tokens, "text": found.text, "prompt_tokens": prompts.total_tokens,
    "dtype": str(prompts.embeddings.dtype),
}))
"""


def describe_photograph(folder: Path) -> dict[str, Any]:
    """What the process saw, checked: a text of nine tokens in bfloat16.

    ``loaded - before`` are the bytes that loading took at its peak; Linux only.
    """
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(PHOTO)],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["dtype"] == "torch.bfloat16"
    assert len(found["tokens"]) == 9
    assert isinstance(found["text"], str)
    return found
