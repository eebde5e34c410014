"""cross_attention on tensor cores under ThreadSanitizer, where the contract takes float32 only."""

import math

import pytest
import simt_module
import torch

from fastregion.ops import cross_attention

pytestmark = pytest.mark.simt


@pytest.mark.skipif(simt_module.SANITIZER != "THREAD", reason="needs FASTREGION_SIMT=THREAD")
@pytest.mark.parametrize("aligned", [True, False], ids=["16 bytes", "elements"])
def test_no_races(aligned: bool) -> None:
    simt_module.use_schedule("forward")
    # Two tiles of keys for the forward pass, several of queries for the backward pass.
    row = 72 if aligned else 73
    q, k, v = (torch.randn(1, n, 1, row).bfloat16()[..., :72] for n in (67, 65, 65))
    k[:, 64], v[:, 64] = math.nan, math.nan  # on the diagonal, seen by the last query alone
    leaves = [x.requires_grad_() for x in (q, k, v)]
    bias = torch.randn(1, 65)
    bias[:, 3] = -math.inf
    out, lse = cross_attention(*leaves, bias, causal=True)
    assert out[:, :66].isfinite().all()
    assert out[:, 66].isnan().all()
    grads = torch.autograd.grad((out, lse), leaves, (torch.ones_like(out), torch.ones_like(lse)))
    assert all(grad.isnan().any() for grad in grads)
