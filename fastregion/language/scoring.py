"""Log-probabilities of given texts: labelled tokens of packed prompts, or many texts per prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fastregion.language.decoder import step_decoder
from fastregion.language.packed import PackedPrompts, check_token_ids, pack
from fastregion.language.reading import ReadPrompts, cache_maker, reader
from fastregion.language.step_decoder import StepDecoder

__all__ = ["score", "score_continuations", "token_logprobs"]

_LOGITS_PER_CHUNK = 2**24  # 64 MiB of float32 logits at a time, whatever the vocabulary
_TOKENS_PER_TREE = 2**12  # texts read together: bounds their hidden states, keys and values

_Pair = tuple[int, Sequence[int]]  # index of a prompt, and a text that follows it


def token_logprobs(
    decoder: nn.Module,
    prompts: PackedPrompts,
    *,
    prefixes: PackedPrompts | ReadPrompts | None = None,
    prefix_of: Sequence[int] | None = None,
) -> list[Tensor]:
    """Log-probability of every labelled token, given everything before it in its prompt.

    As in training, the label of a prompt's first token is left out: nothing predicts it.

    Args:
        decoder: as for ``generate``.
        prompts: ``B`` prompts with labels.
        prefixes: as for ``generate``; the first token behind a prefix is left out too.
        prefix_of: as for ``generate``.

    Returns:
        Per prompt the log-probabilities of its labelled tokens in order, float32 (float64 for a
        float64 decoder).

    Raises:
        TypeError: see ``generate``.
        ValueError: prompts without labels, a label outside the vocabulary; see also ``generate``.
        NotImplementedError: see ``generate``.
    """
    model = step_decoder(decoder)
    new_cache = cache_maker(model, decoder, prompts, prefixes, prefix_of)
    if prompts.labels is None:
        raise ValueError("prompts: labels are needed for scoring, got none")
    highest = int(prompts.labels.max())
    if highest >= model.vocab_size:
        raise ValueError(f"prompts: labels must be below {model.vocab_size}, got {highest}")
    places = prompts.targets()
    cache = None if prefixes is None else new_cache()
    hidden = model.prefill(prompts, cache)[places - 1]
    logprobs = _logprobs(model, hidden, prompts.labels[places])
    # A prompt's targets are those before its end that are not before its beginning.
    counts = torch.searchsorted(places, prompts.cu_seqlens.long()).diff()
    return list(torch.split(logprobs, counts.tolist()))


def score(
    decoder: nn.Module,
    prompts: PackedPrompts,
    *,
    prefixes: PackedPrompts | ReadPrompts | None = None,
    prefix_of: Sequence[int] | None = None,
) -> Tensor:
    """Mean log-probability of the labelled tokens of each prompt, ``[B]``.

    Args and errors are those of ``token_logprobs``; a prompt without any label to score is a
    ValueError.
    """
    values = token_logprobs(decoder, prompts, prefixes=prefixes, prefix_of=prefix_of)
    for index, value in enumerate(values):
        if not len(value):
            raise ValueError(
                f"prompts: labels must mark a token to score, got none in prompt {index}"
            )
    return torch.stack([value.mean() for value in values])


def score_continuations(
    decoder: nn.Module,
    prompts: PackedPrompts | ReadPrompts,
    texts: Sequence[Sequence[int]],
) -> Tensor:
    """Mean log-probability per token of every text as continuation of every prompt.

    Each prompt is read once, or not at all where it has been. The texts follow it as a tree: all
    see the prompt's keys and values, none sees another.

    Args:
        decoder: a transformers ``LlamaForCausalLM`` or ``Qwen2ForCausalLM``.
        prompts: ``B`` prompts, also from ``read_prompts``; labels are not used.
        texts: ``T`` lists of token ids, none empty; append the end token to score it too.

    Returns:
        ``[B, T]``, float32 (float64 for a float64 decoder).

    Raises:
        TypeError: see ``generate``; ids that are not integers.
        ValueError: no text, an empty text, an id outside the vocabulary, a prompt and text longer
            than the decoder's context; see also ``generate``.
        NotImplementedError: see ``generate``.
    """
    model = step_decoder(decoder)
    read = reader(model, decoder, prompts)
    if not texts:
        raise ValueError("texts: must hold at least one text, got none")
    for index, text in enumerate(texts):
        if not text:
            raise ValueError(
                f"texts: every text must have at least one token, text {index} is empty"
            )
        check_token_ids(f"texts: token ids of text {index}", text, model.vocab_size)
    longest = max(len(text) for text in texts)
    positions = prompts.positions if isinstance(prompts, PackedPrompts) else prompts.cache.positions
    length = int(positions.max()) + longest + isinstance(prompts, PackedPrompts)
    if length > model.longest:  # as long as ``generate`` may have made it
        raise ValueError(
            f"texts: prompt and text must have at most {model.longest} tokens, the decoder's "
            f"context, got {length}"
        )
    if isinstance(prompts, ReadPrompts):
        return _score(model, read(), texts)
    # One at a time: all their keys and values together may need much memory.
    parts = (reader(model, decoder, prompts.select([b]))() for b in range(len(prompts)))
    return torch.cat([_score(model, part, texts) for part in parts])


def _score(model: StepDecoder, prompts: ReadPrompts, texts: Sequence[Sequence[int]]) -> Tensor:
    pairs = [(b, text) for b in range(len(prompts)) for text in texts]
    groups = _groups(pairs, prompts.cache.branch_columns)
    means = [mean for group in groups for mean in _score_group(model, prompts, group)]
    return torch.stack(means).view(len(prompts), len(texts))


def _groups(pairs: Sequence[_Pair], copied: int) -> Iterator[list[_Pair]]:
    """Cut the pairs into groups of bounded size; a longer text makes a group of its own."""
    group: list[_Pair] = []
    longest = 0
    for prompt, text in pairs:
        longest = max(longest, copied + len(text))
        if group and (len(group) + 1) * longest > _TOKENS_PER_TREE:
            yield group
            group, longest = [], copied + len(text)
        group.append((prompt, text))
    yield group


def _score_group(
    model: StepDecoder, prompts: ReadPrompts, pairs: Sequence[_Pair]
) -> Sequence[Tensor]:
    """Mean log-probability of each text, all read side by side; of each, all but its last token."""
    rows = prompts.last
    if longer := [(prompt, text) for prompt, text in pairs if len(text) > 1]:
        own = prompts.cache.branch([prompt for prompt, _ in longer])
        embeddings = []
        for (_, text), first in zip(longer, own.positions.tolist(), strict=True):
            ids = torch.tensor(text[:-1], device=model.device)
            places = torch.arange(first, first + len(ids), device=model.device)
            embeddings.append(model.embed(ids, places))
        read = pack(embeddings)
        counts = torch.tensor(read.lengths, device=model.device)
        begun = own.positions.repeat_interleave(counts, output_size=read.total_tokens)
        read = replace(read, positions=read.positions + begun)
        own.extend(read.lengths)
        rows = torch.cat((rows, model.prefill(read, own)))
    # The row that predicts each token: the prompt's last, then those of the text.
    sources: list[int] = []
    begin = len(prompts)
    for prompt, text in pairs:
        sources += [prompt, *range(begin, begin + len(text) - 1)]
        begin += len(text) - 1
    targets = torch.tensor([token for _, text in pairs for token in text], device=model.device)
    logprobs = _logprobs(model, rows[torch.tensor(sources, device=model.device)], targets)
    return [text.mean() for text in torch.split(logprobs, [len(text) for _, text in pairs])]


def _logprobs(model: StepDecoder, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target ``[n]`` at its hidden state ``[n, hidden]``, in chunks."""
    chunk = max(1, _LOGITS_PER_CHUNK // model.vocab_size)
    parts = []
    for rows, wanted in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True):
        logits = model.logits(rows)
        logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        parts.append(logprobs.gather(-1, wanted[:, None]).squeeze(1))
    return torch.cat(parts)
