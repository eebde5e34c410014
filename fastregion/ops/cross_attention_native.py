"""The tensors of cross_attention as csrc/attention/cross_attention.h takes them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastregion.ops.native import DTYPE_CODES, family


class Crossing:
    """What crosses to csrc/attention/cross_attention.h, kept alive for the time of a call."""

    def __init__(self) -> None:
        self._alive: list[Tensor] = []

    def __enter__(self) -> Crossing:
        return self

    def __exit__(self, *error: object) -> None:
        self._alive.clear()

    def params(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor | None,
        cu_seqlens_q: Tensor | None,
        cu_seqlens_k: Tensor | None,
        out: Tensor,
        logsumexp: Tensor,
        scale: float,
        causal: bool,
    ) -> Any:
        """CrossAttentionParams; ``out`` and ``logsumexp`` are contiguous."""
        packed = cu_seqlens_q is not None
        bias_stride = 0
        if key_bias is not None:
            key_bias = self._contiguous_last(key_bias)
            bias_stride = 0 if packed else key_bias.stride(0)
        return family("attention").CrossAttentionParams(
            DTYPE_CODES[q.dtype],
            self._tokens(q),
            self._tokens(k),
            self._tokens(v),
            self._tokens(out),
            0 if key_bias is None else key_bias.data_ptr(),
            bias_stride,
            self._address(logsumexp),
            self._bounds(cu_seqlens_q),
            self._bounds(cu_seqlens_k),
            q.shape[0] if cu_seqlens_q is None else cu_seqlens_q.shape[0] - 1,
            q.shape[-3],
            k.shape[-3],
            q.shape[-2],
            k.shape[-2],
            q.shape[-1],
            scale,
            causal,
        )

    def gradients(
        self,
        grad_out: Tensor,
        grad_logsumexp: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor,
    ) -> Any:
        """CrossAttentionGradients, to be written to the last four, which are contiguous."""
        return family("attention").CrossAttentionGradients(
            self._tokens(grad_out),
            0 if grad_logsumexp is None else self._address(grad_logsumexp),
            *(self._wanted_tokens(x) for x in (q, k, v)),
            self._address(key_bias),  # null where it is empty
        )

    def _wanted_tokens(self, x: Tensor) -> Any:
        """Null where it is empty: not wanted, or nothing to write."""
        return self._tokens(x) if x.numel() else family("attention").AttentionTensor(0, 0, 0, 0)

    def _tokens(self, x: Tensor) -> Any:
        x = self._contiguous_last(x)
        batch_stride = x.stride(0) if x.dim() == 4 else 0
        return family("attention").AttentionTensor(
            x.data_ptr(), batch_stride, x.stride(-3), x.stride(-2)
        )

    def _contiguous_last(self, x: Tensor) -> Tensor:
        if x.stride(-1) != 1:
            x = x.contiguous()
        self._alive.append(x)
        return x

    def _address(self, x: Tensor) -> int:
        x = x.contiguous()
        self._alive.append(x)
        return x.data_ptr()

    def _bounds(self, cu_seqlens: Tensor | None) -> int:
        return 0 if cu_seqlens is None else self._address(cu_seqlens.int())
