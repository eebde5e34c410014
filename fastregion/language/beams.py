"""Beam search: the most likely continuation of each prompt, up to what the beams overlook.

With ``log p(y)`` the sum of the log-probabilities of the tokens of a continuation ``y``, ended
continuations are ranked by (Wu et al. 2016, without their additive constant)

    score(y) = log p(y) / |y| ** length_penalty

A step extends the ``num_beams`` best open continuations by every token. The best results, taken
in order, either end or go on: an end counts if it is among the first ``num_beams``, and the first
``num_beams`` that do not end are the next beams. These are the rules of transformers' ``generate``,
so that both find the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import nn

from fastregion.language.cache import KVCache
from fastregion.language.generation import FinishReason, Generated, check_limits
from fastregion.language.packed import PackedPrompts
from fastregion.language.reading import ReadPrompts, reader
from fastregion.language.text_stream import TextStream

__all__ = ["EarlyStopping", "beam_search", "check_beams"]

EarlyStopping = bool | Literal["never"]


def check_beams(num_beams: int, length_penalty: float, early_stopping: EarlyStopping) -> None:
    """Raise unless the settings are those of a beam search, or of none (one beam)."""
    if isinstance(num_beams, bool) or not isinstance(num_beams, int):
        raise TypeError(f"num_beams: expected an integer, got {type(num_beams).__name__}")
    if num_beams < 1:
        raise ValueError(f"num_beams: must be at least 1, got {num_beams}")
    if isinstance(length_penalty, bool) or not isinstance(length_penalty, int | float):
        raise TypeError(f"length_penalty: expected a number, got {type(length_penalty).__name__}")
    if not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty: must be finite, got {length_penalty}")
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise ValueError(f"early_stopping: must be True, False or 'never', got {early_stopping!r}")


def beam_search(
    decoder: nn.Module,
    prompts: PackedPrompts | ReadPrompts,
    *,
    num_beams: int,
    max_new_tokens: int,
    eos_token_ids: int | Iterable[int],
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    text: TextStream | None = None,
    prefixes: PackedPrompts | ReadPrompts | None = None,
    prefix_of: Sequence[int] | None = None,
) -> list[list[Generated]]:
    """Continue every prompt by beam search.

    Prompts are searched together and leave the batch when their search ends; none depends on
    another, up to rounding.

    Args:
        decoder: a transformers ``LlamaForCausalLM`` or ``Qwen2ForCausalLM``.
        prompts: as for ``generate``.
        num_beams: open continuations per prompt, at least 1.
        max_new_tokens: tokens per sequence, at least 1; the model's context may end earlier.
        eos_token_ids: tokens that end a sequence; may be empty.
        length_penalty: see the module; above 0 favours long continuations, below 0 short ones.
        early_stopping: True ends a search at ``num_beams`` ended continuations; False when the best
            open one, scored as it stands, is no better than the worst of those; ``"never"`` the
            same, but scored as if it kept its ``log p`` up to the longest length.
        text: a fresh stream; a continuation also ends where it finds a stop string.
        prefixes: as for ``generate``.
        prefix_of: as for ``generate``.

    Returns:
        For each prompt the continuations that were kept, 1 to ``num_beams``, the best first.

    Raises:
        TypeError, ValueError, NotImplementedError, FloatingPointError: see ``generate``.
    """
    check_beams(num_beams, length_penalty, early_stopping)
    model, ends = check_limits(decoder, max_new_tokens, eos_token_ids)
    read = reader(model, decoder, prompts, prefixes, prefix_of)()
    logits = model.logits(read.last)
    room = (model.longest - read.cache.positions).tolist()
    searches = [
        _Search(
            num_beams=num_beams,
            limit=min(max_new_tokens, left),
            ends=ends,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            beams=[_Beam(0.0, None, text)],
        )
        for left in room
    ]
    # As many as are needed for num_beams of them to be no end tokens.
    wanted = max(2, 1 + len(ends)) * num_beams
    active = searches
    cache: KVCache | None = None
    while True:
        candidates = _best(logits, active, wanted)
        parents = [search.advance(found) for search, found in zip(active, candidates, strict=True)]
        width = logits.shape[0] // len(active)
        rows = [i * width + row for i, chosen in enumerate(parents) for row in chosen]
        active = [search for search, chosen in zip(active, parents, strict=True) if chosen]
        if not active:
            return [search.results() for search in searches]
        if cache is None:
            cache = read.cache.branch(rows)
        else:
            cache.select(rows)
        newest = torch.tensor([b.newest for search in active for b in search.beams])
        logits = model.step(newest.to(model.device), cache)


class _Node(NamedTuple):
    """The newest token of a continuation; continuations share their beginnings."""

    before: _Node | None
    token_id: int
    logprob: float


class _Beam(NamedTuple):
    total: float  # log p of the continuation; -inf for a place that is not taken
    node: _Node | None
    text: TextStream | None

    @property
    def newest(self) -> int:
        assert self.node is not None
        return self.node.token_id


class _Candidate(NamedTuple):
    total: float
    parent: int  # which beam it continues
    token_id: int
    logprob: float


class _Ended(NamedTuple):
    score: float
    node: _Node
    finish_reason: FinishReason

    def generated(self) -> Generated:
        node: _Node | None = self.node
        token_ids: list[int] = []
        logprobs: list[float] = []
        while node is not None:
            token_ids.append(node.token_id)
            logprobs.append(node.logprob)
            node = node.before
        return Generated(token_ids[::-1], logprobs[::-1], self.finish_reason)


def _best(logits: torch.Tensor, searches: Sequence[_Search], wanted: int) -> list[list[_Candidate]]:
    """The most likely continuations of each search, best first, from logits ``[rows, vocab]``."""
    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    vocabulary = logprobs.shape[1]
    logprobs = logprobs.view(len(searches), -1)  # [prompts, beams * vocab]
    so_far = logprobs.new_tensor([[beam.total for beam in search.beams] for search in searches])
    totals = logprobs + so_far.repeat_interleave(vocabulary, dim=1)
    values, places = totals.topk(min(wanted, totals.shape[1]))
    steps = logprobs.gather(1, places)
    found = []
    for index, row in enumerate(zip(values.tolist(), places.tolist(), steps.tolist(), strict=True)):
        if math.isnan(row[0][0]):
            raise FloatingPointError(
                f"beam_search: the decoder computed NaN after {searches[index].length} tokens; "
                "a prompt's embeddings or the decoder's weights are not finite"
            )
        found.append(
            [
                _Candidate(total, place // vocabulary, place % vocabulary, logprob)
                for total, place, logprob in zip(*row, strict=True)
                if total > -math.inf
            ]
        )
    return found


@dataclass(kw_only=True)
class _Search:
    """The search for the continuation of one prompt."""

    num_beams: int
    limit: int
    ends: frozenset[int]
    length_penalty: float
    early_stopping: EarlyStopping
    beams: list[_Beam]
    length: int = 0
    ended: list[_Ended] = field(default_factory=list)  # best first, at most num_beams

    def advance(self, candidates: Sequence[_Candidate]) -> list[int]:
        """Take one token.

        Returns:
            For each of the next ``num_beams`` beams the beam it continues; empty when done.
        """
        self.length += 1
        beams: list[_Beam] = []
        parents: list[int] = []
        for rank, candidate in enumerate(candidates):
            if len(beams) == self.num_beams and rank >= self.num_beams:
                break  # the rest is neither an end that counts nor a beam
            parent = self.beams[candidate.parent]
            node = _Node(parent.node, candidate.token_id, candidate.logprob)
            text = None
            if parent.text is not None:
                text = parent.text.fork()
                text.put(candidate.token_id)
            stopped = candidate.token_id in self.ends or (text is not None and text.stopped)
            if stopped or self.length == self.limit:
                if rank < self.num_beams:
                    self._end(candidate.total, node, "stop" if stopped else "length")
            elif len(beams) < self.num_beams:
                beams.append(_Beam(candidate.total, node, text))
                parents.append(candidate.parent)
        if not beams or self._is_decided(beams[0].total):
            return []
        # Stop strings can end so many that places stay empty; all searches have as many rows.
        empty = self.num_beams - len(beams)
        self.beams = beams + [_Beam(-math.inf, beams[0].node, beams[0].text)] * empty
        return parents + [parents[0]] * empty

    def _end(self, total: float, node: _Node, reason: FinishReason) -> None:
        self.ended.append(_Ended(self._score(total, self.length), node, reason))
        self.ended.sort(key=lambda ended: -ended.score)
        del self.ended[self.num_beams :]

    def _is_decided(self, best_total: float) -> bool:
        """Whether the open beams are given up."""
        if len(self.ended) < self.num_beams:
            return False
        if self.early_stopping is True:
            return True
        longest = self.early_stopping == "never" and self.length_penalty > 0
        hoped_for = self._score(best_total, self.limit if longest else self.length)
        return not hoped_for > self.ended[-1].score

    def _score(self, total: float, length: int) -> float:
        return total / math.pow(length, self.length_penalty)

    def results(self) -> list[Generated]:
        """The continuations that ended, best first."""
        return [ended.generated() for ended in self.ended]
