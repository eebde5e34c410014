"""How the published evaluations choose words, by kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["decoding"]

# By the model types of their configs: GAR, and DAM (whose generation keeps the 50 likeliest tokens
# unless told otherwise, and no share of probability).
_PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "GAR": {"temperature": 0.0, "max_new_tokens": 1024},
    "llava_llama": {"temperature": 0.2, "top_k": 50, "max_new_tokens": 512},
}


def decoding(model_type: str) -> Mapping[str, Any]:
    """Options of ``describe`` and ``ask``: GAR's and DAM's own; none for other models."""
    return _PUBLISHED.get(model_type, {})
