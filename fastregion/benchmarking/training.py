"""A training step of a decoder on samples of very different lengths: packed, and padded.

Eight samples of 300 to 5,000 tokens, as GAR's are (256 tokens a tile and a region, 1 to 17 tiles),
the last 5 % of each learned; a Llama of one layer, 64 wide, 2 query heads and 1 key-value head;
forward and backward, float32. Floor: the work on the 22,099 tokens themselves. Padded to the
longest sample they are 31,256: what is done to each token alone takes 1.41 times as long,
attention, which goes with the square of the lengths, 1.77 times, and 3.5 times where the mask of
the padding keeps it from leaving out what lies behind a token.

Peers: "padded" is the batch as transformers takes it, with SDPA. "one by one" is a pass for each
sample: no padding, and on large GPUs too little to do at a time. With glibc on a CPU it is faster
than packed rows whose buffers take more than 32 MB, which are fetched from the system anew every
time (128 wide and up); with MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ above that it is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastregion._torchvision_guard import import_transformers
from fastregion.benchmarking.measure import Case, Ways
from fastregion.language import IGNORED_LABEL, PackedPrompts, pack
from fastregion.models.training_steps import token_loss

_SAMPLES, _SHORTEST, _LONGEST = 8, 300, 5000
_HIDDEN, _HEADS, _KV_HEADS, _INNER, _VOCABULARY = 64, 2, 1, 256, 512


def _lengths() -> list[int]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(_SHORTEST, _LONGEST + 1, (_SAMPLES,), generator=generator)
    lengths: list[int] = drawn.tolist()
    return lengths


def _decoder(device: torch.device) -> Any:
    transformers: Any = import_transformers()
    config = transformers.LlamaConfig(
        hidden_size=_HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=_HEADS,
        num_key_value_heads=_KV_HEADS,
        intermediate_size=_INNER,
        vocab_size=_VOCABULARY,
        max_position_embeddings=_LONGEST,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).to(device).train()


def _prompts(device: torch.device) -> PackedPrompts:
    embeddings = [torch.randn(n, _HIDDEN, device=device) for n in _lengths()]
    labels = []
    for one in embeddings:
        ids = torch.randint(_VOCABULARY, (len(one),), device=device)
        ids[: -(len(one) // 20)] = IGNORED_LABEL
        labels.append(ids)
    return pack(embeddings, labels)


def _padded_loss(decoder: Any, prompts: PackedPrompts) -> Tensor:
    """What transformers computes of a padded batch, with the head on the targets alone."""
    padded = prompts.pad()
    assert padded.labels is not None
    hidden = decoder.model(
        inputs_embeds=padded.inputs_embeds,
        attention_mask=padded.attention_mask,
        position_ids=padded.position_ids,
        use_cache=False,
    ).last_hidden_state
    learned = padded.labels[:, 1:] != IGNORED_LABEL
    logits = decoder.lm_head(hidden[:, :-1][learned])
    return F.cross_entropy(logits, padded.labels[:, 1:][learned], reduction="sum")


def _make(device: torch.device) -> Ways:
    ours, theirs = _decoder(device), _decoder(device)
    theirs.set_attn_implementation("sdpa")
    prompts = _prompts(device)
    singles = [prompts.select([index]) for index in range(_SAMPLES)]

    def step(decoder: Any, losses: Any) -> list[Tensor]:
        decoder.zero_grad()
        total = torch.zeros((), device=device)
        for loss in losses:
            loss.backward()
            total += loss.detach()
        attention = decoder.model.layers[0].self_attn
        return [total, attention.q_proj.weight.grad, attention.v_proj.weight.grad]

    return Ways(
        ours=lambda: step(ours, [token_loss(ours, prompts).total]),
        peers={
            "padded": lambda: step(theirs, [_padded_loss(theirs, prompts)]),
            "one by one": lambda: step(theirs, (_padded_loss(theirs, one) for one in singles)),
        },
        # Weights, their gradients, and what comes in; the rest is arithmetic.
        bytes=4 * (2 * sum(p.numel() for p in ours.parameters()) + prompts.embeddings.numel()),
        tolerance=1e-4,
    )


CASES = (
    Case(
        operator="token_loss",
        shape=f"{_SAMPLES} samples of {_SHORTEST} to {_LONGEST:,} tokens, one layer of {_HIDDEN}",
        dtype="float32",
        make=_make,
    ),
)
