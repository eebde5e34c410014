"""merge_attention: results for parts of the keys become the result for all."""

import math

import pytest
import torch
from torch import Tensor

from fastregion.ops import cross_attention, merge_attention


def test_merging_parts_of_the_keys(backend, dtype) -> None:
    sizes = ((2, 5, 4, 16), (2, 33, 2, 16), (2, 33, 2, 16))
    q, k, v = (torch.randn(size).to(backend.device, dtype).requires_grad_() for size in sizes)
    bias = torch.randn(2, 33).to(backend.device, torch.promote_types(dtype, torch.float32))
    bias[:, ::3] = -math.inf
    inputs = (q, k, v, bias.requires_grad_())

    def parts(*cuts: int) -> tuple[Tensor, Tensor]:
        each = [
            cross_attention(q, k[:, a:b], v[:, a:b], bias[:, a:b], backend=backend.name)
            for a, b in zip((0, *cuts), (*cuts, 33), strict=True)
        ]
        result = each[0]
        for other in each[1:]:
            result = merge_attention(*result, *other)
        return result

    whole = cross_attention(*inputs, backend=backend.name)
    grads = [torch.randn(x.shape).to(x) for x in whole]
    expected = [*whole, *torch.autograd.grad(whole, inputs, grads)]
    for cuts in ((20,), (0,), (1, 17)):  # key 0 is hidden: a part that sees none
        merged = parts(*cuts)
        actual = [*merged, *torch.autograd.grad(merged, inputs, grads)]
        for one, other in zip(actual, expected, strict=True):
            roundings = 4 if dtype in (torch.float16, torch.bfloat16) else 16
            tolerance = roundings * torch.finfo(dtype).eps * float(other.detach().abs().max() + 1)
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def test_merging_nothing_with_nothing() -> None:
    out = torch.zeros(3, 2, 8, requires_grad=True)
    lse = torch.full((3, 2), -math.inf, requires_grad=True)
    merged, normaliser = merge_attention(out, lse, out, lse)
    assert not merged.any()
    assert (normaliser == -math.inf).all()
    for grad in torch.autograd.grad(merged.sum(), (out, lse)):
        assert grad.isfinite().all()


def test_merging_with_what_has_no_share() -> None:
    """NaN included; the gradient of the other set is whole."""
    out, lse = torch.randn(3, 2, 8, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    nothing = torch.full((3, 2, 8), math.nan), torch.full((3, 2), -math.inf)
    for merged, normaliser in (
        merge_attention(out, lse, *nothing),
        merge_attention(*nothing, out, lse),
    ):
        torch.testing.assert_close(merged, out)
        torch.testing.assert_close(normaliser, lse)
        grad_out, grad_lse = torch.autograd.grad((merged.sum(), normaliser.sum()), (out, lse))
        torch.testing.assert_close(grad_out, torch.ones_like(out))
        torch.testing.assert_close(grad_lse, torch.ones_like(lse))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"out_b": torch.zeros(3, 8)}, ValueError, r"out_a and out_b .* got \(2, 8\) and \(3, 8\)"),
        ({"lse_b": torch.zeros(2, 8)}, ValueError, r"lse_b must have the shape of out_a \(2, 8\)"),
        ({"out_b": torch.zeros(2, 8).half()}, TypeError, "out_a and out_b .* float32 and float16"),
        ({"lse_a": torch.zeros(2).int()}, TypeError, "lse_a must be .* got int32"),
        ({"lse_a": torch.zeros(2, device="meta")}, ValueError, "same device, got .* meta"),
    ],
)
def test_merge_errors(changes: dict, error: type[Exception], message: str) -> None:
    arguments = {
        "out_a": torch.zeros(2, 8),
        "lse_a": torch.zeros(2),
        "out_b": torch.zeros(2, 8),
        "lse_b": torch.zeros(2),
    } | changes
    with pytest.raises(error, match=f"^merge_attention: .*{message}"):
        merge_attention(**arguments)
