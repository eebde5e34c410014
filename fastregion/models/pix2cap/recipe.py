"""What of Pix2Cap is trained, and how fast: freezing and optimiser groups as published.

Names are those of the published checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["GRADIENT_CLIP", "freeze_as_published", "learning_rate_factor", "optimizer_groups"]

GRADIENT_CLIP = 5.0  # largest norm of the gradient of all trained parameters together

_PREDICTOR = "sem_seg_head.predictor."
_TRAINED = (
    "transformer_self_attention_layers.",
    "transformer_cross_attention_layers.",
    "transformer_ffn_layers.",
    "mask_embed.",
    "text_decoder.",
    "object_proj.",
    "class_embed",
)
_SLOW, _SLOWNESS = ("backbone", "lang_encoder"), 0.1  # pretrained parts, where they are unfrozen
_MILESTONES, _STEP = (0.88889, 0.96296), 0.1
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def freeze_as_published(
    model: nn.Module, published: Callable[[str], str] = lambda name: name
) -> list[str]:
    """Train the decoder's layers, the mask and class embeddings and the caption head only.

    Frozen are the backbone, the pixel decoder, queries and level embeddings, the decoder's last
    norm, and the text encoder. Dropout of frozen parts stays what the module's mode makes it.

    Args:
        model: modified.
        published: the published name of a parameter of the model.

    Returns:
        The published names of the parameters that are trained.
    """
    trained = []
    for name, parameter in model.named_parameters():
        known_as = published(name)
        parameter.requires_grad_(known_as.startswith(tuple(_PREDICTOR + part for part in _TRAINED)))
        if parameter.requires_grad:
            trained.append(known_as)
    return trained


def optimizer_groups(
    model: nn.Module,
    *,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.05,
    published: Callable[[str], str] = lambda name: name,
) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: of what is trained, by learning rate and weight decay.

    Norms and embeddings do not decay; biases of linear layers do, as published. Backbone and text
    encoder, where they are trained at all, learn ten times slower.

    Args:
        model: its parameters that require a gradient are grouped.
        learning_rate: 1e-4 in the published settings, 1e-5 in the paper.
        weight_decay: of everything else.
        published: the published name of a parameter of the model.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    exempt = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, (*_NORMS, nn.Embedding))
        for parameter in module.parameters(recurse=False)
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        slow = any(part in published(name) for part in _SLOW)
        rate = learning_rate * (_SLOWNESS if slow else 1.0)
        decay = 0.0 if id(parameter) in exempt else weight_decay
        group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def learning_rate_factor(step: int, num_steps: int) -> float:
    """What the learning rate is multiplied by at a step, counted from 0."""
    passed = sum(step >= milestone * num_steps for milestone in _MILESTONES)
    return _STEP**passed
