"""Attention of a decoding step: one new token per sequence against its cache.

The decoder of GAR-1B: 32 query and 8 key-value heads of 64, context 1,616 (1,300 of the image and
its prompt, 316 of a region), bfloat16. Floor: keys and values once, 3.3 MB a sequence; the rest is
small. In groups of 5 that share 1,300 tokens the prefix once a group: 2.8 times less.

Peers: "library" is what transformers does with its cache and SDPA: concatenate the new token,
repeat keys and values for the query heads, attend. "sdpa gqa" is SDPA with grouped queries on a
cache that holds the token already. For groups, "unshared" is our operator on full copies of the
prefix. Appending alone is compared with concatenation; its floor is the tokens, read and written.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from fastregion.benchmarking.measure import Case, Ways
from fastregion.ops import SharedPrefix, append_kv_, decode_attention, empty_kv

_HEADS, _KV_HEADS, _WIDTH = 32, 8, 64
_CONTEXT, _PREFIX, _GROUP = 1616, 1300, 5
_DTYPE = torch.bfloat16
_TOKEN_BYTES = 2 * _KV_HEADS * _WIDTH * 2  # a key and a value, all heads

_Plain = tuple[Tensor, Tensor]  # keys and values [B, KV, length, D]


def _random(batch: int, length: int, device: torch.device) -> _Plain:
    k, v = torch.randn(2, batch, _KV_HEADS, length, _WIDTH, device=device).to(_DTYPE)
    return k, v


def _cache_of(plain: _Plain, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """Buffers that hold the plain keys and values, and their lengths."""
    batch, _, length, _ = plain[0].shape
    device = plain[0].device
    keys, values = empty_kv(batch, _KV_HEADS, capacity, _WIDTH, dtype=_DTYPE, device=device)
    rows = torch.arange(batch, device=device).repeat_interleave(length)
    columns = torch.arange(length, device=device).repeat(batch)
    k, v = (part.transpose(1, 2).flatten(0, 1) for part in plain)
    append_kv_(keys, values, k, v, rows, columns)
    return keys, values, torch.full((batch,), length, dtype=torch.int32, device=device)


def _library(q: Tensor, plain: _Plain, k_new: Tensor, v_new: Tensor) -> Tensor:
    group = q.shape[1] // k_new.shape[1]
    k, v = (
        torch.cat((old, new[:, :, None]), dim=2)[:, :, None]
        .expand(-1, -1, group, -1, -1)
        .flatten(1, 2)
        for old, new in zip(plain, (k_new, v_new), strict=True)
    )
    return functional.scaled_dot_product_attention(q[:, :, None], k, v)[:, :, 0]


def _make(batch: int, device: torch.device) -> Ways:
    torch.manual_seed(0)
    q = torch.randn(batch, _HEADS, _WIDTH, device=device).to(_DTYPE)
    old = _random(batch, _CONTEXT - 1, device)
    k_new, v_new = (part[:, :, 0] for part in _random(batch, 1, device))
    keys, values, lengths = _cache_of(old, _CONTEXT)
    lengths += 1
    k, v = (
        torch.cat((part, x[:, :, None]), 2) for part, x in zip(old, (k_new, v_new), strict=True)
    )

    def ours() -> Tensor:
        return decode_attention(q, keys, values, lengths, k_new=k_new, v_new=v_new)[0]

    def grouped() -> Tensor:
        attend = functional.scaled_dot_product_attention
        return attend(q[:, :, None], k, v, enable_gqa=True)[:, :, 0]

    return Ways(
        ours=ours,
        peers={"library": lambda: _library(q, old, k_new, v_new), "sdpa gqa": grouped},
        bytes=batch * _CONTEXT * _TOKEN_BYTES,
        tolerance=1e-2,
    )


def _make_groups(batch: int, device: torch.device) -> Ways:
    torch.manual_seed(0)
    groups = -(-batch // _GROUP)
    of = torch.arange(batch, device=device) // _GROUP
    q = torch.randn(batch, _HEADS, _WIDTH, device=device).to(_DTYPE)
    shared, own = _random(groups, _PREFIX, device), _random(batch, _CONTEXT - _PREFIX, device)
    prefix = SharedPrefix(*_cache_of(shared, _PREFIX), of.int())
    keys, values, lengths = _cache_of(own, _CONTEXT - _PREFIX)
    whole = [torch.cat((first[of], last), 2) for first, last in zip(shared, own, strict=True)]
    full = _cache_of((whole[0], whole[1]), _CONTEXT)
    return Ways(
        ours=lambda: decode_attention(q, keys, values, lengths, prefix=prefix)[0],
        peers={"unshared": lambda: decode_attention(q, *full)[0]},
        bytes=(groups * _PREFIX + batch * (_CONTEXT - _PREFIX)) * _TOKEN_BYTES,
        tolerance=1e-2,
    )


def _make_append(count: int, device: torch.device) -> Ways:
    """Tokens for 8 sequences that hold the rest of the context already."""
    torch.manual_seed(0)
    batch = 8
    old, new = _random(batch, _CONTEXT - count, device), _random(batch, count, device)
    keys, values, lengths = _cache_of(old, _CONTEXT)
    rows = torch.arange(batch, device=device).repeat_interleave(count)
    columns = torch.arange(count, device=device).repeat(batch) + int(lengths[0])
    k_new, v_new = (part.transpose(1, 2).flatten(0, 1) for part in new)
    return Ways(
        ours=lambda: append_kv_(keys, values, k_new, v_new, rows, columns),
        peers={"cat": lambda: [torch.cat(parts, 2) for parts in zip(old, new, strict=True)]},
        bytes=2 * batch * count * _TOKEN_BYTES,
        comparable=lambda result: 0,  # another layout: the tests compare it
    )


CASES = (
    *(
        Case(
            operator="decode_attention",
            shape=f"{batch} x 1,616 columns, 32 / 8 heads of 64, appending",
            dtype="bfloat16",
            make=partial(_make, batch),
        )
        for batch in (1, 8, 32)
    ),
    *(
        Case(
            operator="decode_attention",
            shape=f"{batch} x 1,616 columns, groups of 5 share 1,300",
            dtype="bfloat16",
            make=partial(_make_groups, batch),
        )
        for batch in (5, 30)
    ),
    *(
        Case(
            operator="append_kv_",
            shape=f"8 x {count} tokens, 8 heads of 64",
            dtype="bfloat16",
            make=partial(_make_append, count),
        )
        for count in (1, 316)
    ),
)
