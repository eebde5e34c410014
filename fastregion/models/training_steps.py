"""What models on a transformers decoder share: first weights, prompts from rows, and the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion import ops
from fastregion.language import PackedPrompts
from fastregion.language.packed_attention import decode_packed

__all__ = [
    "TokenLoss",
    "init_meta_parameters",
    "next_token_loss",
    "pack_prompts",
    "set_decoder_checkpointing",
    "token_loss",
]


def init_meta_parameters(
    model: nn.Module, seed: int, values: Mapping[str, float] | None = None
) -> None:
    """Give every parameter that lies on ``meta`` memory and random values, on the CPU.

    Matrices are normal with a deviation of 0.02, weights of norms 1, other vectors 0.

    Args:
        model: modified.
        seed: of the random values.
        values: values of vectors by the beginning of their name in their module.
    """
    generator = torch.Generator().manual_seed(seed)
    made: dict[nn.Parameter, nn.Parameter] = {}  # a parameter of two modules stays that of both
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.is_meta:
                continue
            if parameter in made:
                module.register_parameter(name, made[parameter])
                continue
            value = torch.empty(parameter.shape, dtype=parameter.dtype)
            if parameter.dim() > 1:
                value.normal_(0, 0.02, generator=generator)
            else:
                named = (v for start, v in (values or {}).items() if name.startswith(start))
                value.fill_(next(named, float(name == "weight")))
            made[parameter] = nn.Parameter(value)
            module.register_parameter(name, made[parameter])


def pack_prompts(
    sources: Sequence[Tensor],
    rows: Sequence[np.ndarray],
    starts: Sequence[int],
    labels: Sequence[np.ndarray],
) -> PackedPrompts:
    """Prompts from rows of several tables.

    Args:
        sources: ``[n_i, hidden]`` tensors, counted as one behind the other. The prompts have the
            dtype of the first, a decoder's table; under autocast the others may have another one.
        rows: for each prompt, int64 rows of the sources.
        starts: for each prompt, the position of its first token.
        labels: for each prompt, int64 labels of its tokens; empty where there are none.
    """
    device = sources[0].device
    lengths = [len(row) for row in rows]
    positions = [
        np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)
    ]
    return PackedPrompts(
        ops.pack_rows(
            [x.to(sources[0].dtype) for x in sources],
            torch.from_numpy(np.concatenate(rows)).to(device),
        ),
        torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32, device=device),
        torch.from_numpy(np.concatenate(positions)).to(device),
        torch.from_numpy(np.concatenate(labels)).to(device) if labels else None,
    )


class TokenLoss(NamedTuple):
    """A sum over targets, so that batches of any size can be put together.

    Attributes:
        total: scalar, differentiable; float32, or float64 for a float64 decoder.
        targets: scalar of the same type: how many.
    """

    total: Tensor
    targets: Tensor


def token_loss(decoder: Any, prompts: PackedPrompts, visible: Tensor | None = None) -> TokenLoss:
    """Cross entropy of the labelled tokens, each predicted by the token before it, summed.

    The prompts go through the decoder packed, without padding.

    Args:
        decoder: a transformers causal language model; see :func:`decode_packed`.
        prompts: with labels; a label at the first place of a prompt is left out. There may be none.
        visible: as for :func:`decode_packed`.

    Raises:
        TypeError, ValueError, NotImplementedError: no labels; as for :func:`decode_packed`.
    """
    places = prompts.targets()
    assert prompts.labels is not None
    hidden = decode_packed(decoder, prompts, visible)
    # Only these rows go through the head: vocabularies are wide.
    logits = decoder.lm_head(hidden[places - 1])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, prompts.labels[places], reduction="sum")
    return TokenLoss(total, total.new_tensor(len(places)))


def next_token_loss(decoder: Any, prompts: PackedPrompts, visible: Tensor | None = None) -> Tensor:
    """The mean of :func:`token_loss` over targets.

    Raises:
        ValueError: also when there is no target.
    """
    total, targets = token_loss(decoder, prompts, visible)
    if not targets:
        raise ValueError("prompts: labels must mark a token to learn, got none")
    return total / targets


def set_decoder_checkpointing(decoder: Any, on: bool) -> None:
    """Keep only the inputs of a decoder's layers for the backward pass."""
    verb = "enable" if on else "disable"
    # transformers has renamed it.
    names = (f"activation_checkpointing_{verb}", f"gradient_checkpointing_{verb}")
    next(getattr(decoder, name) for name in names if hasattr(decoder, name))()
