"""Incremental decoding with the weights of a transformers decoder (Llama, Qwen2).

Per layer, on rows x of the residual stream (N: RMSNorm, R_p: rotary embedding at position p):

    q, k, v = R_p W_q N(x), R_p W_k N(x), W_v N(x)
    x <- x + W_o softmax(q k^T / sqrt(head_dim)) v
    x <- x + W_down (act(W_gate N(x)) * W_up N(x))

The generic forward of transformers spends milliseconds of Python on each token of a small model.
Here the modules' weights are looked up once per call, and ``StepDecoder`` drives the layers.

Weights are used where they are, neither copied nor fused: a training step between two calls is
seen, and a large model is not held twice. The rotary angles come from the model's own module, so
its scaling (linear, llama3, yarn, dynamic) holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastregion.language.attention_limits import check_full_attention
from fastregion.language.step_decoder import Attend, StepDecoder, inference

__all__ = ["IncrementalDecoder", "step_decoder"]

_SUPPORTED = ("llama", "qwen2")  # config.model_type
_TABLE_STEP = 64  # positions the rotary table grows by: one refill per 64 tokens


class _Linear(NamedTuple):
    """F.linear on rows, without the dispatch of three more operators that it takes to get there."""

    weight: Tensor  # [in, out], a view of the module's [out, in]
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.mm(x, self.weight)
        return torch.addmm(self.bias, x, self.weight)


class _Norm(NamedTuple):
    """RMSNorm: N(x) = x w / sqrt(mean(x^2) + eps) = x (w sqrt(D)) / hypot(|x|, sqrt(D eps)).

    On CPU ``F.rms_norm`` is a chain of ten operators; the second form is four, in half the time.
    Half precision needs the float32 inside ``F.rms_norm``, and on other devices it is one kernel.
    """

    weight: Tensor  # [D]
    eps: float
    scaled_weight: Tensor | None  # w sqrt(D); None: use F.rms_norm
    floor: Tensor | None  # sqrt(D eps)

    def __call__(self, x: Tensor) -> Tensor:
        if self.scaled_weight is None or self.floor is None:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x * self.scaled_weight).div_(norm.hypot_(self.floor))


class _Layer(NamedTuple):
    input_norm: _Norm
    query: _Linear
    key: _Linear
    value: _Linear
    output: _Linear
    post_attention_norm: _Norm
    gate: _Linear
    up: _Linear
    down: _Linear
    activation: Callable[[Tensor], Tensor]


class IncrementalDecoder(StepDecoder):
    """Prefill, decoding steps and tree scoring over a decoder's weights.

    Make one per call (it takes microseconds): it holds the weights that the modules hold now.

    Args:
        decoder: a transformers ``LlamaForCausalLM`` or ``Qwen2ForCausalLM``, on one device and in
            one floating dtype, with plain ``nn.Linear`` projections.

    Raises:
        TypeError: not such a decoder; adapters or quantised layers in place of ``nn.Linear``; mixed
            dtypes.
        ValueError: weights on several devices or on ``meta``.
        NotImplementedError: sliding-window attention or ``longrope`` angles.
    """

    def __init__(self, decoder: nn.Module) -> None:
        config: Any = getattr(decoder, "config", None)
        if getattr(config, "model_type", None) not in _SUPPORTED or not hasattr(decoder, "lm_head"):
            raise TypeError(
                "decoder: expected a transformers LlamaForCausalLM or Qwen2ForCausalLM, "
                f"got {type(decoder).__name__}"
            )
        check_full_attention("decoder", decoder)
        causal_lm: Any = decoder
        model: Any = causal_lm.model
        if model.rotary_emb.rope_type == "longrope":
            raise NotImplementedError("decoder: rotary angles of type 'longrope' are not supported")
        self._embedding: Tensor = model.embed_tokens.weight
        self._layers = [_read_layer(layer) for layer in model.layers]
        self.num_layers = len(self._layers)
        self._norm = _read_norm(model.norm)
        self._head = _read_linear(causal_lm.lm_head, "lm_head")
        self._num_heads: int = config.num_attention_heads
        self.num_kv_heads = config.num_key_value_heads
        self.head_dim = self._layers[0].query.weight.shape[1] // self._num_heads
        self.hidden_size = config.hidden_size
        self.vocab_size = self._embedding.shape[0]
        self.max_positions = config.max_position_embeddings
        self.dtype, self.device = self._embedding.dtype, self._embedding.device
        self._check_weights()
        self._rotary: nn.Module = model.rotary_emb
        self._angles: Tensor = self._embedding.new_empty(2, 0, 1, self.head_dim)

    def _check_weights(self) -> None:
        tensors = [self._embedding, self._head.weight, self._norm.weight]
        for layer in self._layers:
            tensors += [part.weight for part in layer if isinstance(part, (_Linear, _Norm))]
        dtypes = {str(tensor.dtype) for tensor in tensors}
        if len(dtypes) > 1 or not self.dtype.is_floating_point:
            raise TypeError(
                f"decoder: all weights must have one floating dtype, got {sorted(dtypes)}"
            )
        devices = {str(tensor.device) for tensor in tensors}
        if len(devices) > 1 or self.device.type == "meta":
            raise ValueError(f"decoder: all weights must be on one device, got {sorted(devices)}")

    @inference
    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """Embeddings ``[n, hidden]`` of token ids ``[n]``; the layers turn by positions."""
        return F.embedding(token_ids, self._embedding)

    @inference
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``[n, vocab]`` of hidden states ``[n, hidden]``."""
        return self._head(hidden)

    def _layers_at(self, positions: Tensor, highest: int) -> Callable[[Tensor, Attend], Tensor]:
        return functools.partial(self._forward, self._angles_at(positions, highest))

    def _forward(self, angles: Tensor, x: Tensor, attend: Attend) -> Tensor:
        """All layers on rows ``x [rows, hidden]``; ``attend`` is the only part that differs."""
        rotated = self._num_heads + self.num_kv_heads
        cos, sin = angles  # [rows, 1, head_dim] each
        for index, layer in enumerate(self._layers):
            normed = layer.input_norm(x)
            qkv = torch.cat((layer.query(normed), layer.key(normed), layer.value(normed)), dim=-1)
            qkv = qkv.view(-1, rotated + self.num_kv_heads, self.head_dim)
            # R_p t = t cos + (-t2, t1) sin for the halves t1, t2; the sign is in the table
            turning = qkv[:, :rotated]
            swapped = turning.roll(self.head_dim // 2, -1)
            turning.mul_(cos).addcmul_(swapped, sin)
            if self.padding:
                qkv = F.pad(qkv, (0, self.padding))
            q, k, v = torch.split(qkv, [self._num_heads, self.num_kv_heads, self.num_kv_heads], 1)
            attended = attend(index, q, k, v)[..., : self.head_dim]
            x = x + layer.output(attended.flatten(1))
            normed = layer.post_attention_norm(x)
            x = x + layer.down(layer.activation(layer.gate(normed)) * layer.up(normed))
        return self._norm(x)

    def _angles_at(self, positions: Tensor, highest: int) -> Tensor:
        """Rotary cosines and signed sines ``[2, rows, 1, head_dim]``; ``highest`` saves a sync."""
        if highest >= self._angles.shape[1]:
            count = min(highest + _TABLE_STEP, self.max_positions)
            every = torch.arange(count, device=self.device)
            cos, sin = self._rotary(self._embedding, every[None])  # [1, count, head_dim] each
            if cos.shape[-1] != self.head_dim:
                raise NotImplementedError(
                    f"decoder: rotary width must be head_dim {self.head_dim}, got {cos.shape[-1]}"
                )
            sin[..., : self.head_dim // 2].neg_()
            self._angles = torch.stack((cos[0], sin[0])).unsqueeze(2)
        return self._angles.index_select(1, positions)


def step_decoder(decoder: nn.Module) -> StepDecoder:
    """What drives a decoder's layers: its own ``step_decoder()``, or that of transformers' ones."""
    make: Callable[[], StepDecoder] | None = getattr(decoder, "step_decoder", None)
    return IncrementalDecoder(decoder) if make is None else make()


def _read_layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        input_norm=_read_norm(layer.input_layernorm),
        query=_read_linear(attention.q_proj, "q_proj"),
        key=_read_linear(attention.k_proj, "k_proj"),
        value=_read_linear(attention.v_proj, "v_proj"),
        output=_read_linear(attention.o_proj, "o_proj"),
        post_attention_norm=_read_norm(layer.post_attention_layernorm),
        gate=_read_linear(mlp.gate_proj, "gate_proj"),
        up=_read_linear(mlp.up_proj, "up_proj"),
        down=_read_linear(mlp.down_proj, "down_proj"),
        activation=mlp.act_fn,
    )


def _read_linear(module: nn.Module, name: str) -> _Linear:
    # Adapters and quantised layers compute something else than their weight says.
    if type(module) is not nn.Linear:
        raise TypeError(
            f"decoder: {name} must be a torch.nn.Linear, got {type(module).__name__}; "
            "merge adapters into the weights first"
        )
    return _Linear(module.weight.detach().t(), module.bias)


def _read_norm(module: Any) -> _Norm:
    weight, eps = module.weight.detach(), module.variance_epsilon
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return _Norm(weight, eps, None, None)
    width = weight.shape[0]
    return _Norm(weight, eps, weight * width**0.5, weight.new_tensor((width * eps) ** 0.5))
