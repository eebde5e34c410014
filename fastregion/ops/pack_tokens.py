"""Packed prompts: token ids with placeholders and feature tokens become embeddings.

    embeddings[r, :] = (embedding ++ tokens_1 ++ tokens_2 ++ ...)[rows[r], :]

``++`` is concatenation along the rows, which is never carried out: a row number below V is a token
id and reads the embedding matrix ``[V, D]``, the following ones read image tokens, replayed region
tokens, mask tokens. Prompts of different lengths lie one behind the other, without padding.

This module makes the row numbers from token ids; the gather itself, with its dtypes, numerics,
gradients and devices, is ``pack_rows`` (:mod:`fastregion.ops.pack_rows`), which several prompts may
also use directly to share the same feature tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastregion.ops.checks import check_floating, check_same_device, check_same_dtype
from fastregion.ops.pack_rows import IN_PLACE, pack_rows


class PackedTokens(NamedTuple):
    """Prompts one behind the other.

    Attributes:
        embeddings: ``[total, D]``.
        cu_seqlens: int32 ``[B + 1]``; prompt b is rows ``cu_seqlens[b]`` to ``cu_seqlens[b + 1]``.
        positions: int64 ``[total]``, from 0 in every prompt.
        labels: int64 ``[total]``, or None where none were given.
    """

    embeddings: Tensor
    cu_seqlens: Tensor
    positions: Tensor
    labels: Tensor | None


def pack_tokens(
    input_ids: Sequence[Tensor | Sequence[int]],
    embedding: Tensor,
    tokens: Mapping[int, Tensor | None] | None = None,
    *,
    labels: Sequence[Tensor | Sequence[int]] | None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> PackedTokens:
    """Embed prompts and put feature tokens in the place of their placeholders.

    Args:
        input_ids: One prompt each: token ids ``[L_b]``, on the host (ids on a device are copied
            back, which waits for it).
        embedding: ``[V, D]`` token embedding matrix.
        tokens: For every placeholder id the tokens ``[..., D]`` that take its places: the k-th
            placeholder, counted through all prompts in order, becomes the k-th token (leading
            dimensions in row-major order). A placeholder id may lie outside the vocabulary. None
            instead of tokens: they are in their places in ``out`` already, or will be.
        labels: Like ``input_ids``: the id to predict at each place, -100 where there is none.
        out: ``[total, D]`` to write the embeddings to, for inference.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        The packed prompts, on the device of ``embedding``.

    Raises:
        TypeError: Dtypes that do not fit.
        ValueError: A number of placeholders that differs from the number of tokens, tokens that are
            None without ``out``, an id outside the vocabulary, labels of another length than the
            ids, gradients wanted through ``out``, or shapes and devices that do not fit.

    Example:
        Image tokens that the projector has written to their places; only the text is copied:

        >>> import torch
        >>> from fastregion.ops import pack_tokens
        >>> ids = [7, 90, 90, 90, 8]  # 90: placeholder of an image token
        >>> buffer = torch.empty(5, 16)
        >>> buffer[1:4] = torch.ones(3, 16)
        >>> packed = pack_tokens([ids], torch.zeros(10, 16), {90: None}, out=buffer)
        >>> packed.embeddings[:, 0].tolist()
        [0.0, 1.0, 1.0, 1.0, 0.0]
    """
    name = "pack_tokens"
    if embedding.dim() != 2:
        raise ValueError(f"{name}: embedding must be [V, D], got shape {tuple(embedding.shape)}")
    tokens = tokens or {}
    given = {}  # by ascending placeholder: the order of the sources
    for placeholder, features in sorted(tokens.items()):
        if features is None:
            if out is None:
                raise ValueError(
                    f"{name}: tokens[{placeholder}] is None, which says that they are in out "
                    "already, but out was not given"
                )
        elif features.dim() < 2 or features.shape[-1] != embedding.shape[1]:
            raise ValueError(
                f"{name}: tokens[{placeholder}] must be [..., {embedding.shape[1]}], "
                f"got shape {tuple(features.shape)}"
            )
        else:
            given[placeholder] = features.flatten(0, -2)
    named = {"embedding": embedding, **{f"tokens[{key}]": given[key] for key in given}, "out": out}
    check_floating(name, **named)
    check_same_dtype(name, **named)
    check_same_device(name, **named)
    ids, lengths = _concatenated("input_ids", input_ids)
    available = {
        placeholder: None if features is None else given[placeholder].shape[0]
        for placeholder, features in sorted(tokens.items())
    }
    rows = torch.from_numpy(_row_index(ids.numpy(), lengths, embedding.shape[0], available))
    device = embedding.device
    packed_labels = None
    if labels is not None:
        packed_labels, label_lengths = _concatenated("labels", labels)
        if label_lengths != lengths:
            raise ValueError(
                f"{name}: labels must have the lengths of input_ids {lengths}, got {label_lengths}"
            )
        packed_labels = packed_labels.to(device, non_blocking=True)
    ends = np.array([0, *accumulate(lengths)])
    positions = np.arange(len(ids))
    positions -= np.repeat(ends[:-1], lengths)
    embeddings = pack_rows(
        [embedding, *given.values()],
        rows.to(device, non_blocking=True),
        out=out,
        backend=backend,
    )
    return PackedTokens(
        embeddings,
        torch.from_numpy(ends.astype(np.int32)).to(device, non_blocking=True),
        torch.from_numpy(positions).to(device, non_blocking=True),
        packed_labels,
    )


def _concatenated(
    what: str, sequences: Sequence[Tensor | Sequence[int]]
) -> tuple[Tensor, list[int]]:
    """All ids as one int64 tensor on the host, and the length of each sequence."""
    parts = [torch.as_tensor(sequence) for sequence in sequences]
    for number, part in enumerate(parts):
        if part.dim() != 1:
            raise ValueError(
                f"pack_tokens: {what}[{number}] must be [L], got shape {tuple(part.shape)}"
            )
        if part.numel() and (part.is_floating_point() or part.is_complex()):
            raise TypeError(f"pack_tokens: {what}[{number}] must hold integers, got {part.dtype}")
    host = [part.to("cpu", torch.int64) for part in parts]
    return torch.cat([torch.empty(0, dtype=torch.int64), *host]), [len(part) for part in parts]


def _row_index(
    ids: NDArray[np.int64],
    lengths: list[int],
    vocabulary: int,
    available: Mapping[int, int | None],
) -> NDArray[np.int64]:
    """Row of every place in the concatenation of the embedding matrix and the tokens.

    Args:
        ids: Token ids of all prompts.
        lengths: Number of ids of each prompt.
        vocabulary: Rows of the embedding matrix.
        available: Number of tokens of each placeholder, ascending; None: in place.
    """
    # Prompts are long runs of placeholders and little text: all is decided by the run.
    changes = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    bounds = np.concatenate(([0], changes, [ids.size])) if ids.size else np.zeros(1, np.int64)
    first, length = bounds[:-1], bounds[1:] - bounds[:-1]
    token = ids[first]
    base = token.copy()  # row of the first place of a run
    step = np.zeros_like(token)  # from a place to the next: 1 in runs of given tokens
    outside = (token < 0) | (token >= vocabulary)
    if available:
        keys = np.array(list(available))
        which = np.searchsorted(keys[1:], token, side="right")  # the last key that is not above
        runs = np.flatnonzero(keys[which] == token)
        outside[runs] = False
        # By placeholder, and for each of them in order of appearance.
        runs = runs[np.argsort(which[runs], kind="stable")]
        num_runs = np.bincount(which[runs], minlength=len(keys)).tolist()
        start = vocabulary
        for (placeholder, expected), num in zip(available.items(), num_runs, strict=True):
            here, runs = runs[:num], runs[num:]
            if expected is None:
                base[here] = IN_PLACE
                continue
            before = np.cumsum(length[here]) - length[here]
            count = int(length[here].sum())
            if count != expected:
                per_prompt = [
                    int((part == placeholder).sum())
                    for part in np.split(ids, list(accumulate(lengths))[:-1])
                ]
                raise ValueError(
                    f"pack_tokens: placeholder {placeholder} occurs {count} times in the prompts "
                    f"{per_prompt} but {expected} tokens were given"
                )
            base[here] = start + before
            step[here] = 1
            start += count
    if outside.any():
        run = int(outside.argmax())
        raise ValueError(
            f"pack_tokens: token ids must be 0 to {vocabulary - 1} or placeholders "
            f"{list(available)}, got {token[run]} at place {first[run]} of the packed prompts"
        )
    rows: NDArray[np.int64] = np.arange(ids.size)
    rows *= np.repeat(step, length)
    rows += np.repeat(base - step * first, length)
    return rows
