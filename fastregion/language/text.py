"""From packed prompts to text: every way of decoding behind one pair of functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from fastregion.language.beams import EarlyStopping, beam_search, check_beams
from fastregion.language.generation import Generated, Token, generate, stream
from fastregion.language.packed import PackedPrompts
from fastregion.language.reading import ReadPrompts
from fastregion.language.text_stream import TextStream, check_stop
from fastregion.language.tokenizer import Tokenizer

__all__ = ["GeneratedText", "Piece", "beam_texts", "generate_text", "stream_text"]


class Piece(NamedTuple):
    """One generated token, and the text that it made certain.

    Attributes:
        token: the token; ``token.index`` is the prompt that it continues.
        text: whole characters, possibly none; text that may begin a stop string comes later.
    """

    token: Token
    text: str


@dataclass(frozen=True)
class GeneratedText(Generated):
    """The continuation of one prompt; see ``Generated``.

    Attributes:
        text: the tokens' text without special tokens, cut before the first stop string.
    """

    text: str


def generate_text(
    decoder: nn.Module,
    prompts: PackedPrompts | ReadPrompts,
    tokenizer: Tokenizer,
    *,
    max_new_tokens: int,
    eos_token_ids: int | Iterable[int],
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    stop: str | Sequence[str] = (),
    prefixes: PackedPrompts | ReadPrompts | None = None,
    prefix_of: Sequence[int] | None = None,
) -> list[GeneratedText]:
    """Write the text that continues each prompt.

    Args:
        decoder: as for ``generate``.
        prompts: as for ``generate``.
        tokenizer: the decoder's.
        max_new_tokens: as for ``generate``.
        eos_token_ids: as for ``generate``.
        temperature: as for ``generate``; 0 with several beams.
        top_k: as for ``generate``.
        top_p: as for ``generate``.
        generator: as for ``generate``.
        num_beams: above 1, search for a likely text instead of choosing token by token.
        length_penalty: as for ``beam_search``.
        early_stopping: as for ``beam_search``.
        stop: strings that end a text and are not part of it, wherever token boundaries lie; one
            that is a special token ends the text as an end token does.
        prefixes: as for ``generate``.
        prefix_of: as for ``generate``.

    Returns:
        One text per prompt, in order. ``token_ids`` are all that were generated, those of a stop
        string included.

    Raises:
        TypeError, ValueError, NotImplementedError, FloatingPointError: see ``generate``.
    """
    check_beams(num_beams, length_penalty, early_stopping)
    if num_beams > 1:
        if temperature:
            raise ValueError(
                f"num_beams: must be 1 when sampling (temperature {temperature}), got {num_beams}"
            )
        found = beam_texts(
            decoder,
            prompts,
            tokenizer,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            eos_token_ids=eos_token_ids,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            stop=stop,
            prefixes=prefixes,
            prefix_of=prefix_of,
        )
        return [texts[0] for texts in found]
    ends, strings = _ends(tokenizer, eos_token_ids, stop)
    texts = [TextStream(tokenizer, strings) for _ in range(prompts.batch_size)]

    def has_stopped(index: int, token_ids: list[int]) -> bool:
        texts[index].put(token_ids[-1])
        return texts[index].stopped

    results = generate(
        decoder,
        prompts,
        max_new_tokens=max_new_tokens,
        eos_token_ids=ends,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=generator,
        # Without stop strings no text is needed before the end.
        stop=has_stopped if strings else None,
        prefixes=prefixes,
        prefix_of=prefix_of,
    )
    return [_with_text(result, tokenizer, strings) for result in results]


def beam_texts(
    decoder: nn.Module,
    prompts: PackedPrompts | ReadPrompts,
    tokenizer: Tokenizer,
    *,
    num_beams: int,
    max_new_tokens: int,
    eos_token_ids: int | Iterable[int],
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    stop: str | Sequence[str] = (),
    prefixes: PackedPrompts | ReadPrompts | None = None,
    prefix_of: Sequence[int] | None = None,
) -> list[list[GeneratedText]]:
    """Write several texts that continue each prompt: all that a beam search ended with.

    The arguments are those of ``generate_text``.

    Returns:
        For each prompt 1 to ``num_beams`` texts, the best first.
    """
    ends, strings = _ends(tokenizer, eos_token_ids, stop)
    results = beam_search(
        decoder,
        prompts,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        eos_token_ids=ends,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        text=TextStream(tokenizer, strings) if strings else None,
        prefixes=prefixes,
        prefix_of=prefix_of,
    )
    return [[_with_text(result, tokenizer, strings) for result in found] for found in results]


def stream_text(
    decoder: nn.Module,
    prompts: PackedPrompts | ReadPrompts,
    tokenizer: Tokenizer,
    *,
    max_new_tokens: int,
    eos_token_ids: int | Iterable[int],
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    stop: str | Sequence[str] = (),
    prefixes: PackedPrompts | ReadPrompts | None = None,
    prefix_of: Sequence[int] | None = None,
) -> Iterator[Piece]:
    """Write the text that continues each prompt, token by token.

    The arguments are those of ``generate_text``, without beams: which token comes first is known
    only when a search has ended. They are checked here, before the first piece is asked for. Each
    step yields one piece of every text that has not ended, in order of the prompts; the pieces of a
    prompt join to its text.

    Returns:
        An iterator; work happens as it advances, and leaving it early stops the work.
    """
    ends, strings = _ends(tokenizer, eos_token_ids, stop)
    texts = [TextStream(tokenizer, strings) for _ in range(prompts.batch_size)]
    pieces = [""] * prompts.batch_size

    def read(index: int, token_ids: list[int]) -> bool:
        pieces[index] = texts[index].put(token_ids[-1])
        return texts[index].stopped

    tokens = stream(
        decoder,
        prompts,
        max_new_tokens=max_new_tokens,
        eos_token_ids=ends,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=generator,
        stop=read,
        prefixes=prefixes,
        prefix_of=prefix_of,
    )
    return (
        Piece(
            token,
            pieces[token.index]
            if token.finish_reason is None
            else pieces[token.index] + texts[token.index].flush(),
        )
        for token in tokens
    )


def _ends(
    tokenizer: Tokenizer, eos_token_ids: int | Iterable[int], stop: str | Sequence[str]
) -> tuple[int | Iterable[int], tuple[str, ...]]:
    """End tokens and stop strings; special tokens have no text, so they can only be end tokens."""
    strings = check_stop(stop)
    special = [tokenizer.special_tokens[s] for s in strings if s in tokenizer.special_tokens]
    if not special:
        return eos_token_ids, strings
    ends = [eos_token_ids] if isinstance(eos_token_ids, int) else list(eos_token_ids)
    return [*ends, *special], tuple(s for s in strings if s not in tokenizer.special_tokens)


def _with_text(result: Generated, tokenizer: Tokenizer, stop: Sequence[str]) -> GeneratedText:
    text = TextStream(tokenizer, stop)
    pieces = [text.put(token_id) for token_id in result.token_ids] if stop else []
    if not text.stopped:
        pieces = [tokenizer.decode(result.token_ids)]
    return GeneratedText(
        result.token_ids, result.logprobs, result.finish_reason, text="".join(pieces)
    )
