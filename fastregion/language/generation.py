"""Text from packed prompts: greedy decoding and sampling, whole or streamed, for any batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fastregion.language.decoder import step_decoder
from fastregion.language.packed import PackedPrompts, check_token_ids
from fastregion.language.reading import ReadPrompts, reader
from fastregion.language.sampling import Sampler
from fastregion.language.step_decoder import StepDecoder

__all__ = ["FinishReason", "Generated", "Token", "generate", "stream"]

FinishReason = Literal["stop", "length"]
OnToken = Callable[[int, int, float], object]
Stop = Callable[[int, list[int]], bool]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    Attributes:
        index: the prompt that it continues.
        token_id: its id.
        logprob: its log-probability under the model (temperature 1, all tokens).
        finish_reason: set on the last token of a sequence: ``"stop"`` (an end token, or the stop
            function) or ``"length"`` (``max_new_tokens``, or the end of the model's context).
    """

    index: int
    token_id: int
    logprob: float
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class Generated:
    """The continuation of one prompt.

    Attributes:
        token_ids: new tokens, the end token included when there was one.
        logprobs: log-probability of each under the model (temperature 1, all tokens).
        finish_reason: see ``Token``.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


def generate(
    decoder: nn.Module,
    prompts: PackedPrompts | ReadPrompts,
    *,
    max_new_tokens: int,
    eos_token_ids: int | Iterable[int],
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    on_token: OnToken | None = None,
    stop: Stop | None = None,
    prefixes: PackedPrompts | ReadPrompts | None = None,
    prefix_of: Sequence[int] | None = None,
    first_ranks: Sequence[int] | None = None,
) -> list[Generated]:
    """Continue every prompt until it ends.

    Sequences are decoded together and leave the batch when they end. The result of a sequence does
    not depend on its neighbours, up to rounding; that holds for sampling too (see ``Sampler``).

    Args:
        decoder: a transformers ``LlamaForCausalLM`` or ``Qwen2ForCausalLM``, or a module that has
            a ``step_decoder()``.
        prompts: ``B`` prompts of the decoder's hidden size, dtype and device, or what
            ``read_prompts`` made of them before.
        max_new_tokens: tokens per sequence, at least 1; the model's context may end earlier.
        eos_token_ids: tokens that end a sequence; may be empty.
        temperature: 0 for greedy decoding; sampling divides the logits by it.
        top_k: sample from this many most likely tokens; None for all.
        top_p: sample from the most likely tokens of this total probability, in (0, 1].
        generator: makes sampling reproducible.
        on_token: called as ``on_token(index, token_id, logprob)`` for every token as it comes.
        stop: called as ``stop(index, token_ids)`` with all new tokens of a sequence after each;
            returning True ends it.
        prefixes: beginnings that several prompts share, read and kept once, or what
            ``read_prompts`` made of them before. The prompts then hold what follows; their
            positions go on from the prefix.
        prefix_of: with ``prefixes``, the index of each prompt's prefix.
        first_ranks: for each prompt, which of the most likely tokens comes first: 0 is the most
            likely, 1 the next; with a temperature of 0 only. None: however tokens are chosen.

    Returns:
        One result per prompt, in order.

    Raises:
        TypeError: an argument of the wrong type; embeddings in another dtype than the decoder.
        ValueError: a value out of range; embeddings of another width or on another device; more
            positions than the decoder has.
        NotImplementedError: a decoder with sliding-window attention or ``longrope`` angles.
        FloatingPointError: the decoder computes NaN.
    """
    tokens = stream(
        decoder,
        prompts,
        max_new_tokens=max_new_tokens,
        eos_token_ids=eos_token_ids,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=generator,
        stop=stop,
        prefixes=prefixes,
        prefix_of=prefix_of,
        first_ranks=first_ranks,
    )
    by_prompt: list[list[Token]] = [[] for _ in range(prompts.batch_size)]
    for token in tokens:
        by_prompt[token.index].append(token)
        if on_token is not None:
            on_token(token.index, token.token_id, token.logprob)
    return [
        Generated(
            token_ids=[token.token_id for token in sequence],
            logprobs=[token.logprob for token in sequence],
            finish_reason="stop" if sequence[-1].finish_reason == "stop" else "length",
        )
        for sequence in by_prompt
    ]


def stream(
    decoder: nn.Module,
    prompts: PackedPrompts | ReadPrompts,
    *,
    max_new_tokens: int,
    eos_token_ids: int | Iterable[int],
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    stop: Stop | None = None,
    prefixes: PackedPrompts | ReadPrompts | None = None,
    prefix_of: Sequence[int] | None = None,
    first_ranks: Sequence[int] | None = None,
) -> Iterator[Token]:
    """Continue every prompt, token by token; the arguments are those of ``generate``.

    Arguments are checked here, before the first token is asked for. Each step yields one token of
    every sequence that has not ended, in order of the prompts.

    Returns:
        An iterator; work happens as it advances, and leaving it early stops the work.
    """
    sampler = Sampler(temperature, top_p, generator, top_k)
    model, ends = check_limits(decoder, max_new_tokens, eos_token_ids)
    read = reader(model, decoder, prompts, prefixes, prefix_of)
    ranks = _check_ranks(first_ranks, len(prompts), temperature, model)
    return _decode(model, read, max_new_tokens, ends, sampler, stop, ranks)


def check_limits(
    decoder: nn.Module, max_new_tokens: int, eos_token_ids: int | Iterable[int]
) -> tuple[StepDecoder, frozenset[int]]:
    """The decoder and the end tokens, checked."""
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int):
        raise TypeError(f"max_new_tokens: must be an integer, got {type(max_new_tokens).__name__}")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: must be at least 1, got {max_new_tokens}")
    if not isinstance(eos_token_ids, int | Iterable):
        raise TypeError(
            "eos_token_ids: must be a token id or several, may be empty, "
            f"got {type(eos_token_ids).__name__}"
        )
    ends = [eos_token_ids] if isinstance(eos_token_ids, int) else list(eos_token_ids)
    model = step_decoder(decoder)
    check_token_ids("eos_token_ids:", ends, model.vocab_size)
    return model, frozenset(ends)


def _check_ranks(
    ranks: Sequence[int] | None, count: int, temperature: float, model: StepDecoder
) -> Tensor | None:
    """Ranks ``[B]`` of the prompts' first tokens, checked."""
    if ranks is None:
        return None
    if temperature:
        raise ValueError(f"first_ranks: temperature must be 0, got {temperature}")
    if len(ranks) != count:
        raise ValueError(
            f"first_ranks: must hold a rank for each of {count} prompts, got {len(ranks)}"
        )
    for index, rank in enumerate(ranks):
        if not 0 <= rank < model.vocab_size:
            raise ValueError(
                f"first_ranks: must be in 0..{model.vocab_size - 1}, got {rank} for prompt {index}"
            )
    return torch.tensor(ranks, device=model.device)


def _decode(
    model: StepDecoder,
    read: Callable[[], ReadPrompts],
    max_new_tokens: int,
    ends: frozenset[int],
    sampler: Sampler,
    stop: Stop | None,
    first_ranks: Tensor | None,
) -> Iterator[Token]:
    """The decoding loop: choose, report, drop what has ended, step."""
    prompts = read()
    batch_size = prompts.batch_size
    cache, logits = prompts.cache.fork(), model.logits(prompts.last)
    del prompts  # buffers that the cache outgrows are freed, unless the caller keeps them
    room = (model.longest - cache.positions).tolist()
    limits = [min(max_new_tokens, left) for left in room]
    uniform = sampler.draw(batch_size, min(max_new_tokens, model.max_positions), model.device)
    rows = list(range(batch_size))  # the prompt that each row of the batch continues
    texts: list[list[int]] = [[] for _ in rows]
    while True:
        step = len(texts[rows[0]])
        draws = None if uniform is None else uniform[rows, step]
        chosen, logprobs = sampler.choose(logits, draws)
        if first_ranks is not None and step == 0:
            chosen, logprobs = _at_ranks(logits, first_ranks)
        ended = []
        tokens = []
        for row, token_id, logprob in zip(
            range(len(rows)), chosen.tolist(), logprobs.tolist(), strict=True
        ):
            index = rows[row]
            if logprob != logprob:  # NaN
                raise FloatingPointError(
                    f"generate: the decoder computed NaN for prompt {index} at new token {step}; "
                    "its embeddings or the decoder's weights are not finite"
                )
            text = texts[index]
            text.append(token_id)
            finish_reason: FinishReason | None = None
            stopped = stop is not None and stop(index, text)  # sees end tokens too
            if stopped or token_id in ends:
                finish_reason = "stop"
            elif len(text) == limits[index]:
                finish_reason = "length"
            if finish_reason is not None:
                ended.append(row)
            tokens.append(Token(index, token_id, logprob, finish_reason))
        yield from sorted(tokens, key=lambda token: token.index)
        if len(ended) == len(rows):
            return
        if ended:
            kept = cache.remove(ended)
            rows = [rows[row] for row in kept]
            chosen = chosen[kept]
        logits = model.step(chosen, cache)


def _at_ranks(logits: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """The token of a rank for each row, and its log-probability."""
    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    best, tokens = logprobs.topk(int(ranks.max()) + 1)
    ranks = ranks[:, None]
    return tokens.gather(1, ranks).squeeze(1), best.gather(1, ranks).squeeze(1)
