from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fastregion.language.sampling import Sampler

LOGITS = torch.tensor([2.0, 0.0, -1.0, 1.0, float("-inf")])


def frequencies(sampler: Sampler, logits: torch.Tensor, draws: int = 20_000) -> torch.Tensor:
    uniform = sampler.draw(draws, 1, torch.device("cpu"))
    assert uniform is not None
    tokens, _ = sampler.choose(logits.expand(draws, -1), uniform[:, 0])
    return tokens.bincount(minlength=len(logits)) / draws


def seeded(**settings: Any) -> Sampler:
    return Sampler(generator=torch.Generator().manual_seed(0), **settings)


def test_greedy_takes_the_best_and_reports_its_log_probability() -> None:
    sampler = Sampler()
    assert sampler.draw(2, 3, torch.device("cpu")) is None
    tokens, logprobs = sampler.choose(torch.stack([LOGITS, LOGITS.flip(0)]), None)
    assert tokens.tolist() == [0, 4]
    expected = LOGITS.log_softmax(-1)[0]
    torch.testing.assert_close(logprobs, expected.expand(2))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_sampling_follows_the_tempered_distribution(temperature: float) -> None:
    expected = (LOGITS / temperature).softmax(-1)
    actual = frequencies(seeded(temperature=temperature), LOGITS)
    # five standard deviations of a frequency over 20,000 draws
    bound = 5 * (expected * (1 - expected) / 20_000).sqrt()
    assert ((actual - expected).abs() <= bound).all(), (actual, expected)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.01, [0]), (0.7, [0, 3]), (0.9, [0, 1, 3]), (1.0, [0, 1, 2, 3])]
)
def test_nucleus_is_the_smallest_set_that_reaches_top_p(top_p: float, kept: list[int]) -> None:
    probabilities = LOGITS.softmax(-1)  # 0.644, 0.087, 0.032, 0.237, 0
    expected = torch.zeros(5)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    actual = frequencies(seeded(temperature=1.0, top_p=top_p), LOGITS)
    assert actual.nonzero().squeeze(1).tolist() == kept
    torch.testing.assert_close(actual, expected, atol=0.02, rtol=0)


def test_log_probabilities_are_those_of_the_model_not_of_the_sampler() -> None:
    sampler = seeded(temperature=3.0, top_p=0.9)
    uniform = sampler.draw(50, 1, torch.device("cpu"))
    assert uniform is not None
    tokens, logprobs = sampler.choose(LOGITS.expand(50, -1), uniform[:, 0])
    assert len(tokens.unique()) > 1
    torch.testing.assert_close(logprobs, LOGITS.log_softmax(-1)[tokens])


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("top_p", [1.0, 0.999])
def test_the_ends_of_the_unit_interval_give_possible_tokens(uniform: float, top_p: float) -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]])
    draw = torch.tensor([uniform], dtype=torch.float64)
    tokens, logprobs = Sampler(temperature=0.7, top_p=top_p).choose(logits, draw)
    assert tokens.item() in (1, 2)
    assert logprobs.item() == pytest.approx(math.log(0.5))


def test_tiny_temperatures_are_greedy_and_do_not_overflow() -> None:
    assert frequencies(seeded(temperature=1e-300), LOGITS * 1e4, draws=50)[0] == 1


def test_low_precision_logits_are_judged_in_float32() -> None:
    _, logprobs = Sampler().choose(LOGITS[None].bfloat16(), None)
    assert logprobs.dtype == torch.float32
    _, logprobs = Sampler().choose(LOGITS[None].double(), None)
    assert logprobs.dtype == torch.float64


def test_a_batch_draws_what_its_sequences_would_draw_one_by_one() -> None:
    together = seeded(temperature=1.0).draw(5, 7, torch.device("cpu"))
    one = seeded(temperature=1.0)
    alone = [one.draw(1, 7, torch.device("cpu")) for _ in range(5)]
    assert together is not None
    assert torch.equal(together, torch.cat(alone))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"temperature": -0.1}, ValueError, "temperature: must be finite and at least 0, got -0.1"),
        ({"temperature": float("nan")}, ValueError, "temperature: .* got nan"),
        ({"temperature": float("inf")}, ValueError, "temperature: .* got inf"),
        ({"temperature": "1"}, TypeError, "temperature: must be a number, got str"),
        ({"temperature": True}, TypeError, "temperature: must be a number, got bool"),
        ({"top_p": 0.0}, ValueError, r"top_p: must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, ValueError, "got 1.1"),
        ({"top_p": float("nan")}, ValueError, "got nan"),
        ({"generator": 7}, TypeError, "generator: must be a torch.Generator or None, got int"),
    ],
)
def test_refuses(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Sampler(**settings)
