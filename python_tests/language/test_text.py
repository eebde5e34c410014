"""Text from tokens: stop strings, whole characters, and every way of decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from fastregion._torchvision_guard import import_transformers
from fastregion.language import (
    PackedPrompts,
    Sampler,
    StopStrings,
    TextStream,
    Tokenizer,
    check_stop,
    generate,
    generate_text,
    stream_text,
)

Make = Callable[..., Any]

WORDS = ["é", "🦊", "ab", "abc", " b", "\n"]


def byte_tokenizer() -> Tokenizer:
    """Some tokens are words, most are halves of letters, the last is special."""
    backend = tokenizers.Tokenizer(models.BPE(vocab={"?": 0}, merges=[]))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [letter for letter in letters if letter.isalpha()][:54]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words += ["".join(piece for piece, _ in byte_level.pre_tokenize_str(word)) for word in WORDS]
    backend = tokenizers.Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    return Tokenizer(backend)


TOKENIZER = byte_tokenizer()
END = TOKENIZER.token_id("<end>")
assert len(TOKENIZER) == 61


# ---- stop strings ----


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The definition, letter by letter."""
    for end in range(1, len(text) + 1):
        found = [s for s in stop if text[:end].endswith(s)]
        if found:
            return text[: end - max(len(s) for s in found)], True
    return text, False


letters = st.text("ab.", max_size=12)
stops = st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3)


@given(st.lists(letters, max_size=6), stops)
def test_text_is_cut_at_the_first_stop_string_however_it_comes(
    pieces: list[str], stop: list[str]
) -> None:
    holder = StopStrings(stop)
    seen = ""
    read = ""
    for piece in pieces:
        before = holder.found
        seen += holder.put(piece)
        read += piece
        wanted, found = cut(read, stop)
        assert holder.found == found
        assert wanted.startswith(seen)  # nothing that had to be taken back
        if not found:  # and what is held back may become a stop string
            held = wanted[len(seen) :]
            assert not held or any(s.startswith(held) and s != held for s in stop)
        if before:
            assert seen == cut(read, stop)[0]
    seen += holder.flush()
    assert (seen, holder.found) == cut("".join(pieces), stop)


def test_no_more_is_held_back_than_needed() -> None:
    holder = StopStrings(["###", "\n\n"])
    assert [holder.put(t) for t in ("a#", "#b", "\n", "c", "##")] == ["a", "##b", "", "\nc", ""]
    assert holder.flush() == "##"
    assert not holder.found


def test_what_is_no_stop_string() -> None:
    assert check_stop("ab") == ("ab",)
    assert check_stop(["a", "b"]) == ("a", "b")
    with pytest.raises(TypeError, match="stop: expected a string or a list of strings, got 3"):
        check_stop(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="stop: expected a string or a list of strings"):
        check_stop(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="stop: a stop string must not be empty"):
        check_stop("")


# ---- streams of tokens ----


@given(st.lists(st.integers(0, 60), max_size=30), st.sampled_from([(), ("ab",), ("é", "c b")]))
def test_streamed_text_is_the_decoded_text_cut(ids: list[int], stop: tuple[str, ...]) -> None:
    stream = TextStream(TOKENIZER, stop)
    text = "".join([*(stream.put(token) for token in ids), stream.flush()])
    assert text == cut(TOKENIZER.decode(ids), stop)[0]


@given(st.lists(st.integers(0, 60), max_size=12), st.lists(st.integers(0, 60), max_size=12))
def test_a_fork_goes_its_own_way(before: list[int], after: list[int]) -> None:
    stream = TextStream(TOKENIZER, ("ab", "é"))
    seen = "".join(stream.put(token) for token in before)
    fork = stream.fork()
    for token in [56, 54, 55, *after[::-1]]:
        fork.put(token)
    seen += "".join(stream.put(token) for token in after) + stream.flush()
    assert seen == cut(TOKENIZER.decode(before + after), ("ab", "é"))[0]


def test_special_tokens_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = TextStream(TOKENIZER)
    calls = []
    decode = Tokenizer.decode
    monkeypatch.setattr(Tokenizer, "decode", lambda *a, **k: calls.append(a) or decode(*a, **k))
    assert [stream.put(END) for _ in range(100)] == [""] * 100
    assert not calls


# ---- decoding ----


def run(decoder: Any, prompts: PackedPrompts, **settings: Any) -> list[Any]:
    settings = {"max_new_tokens": 16, "eos_token_ids": [END], **settings}
    return generate_text(decoder, prompts, TOKENIZER, **settings)


def test_texts_are_those_of_the_tokens(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(), make_prompts()
    expected = generate(decoder, prompts, max_new_tokens=16, eos_token_ids=[END])
    for found, tokens in zip(run(decoder, prompts), expected, strict=True):
        assert found.token_ids == tokens.token_ids
        assert found.logprobs == tokens.logprobs
        assert found.finish_reason == tokens.finish_reason
        assert found.text == TOKENIZER.decode(tokens.token_ids)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.5}])
def test_stop_strings_end_texts_whole_and_streamed(
    make_decoder: Make, make_prompts: Make, settings: dict[str, Any]
) -> None:
    decoder, prompts = make_decoder(), make_prompts()

    def seed() -> dict[str, Any]:
        return {**settings, "generator": torch.Generator().manual_seed(3)}

    free = run(decoder, prompts, **seed())
    # across tokens: what begins in one and ends in the next
    long = sorted((result.text for result in free), key=len)
    stop = [long[-1][3:6], long[-2][1:3], "never"]
    found = run(decoder, prompts, stop=stop, **seed())
    texts = [""] * len(prompts)
    last = {}
    for token, piece in stream_text(
        decoder, prompts, TOKENIZER, max_new_tokens=16, eos_token_ids=END, stop=stop, **seed()
    ):
        texts[token.index] += piece
        last[token.index] = token
    assert texts == [result.text for result in found]
    reasons = []
    for index, result in enumerate(found):
        text, stopped = cut(free[index].text, stop)
        assert result.text == text
        assert result.token_ids == free[index].token_ids[: len(result.token_ids)]
        assert last[index].finish_reason == result.finish_reason
        if stopped:
            assert result.finish_reason == "stop"
            assert len(result.logprobs) == len(result.token_ids)
            assert not cut(TOKENIZER.decode(result.token_ids[:-1]), stop)[1]  # not a token too late
        reasons.append(stopped)
    assert sum(reasons) >= 2


def test_a_special_token_may_be_a_stop_string(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(), make_prompts()
    draw = {"temperature": 5.0, "max_new_tokens": 200}
    ended = run(decoder, prompts, generator=torch.Generator().manual_seed(0), **draw)
    assert any(result.finish_reason == "stop" for result in ended)
    for stop in ("<end>", ["<end>", "never"]):
        found = run(
            decoder,
            prompts,
            eos_token_ids=[],
            stop=stop,
            generator=torch.Generator().manual_seed(0),
            **draw,
        )
        assert [r.token_ids for r in found] == [r.token_ids for r in ended]
        assert [r.finish_reason for r in found] == [r.finish_reason for r in ended]


def test_pieces_never_split_a_character(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(), make_prompts()
    texts = [""] * len(prompts)
    for token, piece in stream_text(
        decoder, prompts, TOKENIZER, max_new_tokens=24, eos_token_ids=[], temperature=3.0
    ):
        texts[token.index] += piece
        # a replacement character can only stand for bytes that no later token completes
        assert not piece.endswith("\N{REPLACEMENT CHARACTER}") or token.finish_reason
    assert len(set(texts)) == len(prompts)


def test_refusals(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(), make_prompts()
    with pytest.raises(ValueError, match=r"num_beams: must be 1 when sampling \(temperature 1.0\)"):
        run(decoder, prompts, num_beams=2, temperature=1.0)
    with pytest.raises(ValueError, match="stop: a stop string must not be empty"):
        stream_text(  # already when the stream is made
            decoder, prompts, TOKENIZER, max_new_tokens=2, eos_token_ids=[], stop=[""]
        )


# ---- top_k ----


@pytest.mark.parametrize("top_k", [None, 1, 3, 20, 61, 100])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 2.0])
def test_tokens_are_drawn_from_the_distribution_of_transformers(
    top_k: int | None, top_p: float, temperature: float
) -> None:
    logits = torch.randn(4, 61, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    warpers: Any = import_transformers("generation.logits_process")
    scores = warpers.TemperatureLogitsWarper(temperature)(None, logits)
    if top_k is not None:
        scores = warpers.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = warpers.TopPLogitsWarper(top_p)(None, scores)
    expected = scores.softmax(-1)
    # The drawn token as a function of the uniform number has the distribution's steps.
    sampler = Sampler(temperature, top_p, None, top_k)
    count = 4000
    points = ((torch.arange(count, dtype=torch.float64) + 0.5) / count).repeat_interleave(4)
    tokens, _ = sampler.choose(logits.repeat(count, 1), points)
    drawn = torch.nn.functional.one_hot(tokens.view(count, 4), 61).double().mean(0)
    torch.testing.assert_close(drawn, expected, atol=1.01 / count, rtol=0)
    assert not drawn[expected == 0].any()


def test_top_k_must_be_a_positive_integer() -> None:
    with pytest.raises(ValueError, match="top_k: must be at least 1, got 0"):
        Sampler(1.0, top_k=0)
    with pytest.raises(TypeError, match="top_k: must be an integer, got float"):
        Sampler(1.0, top_k=2.0)  # type: ignore[arg-type]
