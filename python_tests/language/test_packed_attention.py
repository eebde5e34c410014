"""Packed decoding against transformers' own attention on one prompt at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastregion.language import IGNORED_LABEL, PackedPrompts, pack
from fastregion.language import packed_attention as module
from fastregion.language.packed_attention import (
    PACKED_ATTENTION,
    decode_packed,
    packed_attention_backend,
)
from fastregion.models.training_steps import (
    next_token_loss,
    set_decoder_checkpointing,
    token_loss,
)
from fastregion.ops import cross_attention

MakeDecoder = Callable[..., Any]
MakePrompts = Callable[..., PackedPrompts]
LENGTHS = (5, 1, 17, 64, 3)


def stand_in(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """What ``torch.nn.attention.varlen`` is documented to compute, which needs a GPU."""
    assert enable_gqa
    assert query.shape[-1] % 8 == 0
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    out, _ = cross_attention(
        query,
        key,
        value,
        scale=scale,
        causal=window_size == (-1, 0),
        cu_seqlens_q=cu_seq_q,
        cu_seqlens_k=cu_seq_k,
        backend="reference",
    )
    return out


@pytest.fixture(params=["fastregion", "sdpa", "varlen"])
def ran(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way that computes the attention; native kernels run where they are installed."""

    def chosen(*_: Any, masked: bool, **__: Any) -> str:
        return "sdpa" if masked else str(request.param)

    if request.param != "fastregion":
        monkeypatch.setattr(module, "packed_attention_backend", chosen)
        monkeypatch.setattr(module, "_varlen", lambda: stand_in)
    elif packed_attention_backend() != "fastregion":
        pytest.skip("no native module")
    return str(request.param)


def labelled(prompts: PackedPrompts, vocabulary: int = 61, without: int = 2) -> PackedPrompts:
    """Random labels on some tokens; prompt number ``without`` has none."""
    random = torch.Generator().manual_seed(3)
    labels = torch.randint(vocabulary, (prompts.total_tokens,), generator=random)
    labels[torch.rand(len(labels), generator=random) < 0.4] = IGNORED_LABEL
    begin, end = prompts.cu_seqlens[without : without + 2].tolist()
    labels[begin:end] = IGNORED_LABEL
    return replace(prompts, labels=labels)


def one_by_one(decoder: Any, prompts: PackedPrompts, visible: Tensor | None = None) -> Tensor:
    """Last hidden states with a forward pass of transformers for each prompt."""
    decoder.set_attn_implementation("sdpa")
    parts = []
    for index in range(len(prompts)):
        begin, end = prompts.cu_seqlens[index : index + 2].tolist()
        mask = None
        if visible is not None:
            mask = visible[begin:end][None].long()
        out = decoder.model(
            inputs_embeds=prompts.embeddings[begin:end][None],
            position_ids=prompts.positions[begin:end][None],
            attention_mask=mask,
            use_cache=False,
        )
        parts.append(out.last_hidden_state[0])
    return torch.cat(parts)


def loss_one_by_one(decoder: Any, prompts: PackedPrompts) -> Tensor:
    """The sum of the losses of all prompts, each by itself."""
    assert prompts.labels is not None
    logits = decoder.lm_head(one_by_one(decoder, prompts))
    total = logits.new_zeros(())
    for index in range(len(prompts)):
        begin, end = prompts.cu_seqlens[index : index + 2].tolist()
        total = total + nn.functional.cross_entropy(
            logits[begin : end - 1], prompts.labels[begin + 1 : end], reduction="sum"
        )
    return total


def gradients(decoder: nn.Module, loss: Tensor, embeddings: Tensor) -> list[Tensor]:
    wanted = [embeddings, *(p for n, p in decoder.named_parameters() if "embed_tokens" not in n)]
    return list(torch.autograd.grad(loss, wanted))


@pytest.mark.parametrize("lengths", [LENGTHS, (7,), (1,)])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [("llama", {}), ("qwen2", {}), ("llama", {"head_dim": 12}), ("llama", {"kv_heads": 4})],
)
def test_hidden_states(
    make_decoder: MakeDecoder,
    make_prompts: MakePrompts,
    ran: str,
    kind: str,
    settings: dict[str, Any],
    lengths: tuple[int, ...],
) -> None:
    decoder, prompts = make_decoder(kind, **settings), make_prompts(lengths)
    with torch.no_grad():
        expected = one_by_one(decoder, prompts)
        found = decode_packed(decoder, prompts)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_gradients(
    make_decoder: MakeDecoder,
    make_prompts: MakePrompts,
    ran: str,
    dtype: torch.dtype,
    checkpointing: bool,
) -> None:
    decoder = make_decoder().to(dtype).train()
    prompts = labelled(make_prompts(LENGTHS, dtype=dtype))
    embeddings = prompts.embeddings.requires_grad_()
    expected = loss_one_by_one(decoder, prompts)
    wanted = gradients(decoder, expected, embeddings)
    set_decoder_checkpointing(decoder, checkpointing)
    found = token_loss(decoder, prompts)
    assert found.targets == len(prompts.targets())
    exact = dtype == torch.float64
    torch.testing.assert_close(found.total, expected, rtol=1e-12 if exact else 1e-6, atol=0)
    for one, other in zip(gradients(decoder, found.total, embeddings), wanted, strict=True):
        error = float((one - other).norm() / other.norm())
        assert error <= (1e-10 if exact else 1e-5)
    mean = next_token_loss(decoder, prompts)
    torch.testing.assert_close(mean, found.total / found.targets)


@pytest.mark.parametrize("visible", [False, True])
def test_nothing_crosses(
    make_decoder: MakeDecoder, make_prompts: MakePrompts, ran: str, visible: bool
) -> None:
    """Another prompt in the row, even one of NaN, changes no bit of the others."""
    decoder, prompts = make_decoder(), make_prompts(LENGTHS)
    keys = torch.rand(prompts.total_tokens) < 0.7 if visible else None
    begin, end = prompts.cu_seqlens[2:4].tolist()
    changed = prompts.embeddings.clone()
    changed[begin:end] = torch.nan
    with torch.no_grad():
        before = decode_packed(decoder, prompts, keys)
        after = decode_packed(decoder, replace(prompts, embeddings=changed), keys)
        assert after[begin:end].isnan().all()
        assert torch.equal(before[:begin], after[:begin])
        assert torch.equal(before[end:], after[end:])
        # And the test would see it: with the boundary moved, the prompts look at each other.
        cu_seqlens = prompts.cu_seqlens.clone()
        cu_seqlens[3] += 1
        other = decode_packed(decoder, replace(prompts, cu_seqlens=cu_seqlens), keys)
        assert not torch.equal(before[end:], other[end:])


def test_hidden_keys(make_decoder: MakeDecoder, make_prompts: MakePrompts, ran: str) -> None:
    decoder, prompts = make_decoder(), make_prompts((9, 30))
    visible = torch.ones(39, dtype=torch.bool)
    visible[[3, 4, 20, 38]] = False
    with torch.no_grad():
        expected = one_by_one(decoder, prompts, visible)
        found = decode_packed(decoder, prompts, visible)
        plain = decode_packed(decoder, prompts)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:3], plain[:3], rtol=0, atol=1e-5)
    assert float((found - plain).abs().max()) > 1e-2


def test_autocast(make_decoder: MakeDecoder, make_prompts: MakePrompts, ran: str) -> None:
    decoder, prompts = make_decoder(), labelled(make_prompts(LENGTHS))
    embeddings = prompts.embeddings.requires_grad_()
    exact = token_loss(decoder, prompts).total
    with torch.autocast("cpu", torch.bfloat16):
        found = token_loss(decoder, prompts).total
        expected = loss_one_by_one(decoder, prompts)
    assert found.dtype == torch.float32
    error, usual = (abs(x.item() - exact.item()) for x in (found, expected))
    assert error <= 3 * usual + 1e-2 * exact.item()
    assert all(g.isfinite().all() for g in gradients(decoder, found, embeddings))


def test_half_precision(make_decoder: MakeDecoder, make_prompts: MakePrompts, ran: str) -> None:
    decoder, prompts = make_decoder(), make_prompts(LENGTHS)
    with torch.no_grad():
        exact = decode_packed(decoder, prompts)
        found = decode_packed(decoder.bfloat16(), prompts.to(dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert float((found - exact).norm() / exact.norm()) < 0.03


def test_without_targets(make_decoder: MakeDecoder, make_prompts: MakePrompts) -> None:
    decoder, prompts = make_decoder(), make_prompts((3, 1))
    labels = torch.full((4,), IGNORED_LABEL)
    labels[[0, 3]] = 5  # at the beginnings: nothing predicts them
    prompts = replace(prompts, labels=labels)
    total, targets = token_loss(decoder, prompts)
    assert (total.item(), targets.item()) == (0, 0)
    total.backward()
    assert decoder.lm_head.weight.grad.abs().max() == 0
    with pytest.raises(ValueError, match="labels must mark a token to learn, got none"):
        next_token_loss(decoder, prompts)
    with pytest.raises(ValueError, match="labels are needed, got none"):
        token_loss(decoder, make_prompts())


def test_no_mask_is_made(
    make_decoder: MakeDecoder, make_prompts: MakePrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, prompts = make_decoder(), make_prompts((3, 4))
    asked: list[int] = []
    masks = module._masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    plain = masks["sdpa"]

    def sdpa(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        return plain(*args, **kwargs)

    monkeypatch.setitem(masks._global_mapping, "sdpa", sdpa)
    with torch.no_grad():
        decode_packed(decoder, prompts)
        assert not asked
        assert decoder.config._attn_implementation == PACKED_ATTENTION
        # Other calls of the decoder go on as before.
        padded = prompts.pad()
        found = decoder(**padded._asdict()).logits
        assert asked
        decoder.set_attn_implementation("eager")
        expected = decoder(**padded._asdict()).logits
    torch.testing.assert_close(found[0, :3], expected[0, :3], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)


def test_which_ran() -> None:
    assert packed_attention_backend(head_dim=512) == "sdpa"
    assert packed_attention_backend("meta") == "sdpa"
    assert packed_attention_backend("cuda", torch.float32) in ("fastregion", "sdpa")


class TestRefusals:
    def test_decoders(self, make_decoder: MakeDecoder, make_prompts: MakePrompts) -> None:
        with pytest.raises(TypeError, match="decoder: expected a transformers model, got Linear"):
            decode_packed(nn.Linear(2, 2), make_prompts())
        windows = make_decoder("qwen2", use_sliding_window=True, max_window_layers=0)
        with pytest.raises(NotImplementedError, match="only full attention is supported"):
            decode_packed(windows, make_prompts())
        dropping = make_decoder(attention_dropout=0.1).train()
        with pytest.raises(NotImplementedError, match=r"attention dropout must be 0, got 0\.1"):
            decode_packed(dropping, make_prompts())

    def test_visible(self, make_decoder: MakeDecoder, make_prompts: MakePrompts) -> None:
        prompts = make_prompts((3, 4))
        with pytest.raises(TypeError, match=r"visible: expected bool, got torch\.int64"):
            decode_packed(make_decoder(), prompts, torch.ones(7, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"visible: expected shape \(7,\) on cpu"):
            decode_packed(make_decoder(), prompts, torch.ones(6, dtype=torch.bool))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_flash_attention_for_sequences_of_different_lengths(
    make_decoder: MakeDecoder, dtype: torch.dtype
) -> None:
    if packed_attention_backend("cuda", dtype) != "varlen":
        pytest.skip("torch.nn.attention.varlen cannot do it here")
    decoder = make_decoder(head_dim=12).cuda()
    random = torch.Generator().manual_seed(0)
    prompts = labelled(
        pack([torch.randn(n, decoder.config.hidden_size, generator=random) for n in LENGTHS])
    ).to("cuda")
    embeddings = prompts.embeddings.requires_grad_()
    exact = token_loss(decoder, prompts).total
    wanted = gradients(decoder, exact, embeddings)
    with torch.autocast("cuda", dtype):
        found = token_loss(decoder, prompts).total
    torch.testing.assert_close(found, exact, rtol=2e-2, atol=0)
    for one, other in zip(gradients(decoder, found, embeddings), wanted, strict=True):
        assert float((one - other).norm() / other.norm()) < 0.05
