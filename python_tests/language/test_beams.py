"""Beam search: transformers' tokens, in a batch or alone, with end tokens and stop strings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models

from fastregion.language import (
    PackedPrompts,
    TextStream,
    Tokenizer,
    append_tokens,
    beam_search,
    generate,
    generate_text,
    pack,
    token_logprobs,
)
from fastregion.language.decoder import IncrementalDecoder

Make = Callable[..., Any]

ENDS = [3, 7, 11, 19]
SETTINGS = [
    {"num_beams": 3},
    {"num_beams": 2, "length_penalty": 0.0, "early_stopping": True},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never"},
    {"num_beams": 5, "length_penalty": -1.0},
    {"num_beams": 3, "length_penalty": -0.5, "early_stopping": "never"},
    {"num_beams": 3, "length_penalty": 1.0, "early_stopping": True},
]


def search(decoder: Any, prompts: PackedPrompts, **settings: Any) -> list[Any]:
    """The best continuation of each prompt."""
    settings = {"max_new_tokens": 10, "eos_token_ids": [], **settings}
    return [found[0] for found in beam_search(decoder, prompts, **settings)]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("ends", [[], [3], ENDS])
def test_tokens_are_those_of_transformers(
    make_decoder: Make, make_prompts: Make, kind: str, ends: list[int]
) -> None:
    # Moderate weights: predictions so definite that rounding decides nothing, and still ambiguous.
    decoder = make_decoder(kind, initializer_range=0.2)
    prompts = make_prompts()
    padded = prompts.pad("left")
    reasons = set()
    for settings in SETTINGS:
        expected = decoder.generate(
            inputs_embeds=padded.inputs_embeds,
            attention_mask=padded.attention_mask,
            max_new_tokens=10,
            do_sample=False,
            eos_token_id=ends or None,
            pad_token_id=1,
            **settings,
        )
        found = search(decoder, prompts, eos_token_ids=ends, **settings)
        for result, row in zip(found, expected.tolist(), strict=True):
            size = len(result.token_ids)
            assert result.token_ids == row[:size]
            assert set(row[size:]) <= {1}  # padding only
            reasons.add(result.finish_reason)
    assert reasons == ({"stop", "length"} if len(ends) > 1 else reasons | {"length"})


def test_one_beam_is_greedy_decoding(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(), make_prompts()
    greedy = generate(decoder, prompts, max_new_tokens=10, eos_token_ids=ENDS)
    for found, expected in zip(
        search(decoder, prompts, num_beams=1, eos_token_ids=ENDS, early_stopping=True),
        greedy,
        strict=True,
    ):
        assert found.token_ids == expected.token_ids
        assert found.finish_reason == expected.finish_reason
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


@pytest.mark.parametrize("settings", SETTINGS[:4])
def test_a_batch_equals_its_prompts_one_by_one(
    make_decoder: Make, make_prompts: Make, settings: dict[str, Any]
) -> None:
    decoder, prompts = make_decoder(initializer_range=0.2), make_prompts()
    together = search(decoder, prompts, eos_token_ids=ENDS, **settings)
    for index, result in enumerate(together):
        (alone,) = search(decoder, prompts.select([index]), eos_token_ids=ENDS, **settings)
        assert result.token_ids == alone.token_ids
        assert result.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_log_probabilities_are_those_of_the_tokens(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(initializer_range=0.2), make_prompts()
    found = search(decoder, prompts, num_beams=4, eos_token_ids=ENDS)
    whole = append_tokens(
        prompts, [result.token_ids for result in found], decoder.get_input_embeddings()
    )
    for result, logprobs in zip(found, token_logprobs(decoder, whole), strict=True):
        assert result.logprobs == pytest.approx(logprobs.tolist(), abs=1e-4)


def test_the_context_ends_a_search(make_decoder: Make, make_prompts: Make) -> None:
    decoder = make_decoder(max_position_embeddings=16)
    found = search(decoder, make_prompts((16, 10)), num_beams=3, max_new_tokens=100)
    assert [len(result.token_ids) for result in found] == [1, 7]
    assert {result.finish_reason for result in found} == {"length"}


def test_a_growing_cache(make_decoder: Make, make_prompts: Make) -> None:
    decoder = make_decoder(num_hidden_layers=1)
    (found,) = search(decoder, make_prompts((3,)), num_beams=2, max_new_tokens=280)
    whole = append_tokens(make_prompts((3,)), [found.token_ids], decoder.get_input_embeddings())
    assert found.logprobs == pytest.approx(token_logprobs(decoder, whole)[0].tolist(), abs=1e-3)


def letters() -> Tokenizer:
    """Token i is the letter with that code; the text of tokens is just their letters."""
    vocabulary = {chr(48 + i): i for i in range(61)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend)


def test_stop_strings_are_those_of_transformers(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts, tokenizer = make_decoder(initializer_range=0.2), make_prompts(), letters()
    free = [tokenizer.decode(r.token_ids) for r in search(decoder, prompts, num_beams=3)]
    stop = [free[2][2:4], free[0][0] + "~", free[0][4:7], free[1][1:3]]

    def ends_with_stop(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        rows = [tokenizer.decode(row) for row in ids.tolist()]
        return torch.tensor([any(row.endswith(s) for s in stop) for row in rows])

    found = generate_text(
        decoder,
        prompts,
        tokenizer,
        num_beams=3,
        length_penalty=0.0,
        stop=stop,
        max_new_tokens=10,
        eos_token_ids=[],
    )
    reasons = []
    for index, result in enumerate(found):
        embeddings = prompts.select([index]).embeddings[None]
        expected = decoder.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64),
            max_new_tokens=10,
            num_beams=3,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=[ends_with_stop],
            length_penalty=0.0,
        )[0].tolist()
        size = len(result.token_ids)
        assert result.token_ids == expected[:size]
        whole = tokenizer.decode(result.token_ids)
        if result.finish_reason == "stop":
            assert any(whole == result.text + s for s in stop)
        else:
            assert whole == result.text
        reasons.append(result.finish_reason)
    assert "stop" in reasons


def test_searches_where_everything_stops(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts, tokenizer = make_decoder(), make_prompts(), letters()
    every = [chr(48 + i) for i in range(61)]
    most = every[:-3]  # three letters remain, fewer than beams
    for stop, longest in ((every, 1), (most, 10)):
        found = search(decoder, prompts, num_beams=4, text=TextStream(tokenizer, stop))
        assert all(1 <= len(result.token_ids) <= longest for result in found)


def test_nan_is_an_error(make_decoder: Make, make_prompts: Make) -> None:
    prompts = make_prompts()
    prompts.embeddings[12] = float("nan")
    with pytest.raises(FloatingPointError, match="computed NaN after 0 tokens"):
        search(make_decoder(), prompts, num_beams=2)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_beams": 0}, ValueError, "num_beams: must be at least 1, got 0"),
        ({"num_beams": True}, TypeError, "num_beams: expected an integer, got bool"),
        ({"length_penalty": float("inf")}, ValueError, "length_penalty: must be finite, got inf"),
        ({"length_penalty": "1"}, TypeError, "length_penalty: expected a number, got str"),
        ({"early_stopping": "no"}, ValueError, "early_stopping: must be True, False or 'never'"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens: must be at least 1, got 0"),
        ({"eos_token_ids": [61]}, ValueError, "eos_token_ids: must be .* below 61, got 61"),
    ],
)
def test_refusals(
    make_decoder: Make,
    make_prompts: Make,
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        search(make_decoder(), make_prompts(), **{"num_beams": 2, **settings})


@pytest.mark.parametrize("rows", [[2, 0, 1], [0, 0, 2, 2, 1, 1], [1], [1, 1, 1], [0, 1, 2]])
def test_select_puts_rows_where_they_are_wanted(
    make_decoder: Make, make_prompts: Make, rows: list[int]
) -> None:
    """Decoding goes on as if the new batch had been there from the beginning."""
    model, prompts = IncrementalDecoder(make_decoder()), make_prompts((4, 9, 6))
    cache = model.new_cache(prompts)
    model.prefill(prompts, cache)
    model.step(torch.tensor([5, 6, 7]), cache)
    cache.select(rows)
    chosen = prompts.select(rows)
    expected = model.new_cache(chosen)
    model.prefill(chosen, expected)
    model.step(torch.tensor([5, 6, 7])[rows], expected)
    for token in (1, 2):
        tokens = torch.arange(len(rows)) + token
        torch.testing.assert_close(
            model.step(tokens, cache), model.step(tokens, expected), atol=1e-4, rtol=1e-4
        )


def test_prompts_that_share_a_prefix(make_decoder: Make, make_prompts: Make) -> None:
    decoder, whole = make_decoder(initializer_range=0.2), make_prompts((9, 7, 12))
    shared = pack([whole.embeddings[:4], whole.embeddings[20:23]])
    ends = [0, *torch.tensor((9, 7, 12)).cumsum(0).tolist()]
    tails = pack([whole.embeddings[a + 1 : b] for a, b in pairwise(ends)])
    prefix_of = [1, 0, 1]
    starts = torch.tensor([shared.lengths[i] for i in prefix_of])
    offsets = starts.repeat_interleave(torch.tensor(tails.lengths))
    tails = replace(tails, positions=tails.positions + offsets)
    joined = pack(
        [
            torch.cat([shared.select([p]).embeddings, tails.select([i]).embeddings])
            for i, p in enumerate(prefix_of)
        ]
    )
    settings = {"num_beams": 3, "eos_token_ids": ENDS}
    found = search(decoder, tails, prefixes=shared, prefix_of=prefix_of, **settings)
    for result, expected in zip(found, search(decoder, joined, **settings), strict=True):
        assert result.token_ids == expected.token_ids
        assert result.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    with pytest.raises(ValueError, match="prefixes: must be given together with prefix_of"):
        search(decoder, tails, prefixes=shared, num_beams=2)
