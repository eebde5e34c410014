"""What decode_attention and its cache refuse, on every backend of the host."""

import os

import pytest
import simt_module
import torch

from fastregion._native import native_module
from fastregion.ops import SharedPrefix, append_kv_, decode_attention, empty_kv

SIMT = bool(os.environ.get(simt_module.VARIABLE))


HOST_BACKENDS = [
    "reference",
    pytest.param(
        "cpu", marks=pytest.mark.skipif(native_module() is None, reason="no native module")
    ),
]
KEYS, VALUES = empty_kv(3, 2, 32, 8, dtype=torch.float32)
PREFIX = SharedPrefix(
    *(torch.zeros_like(x[:2]) for x in (KEYS, VALUES)),
    torch.zeros(2, dtype=torch.int32),
    torch.zeros(3, dtype=torch.int32),
)


@pytest.mark.parametrize("name", HOST_BACKENDS)
@pytest.mark.parametrize(
    ("changes", "error", "message", "on_device"),
    [
        (
            {"q": torch.zeros(3, 8)},
            ValueError,
            r"q must be \[T, H, D\] with D = 8, got \(3, 8\)",
            True,
        ),
        ({"q": torch.zeros(3, 3, 8)}, ValueError, "multiple of the 2 heads of keys, got 3", True),
        (
            {"q": torch.zeros(3, 4, 8).half()},
            TypeError,
            "q and keys must have the same dtype",
            True,
        ),
        ({"q": torch.zeros(2, 4, 8)}, ValueError, "each of the 3 lengths, got 2 in q", True),
        ({"q": torch.zeros(3, 4, 8, device="meta")}, ValueError, "same device", True),
        (
            {"keys": KEYS.int(), "values": VALUES.int()},
            TypeError,
            "keys must be float32.*int32",
            True,
        ),
        (
            {"keys": KEYS[..., 0]},
            ValueError,
            r"keys must be \[S, KV, .*, got shape .* empty_kv",
            True,
        ),
        (
            {"keys": KEYS[:, :1]},
            ValueError,
            r"values must be \[S, KV.* \(3, 1, 2, 8, 8, 2\) with",
            True,
        ),
        (
            {"keys": KEYS.expand(3, 3, 2, 2, 4, 16, 2)[:, 0, :], "values": VALUES},
            ValueError,
            "keys and values must be contiguous",
            True,
        ),
        ({"lengths": torch.zeros(3)}, TypeError, "lengths must be int32, got float32", True),
        ({"lengths": torch.zeros(3).long()}, TypeError, "lengths must be int32, got int64", True),
        (
            {"lengths": torch.zeros(3, 1).int()},
            ValueError,
            r"lengths must be \[N\], got shape",
            True,
        ),
        ({"lengths": torch.zeros(4).int()}, ValueError, "without rows .* in keys, 3, got 4", True),
        (
            {"lengths": torch.tensor([1, 33, 1]).int()},
            ValueError,
            "lengths must be 0 to 32, got 3",
            False,
        ),
        ({"lengths": torch.tensor([1, -1, 1]).int()}, ValueError, "0 to 32, got -1 at 1", False),
        ({"rows": torch.zeros(3)}, TypeError, "rows must be int32 or int64, got float32", True),
        ({"rows": torch.zeros(2).int()}, ValueError, r"rows must be \[3\], got shape \(2,\)", True),
        ({"rows": torch.tensor([0, 1, 3])}, ValueError, "rows must be 0 to 2, got 3 at 2", True),
        (
            {"rows": torch.tensor([0, 1, 2**32 + 2])},
            ValueError,
            "rows must be 0 to 2, got 4294967298 at 2",
            True,
        ),
        (
            {"cu_seqlens_q": torch.zeros(3).int()},
            ValueError,
            r"must be \[N \+ 1\] = \[4\], got",
            True,
        ),
        (
            {"cu_seqlens_q": torch.tensor([0, 2, 1, 3]).int()},
            ValueError,
            "cu_seqlens_q must rise from 0 to the 3 tokens of q",
            False,
        ),
        (
            {"cu_seqlens_q": torch.tensor([0, 1, 2, 2]).int()},
            ValueError,
            "cu_seqlens_q must rise from 0 to the 3 tokens of q",
            False,
        ),
        ({"k_new": torch.zeros(3, 2, 8)}, ValueError, "given together, got one of them", True),
        (
            {"k_new": torch.zeros(3, 1, 8), "v_new": torch.zeros(3, 1, 8)},
            ValueError,
            r"k_new must be \[T, KV, D\] = \[T, 2, 8\], got shape \(3, 1, 8\)",
            True,
        ),
        (
            {"k_new": torch.zeros(2, 2, 8), "v_new": torch.zeros(2, 2, 8)},
            ValueError,
            "k_new must hold the 3 tokens of q, got 2",
            True,
        ),
        (
            {
                "k_new": torch.zeros(3, 2, 8),
                "v_new": torch.zeros(3, 2, 8),
                "lengths": torch.tensor([1, 0, 1]).int(),
            },
            ValueError,
            "lengths count the new tokens, but sequence 1 has 1 of them and length 0",
            False,
        ),
        (
            {
                "k_new": torch.zeros(3, 2, 8),
                "v_new": torch.zeros(3, 2, 8),
                "rows": torch.tensor([0, 1, 0]),
            },
            ValueError,
            "rows must differ where tokens are appended",
            False,
        ),
        (
            {"prefix": PREFIX._replace(keys=PREFIX.keys.double(), values=PREFIX.values.double())},
            TypeError,
            "prefix.keys and keys must have the same dtype",
            True,
        ),
        (
            {"prefix": PREFIX._replace(keys=KEYS[:2, :1], values=VALUES[:2, :1])},
            ValueError,
            "must be contiguous",
            True,
        ),
        (
            {"prefix": PREFIX._replace(of=torch.zeros(2).int())},
            ValueError,
            "prefix.of must be",
            True,
        ),
        (
            {"prefix": PREFIX._replace(of=torch.tensor([0, 2, -1]).int())},
            ValueError,
            "prefix.of must be -1 to 1, got 2 at 1",
            False,
        ),
        (
            {"prefix": PREFIX._replace(lengths=torch.tensor([0, 40]).int())},
            ValueError,
            "prefix.lengths must be 0 to 32, got 40 at 1",
            False,
        ),
        (
            {"backend": "gpu"},
            ValueError,
            "backend must be auto, reference, cpu or cuda, got 'gpu'",
            True,
        ),
    ],
)
def test_errors(
    name: str, changes: dict, error: type[Exception], message: str, on_device: bool
) -> None:
    if SIMT and name == "cpu" and not on_device:
        pytest.skip("a CUDA kernel does not look: reading values back would synchronise")
    arguments = {
        "q": torch.zeros(3, 4, 8),
        "keys": KEYS,
        "values": VALUES,
        "lengths": torch.ones(3).int(),
        "backend": name,
    } | changes
    with pytest.raises(error, match=f"^decode_attention: .*{message}"):
        decode_attention(**arguments)


@pytest.mark.parametrize("name", HOST_BACKENDS)
@pytest.mark.parametrize(
    ("changes", "error", "message", "on_device"),
    [
        (
            {"k_new": torch.zeros(2, 2, 16)},
            ValueError,
            r"k_new must be .* \[T, 2, 8\], got shape",
            True,
        ),
        (
            {"k_new": torch.zeros(3, 2, 8)},
            ValueError,
            "k_new and v_new must have the same shape",
            True,
        ),
        ({"v_new": torch.zeros(2, 2, 8).half()}, TypeError, "must have the same dtype", True),
        ({"rows": torch.zeros(3).int()}, ValueError, r"rows must be \[2\], got shape \(3,\)", True),
        ({"rows": torch.zeros(2)}, TypeError, "rows must be int32 or int64, got float32", True),
        (
            {"columns": torch.tensor([0, 32])},
            ValueError,
            "below 3 and columns below the capacity 32, got row 1 and column 32 for token 1",
            False,
        ),
        ({"rows": torch.tensor([3, 0])}, ValueError, "got row 3 and column 0 for token 0", False),
        ({"columns": torch.zeros(2, device="meta").int()}, ValueError, "same device", True),
        ({"k_new": torch.zeros(2, 2, 8, requires_grad=True)}, ValueError, "k_new requires", True),
    ],
)
def test_append_errors(
    name: str, changes: dict, error: type[Exception], message: str, on_device: bool
) -> None:
    if SIMT and name == "cpu" and not on_device:
        pytest.skip("a CUDA kernel writes nothing there")
    arguments = {
        "keys": KEYS,
        "values": VALUES,
        "k_new": torch.zeros(2, 2, 8),
        "v_new": torch.zeros(2, 2, 8),
        "rows": torch.tensor([0, 1]),
        "columns": torch.zeros(2, dtype=torch.int64),
        "backend": name,
    } | changes
    with pytest.raises(error, match=f"^append_kv_: .*{message}"):
        append_kv_(**arguments)


def test_empty_kv() -> None:
    assert empty_kv(2, 3, 17, 8, dtype=torch.float32)[0].shape == (2, 3, 2, 4, 16, 2)
    with pytest.raises(ValueError, match="head_dim must be a multiple of 8, got 12"):
        empty_kv(2, 3, 17, 12, dtype=torch.float32)
