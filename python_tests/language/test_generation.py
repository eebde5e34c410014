from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fastregion.language import (
    Generated,
    PackedPrompts,
    Token,
    append_tokens,
    generate,
    pack,
    stream,
    token_logprobs,
)

Make = Callable[..., Any]


def greedy(decoder: Any, prompts: PackedPrompts, **settings: Any) -> list[Generated]:
    return generate(decoder, prompts, **{"max_new_tokens": 12, "eos_token_ids": [], **settings})


def ids(results: list[Generated]) -> list[list[int]]:
    return [result.token_ids for result in results]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_greedy_tokens_are_those_of_transformers(
    make_decoder: Make, make_prompts: Make, kind: str, kv_heads: int
) -> None:
    decoder, prompts = make_decoder(kind, kv_heads=kv_heads), make_prompts()
    results = greedy(decoder, prompts)
    for index, result in enumerate(results):
        embeddings = prompts.select([index]).embeddings[None]
        expected = decoder.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert result.token_ids == expected[0].tolist()
        assert result.finish_reason == "length"


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.3}, {"temperature": 2.0, "top_p": 0.8}])
@pytest.mark.parametrize("lengths", [(5, 5, 9, 1, 14), (4, 4, 4), (7,), (1, 2, 3, 40)])
def test_a_batch_equals_its_prompts_one_by_one(
    make_decoder: Make, make_prompts: Make, lengths: tuple[int, ...], settings: dict[str, float]
) -> None:
    decoder, prompts = make_decoder(), make_prompts(lengths)
    # end tokens that stop the sequences at different times
    ends = {token for result in greedy(decoder, prompts) for token in result.token_ids[3:5]}
    one, many = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    together = greedy(decoder, prompts, eos_token_ids=ends, generator=many, **settings)
    for index, result in enumerate(together):
        (alone,) = greedy(
            decoder, prompts.select([index]), eos_token_ids=ends, generator=one, **settings
        )
        assert result.token_ids == alone.token_ids
        assert result.finish_reason == alone.finish_reason
        assert result.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_an_end_token_ends_one_sequence_and_is_kept(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(), make_prompts()
    free = ids(greedy(decoder, prompts))
    end = free[2][4]
    for index, result in enumerate(greedy(decoder, prompts, eos_token_ids=end)):
        if end in free[index]:
            assert result.token_ids == free[index][: free[index].index(end) + 1]
            assert result.finish_reason == "stop"
        else:
            assert result.token_ids == free[index]
            assert result.finish_reason == "length"


def test_generation_continues_when_the_cache_has_to_grow(
    make_decoder: Make, make_prompts: Make
) -> None:
    decoder, prompts = make_decoder(num_hidden_layers=1), make_prompts((3, 1))
    results = greedy(decoder, prompts, max_new_tokens=300)
    # every token again, from one reading of everything
    whole = append_tokens(prompts, ids(results), decoder.get_input_embeddings())
    for result, logprobs in zip(results, token_logprobs(decoder, whole), strict=True):
        assert len(result.token_ids) == 300
        assert result.logprobs == pytest.approx(logprobs.tolist(), abs=1e-3)


def test_the_context_ends_a_sequence(make_decoder: Make, make_prompts: Make) -> None:
    decoder = make_decoder(max_position_embeddings=16)
    results = greedy(decoder, make_prompts((16, 10)), max_new_tokens=100)
    # tokens at positions 10..15 are read, and the one at 16 is still predicted
    assert [len(result.token_ids) for result in results] == [1, 7]
    assert {result.finish_reason for result in results} == {"length"}


def test_callback_and_stream_see_every_token_in_order(
    make_decoder: Make, make_prompts: Make
) -> None:
    decoder, prompts = make_decoder(), make_prompts()
    end = ids(greedy(decoder, prompts))[0][3]
    seen: list[tuple[int, int, float]] = []
    results = greedy(
        decoder, prompts, eos_token_ids=[end], on_token=lambda *token: seen.append(token)
    )
    tokens = list(stream(decoder, prompts, max_new_tokens=12, eos_token_ids=[end]))
    assert seen == [(token.index, token.token_id, token.logprob) for token in tokens]
    counts = [0] * len(prompts)
    order = []
    for token in tokens:
        order.append((counts[token.index], token.index))
        assert token.token_id == results[token.index].token_ids[counts[token.index]]
        counts[token.index] += 1
        last = counts[token.index] == len(results[token.index].token_ids)
        assert token.finish_reason == (results[token.index].finish_reason if last else None)
    assert order == sorted(order)  # step by step, and in each step by prompt
    steps = [sum(token.index == i for token in tokens) for i in range(5)]
    assert steps == [len(result.token_ids) for result in results]


def test_streams_do_their_work_when_asked(make_decoder: Make, make_prompts: Make) -> None:
    tokens = stream(make_decoder(), make_prompts(), max_new_tokens=12, eos_token_ids=[])
    first = next(tokens)
    assert isinstance(first, Token)
    assert torch.is_grad_enabled()  # the stream does not leave its modes behind between tokens
    assert not torch.is_inference_mode_enabled()
    tokens.close()  # type: ignore[attr-defined]


def test_the_stop_function_ends_a_sequence(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(), make_prompts()
    free = ids(greedy(decoder, prompts))
    results = greedy(decoder, prompts, stop=lambda index, text: len(text) == index + 1)
    assert ids(results) == [text[: index + 1] for index, text in enumerate(free)]
    assert {result.finish_reason for result in results} == {"stop"}


def test_sampling_is_reproducible_and_varies(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(), make_prompts()

    def sample(seed: int) -> list[Generated]:
        source = torch.Generator().manual_seed(seed)
        return greedy(decoder, prompts, temperature=1.5, generator=source)

    assert sample(0) == sample(0)
    assert ids(sample(0)) != ids(sample(1))
    torch.manual_seed(5)
    first = greedy(decoder, prompts, temperature=1.5)
    torch.manual_seed(5)
    assert greedy(decoder, prompts, temperature=1.5) == first


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_is_an_error_that_names_the_prompt(
    make_decoder: Make, make_prompts: Make, temperature: float
) -> None:
    prompts = make_prompts()
    prompts.embeddings[12] = float("nan")  # in prompt 2
    with pytest.raises(FloatingPointError, match="NaN for prompt 2 at new token 0"):
        greedy(make_decoder(), prompts, temperature=temperature)


def continued(
    prefixes: PackedPrompts, prompts: PackedPrompts, prefix_of: list[int]
) -> tuple[PackedPrompts, PackedPrompts]:
    """The prompts with positions that go on from their prefixes, and the two as one prompt each."""
    begins, ends = prompts.cu_seqlens[:-1].tolist(), prompts.cu_seqlens[1:].tolist()
    positions = prompts.positions.clone()
    whole = []
    for begin, end, index in zip(begins, ends, prefix_of, strict=True):
        prefix = prefixes.select([index])
        positions[begin:end] += prefix.total_tokens
        whole.append(torch.cat((prefix.embeddings, prompts.embeddings[begin:end])))
    return replace(prompts, positions=positions), pack(whole)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_shared_prefixes_change_nothing(make_decoder: Make, make_prompts: Make, kind: str) -> None:
    decoder, prefix_of = make_decoder(kind), [1, 0, 1, 1, 2]
    prefixes = make_prompts((6, 19, 1), seed=1)
    prompts, whole = continued(prefixes, make_prompts(), prefix_of)
    shared = greedy(decoder, prompts, prefixes=prefixes, prefix_of=prefix_of)
    for actual, expected in zip(shared, greedy(decoder, whole), strict=True):
        assert actual.token_ids == expected.token_ids
        assert actual.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("prefix_of", "message"),
    [
        (None, "must be given together with prefix_of"),
        ([0], "must name a prefix for each of 5 prompts, got 1 numbers"),
        ([0, 1, 2, 0, 0], r"must be in 0\.\.1, got 2 for prompt 2"),
    ],
)
def test_prefixes_that_do_not_fit(
    make_decoder: Make, make_prompts: Make, prefix_of: list[int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        greedy(make_decoder(), make_prompts(), prefixes=make_prompts((3, 4)), prefix_of=prefix_of)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_generate(make_decoder: Make, make_prompts: Make, dtype: torch.dtype) -> None:
    decoder, prompts = make_decoder().to(dtype), make_prompts(dtype=dtype)
    reference = greedy(make_decoder(), make_prompts())
    for result, expected in zip(greedy(decoder, prompts), reference, strict=True):
        assert len(result.token_ids) == 12
        assert result.logprobs[0] == pytest.approx(expected.logprobs[0], abs=0.3)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens: must be at least 1, got 0"),
        ({"max_new_tokens": 2.0}, TypeError, "max_new_tokens: must be an integer, got float"),
        ({"max_new_tokens": True}, TypeError, "max_new_tokens: must be an integer, got bool"),
        ({"eos_token_ids": [61]}, ValueError, "eos_token_ids: must be .* below 61, got 61"),
        ({"eos_token_ids": -1}, ValueError, "eos_token_ids: .* got -1"),
        ({"eos_token_ids": None}, TypeError, "eos_token_ids: must be a token id .* got NoneType"),
        ({"eos_token_ids": ["</s>"]}, TypeError, "eos_token_ids: must be integers, got str"),
        ({"temperature": -1.0}, ValueError, "temperature: must be finite and at least 0, got -1.0"),
        ({"temperature": float("nan")}, ValueError, "temperature: .* got nan"),
        ({"top_p": 2.0}, ValueError, "top_p"),
    ],
)
def test_refuses_before_any_work(
    make_decoder: Make,
    make_prompts: Make,
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):  # already when the stream is made
        stream(
            make_decoder(), make_prompts(), **{"max_new_tokens": 2, "eos_token_ids": [], **settings}
        )
