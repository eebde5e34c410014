"""Token packing: GAR-1B prompts of width 2048.

Image tokens, the replayed tokens of 1 or 5 regions, 100 text tokens. Floor: every row read and
written once; 4,352 + 5 x 256 + 100 rows of float32 are 47 MB each way. In place, where all but the
text lies in the buffer already, the text alone: 0.8 MB each way. The gradient reads 47 MB and
writes as much for the tokens, and 67 MB for the embedding matrix.

Peer: "published" is the released code's way in plain torch: embed all ids, compare ids with the
placeholder at full width, masked scatter; then one concatenation of the sequence for every region.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """One prompt and all that it is packed from."""

    table: Tensor
    image: Tensor
    regions: list[Tensor]
    ids: Tensor

    def published(self) -> Tensor:
        return _published(self.ids, self.table, self.image, self.regions)

    def tokens(self) -> dict[int, Tensor]:
        crops = {_FIRST_CROP + number: region for number, region in enumerate(self.regions)}
        return {_IMAGE: self.image} | crops


def _prompt(num_image: int, num_regions: int, dtype: torch.dtype, device: torch.device) -> _Prompt:
    table = torch.randn(_VOCABULARY, _WIDTH, device=device).to(dtype)
    image = torch.randn(num_image, _WIDTH, device=device).to(dtype)
    regions = [torch.randn(_CROP, _WIDTH, device=device).to(dtype) for _ in range(num_regions)]
    text = torch.randint(4000, (_TEXT,))
    crops = [torch.full((_CROP,), _FIRST_CROP + number) for number in range(num_regions)]
    ids = torch.cat((text[:20], torch.full((num_image,), _IMAGE), *crops, text[20:])).to(device)
    return _Prompt(table=table, image=image, regions=regions, ids=ids)


def _make(num_image: int, num_regions: int, dtype: torch.dtype, device: torch.device) -> Ways:
    prompt = _prompt(num_image, num_regions, dtype, device)
    tokens = prompt.tokens()
    return Ways(
        ours=lambda: pack_tokens([prompt.ids], prompt.table, tokens).embeddings,
        peers={"published": prompt.published},
        bytes=2 * len(prompt.ids) * _WIDTH * prompt.table.element_size(),
    )


def _make_in_place(
    num_image: int, num_regions: int, dtype: torch.dtype, device: torch.device
) -> Ways:
    prompt = _prompt(num_image, num_regions, dtype, device)
    tokens = prompt.tokens()
    buffer = pack_tokens([prompt.ids], prompt.table, tokens).embeddings
    missing = dict.fromkeys(tokens)
    return Ways(
        ours=lambda: pack_tokens([prompt.ids], prompt.table, missing, out=buffer).embeddings,
        peers={"published": prompt.published},
        bytes=2 * _TEXT * _WIDTH * prompt.table.element_size(),
    )


def _make_gradient(
    num_image: int, num_regions: int, dtype: torch.dtype, device: torch.device
) -> Ways:
    prompt = _prompt(num_image, num_regions, dtype, device)
    leaves = [t.requires_grad_() for t in (prompt.table, prompt.image, *prompt.regions)]
    ours = pack_tokens([prompt.ids], prompt.table, prompt.tokens()).embeddings
    theirs = prompt.published()
    grad = torch.randn_like(ours)

    def gradient(packed: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(packed, leaves, grad, retain_graph=True))

    return Ways(
        ours=lambda: gradient(ours),
        peers={"published": lambda: gradient(theirs)},
        bytes=(2 * len(prompt.ids) + _VOCABULARY) * _WIDTH * grad.element_size(),
        tolerance=1e-5 if dtype == torch.float32 else 1e-2,
    )


_FORMS = {
    "pack_tokens": (_make, ((1280, 1), (4352, 1), (4352, 5))),
    "pack_tokens in place": (_make_in_place, ((4352, 5),)),
    "pack_tokens gradient": (_make_gradient, ((4352, 5),)),
}

CASES = tuple(
    Case(
        operator=operator,
        shape=f"{num_image:,} + {num_regions} x {_CROP} + {_TEXT} rows of {_WIDTH}",
        dtype=str(dtype).removeprefix("torch."),
        make=partial(make, num_image, num_regions, dtype),
    )
    for operator, (make, sizes) in _FORMS.items()
    for num_image, num_regions in sizes
    for dtype in (torch.float32, torch.bfloat16)
)
