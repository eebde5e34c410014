from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastregion.language import (
    append_tokens,
    generate,
    pack,
    score,
    score_continuations,
    scoring,
    token_logprobs,
)

Make = Callable[..., Any]
TEXTS = [[3, 4, 5], [3], [60, 1], [7, 7, 7, 7, 7, 7], [3, 4]]


def reference(decoder: Any, prompt: Tensor, text: list[int]) -> Tensor:
    """Log-probabilities of a text after one prompt, by transformers on the whole sequence."""
    tokens = torch.tensor(text)
    whole = torch.cat([prompt, decoder.get_input_embeddings()(tokens)])
    with torch.no_grad():
        logprobs = decoder(inputs_embeds=whole[None]).logits[0].log_softmax(-1)
    rows = torch.arange(len(prompt) - 1, len(whole) - 1)
    return logprobs[rows, tokens]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_labelled_tokens_are_scored_given_all_before(
    make_decoder: Make, make_prompts: Make, kind: str
) -> None:
    decoder, prompts = make_decoder(kind), make_prompts()
    labelled = append_tokens(prompts, TEXTS, decoder.get_input_embeddings())
    actual = token_logprobs(decoder, labelled)
    means = score(decoder, labelled)
    assert means.shape == (5,)
    for index, text in enumerate(TEXTS):
        expected = reference(decoder, prompts.select([index]).embeddings, text)
        torch.testing.assert_close(actual[index], expected, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(means[index], expected.mean(), rtol=1e-5, atol=2e-5)


def test_the_score_is_minus_the_training_loss(make_decoder: Make, make_prompts: Make) -> None:
    decoder = make_decoder()
    labelled = append_tokens(make_prompts((6,)), [[1, 2, 3]], decoder.get_input_embeddings())
    with torch.no_grad():
        loss = decoder(**labelled.pad()._asdict()).loss
    torch.testing.assert_close(score(decoder, labelled)[0], -loss, rtol=1e-5, atol=1e-5)


def test_a_label_without_anything_before_it_is_left_out(make_decoder: Make) -> None:
    decoder, random = make_decoder(), torch.randn(3, 32)
    all_labelled = pack([random], [torch.tensor([9, 8, 7])])
    rest_labelled = pack([random], [torch.tensor([-100, 8, 7])])
    actual = token_logprobs(decoder, all_labelled)
    assert len(actual[0]) == 2
    assert torch.equal(actual[0], token_logprobs(decoder, rest_labelled)[0])


def test_generated_log_probabilities_agree_with_scores(
    make_decoder: Make, make_prompts: Make
) -> None:
    decoder, prompts = make_decoder(), make_prompts()
    results = generate(decoder, prompts, max_new_tokens=6, eos_token_ids=[])
    texts = [result.token_ids for result in results]
    labelled = append_tokens(prompts, texts, decoder.get_input_embeddings())
    for result, expected in zip(results, token_logprobs(decoder, labelled), strict=True):
        assert result.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("tree", [1, 4, 256])
def test_continuations_equal_separate_scores(
    make_decoder: Make,
    make_prompts: Make,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    kv_heads: int,
    tree: int,
) -> None:
    monkeypatch.setattr(scoring, "_TOKENS_PER_TREE", tree)  # one text, some, or all at a time
    decoder, prompts = make_decoder(kind, kv_heads=kv_heads), make_prompts()
    actual = score_continuations(decoder, prompts, TEXTS)
    assert actual.shape == (5, len(TEXTS))
    for column, text in enumerate(TEXTS):
        labelled = append_tokens(prompts, [text] * 5, decoder.get_input_embeddings())
        expected = score(decoder, labelled)
        torch.testing.assert_close(actual[:, column], expected, rtol=1e-5, atol=2e-5)


def test_continuations_longer_than_the_first_cache_block(
    make_decoder: Make, make_prompts: Make
) -> None:
    decoder, prompts = make_decoder(), make_prompts((4,))
    text = torch.randint(61, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    labelled = append_tokens(prompts, [text], decoder.get_input_embeddings())
    actual = score_continuations(decoder, prompts, [[1, 2], text, [1, 2]])[0]
    torch.testing.assert_close(actual[1], score(decoder, labelled)[0], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(actual[0], actual[2], rtol=1e-5, atol=2e-5)


def test_only_single_token_texts(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(), make_prompts((4, 6))
    everything = score_continuations(decoder, prompts, [[token] for token in range(61)])
    torch.testing.assert_close(everything.exp().sum(-1), torch.ones(2))


def test_logits_are_computed_in_chunks(
    make_decoder: Make, make_prompts: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, prompts = make_decoder(), make_prompts()
    labelled = append_tokens(prompts, TEXTS, decoder.get_input_embeddings())
    expected = score(decoder, labelled)
    monkeypatch.setattr(scoring, "_LOGITS_PER_CHUNK", 61 * 2)
    torch.testing.assert_close(score(decoder, labelled), expected)


def test_dtypes(make_decoder: Make, make_prompts: Make) -> None:
    exact = score_continuations(make_decoder().double(), make_prompts(dtype=torch.float64), TEXTS)
    assert exact.dtype == torch.float64
    rough = score_continuations(
        make_decoder().bfloat16(), make_prompts(dtype=torch.bfloat16), TEXTS
    )
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, atol=0.5, rtol=0)


class TestRefuses:
    def test_prompts_without_labels(self, make_decoder: Make, make_prompts: Make) -> None:
        with pytest.raises(ValueError, match="labels are needed for scoring, got none"):
            score(make_decoder(), make_prompts())

    def test_nothing_to_score(self, make_decoder: Make) -> None:
        prompts = pack([torch.zeros(2, 32)] * 2, [torch.tensor([-100, 1]), torch.tensor([1, -100])])
        with pytest.raises(ValueError, match="mark a token to score, got none in prompt 1"):
            score(make_decoder(), prompts)

    def test_labels_outside_the_vocabulary(self, make_decoder: Make) -> None:
        prompts = pack([torch.zeros(2, 32)], [torch.tensor([-100, 61])])
        with pytest.raises(ValueError, match="labels must be below 61, got 61"):
            score(make_decoder(), prompts)

    @pytest.mark.parametrize(
        ("texts", "error", "message"),
        [
            ([], ValueError, "texts: must hold at least one text, got none"),
            ([[1], []], ValueError, "at least one token, text 1 is empty"),
            ([[1], [61]], ValueError, "token ids of text 1 must be .* below 61, got 61"),
            ([["red"]], TypeError, "token ids of text 0 must be integers, got str"),
            ([[1] * 500], ValueError, "at most 513 tokens, the decoder's context, got 514"),
        ],
    )
    def test_texts(
        self,
        make_decoder: Make,
        make_prompts: Make,
        texts: list[list[int]],
        error: type[Exception],
        message: str,
    ) -> None:
        with pytest.raises(error, match=message):
            score_continuations(make_decoder(), make_prompts(), texts)
