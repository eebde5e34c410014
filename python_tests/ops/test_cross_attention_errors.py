"""What cross_attention refuses."""

import pytest
import torch

from fastregion.ops import cross_attention

_Q, _K = torch.zeros(2, 3, 4, 8), torch.zeros(2, 5, 2, 8)
_PACKED = {
    "q": torch.zeros(6, 4, 8),
    "k": torch.zeros(5, 2, 8),
    "v": torch.zeros(5, 2, 8),
    "cu_seqlens_q": torch.tensor([0, 2, 6]),
    "cu_seqlens_k": torch.tensor([0, 2, 5]),
}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": _Q[0]}, ValueError, r"q without cu_seqlens must be \[B, Nq, H, D\], got .*3, 4, 8"),
        (_PACKED | {"q": _Q}, ValueError, r"q of packed sequences must be \[Tq, H, D\]"),
        ({"k": _K[:1]}, ValueError, r"k must be \[B, Nk, Hkv, D\] with batch and width of q"),
        ({"k": _K[..., :4]}, ValueError, r"width of q \(2, 3, 4, 8\), got shape \(2, 5, 2, 4\)"),
        ({"v": _K[:, 1:]}, ValueError, r"v must have the shape of k \(2, 5, 2, 8\), got shape"),
        ({"q": _Q[:, :, :3]}, ValueError, "heads of k must divide those of q, got 2 and 3"),
        (
            {"k": _K[:, :, :0], "v": _K[:, :, :0]},
            ValueError,
            "heads of k must divide those of q, got 0 and 4",
        ),
        (
            {"q": _Q[..., :0], "k": _K[..., :0], "v": _K[..., :0]},
            ValueError,
            "width of a head must be at least 1, got 0",
        ),
        ({"key_bias": torch.zeros(2, 3)}, ValueError, r"key_bias must be \[B, Nk\] like k .*2, 3"),
        ({"key_bias": torch.zeros(2, 5).int()}, TypeError, "key_bias must be .* got int32"),
        ({"q": _Q.int()}, TypeError, "q must be .* got int32"),
        ({"v": _K.half()}, TypeError, "q, k and v must have the same dtype, got .* float16"),
        ({"v": _K.to("meta")}, ValueError, "must be on the same device, got .* meta"),
        (
            {"cu_seqlens_q": torch.tensor([0, 3])},
            ValueError,
            "go together, got cu_seqlens_q without cu_seqlens_k",
        ),
        (
            {"cu_seqlens_k": torch.tensor([0, 3])},
            ValueError,
            "go together, got cu_seqlens_k without cu_seqlens_q",
        ),
        (
            _PACKED | {"cu_seqlens_k": torch.tensor([0.0, 2, 5])},
            TypeError,
            "cu_seqlens_k must be int32 or int64, got float32",
        ),
        (
            _PACKED | {"cu_seqlens_q": torch.tensor([[0, 2, 6]])},
            ValueError,
            r"cu_seqlens_q must be \[S \+ 1\], got shape \(1, 3\)",
        ),
        (
            _PACKED | {"cu_seqlens_q": torch.tensor([0, 6])},
            ValueError,
            "must have the same length, got 2 and 3",
        ),
        (
            _PACKED | {"cu_seqlens_q": torch.tensor([0, 2, 5])},
            ValueError,
            "cu_seqlens_q must start at 0, never fall and end at 6, .* of q; got 0 to 5",
        ),
        (
            _PACKED | {"cu_seqlens_k": torch.tensor([1, 2, 5])},
            ValueError,
            "cu_seqlens_k must start at 0.* end at 5, .* of k; got 1 to 5",
        ),
        (
            {
                **_PACKED,
                "cu_seqlens_q": torch.tensor([0, 4, 2, 6]),
                "cu_seqlens_k": torch.tensor([0, 1, 2, 5]),
            },
            ValueError,
            "cu_seqlens_q .*got 2 after 4",
        ),
        ({"backend": "gpu"}, ValueError, "backend must be auto, reference, cpu or cuda, got 'gpu'"),
    ],
)
def test_errors(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^cross_attention: .*{message}"):
        cross_attention(**{"q": _Q, "k": _K, "v": _K} | changes)
