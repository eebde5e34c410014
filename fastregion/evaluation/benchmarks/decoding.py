"""How the published evaluations choose words, by kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["decoding"]

_GREEDY = {"temperature": 0.0, "max_new_tokens": 1024}
_SAMPLED = {"temperature": 0.2, "max_new_tokens": 512}


def decoding(model_type: str) -> Mapping[str, Any]:
    """Options of ``describe`` and ``ask``: GAR's and DAM's own; none for other models."""
    return {"gar": _GREEDY, "dam": _SAMPLED}.get(model_type, {})
