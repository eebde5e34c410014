"""The caption head: its cache, its rule against repeating, and teacher forcing."""

from __future__ import annotations

import pytest
import tiny_pix2cap
import torch
from torch import Tensor

from fastregion.language import generate, score
from fastregion.models.pix2cap.caption_head import MAX_TOKENS, CaptionHead
from fastregion.models.pix2cap.captions import caption_ids, taught_logits, tidy

BEGIN, END = 2, 3


def head_and_objects(count: int = 5) -> tuple[CaptionHead, Tensor]:
    captioner = tiny_pix2cap.captioner()
    size = captioner.config.text_decoder.object_feature_size
    return captioner.model.caption_head, torch.randn(count, 2, size)


@torch.no_grad()
def published_search(head: CaptionHead, features: Tensor, num_beams: int) -> list[list[int]]:
    """Every prefix from its beginning, an object and a beam at a time."""
    best: list[list[int]] = []
    for one in features.split(1):
        beams = []
        first = head(one, torch.tensor([[BEGIN]]))[0, -1].log_softmax(-1)
        for rank in range(num_beams):
            total, token = (values[rank] for values in first.sort(descending=True))
            ids = [BEGIN, int(token)]
            while ids[-1] != END and len(ids) < MAX_TOKENS:
                logits = head(one, torch.tensor([ids]))[0, -1]
                logits[ids[-1]] = -10000
                step, token = logits.log_softmax(-1).max(-1)
                total = total + step
                ids.append(int(token))
            beams.append((float(total), ids[1:]))
        best.append(max(beams)[1])
    return best


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_cache_changes_nothing(num_beams: int) -> None:
    captioner = tiny_pix2cap.captioner()
    head, features = captioner.model.caption_head, torch.randn(6, 2, 24)
    found = captioner.caption(features, num_beams=num_beams)
    assert [one.token_ids for one in found] == published_search(head, features, num_beams)
    assert max(len(one.token_ids) for one in found) == MAX_TOKENS - 1


def test_no_word_follows_itself() -> None:
    head, features = head_and_objects()
    found = generate(
        head, head.prompts(features, BEGIN), max_new_tokens=100, eos_token_ids=(), temperature=5.0
    )
    for caption in found:
        assert len(caption.token_ids) == MAX_TOKENS - 1
        assert all(a != b for a, b in zip(caption.token_ids, caption.token_ids[1:], strict=False))


def test_first_ranks_are_checked() -> None:
    head, features = head_and_objects(2)
    prompts = head.prompts(features, BEGIN)
    for ranks, temperature, message in (
        ([0], 0.0, "first_ranks: must hold a rank for each of 2 prompts, got 1"),
        ([0, 26], 0.0, "first_ranks: must be in 0..25, got 26 for prompt 1"),
        ([0, 1], 0.5, "first_ranks: temperature must be 0, got 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(
                head,
                prompts,
                max_new_tokens=3,
                eos_token_ids=(),
                temperature=temperature,
                first_ranks=ranks,
            )
    ranked = generate(head, prompts, max_new_tokens=1, eos_token_ids=(), first_ranks=[0, 4])
    expected = head(features, torch.full((2, 1), BEGIN))[:, -1].argsort(descending=True)
    assert [one.token_ids[0] for one in ranked] == [int(expected[0, 0]), int(expected[1, 4])]


def test_what_comes_later_is_not_seen() -> None:
    head, features = head_and_objects(3)
    tokens = torch.randint(5, 26, (3, 7))
    logits = head(features, tokens)
    changed = tokens.clone()
    changed[:, 4:] = 1
    other = head(features, changed)
    torch.testing.assert_close(other[:, :4], logits[:, :4])
    assert not torch.allclose(other[:, 4:], logits[:, 4:], atol=1e-3)
    # Both rows of memory count, and the first sees the second.
    for row in range(2):
        moved = features.clone()
        moved[:, row] += 1
        assert not torch.allclose(head(moved, tokens), logits, atol=1e-3)


def test_a_third_of_the_gradient_goes_on() -> None:
    head, features = head_and_objects(2)
    tokens = torch.randint(5, 26, (2, 4))
    features.requires_grad_(True)
    head(features, tokens).square().mean().backward()
    whole = features.detach().clone().requires_grad_(True)
    memory = head.object_feature_projection(whole)
    head.remember = lambda _: memory  # type: ignore[method-assign]
    head(whole, tokens).square().mean().backward()
    assert features.grad is not None
    assert whole.grad is not None
    torch.testing.assert_close(features.grad, whole.grad / 3)


def test_captions_can_be_written_in_the_middle_of_a_training() -> None:
    captioner = tiny_pix2cap.captioner()
    features = torch.randn(4, 2, 24)
    expected = [one.token_ids for one in captioner.caption(features)]
    captioner.model.train()
    assert [one.token_ids for one in captioner.caption(features)] == expected
    assert all(module.training for module in captioner.model.modules())
    tokens = torch.randint(5, 26, (4, 9))
    head = captioner.model.caption_head
    assert not torch.equal(head(features, tokens), head(features, tokens)), "dropout"


def test_long_captions_are_cut_as_published() -> None:
    tokenizer, _ = tiny_pix2cap.tokenizer_pair()
    words = ["the", "dog", "is", "on", "top", "with", "a", "cat"]
    text = " ".join((words * 6)[:45])
    ids = tokenizer.encode(text)
    assert len(ids) == 45
    assert caption_ids(text, tokenizer) == [BEGIN, *ids[2:40], END]
    assert caption_ids("the dog", tokenizer) == [BEGIN, *ids[:2], END]
    thirty_nine = " ".join((words * 6)[:39])
    assert caption_ids(thirty_nine, tokenizer) == [BEGIN, *ids[1:39], END]


def test_teacher_forcing_pools_all_captions() -> None:
    tokenizer, _ = tiny_pix2cap.tokenizer_pair()
    head, features = head_and_objects(2)
    captions = ["the dog", "a cat is on top"]
    logits, tokens = taught_logits(head, features, captions, tokenizer)
    ids = [caption_ids(text, tokenizer) for text in captions]
    assert tokens.tolist() == [*ids[0][1:], *ids[1][1:]]
    alone = [
        head(features[k : k + 1], torch.tensor([ids[k]]))[0, :-1] for k in range(len(captions))
    ]
    torch.testing.assert_close(logits, torch.cat(alone))


def test_scores_are_those_of_teacher_forcing() -> None:
    captioner = tiny_pix2cap.captioner()
    head, features = captioner.model.caption_head, torch.randn(2, 2, 24)
    captions = ["the dog is red", "a cat " * 30]
    with torch.inference_mode():
        prompts = captioner.append_text(head.prompts(features, BEGIN), captions)
        found = score(head, prompts)
        logits, tokens = taught_logits(head, features, captions, captioner.tokenizer)
    each = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].split([5, MAX_TOKENS - 1])
    torch.testing.assert_close(found, torch.stack([one.mean() for one in each]))


@pytest.mark.parametrize(
    ("decoded", "expected"),
    [
        ("a dog . it is , well , red !", "a dog. it is, well, red!"),
        ("the dog ' s on - top", "the dog's on-top"),
        ("it 's what we 've and they 're", "it's what we've and they're"),
        ("a - b - c", "a-b-c"),
    ],
)
def test_texts_are_tidied(decoded: str, expected: str) -> None:
    assert tidy(decoded) == expected
