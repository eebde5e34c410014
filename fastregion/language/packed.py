"""Packed prompts: the one type between every captioner's encoder and the language model.

The prompts of a batch have different lengths. They lie in one buffer, one after the other, without
padding; ``cu_seqlens`` says where each begins:

    embeddings   [total_tokens, hidden]  floating   row cu_seqlens[b] + t is token t of prompt b
    cu_seqlens   [B + 1]                 int32      0 = cu_seqlens[0] < ... < cu_seqlens[B] = total
    positions    [total_tokens]          int64      position of each token for the rotary embedding
    labels       [total_tokens]          int64      id of the token at this place; -100: not scored

A label is the id of the token *at* its place; the shift by one (the token before predicts it)
happens where losses and scores are computed, as in transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fastregion.ops.checks import check_floating, check_same_device

__all__ = ["IGNORED_LABEL", "PackedPrompts", "PaddedPrompts", "append_tokens", "pack"]

IGNORED_LABEL = -100  # the ignore_index of torch's cross entropy and of transformers


class PaddedPrompts(NamedTuple):
    """Prompts as a padded batch; the fields are keyword arguments of a transformers decoder.

    Attributes:
        inputs_embeds: ``[B, L, hidden]``, zero where padded.
        attention_mask: int64 ``[B, L]``, 1 for tokens and 0 for padding.
        position_ids: int64 ``[B, L]``, zero where padded.
        labels: int64 ``[B, L]`` with -100 where padded, or None.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor | None


@dataclass(frozen=True, eq=False, repr=False)
class PackedPrompts:
    """A ragged batch of prompts, checked when made; see the module for the layout.

    Attributes:
        embeddings: ``[total_tokens, hidden]``, floating point.
        cu_seqlens: int32 ``[B + 1]``, cumulative lengths from 0 to ``total_tokens``.
        positions: int64 ``[total_tokens]``, not negative.
        labels: int64 ``[total_tokens]`` of token ids and -100, or None.
        lengths: length of each prompt, on the host.

    Raises:
        TypeError: a field has the wrong type or dtype.
        ValueError: no prompt, an empty prompt, shapes that do not fit, values out of range, or
            tensors on different devices.
    """

    embeddings: Tensor
    cu_seqlens: Tensor
    positions: Tensor
    labels: Tensor | None = None
    lengths: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        _check_tensor("embeddings", self.embeddings)
        check_floating("PackedPrompts", embeddings=self.embeddings)
        if self.embeddings.dim() != 2 or self.embeddings.shape[1] < 1:
            raise ValueError(
                "PackedPrompts: embeddings must be [total_tokens, hidden], "
                f"got shape {tuple(self.embeddings.shape)}"
            )
        _check_tensor("cu_seqlens", self.cu_seqlens, torch.int32)
        self._check_per_token("positions", self.positions)
        if self.labels is not None:
            self._check_per_token("labels", self.labels)
        check_same_device(
            "PackedPrompts",
            embeddings=self.embeddings,
            cu_seqlens=self.cu_seqlens,
            positions=self.positions,
            labels=self.labels,
        )
        object.__setattr__(self, "lengths", _lengths(self.cu_seqlens, self.total_tokens))
        lowest = int(self.positions.min())
        if lowest < 0:
            raise ValueError(f"PackedPrompts: positions must not be negative, got {lowest}")
        if self.labels is not None:
            wrong = self.labels[(self.labels < 0) & (self.labels != IGNORED_LABEL)]
            if wrong.numel():
                raise ValueError(
                    f"PackedPrompts: labels must be token ids or {IGNORED_LABEL}, "
                    f"got {int(wrong[0])}"
                )

    def _check_per_token(self, name: str, tensor: Tensor) -> None:
        _check_tensor(name, tensor, torch.int64)
        if tensor.shape != (self.total_tokens,):
            raise ValueError(
                f"PackedPrompts: {name} must be [total_tokens] = [{self.total_tokens}], "
                f"got shape {tuple(tensor.shape)}"
            )

    @property
    def batch_size(self) -> int:
        """Number of prompts."""
        return len(self.lengths)

    @property
    def total_tokens(self) -> int:
        """Number of tokens of all prompts together."""
        return self.embeddings.shape[0]

    @property
    def hidden_size(self) -> int:
        """Width of an embedding."""
        return self.embeddings.shape[1]

    def targets(self) -> Tensor:
        """Rows int64 ``[n]`` of the labelled tokens that another one stands before and predicts.

        Raises:
            ValueError: no labels.
        """
        if self.labels is None:
            raise ValueError("prompts: labels are needed, got none")
        labelled = self.labels != IGNORED_LABEL
        labelled[self.cu_seqlens[:-1].long()] = False
        return labelled.nonzero().squeeze(1)

    def __len__(self) -> int:
        return self.batch_size

    def __repr__(self) -> str:
        return (
            f"PackedPrompts(batch_size={self.batch_size}, total_tokens={self.total_tokens}, "
            f"hidden_size={self.hidden_size}, dtype={self.embeddings.dtype}, "
            f"device={self.embeddings.device}, labels={self.labels is not None})"
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> PackedPrompts:
        """Move all tensors to ``device`` and the embeddings to ``dtype``; None leaves them."""
        return PackedPrompts(
            embeddings=self.embeddings.to(device=device, dtype=dtype),
            cu_seqlens=self.cu_seqlens.to(device=device),
            positions=self.positions.to(device=device),
            labels=None if self.labels is None else self.labels.to(device=device),
        )

    def select(self, indices: Sequence[int]) -> PackedPrompts:
        """The prompts with these indices, in this order.

        Raises:
            ValueError: no index is given.
            IndexError: an index is not in [0, batch_size).
        """
        if not indices:
            raise ValueError("select: indices must name at least one prompt, got none")
        outside = [i for i in indices if not 0 <= i < self.batch_size]
        if outside:
            raise IndexError(f"select: indices must be in [0, {self.batch_size}), got {outside[0]}")
        ends = _cumulative(self.lengths)
        spans = [slice(ends[i], ends[i + 1]) for i in indices]

        def gather(tensor: Tensor) -> Tensor:
            return torch.cat([tensor[span] for span in spans])

        return PackedPrompts(
            embeddings=gather(self.embeddings),
            cu_seqlens=_cu_seqlens([self.lengths[i] for i in indices], self.cu_seqlens.device),
            positions=gather(self.positions),
            labels=None if self.labels is None else gather(self.labels),
        )

    def pad(self, side: Literal["left", "right"] = "right") -> PaddedPrompts:
        """The prompts as one padded batch, for a transformers decoder: ``decoder(**p._asdict())``.

        Differentiable in the embeddings.

        Args:
            side: where the padding goes.
        """
        if side not in ("left", "right"):
            raise ValueError(f"pad: side must be 'left' or 'right', got {side!r}")
        batch_size, longest = self.batch_size, max(self.lengths)
        starts = self.cu_seqlens[:-1].long()
        lengths = self.cu_seqlens.diff().long()
        # Token t of prompt b goes to slot b * longest + t; on the left, as much further as makes
        # all prompts end together.
        shift = torch.arange(batch_size, device=starts.device) * longest - starts
        if side == "left":
            shift = shift + longest - lengths
        slots = torch.arange(self.total_tokens, device=starts.device) + shift.repeat_interleave(
            lengths, output_size=self.total_tokens
        )

        def scatter(tensor: Tensor, fill: int) -> Tensor:
            padded = tensor.new_full((batch_size * longest, *tensor.shape[1:]), fill)
            return padded.index_copy(0, slots, tensor).view(batch_size, longest, *tensor.shape[1:])

        return PaddedPrompts(
            inputs_embeds=scatter(self.embeddings, 0),
            attention_mask=scatter(torch.ones_like(self.positions), 0),
            position_ids=scatter(self.positions, 0),
            labels=None if self.labels is None else scatter(self.labels, IGNORED_LABEL),
        )


def pack(embeddings: Sequence[Tensor], labels: Sequence[Tensor] | None = None) -> PackedPrompts:
    """Pack prompts that are given one by one; positions count from 0 in each.

    Args:
        embeddings: one ``[n_i, hidden]`` tensor per prompt, of one dtype and device, ``n_i >= 1``.
        labels: one int64 ``[n_i]`` tensor per prompt, or None.

    Raises:
        TypeError: dtypes differ or are wrong.
        ValueError: nothing to pack, an empty prompt, or shapes or devices that do not fit.
    """
    if not embeddings:
        raise ValueError("pack: embeddings must hold at least one prompt, got none")
    first = embeddings[0]
    for index, prompt in enumerate(embeddings):
        if prompt.dim() != 2 or prompt.shape[1] != first.shape[-1]:
            raise ValueError(
                "pack: embeddings must be [n, hidden] with one hidden size, "
                f"got shape {tuple(prompt.shape)} for prompt {index}"
            )
        if prompt.dtype != first.dtype:  # torch.cat would promote them without a word
            raise TypeError(
                "pack: embeddings must have one dtype, "
                f"got {first.dtype} for prompt 0 and {prompt.dtype} for prompt {index}"
            )
    lengths = [prompt.shape[0] for prompt in embeddings]
    if labels is not None:
        shapes = [tuple(given.shape) for given in labels]
        if shapes != [(n,) for n in lengths]:
            raise ValueError(
                f"pack: labels must have shapes {[(n,) for n in lengths]} to match the embeddings, "
                f"got {shapes}"
            )
    return PackedPrompts(
        embeddings=torch.cat(list(embeddings)),
        cu_seqlens=_cu_seqlens(lengths, first.device),
        positions=torch.cat([torch.arange(n, device=first.device) for n in lengths]),
        labels=None if labels is None else torch.cat(list(labels)),
    )


def append_tokens(
    prompts: PackedPrompts,
    token_ids: Sequence[Sequence[int]],
    embed: Callable[[Tensor], Tensor],
) -> PackedPrompts:
    """Continue each prompt with text whose tokens are labelled (to be learned or scored).

    Labels of the prompts themselves are kept; without any they become -100. Differentiable in the
    embeddings of both.

    Args:
        prompts: ``B`` prompts.
        token_ids: ``B`` lists of token ids; a list may be empty.
        embed: the decoder's token embedding, int64 ``[n]`` to ``[n, hidden]``.

    Raises:
        ValueError: the number of lists is not ``B``, or an id is not in the vocabulary.
    """
    if len(token_ids) != prompts.batch_size:
        raise ValueError(
            f"append_tokens: token_ids must hold {prompts.batch_size} lists, one per prompt, "
            f"got {len(token_ids)}"
        )
    vocabulary = getattr(embed, "num_embeddings", None)
    flat = [token for ids in token_ids for token in ids]
    check_token_ids("append_tokens: token_ids", flat, vocabulary)
    device = prompts.embeddings.device
    added = torch.tensor(flat, dtype=torch.int64, device=device)
    new_rows = embed(added).to(prompts.embeddings.dtype)
    old_labels = prompts.labels
    if old_labels is None:
        old_labels = torch.full_like(prompts.positions, IGNORED_LABEL)
    counts = [len(ids) for ids in token_ids]
    old_ends, new_ends = _cumulative(prompts.lengths), _cumulative(counts)

    def interleave(old: Tensor, new: Tensor) -> Tensor:
        pieces = []
        for i in range(prompts.batch_size):
            pieces += [old[old_ends[i] : old_ends[i + 1]], new[new_ends[i] : new_ends[i + 1]]]
        return torch.cat(pieces)

    last = prompts.positions[prompts.cu_seqlens[1:].long() - 1].tolist()
    new_positions = [last[i] + 1 + step for i, count in enumerate(counts) for step in range(count)]
    return PackedPrompts(
        embeddings=interleave(prompts.embeddings, new_rows),
        cu_seqlens=_cu_seqlens(
            [a + b for a, b in zip(prompts.lengths, counts, strict=True)], device
        ),
        positions=interleave(
            prompts.positions, torch.tensor(new_positions, dtype=torch.int64, device=device)
        ),
        labels=interleave(old_labels, added),
    )


def check_token_ids(what: str, token_ids: Sequence[int], vocabulary: int | None) -> None:
    """Raise unless all are integers in [0, vocabulary); None leaves the upper end open."""
    for token in token_ids:
        if isinstance(token, bool) or not isinstance(token, int):
            raise TypeError(f"{what} must be integers, got {type(token).__name__}")
        if token < 0 or (vocabulary is not None and token >= vocabulary):
            upper = "" if vocabulary is None else f" and below {vocabulary}"
            raise ValueError(f"{what} must be at least 0{upper}, got {token}")


def _check_tensor(name: str, value: object, dtype: torch.dtype | None = None) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"PackedPrompts: {name} must be a tensor, got {type(value).__name__}")
    if dtype is not None and value.dtype != dtype:
        raise TypeError(f"PackedPrompts: {name} must be {dtype}, got {value.dtype}")


def _lengths(cu_seqlens: Tensor, total_tokens: int) -> tuple[int, ...]:
    """Lengths of the prompts, checked to cover all tokens and to leave none empty."""
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(
            "PackedPrompts: cu_seqlens must be [B + 1] with at least one prompt, "
            f"got shape {tuple(cu_seqlens.shape)}"
        )
    ends = cu_seqlens.tolist()
    if ends[0] != 0 or ends[-1] != total_tokens:
        raise ValueError(
            f"PackedPrompts: cu_seqlens must run from 0 to total_tokens = {total_tokens}, "
            f"got {ends[0]} to {ends[-1]}"
        )
    lengths = tuple(end - start for start, end in pairwise(ends))
    for index, length in enumerate(lengths):
        if length < 1:
            raise ValueError(
                "PackedPrompts: every prompt must have at least one token, "
                f"got length {length} for prompt {index}"
            )
    return lengths


def _cumulative(lengths: Sequence[int]) -> list[int]:
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    return ends


def _cu_seqlens(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(_cumulative(lengths), dtype=torch.int32, device=device)
