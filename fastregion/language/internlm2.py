"""InternLM2 as Llama: its config, its parameter names, and its fused projection.

InternLM2 is Llama under other names, but for one matrix: ``wqkv`` holds, for every group of query
heads that share a key, the heads' queries, then the key, then the value:

    wqkv [(H + 2 KV) d, D]  viewed as  [KV, H / KV + 2, d, D]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["FUSED", "INTERNLM2", "PROJECTIONS", "fuse_wqkv", "llama_config", "rename", "split_wqkv"]

INTERNLM2 = "internlm2"
FUSED = ".attention.wqkv."
# What its rows become, in this order; k and v are as high as each other.
PROJECTIONS = (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")
_NAMES = {
    ".attention.wo.": ".self_attn.o_proj.",
    ".feed_forward.w1.": ".mlp.gate_proj.",
    ".feed_forward.w3.": ".mlp.up_proj.",
    ".feed_forward.w2.": ".mlp.down_proj.",
    ".attention_norm.": ".input_layernorm.",
    ".ffn_norm.": ".post_attention_layernorm.",
    ".tok_embeddings.": ".embed_tokens.",
    ".output.": ".lm_head.",
}


def llama_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Keys of an InternLM2 config as those of a Llama, for ``build_decoder``.

    Args:
        config: the published keys.
        source: what to call the config in errors.

    Raises:
        NotImplementedError: a model with biases.
    """
    if config.get("bias"):
        raise NotImplementedError(f"{source}: bias must be false, got {config['bias']!r}")
    return {key: value for key, value in config.items() if key != "bias"} | {"model_type": "llama"}


def rename(key: str, *, to_llama: bool) -> str:
    """The other model's name of a parameter below a prefix; the fused one is left alone."""
    for theirs, ours in _NAMES.items():
        old, new = (theirs, ours) if to_llama else (ours, theirs)
        if old in key:
            return key.replace(old, new)
    return key


def split_wqkv(fused: Tensor, num_heads: int, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """``wqkv [(H + 2 KV) d, D]`` to the weights of queries, keys and values."""
    group = num_heads // num_kv_heads
    rows = fused.view(num_kv_heads, group + 2, -1, fused.shape[1])
    q, k, v = rows[:, :group], rows[:, group], rows[:, group + 1]
    return q.flatten(0, 2), k.flatten(0, 1), v.flatten(0, 1)


def fuse_wqkv(q: Tensor, k: Tensor, v: Tensor, num_kv_heads: int) -> Tensor:
    """The inverse of :func:`split_wqkv`."""
    head_dim = k.shape[0] // num_kv_heads
    groups = [part.reshape(num_kv_heads, -1, head_dim, part.shape[1]) for part in (q, k, v)]
    return torch.cat(groups, dim=1).flatten(0, 2)
