"""What lies in keys that a query of cross_attention does not see never reaches it."""

import math

import pytest
import torch
from torch import Tensor

from fastregion.ops import cross_attention


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("hidden_by", ["bias", "causality", "other sequence"])
@pytest.mark.parametrize(("dtype", "clean"), [(torch.float32, 20), (torch.bfloat16, 21)], ids=str)
def test_nothing_leaks_from_hidden_keys(
    backend, poison: float, hidden_by: str, dtype: torch.dtype, clean: int
) -> None:
    """Nor from queries into the gradients of keys that they do not see.

    bfloat16 may be multiplied in pairs: of an odd number of keys the last one stands alone.
    """
    q, k, v = (torch.randn(37, 2, 16).to(backend.device, dtype) for _ in range(3))
    grad = torch.randn_like(q)
    settings: dict = {"backend": backend.name}
    clean_q, clean_k = slice(0, clean), slice(0, clean)
    if hidden_by == "bias":
        bias = torch.zeros(37, device=backend.device)
        bias[clean:] = -math.inf
        settings["key_bias"] = bias[None]
        clean_q = slice(0, 37)
    elif hidden_by == "causality":
        settings["causal"] = True
    else:
        bounds = torch.tensor([0, clean, 37], device=backend.device)
        settings |= {"cu_seqlens_q": bounds, "cu_seqlens_k": bounds}

    def run() -> list[Tensor]:
        tensors = [x if hidden_by == "other sequence" else x[None] for x in (q, k, v)]
        leaves = [x.clone().requires_grad_() for x in tensors]
        out, lse = cross_attention(*leaves, **settings)
        weight = grad.view_as(out)
        grads = torch.autograd.grad((out, lse), leaves, (weight, weight.float().sum(-1)))
        results = [x.reshape(37, *x.shape[-2:]) for x in (out, *grads)]
        return [results[0][clean_q], lse.reshape(37, 2)[clean_q], results[1][clean_q]] + [
            x[clean_k] for x in results[2:]
        ]

    if hidden_by != "bias":  # queries behind see the keys in front, and would taint their gradients
        grad[clean:] = 0
        q[clean:] = 0
    expected = run()
    k[clean:], v[clean:] = poison, poison
    if hidden_by == "causality":
        # Tainted rows behind have NaN results, and so has what they give to the keys in front.
        expected, actual = expected[:3], run()[:3]
    else:
        actual = run()
    for one, other in zip(actual, expected, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)


def test_hidden_queries_do_not_taint_keys(backend) -> None:
    """Causal: the last keys are seen by the last queries only, whatever the first ones hold."""
    q, k, v, grad = (torch.randn(1, 21, 1, 8, device=backend.device) for _ in range(4))
    q[:, :13], grad[:, :13] = math.nan, math.nan
    k.requires_grad_(), v.requires_grad_()
    out, _ = cross_attention(q, k, v, causal=True, backend=backend.name)
    for gradient in torch.autograd.grad(out, (k, v), grad):
        assert gradient[:, 13:].isfinite().all()
        assert gradient[:, 13:].any()
        assert gradient[:, :13].isnan().all()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_bias_of_hidden_keys_does_not_leak(backend, poison: float) -> None:
    q, k, v = (torch.randn(1, 21, 2, 8, device=backend.device) for _ in range(3))
    bias = torch.randn(1, 21, device=backend.device)
    expected = cross_attention(q, k, v, bias, causal=True, backend=backend.name)
    bias[:, 13:] = poison
    actual = cross_attention(q, k, v, bias, causal=True, backend=backend.name)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one[:, :13], other[:, :13])


def test_nan_in_seen_keys_is_seen(backend) -> None:
    q, k, v = (torch.randn(1, 5, 1, 8, device=backend.device) for _ in range(3))
    k[:, 3] = math.nan
    out, lse = cross_attention(q, k, v, causal=True, backend=backend.name)
    assert out[:, :3].isfinite().all()
    assert out[:, 3:].isnan().all()
    assert lse[:, 3:].isnan().all()
