from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fastregion.language import IGNORED_LABEL, PackedPrompts, append_tokens, pack


def fields(**changes: object) -> dict[str, object]:
    """Two prompts of 2 and 3 tokens, with some fields replaced."""
    return {
        "embeddings": torch.randn(5, 4),
        "cu_seqlens": torch.tensor([0, 2, 5], dtype=torch.int32),
        "positions": torch.tensor([0, 1, 0, 1, 2]),
        "labels": None,
        **changes,
    }


def test_holds_a_ragged_batch() -> None:
    prompts = PackedPrompts(**fields())
    assert prompts.lengths == (2, 3)
    assert len(prompts) == prompts.batch_size == 2
    assert prompts.total_tokens == 5
    assert prompts.hidden_size == 4
    assert "batch_size=2" in repr(prompts)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"embeddings": [[1.0]]}, TypeError, "embeddings must be a tensor, got list"),
        ({"embeddings": torch.zeros(5, 4, dtype=torch.int64)}, TypeError, "embeddings must be fl"),
        ({"embeddings": torch.zeros(1, 5, 4)}, ValueError, r"got shape \(1, 5, 4\)"),
        ({"embeddings": torch.zeros(5, 0)}, ValueError, r"got shape \(5, 0\)"),
        (
            {"embeddings": torch.zeros(6, 4)},
            ValueError,
            r"positions must be \[total_tokens\] = \[6\]",
        ),
        ({"cu_seqlens": torch.tensor([0, 2, 5])}, TypeError, "cu_seqlens must be torch.int32"),
        ({"cu_seqlens": torch.zeros(1, dtype=torch.int32)}, ValueError, "at least one prompt"),
        ({"cu_seqlens": torch.zeros(3, 1, dtype=torch.int32)}, ValueError, r"shape \(3, 1\)"),
        ({"cu_seqlens": torch.tensor([0, 2, 4], dtype=torch.int32)}, ValueError, "got 0 to 4"),
        ({"cu_seqlens": torch.tensor([1, 2, 5], dtype=torch.int32)}, ValueError, "got 1 to 5"),
        ({"cu_seqlens": torch.tensor([0, 0, 5], dtype=torch.int32)}, ValueError, "0 for prompt 0"),
        ({"cu_seqlens": torch.tensor([0, 6, 5], dtype=torch.int32)}, ValueError, "-1 for prompt 1"),
        ({"positions": torch.zeros(5)}, TypeError, "positions must be torch.int64"),
        ({"positions": torch.zeros(4, dtype=torch.int64)}, ValueError, r"\[5\], got shape \(4,\)"),
        ({"positions": torch.full((5,), -1)}, ValueError, "not be negative, got -1"),
        ({"labels": torch.zeros(5, dtype=torch.int32)}, TypeError, "labels must be torch.int64"),
        ({"labels": torch.zeros(5, 1, dtype=torch.int64)}, ValueError, r"got shape \(5, 1\)"),
        ({"labels": torch.full((5,), -1)}, ValueError, "labels must be token ids or -100, got -1"),
        (
            {"positions": torch.empty(5, dtype=torch.int64, device="meta")},
            ValueError,
            "same device",
        ),
    ],
)
def test_refuses_what_does_not_fit(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PackedPrompts(**fields(**changes))


def test_pack_lays_prompts_end_to_end() -> None:
    a, b = torch.randn(2, 4), torch.randn(3, 4)
    labels = [torch.tensor([-100, 7]), torch.tensor([1, 2, 3])]
    prompts = pack([a, b], labels)
    assert torch.equal(prompts.embeddings, torch.cat([a, b]))
    assert prompts.cu_seqlens.tolist() == [0, 2, 5]
    assert prompts.cu_seqlens.dtype == torch.int32
    assert prompts.positions.tolist() == [0, 1, 0, 1, 2]
    assert prompts.labels is not None
    assert prompts.labels.tolist() == [-100, 7, 1, 2, 3]


@pytest.mark.parametrize(
    ("tensors", "labels", "error", "message"),
    [
        ([], None, ValueError, "at least one prompt, got none"),
        ([torch.zeros(0, 4)], None, ValueError, "length 0 for prompt 0"),
        ([torch.zeros(2, 4), torch.zeros(2, 5)], None, ValueError, r"shape \(2, 5\) for prompt 1"),
        ([torch.zeros(4)], None, ValueError, r"shape \(4,\) for prompt 0"),
        ([torch.zeros(1, 4), torch.zeros(1, 4).double()], None, TypeError, "float64 for prompt 1"),
        ([torch.zeros(2, 4)], [torch.zeros(3).long()], ValueError, r"\[\(2,\)\].*\[\(3,\)\]"),
    ],
)
def test_pack_refuses(
    tensors: list[Tensor], labels: list[Tensor] | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pack(tensors, labels)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from(["left", "right"]))
def test_padding_keeps_every_token_and_nothing_else(lengths: list[int], side: str) -> None:
    prompts = pack([torch.randn(n, 3) for n in lengths], [torch.arange(n) for n in lengths])
    padded = prompts.pad(side)  # type: ignore[arg-type]
    longest = max(lengths)
    assert padded.inputs_embeds.shape == (len(lengths), longest, 3)
    for row, length in enumerate(lengths):
        used = slice(0, length) if side == "right" else slice(longest - length, longest)
        expected = torch.zeros(longest, dtype=torch.int64)
        expected[used] = 1
        assert torch.equal(padded.attention_mask[row], expected)
        one = prompts.select([row])
        assert torch.equal(padded.inputs_embeds[row, used], one.embeddings)
        assert torch.equal(padded.position_ids[row, used], one.positions)
        assert padded.labels is not None
        assert torch.equal(padded.labels[row, used], one.positions)
        unused = expected == 0
        assert not padded.inputs_embeds[row, unused].any()
        assert (padded.labels[row, unused] == IGNORED_LABEL).all()


def test_padding_is_differentiable_and_names_its_sides() -> None:
    embeddings = torch.randn(5, 4, requires_grad=True)
    padded = PackedPrompts(**fields(embeddings=embeddings)).pad("left")
    (padded.inputs_embeds * 2).sum().backward()
    assert torch.equal(embeddings.grad, torch.full_like(embeddings, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="side must be 'left' or 'right', got 'up'"):
        PackedPrompts(**fields()).pad("up")  # type: ignore[arg-type]


def test_select_takes_prompts_in_the_order_asked() -> None:
    prompts = PackedPrompts(**fields(labels=torch.arange(5)))
    chosen = prompts.select([1, 0, 1])
    assert chosen.lengths == (3, 2, 3)
    assert chosen.labels is not None
    assert chosen.labels.tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    assert torch.equal(chosen.embeddings, prompts.embeddings[chosen.labels])
    with pytest.raises(IndexError, match=r"in \[0, 2\), got 2"):
        prompts.select([0, 2])
    with pytest.raises(IndexError, match=r"got -1"):
        prompts.select([-1])
    with pytest.raises(ValueError, match="at least one prompt"):
        prompts.select([])


def test_to_converts_embeddings_only() -> None:
    prompts = PackedPrompts(**fields(labels=torch.arange(5))).to("cpu", torch.bfloat16)
    assert prompts.embeddings.dtype == torch.bfloat16
    assert prompts.positions.dtype == torch.int64
    assert prompts.cu_seqlens.dtype == torch.int32


def test_append_tokens_continues_each_prompt() -> None:
    embed = nn.Embedding(10, 4)
    start = torch.tensor([4, 5, 0, 1, 2])  # positions need not begin at 0
    prompts = PackedPrompts(**fields(positions=start))
    longer = append_tokens(prompts, [[7, 8], []], embed)
    assert longer.lengths == (4, 3)
    assert longer.positions.tolist() == [4, 5, 6, 7, 0, 1, 2]
    assert longer.labels is not None
    assert longer.labels.tolist() == [-100, -100, 7, 8, -100, -100, -100]
    assert torch.equal(longer.embeddings[2:4], embed.weight[7:9])
    again = append_tokens(longer, [[1], [2]], embed)
    assert again.labels is not None
    assert again.labels.tolist() == [-100, -100, 7, 8, 1, -100, -100, -100, 2]
    again.embeddings.sum().backward()
    assert embed.weight.grad is not None
    assert embed.weight.grad[:, 0].tolist() == [0, 1, 1, 0, 0, 0, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[1]], ValueError, "2 lists, one per prompt, got 1"),
        ([[1], [10]], ValueError, "at least 0 and below 10, got 10"),
        ([[1], [-1]], ValueError, "got -1"),
        ([[1], [1.5]], TypeError, "must be integers, got float"),
        ([[1], [True]], TypeError, "must be integers, got bool"),
    ],
)
def test_append_tokens_refuses(ids: list[list[int]], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        append_tokens(PackedPrompts(**fields()), ids, nn.Embedding(10, 4))
