"""What our attention asks of a decoder: no windows, and heads as wide as a multiple of 8."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["check_full_attention", "head_padding"]


def check_full_attention(name: str, model: nn.Module) -> None:
    """Raise unless all layers of a transformers model attend to everything before a token.

    Args:
        name: what to call the model in errors.
        model: the model.

    Raises:
        TypeError: not a transformers model.
        NotImplementedError: sliding-window layers.
    """
    if not hasattr(model, "set_attn_implementation"):
        raise TypeError(f"{name}: expected a transformers model, got {type(model).__name__}")
    config: Any = model.config
    windows = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if windows:
        raise NotImplementedError(
            f"{name}: only full attention is supported, got layer types {sorted(windows)}"
        )


def head_padding(width: int) -> int:
    """Channels that widen a head to a multiple of 8, which the operators need.

    Zeros in them change no score and give outputs that are cut off again.
    """
    return -width % 8
