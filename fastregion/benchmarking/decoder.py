"""One decoding step of a whole language model, GAR-1B's Llama with random weights.

16 layers of 2048 with 32 query and 8 key-value heads of 64, inner width 8192, 128,262 tokens, tied
embeddings, bfloat16; every sequence has 1,616 tokens behind it. Floor: the weights, 2.47 GB, and
the keys and values, 53 MB a sequence, are read once.

Peer: "transformers" is the forward pass that its ``generate`` makes at every step, with SDPA and a
growing cache. "transformers, our attention" is the same with ours in it; ours is the step of
``fastregion.language``.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from fastregion._torchvision_guard import import_transformers
from fastregion.benchmarking.measure import Case, Ways
from fastregion.language.decoder import IncrementalDecoder
from fastregion.language.packed import pack
from fastregion.language.transformers_attention import AttentionCache, use_fastregion_attention
from fastregion.ops import append_kv_

_CONTEXT, _LAYERS, _HIDDEN, _HEADS, _KV_HEADS, _WIDTH = 1616, 16, 2048, 32, 8, 64
_DTYPE = torch.bfloat16


def _build() -> Any:
    transformers: Any = import_transformers()
    config = transformers.LlamaConfig(
        hidden_size=_HIDDEN,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        num_key_value_heads=_KV_HEADS,
        intermediate_size=8192,
        vocab_size=128262,
        max_position_embeddings=11520,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).to(_DTYPE).eval()


@lru_cache(maxsize=1)
def _models(device: torch.device) -> tuple[Any, Any]:
    """A model with SDPA, and one with our attention and the same weights."""
    with torch.device("meta"):
        theirs, ours = _build(), _build()
    theirs.to_empty(device=device)
    torch.manual_seed(0)
    for name, parameter in theirs.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.02)
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(theirs.config).to(device)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    ours.model.rotary_emb = theirs.model.rotary_emb
    theirs.set_attn_implementation("sdpa")
    use_fastregion_attention(ours)
    return theirs, ours


def _make(batch_size: int, device: torch.device) -> Ways:
    transformers: Any = import_transformers()
    theirs, ours = _models(device)
    torch.manual_seed(0)
    shape = (_LAYERS, 2, batch_size, _KV_HEADS, _CONTEXT, _WIDTH)
    states = torch.randn(shape, device=device, dtype=_DTYPE)

    growing, preallocated = transformers.DynamicCache(), AttentionCache()
    model = IncrementalDecoder(theirs)
    prompt = torch.zeros(_CONTEXT, _HIDDEN, device=device, dtype=_DTYPE)
    cache = model.new_cache(pack([prompt] * batch_size))
    rows = torch.arange(batch_size, device=device).repeat_interleave(_CONTEXT)
    columns = torch.arange(_CONTEXT, device=device).repeat(batch_size)
    for layer, (k, v) in enumerate(states):
        growing.update(k.clone(), v.clone(), layer)
        preallocated.update(k, v, layer)
        stored = preallocated.layers[layer]
        stored.handed_on = False  # what the attention function does with new tokens is done here
        stored.lengths += _CONTEXT
        tokens = k.transpose(1, 2).flatten(0, 1), v.transpose(1, 2).flatten(0, 1)
        append_kv_(stored.keys, stored.values, *tokens, rows, columns)
        append_kv_(*cache.layers[layer], *tokens, rows, columns)
    token_ids = torch.randint(128000, (batch_size,), device=device)

    @torch.inference_mode()
    def forward(decoder: Any, past: Any) -> Tensor:
        logits: Tensor = decoder(input_ids=token_ids[:, None], past_key_values=past).logits
        return logits[:, 0]

    weights = sum(parameter.numel() for parameter in theirs.parameters())
    return Ways(
        ours=lambda: model.step(token_ids, cache),
        peers={
            "transformers": lambda: forward(theirs, growing),
            "transformers, our attention": lambda: forward(ours, preallocated),
        },
        bytes=2 * (weights + states.numel()),
        tolerance=8e-2,  # bfloat16 through 16 layers
    )


CASES = tuple(
    Case(
        operator="decode step",
        shape=f"GAR-1B's decoder, {_CONTEXT} tokens before, {batch_size} sequence"
        + ("s" if batch_size > 1 else ""),
        dtype="bfloat16",
        make=partial(_make, batch_size),
    )
    for batch_size in (1, 8)
)
