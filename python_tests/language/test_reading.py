"""Prompts that are read once: continued, searched, drawn from and scored like fresh ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fastregion.language import (
    PackedPrompts,
    append_tokens,
    beam_search,
    generate,
    pack,
    read_prompts,
    score,
    score_continuations,
    scoring,
    stream,
)
from fastregion.language.decoder import IncrementalDecoder

Make = Callable[..., Any]

LENGTHS = (9, 7, 12)
TEXTS = [[3, 4, 5], [3], [60, 1], [7, 7, 7, 7, 7, 7]]
PREFIX_OF = [1, 0, 1]


def cut(whole: PackedPrompts) -> tuple[PackedPrompts, PackedPrompts, PackedPrompts]:
    """Prompts, beginnings of 4 and 3 tokens, and the two put together."""
    beginnings = pack([whole.embeddings[:4], whole.embeddings[20:23]])
    joined = pack(
        [
            torch.cat([beginnings.select([p]).embeddings, whole.select([i]).embeddings])
            for i, p in enumerate(PREFIX_OF)
        ]
    )
    starts = torch.tensor([beginnings.lengths[p] for p in PREFIX_OF])
    offsets = starts.repeat_interleave(torch.tensor(whole.lengths))
    return replace(whole, positions=whole.positions + offsets), beginnings, joined


@pytest.fixture(params=["whole", "shared"])
def made(request: pytest.FixtureRequest, make_decoder: Make, make_prompts: Make) -> Any:
    """A decoder, what ``generate`` takes of prompts, and the same prompts without a prefix."""
    decoder, whole = make_decoder(initializer_range=0.2), make_prompts(LENGTHS)
    if request.param == "whole":
        return decoder, {"prompts": whole}, whole
    rests, beginnings, joined = cut(whole)
    shared = {"prompts": rests, "prefixes": beginnings, "prefix_of": PREFIX_OF}
    return decoder, shared, joined


def test_going_on_twice_gives_what_fresh_prompts_give(made: Any) -> None:
    decoder, given, _ = made
    settings: dict[str, Any] = {"max_new_tokens": 9, "eos_token_ids": [3, 7]}
    expected = generate(decoder, **given, **settings)
    read = read_prompts(decoder, **given)
    assert len(read) == 3
    assert generate(decoder, read, **settings) == expected  # the very same numbers
    beam_search(decoder, read, num_beams=3, **settings)
    beam_search(decoder, read.branch([2]), num_beams=2, **settings)
    score_continuations(decoder, read, TEXTS)
    drawn = {"temperature": 1.0, "generator": torch.Generator().manual_seed(0)}
    generate(decoder, read.branch([1, 1, 0]), **settings, **drawn)
    assert generate(decoder, read, **settings) == expected


def test_far_beyond_the_room_of_the_buffers(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(num_hidden_layers=1), make_prompts((3, 5))
    read = read_prompts(decoder, prompts)
    settings: dict[str, Any] = {"max_new_tokens": 300, "eos_token_ids": []}
    expected = generate(decoder, prompts, **settings)
    for _ in range(2):
        assert generate(decoder, read, **settings) == expected


def test_streams_of_the_same_prompts_may_take_turns(made: Any) -> None:
    decoder, given, _ = made
    settings: dict[str, Any] = {"max_new_tokens": 6, "eos_token_ids": ()}
    read = read_prompts(decoder, **given)
    greedy = list(stream(decoder, read, **settings))
    other = list(stream(decoder, read, **settings, first_ranks=[1, 2, 3]))
    first = stream(decoder, read, **settings)
    second = stream(decoder, read, **settings, first_ranks=[1, 2, 3])
    turns = [(a.token_id, b.token_id) for a, b in zip(first, second, strict=True)]
    assert turns == [(a.token_id, b.token_id) for a, b in zip(greedy, other, strict=True)]


def test_branches_go_on_as_their_prompts(made: Any) -> None:
    decoder, given, whole = made
    rows = [2, 0, 2, 1]
    settings: dict[str, Any] = {"max_new_tokens": 8, "eos_token_ids": [3]}
    found = generate(decoder, read_prompts(decoder, **given).branch(rows), **settings)
    expected = generate(decoder, whole.select(rows), **settings)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_draws_of_one_prompt_differ(make_decoder: Make, make_prompts: Make) -> None:
    decoder = make_decoder(initializer_range=0.2)
    read = read_prompts(decoder, make_prompts(LENGTHS)).branch([1] * 6)
    settings: dict[str, Any] = {"max_new_tokens": 8, "eos_token_ids": [], "temperature": 1.0}
    drawn = [
        generate(decoder, read, generator=torch.Generator().manual_seed(5), **settings)
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    assert len({tuple(one.token_ids) for one in drawn[0]}) == 6


def test_beams_of_read_prompts(made: Any) -> None:
    decoder, given, whole = made
    settings: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 8, "eos_token_ids": [3, 7, 11]}
    expected = beam_search(decoder, whole, **settings)
    read = read_prompts(decoder, **given)
    for prompts, order in ((read, [0, 1, 2]), (read.branch([2, 0]), [2, 0])):
        found = beam_search(decoder, prompts, **settings)
        for results, index in zip(found, order, strict=True):
            wanted = expected[index]
            assert [one.token_ids for one in results] == [one.token_ids for one in wanted]
            assert len({tuple(one.token_ids) for one in results}) == len(results) > 1
            means = [sum(one.logprobs) / len(one.logprobs) for one in results]
            assert means == sorted(means, reverse=True)  # the best comes first


@pytest.mark.parametrize("tree", [1, 25, 4096])
def test_scores_of_read_prompts(made: Any, monkeypatch: pytest.MonkeyPatch, tree: int) -> None:
    monkeypatch.setattr(scoring, "_TOKENS_PER_TREE", tree)
    decoder, given, whole = made
    actual = score_continuations(decoder, read_prompts(decoder, **given), TEXTS)
    assert actual.shape == (3, 4)
    for column, text in enumerate(TEXTS):
        labelled = append_tokens(whole, [text] * 3, decoder.get_input_embeddings())
        expected = score(decoder, labelled)
        torch.testing.assert_close(actual[:, column], expected, rtol=1e-5, atol=2e-5)


def test_scoring_reads_no_prompt_again_and_keeps_little(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, given, _ = made
    read = read_prompts(decoder, **given)
    prefill = IncrementalDecoder.prefill
    tokens, columns = [], []

    def counting(self: Any, prompts: Any, cache: Any = None) -> Any:
        tokens.append(prompts.total_tokens)
        columns.append(cache.capacity - cache.branch_columns)
        return prefill(self, prompts, cache)

    monkeypatch.setattr(IncrementalDecoder, "prefill", counting)
    score_continuations(decoder, read, TEXTS)
    assert tokens == [3 * sum(len(text) - 1 for text in TEXTS)]  # the last token predicts nothing
    assert columns[0] <= 16  # beside what was copied, no more than a block is not filled


class TestRefuses:
    def test_another_decoder(self, make_decoder: Make, make_prompts: Make) -> None:
        read = read_prompts(make_decoder(), make_prompts())
        with pytest.raises(ValueError, match="have been read by the decoder, not by another"):
            generate(make_decoder(), read, max_new_tokens=1, eos_token_ids=[])

    def test_another_dtype(self, make_decoder: Make, make_prompts: Make) -> None:
        decoder, prompts = make_decoder(), make_prompts(LENGTHS)
        read = read_prompts(decoder, prompts)
        decoder.double()
        with pytest.raises(
            ValueError, match=r"decoder's dtype .*float64 on cpu, got torch\.float32"
        ):
            generate(decoder, read, max_new_tokens=1, eos_token_ids=())

    def test_prefixes_of_read_prompts(self, make_decoder: Make, make_prompts: Make) -> None:
        decoder, prompts = make_decoder(), make_prompts()
        read = read_prompts(decoder, prompts)
        with pytest.raises(ValueError, match="prefixes: must be left out"):
            generate(
                decoder, read, max_new_tokens=1, eos_token_ids=[], prefixes=prompts, prefix_of=[0]
            )

    def test_texts_beyond_the_context(self, make_decoder: Make, make_prompts: Make) -> None:
        decoder = make_decoder()
        read = read_prompts(decoder, make_prompts((12, 14)))
        whole = generate(decoder, read.branch([1]), max_new_tokens=600, eos_token_ids=())[0]
        assert len(whole.token_ids) == 499
        assert score_continuations(decoder, read, [whole.token_ids]).shape == (2, 1)
        with pytest.raises(ValueError, match="at most 513 tokens, the decoder's context, got 514"):
            score_continuations(decoder, read, [[1] * 500])
