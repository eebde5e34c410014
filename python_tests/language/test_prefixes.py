"""Beginnings that are read once: the same tokens and scores as of whole prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fastregion.language import (
    PackedPrompts,
    append_tokens,
    beam_search,
    build_decoder,
    generate,
    pack,
    read_prompts,
    score,
)

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
    "max_position_embeddings": 128,
}
PREFIX_OF = [1, 0, 1]


@pytest.fixture(scope="module")
def decoder() -> torch.nn.Module:
    made = build_decoder(CONFIG)
    generator = torch.Generator().manual_seed(0)
    values = {
        name: 0.3 * torch.randn(p.shape, generator=generator) for name, p in made.named_parameters()
    }
    made.load_state_dict(values, strict=False, assign=True)
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def prompts() -> tuple[PackedPrompts, PackedPrompts, PackedPrompts]:
    """Beginnings, rests, and the whole."""
    generator = torch.Generator().manual_seed(1)
    first = [torch.randn(n, 32, generator=generator) for n in (7, 20)]
    rests = [torch.randn(n, 32, generator=generator) for n in (3, 5, 4)]
    packed = pack(rests)
    starts = torch.tensor([len(first[p]) for p in PREFIX_OF]).repeat_interleave(
        torch.tensor(packed.lengths)
    )
    whole = [torch.cat((first[p], rest)) for p, rest in zip(PREFIX_OF, rests, strict=True)]
    return pack(first), replace(packed, positions=packed.positions + starts), pack(whole)


def test_generation(decoder: torch.nn.Module, prompts: tuple[PackedPrompts, ...]) -> None:
    first, rests, whole = prompts
    options = {"max_new_tokens": 9, "eos_token_ids": ()}
    expected = generate(decoder, whole, **options)
    read = read_prompts(decoder, first)
    assert len(read) == 2
    for prefixes in (first, read, read):  # as often as one likes
        found = generate(decoder, rests, prefixes=prefixes, prefix_of=PREFIX_OF, **options)
        assert [one.token_ids for one in found] == [one.token_ids for one in expected]
        beams = beam_search(
            decoder, rests, num_beams=3, prefixes=prefixes, prefix_of=PREFIX_OF, **options
        )
        assert [b.token_ids for b, *_ in beams] == [
            b.token_ids for b, *_ in beam_search(decoder, whole, num_beams=3, **options)
        ]


def test_scores(decoder: torch.nn.Module, prompts: tuple[PackedPrompts, ...]) -> None:
    first, rests, whole = prompts
    embed = decoder.get_input_embeddings()
    texts = [[3, 4, 5], [6], [7, 8]]
    expected = score(decoder, append_tokens(whole, texts, embed))
    continued = append_tokens(rests, texts, embed)
    for prefixes in (first, read_prompts(decoder, first)):
        found = score(decoder, continued, prefixes=prefixes, prefix_of=PREFIX_OF)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    wrong = score(decoder, continued, prefixes=first, prefix_of=[0, 1, 0])
    assert (wrong - expected).abs().max() > 1e-2
    with pytest.raises(ValueError, match="prefixes: must be given together with prefix_of"):
        score(decoder, continued, prefixes=first)
    with pytest.raises(ValueError, match=r"prefix_of: must be in 0\.\.1, got 2"):
        score(decoder, continued, prefixes=read_prompts(decoder, first), prefix_of=[0, 2, 0])


def test_beginnings_must_fit_the_decoder(
    decoder: torch.nn.Module, prompts: tuple[PackedPrompts, ...]
) -> None:
    with pytest.raises(ValueError, match="prompts: hidden size must be the decoder's 32"):
        read_prompts(decoder, pack([torch.zeros(3, 16)]))
