"""Log-probabilities of given texts: labelled tokens of packed prompts, or many texts per prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastregion.language.cache import KVCache
from fastregion.language.decoder import step_decoder
from fastregion.language.packed import IGNORED_LABEL, PackedPrompts, check_token_ids, pack
from fastregion.language.prefixes import ReadPrefixes, check_prefixes, new_cache
from fastregion.language.step_decoder import StepDecoder

__all__ = ["score", "score_continuations", "token_logprobs"]

_LOGITS_PER_CHUNK = 2**24  # 64 MiB of float32 logits at a time, whatever the vocabulary
_TOKENS_PER_TREE = 2**12  # texts read together after one prompt: bounds the hidden states


def token_logprobs(
    decoder: nn.Module,
    prompts: PackedPrompts,
    *,
    prefixes: PackedPrompts | ReadPrefixes | None = None,
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
    model.check(prompts)
    shared = check_prefixes(model, prompts, prefixes, prefix_of)
    if prompts.labels is None:
        raise ValueError("prompts: labels are needed for scoring, got none")
    highest = int(prompts.labels.max())
    if highest >= model.vocab_size:
        raise ValueError(f"prompts: labels must be below {model.vocab_size}, got {highest}")
    scored = prompts.labels != IGNORED_LABEL
    scored[prompts.cu_seqlens[:-1].long()] = False
    places = scored.nonzero().squeeze(1)
    cache = None if shared is None else new_cache(model, prompts, shared)
    hidden = model.prefill(prompts, cache)[places - 1]
    logprobs = _logprobs(model, hidden, prompts.labels[places])
    counts = torch.nn.functional.pad(scored.cumsum(0), (1, 0))[prompts.cu_seqlens.long()].diff()
    return list(torch.split(logprobs, counts.tolist()))


def score(
    decoder: nn.Module,
    prompts: PackedPrompts,
    *,
    prefixes: PackedPrompts | ReadPrefixes | None = None,
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
    decoder: nn.Module, prompts: PackedPrompts, texts: Sequence[Sequence[int]]
) -> Tensor:
    """Mean log-probability per token of every text as continuation of every prompt.

    Each prompt is read once. The texts follow it as a tree: all see the prompt's keys and values,
    none sees another.

    Args:
        decoder: a transformers ``LlamaForCausalLM`` or ``Qwen2ForCausalLM``.
        prompts: ``B`` prompts; labels are not used.
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
    model.check(prompts)
    if not texts:
        raise ValueError("texts: must hold at least one text, got none")
    for index, text in enumerate(texts):
        if not text:
            raise ValueError(
                f"texts: every text must have at least one token, text {index} is empty"
            )
        check_token_ids(f"texts: token ids of text {index}", text, model.vocab_size)
    longest = max(len(text) for text in texts)
    highest = int(prompts.positions.max()) + longest
    if highest > model.max_positions:
        raise ValueError(
            "texts: prompt and text must fit in the decoder's max_position_embeddings "
            f"{model.max_positions}, got {highest + 1} positions"
        )
    trees = list(_trees(texts, model.device))
    return torch.stack([_score_one(model, prompts.select([b]), trees) for b in range(len(prompts))])


class _Tree(NamedTuple):
    """Some texts that follow one prompt side by side; ``m`` tokens in all."""

    inputs: list[Sequence[int]]  # each text without its last token, where something is left
    sources: Tensor  # [m] row that predicts each target: 0 is the prompt's last, then the inputs'
    targets: Tensor  # [m] tokens to predict
    lengths: list[int]  # tokens of each text; sums to m


def _score_one(model: StepDecoder, prompt: PackedPrompts, trees: list[_Tree]) -> Tensor:
    cache = model.new_cache(prompt)
    last = model.prefill(prompt, cache)[-1:]
    means = []
    for tree in trees:
        rows = last
        if tree.inputs:
            texts = _continue(model, cache, tree.inputs)
            own = model.new_cache(texts, prefix=cache, prefix_of=[0] * len(texts))
            rows = torch.cat((last, model.prefill(texts, own)))
        logprobs = _logprobs(model, rows[tree.sources], tree.targets)
        means += [text.mean() for text in torch.split(logprobs, tree.lengths)]
    return torch.stack(means)


def _continue(model: StepDecoder, cache: KVCache, texts: Sequence[Sequence[int]]) -> PackedPrompts:
    """The texts as prompts whose positions go on where the cached one ended."""
    first = int(cache.positions)
    embeddings = []
    for text in texts:
        ids = torch.tensor(text, dtype=torch.int64, device=model.device)
        positions = torch.arange(first, first + len(text), device=model.device)
        embeddings.append(model.embed(ids, positions))
    packed = pack(embeddings)
    return replace(packed, positions=packed.positions + first)


def _trees(texts: Sequence[Sequence[int]], device: torch.device) -> Iterator[_Tree]:
    """Cut the texts into groups of bounded size; a longer text makes a group of its own."""
    group: list[Sequence[int]] = []
    size = 0
    for text in texts:
        if group and size + len(text) > _TOKENS_PER_TREE:
            yield _tree(group, device)
            group, size = [], 0
        group.append(text)
        size += len(text)
    yield _tree(group, device)


def _tree(texts: Sequence[Sequence[int]], device: torch.device) -> _Tree:
    sources: list[int] = []
    read = 0
    for text in texts:
        sources += [0, *range(read + 1, read + len(text))]
        read += len(text) - 1
    return _Tree(
        inputs=[text[:-1] for text in texts if len(text) > 1],
        sources=torch.tensor(sources, device=device),
        targets=torch.tensor([token for text in texts for token in text], device=device),
        lengths=[len(text) for text in texts],
    )


def _logprobs(model: StepDecoder, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target ``[n]`` at its hidden state ``[n, hidden]``, in chunks."""
    chunk = max(1, _LOGITS_PER_CHUNK // model.vocab_size)
    parts = []
    for rows, wanted in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True):
        logits = model.logits(rows)
        logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        parts.append(logprobs.gather(-1, wanted[:, None]).squeeze(1))
    return torch.cat(parts)
