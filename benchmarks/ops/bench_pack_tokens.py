"""pack_tokens, side by side with the chain it replaces.

    pip install ".[bench]"
    pytest benchmarks/ops/bench_pack_tokens.py --benchmark-columns=median,iqr

GAR-1B prompts of width 2048: image tokens, the replayed tokens of 1 or 5 regions, 100 text tokens.
One thread; results are equal before they are timed; allocation of the output included.

Floor: every row read and written once: 4,352 + 5 x 256 + 100 rows of float32 are 47 MB each way.

The peer is the released code's way in plain torch: embed all ids, compare ids with the placeholder
at full width, masked scatter; then one concatenation of the whole sequence for every region.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fastregion.ops import pack_tokens

WIDTH, VOCABULARY, IMAGE, FIRST_CROP = 2048, 8192, 5000, 6000
CASES = [(1280, 1), (4352, 1), (4352, 5)]


def published(ids: Tensor, table: Tensor, image: Tensor, regions: list[Tensor]) -> Tensor:
    embeddings = functional.embedding(ids, table)[None]
    special = (ids == IMAGE)[None, :, None].expand_as(embeddings)
    assert embeddings[special].numel() == image.numel()
    embeddings = embeddings.masked_scatter(special, image)
    for number, region in enumerate(regions):
        places = (ids == FIRST_CROP + number).nonzero().flatten()
        first, last = int(places[0]), int(places[-1])
        parts = (embeddings[:, :first], region[None], embeddings[:, last + 1 :])
        embeddings = torch.cat(parts, dim=1)
    return embeddings[0]


@pytest.mark.parametrize("way", ["published", "reference", "fastregion"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("num_image", "num_regions"), CASES, ids=str)
def test_packing(benchmark, num_image: int, num_regions: int, dtype: torch.dtype, way: str) -> None:
    torch.set_num_threads(1)
    table = torch.randn(VOCABULARY, WIDTH).to(dtype)
    image = torch.randn(num_image, WIDTH).to(dtype)
    regions = [torch.randn(256, WIDTH).to(dtype) for _ in range(num_regions)]
    text = torch.randint(4000, (100,))
    crops = [torch.full((256,), FIRST_CROP + number) for number in range(num_regions)]
    ids = torch.cat((text[:20], torch.full((num_image,), IMAGE), *crops, text[20:]))
    tokens = {IMAGE: image} | {FIRST_CROP + n: region for n, region in enumerate(regions)}
    backend = "cpu" if way == "fastregion" else "reference"

    def ours() -> Tensor:
        return pack_tokens([ids], table, tokens, backend=backend).embeddings

    assert torch.equal(ours(), published(ids, table, image, regions))
    call = ours if way != "published" else lambda: published(ids, table, image, regions)
    benchmark.group = f"packing {num_image} + {num_regions} x 256 + 100 {dtype}"
    benchmark.pedantic(call, rounds=7, warmup_rounds=1)
