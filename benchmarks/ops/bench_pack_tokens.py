"""pack_tokens, side by side with the chain it replaces.

    pip install ".[bench]"
    pytest benchmarks/ops/bench_pack_tokens.py --benchmark-columns=median,iqr

On a machine with other work, `--benchmark-timer=time.thread_time` counts only one's own time.

GAR-1B prompts of width 2048: image tokens, the replayed tokens of 1 or 5 regions, 100 text tokens.
One thread; results are equal before they are timed; allocation of the output included, except for
the two ways that write to a given one.

Floor: every row read and written once: 4,352 + 5 x 256 + 100 rows of float32 are 47 MB each way,
and a fresh output is written twice, once by the system. In place only the text is copied: 0.8 MB
each way, whatever the image. The gradient reads 47 MB and writes as much for the tokens, and 67 MB
for an embedding matrix of 8,192 rows.

Peers: "published" is the released code's way in plain torch: embed all ids, compare ids with the
placeholder at full width, masked scatter; then one concatenation of the whole sequence for every
region. "concatenation" is the copy alone, by one torch.cat of parts that are known already.
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


def make_case(
    num_image: int, num_regions: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """Embedding matrix, image tokens, tokens of each region, ids of the prompt."""
    table = torch.randn(VOCABULARY, WIDTH).to(dtype)
    image = torch.randn(num_image, WIDTH).to(dtype)
    regions = [torch.randn(256, WIDTH).to(dtype) for _ in range(num_regions)]
    text = torch.randint(4000, (100,))
    crops = [torch.full((256,), FIRST_CROP + number) for number in range(num_regions)]
    return (
        table,
        image,
        regions,
        torch.cat((text[:20], torch.full((num_image,), IMAGE), *crops, text[20:])),
    )


WAYS = ["published", "concatenation", "reference", "fastregion", "to a buffer", "in place"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("num_image", "num_regions"), CASES, ids=str)
def test_packing(benchmark, num_image: int, num_regions: int, dtype: torch.dtype, way: str) -> None:
    torch.set_num_threads(1)
    table, image, regions, ids = make_case(num_image, num_regions, dtype)
    tokens = {IMAGE: image} | {FIRST_CROP + n: region for n, region in enumerate(regions)}
    buffer = pack_tokens([ids], table, tokens).embeddings  # holds all the tokens already
    text = functional.embedding(ids[ids < IMAGE], table)

    def ours(backend: str = "cpu") -> Tensor:
        return pack_tokens([ids], table, tokens, backend=backend).embeddings

    def to_buffer(tokens: dict[int, Tensor | None] = tokens) -> Tensor:
        return pack_tokens([ids], table, tokens, out=buffer).embeddings

    calls = {
        "published": lambda: published(ids, table, image, regions),
        "concatenation": lambda: torch.cat((text[:20], image, *regions, text[20:])),
        "reference": lambda: ours("reference"),
        "fastregion": ours,
        "to a buffer": to_buffer,
        "in place": lambda: to_buffer(dict.fromkeys(tokens)),
    }
    assert torch.equal(calls[way](), published(ids, table, image, regions))
    benchmark.group = f"packing {num_image} + {num_regions} x 256 + 100 {dtype}"
    benchmark.pedantic(calls[way], rounds=7, warmup_rounds=1)


@pytest.mark.parametrize("way", ["published", "fastregion"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradient(benchmark, dtype: torch.dtype, way: str) -> None:
    torch.set_num_threads(1)
    table, image, regions, ids = make_case(4352, 5, dtype)
    tokens = {IMAGE: image} | {FIRST_CROP + n: region for n, region in enumerate(regions)}
    leaves = [tensor.requires_grad_() for tensor in (table, image, *regions)]
    if way == "published":
        packed = published(ids, table, image, regions)
    else:
        packed = pack_tokens([ids], table, tokens, backend="cpu").embeddings
    grad = torch.randn_like(packed)
    benchmark.group = f"gradient of packing 4352 + 5 x 256 + 100 {dtype}"
    benchmark.pedantic(
        lambda: torch.autograd.grad(packed, leaves, grad, retain_graph=True),
        rounds=5,
        warmup_rounds=1,
    )
