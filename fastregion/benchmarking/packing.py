"""Token packing: GAR-1B prompts of width 2048.

Image tokens, the replayed tokens of 1 or 5 regions, 100 text tokens. Floor: every row read and
written once; 4,352 + 5 x 256 + 100 rows of float32 are 47 MB each way.

Peer: "published" is the released code's way in plain torch: embed all ids, compare ids with the
placeholder at full width, masked scatter; then one concatenation of the sequence for every region.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from fastregion.benchmarking.measure import Case, Ways
from fastregion.ops import pack_tokens

_WIDTH, _VOCABULARY, _IMAGE, _FIRST_CROP = 2048, 8192, 5000, 6000
_TEXT, _CROP = 100, 256


def _published(ids: Tensor, table: Tensor, image: Tensor, regions: list[Tensor]) -> Tensor:
    embeddings = functional.embedding(ids, table)[None]
    special = (ids == _IMAGE)[None, :, None].expand_as(embeddings)
    assert embeddings[special].numel() == image.numel()
    embeddings = embeddings.masked_scatter(special, image)
    for number, region in enumerate(regions):
        places = (ids == _FIRST_CROP + number).nonzero().flatten()
        first, last = int(places[0]), int(places[-1])
        parts = (embeddings[:, :first], region[None], embeddings[:, last + 1 :])
        embeddings = torch.cat(parts, dim=1)
    return embeddings[0]


def _make(num_image: int, num_regions: int, dtype: torch.dtype, device: torch.device) -> Ways:
    table = torch.randn(_VOCABULARY, _WIDTH, device=device).to(dtype)
    image = torch.randn(num_image, _WIDTH, device=device).to(dtype)
    regions = [torch.randn(_CROP, _WIDTH, device=device).to(dtype) for _ in range(num_regions)]
    text = torch.randint(4000, (_TEXT,))
    crops = [torch.full((_CROP,), _FIRST_CROP + number) for number in range(num_regions)]
    ids = torch.cat((text[:20], torch.full((num_image,), _IMAGE), *crops, text[20:])).to(device)
    tokens = {_IMAGE: image} | {_FIRST_CROP + n: region for n, region in enumerate(regions)}
    return Ways(
        ours=lambda: pack_tokens([ids], table, tokens).embeddings,
        peers={"published": lambda: _published(ids, table, image, regions)},
        bytes=2 * len(ids) * _WIDTH * table.element_size(),
    )


CASES = tuple(
    Case(
        operator="pack_tokens",
        shape=f"{num_image:,} + {num_regions} x {_CROP} + {_TEXT} rows of {_WIDTH}",
        dtype=str(dtype).removeprefix("torch."),
        make=partial(_make, num_image, num_regions, dtype),
    )
    for num_image, num_regions in ((1280, 1), (4352, 1), (4352, 5))
    for dtype in (torch.float32, torch.bfloat16)
)
