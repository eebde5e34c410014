"""Self-retrieval: whether a caption tells its own region from the others of its picture.

The scores are log-probabilities that a captioner gives a text for each region, or what an external
image-text scorer such as CLIP says of a crop and a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastregion.evaluation.metrics.common import MetricResult

__all__ = ["retrieves", "self_retrieval", "self_retrieval_by"]


def retrieves(scores: Sequence[float], own: int) -> bool:
    """Whether a text fits its own region better than every other one; a tie is a failure."""
    return all(scores[own] > value for k, value in enumerate(scores) if k != own)


def self_retrieval(scores: ArrayLike) -> MetricResult:
    """Self-retrieval within one picture.

    Args:
        scores: ``[N, N]``; row i has what text i scores for each of the N regions, N at least 2.

    Returns:
        For each text 1 or 0, and their mean.

    Raises:
        ValueError: no such matrix, or NaN in it.
    """
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"scores: expected [N, N] with N >= 2, got shape {matrix.shape}")
    if np.isnan(matrix).any():
        raise ValueError("scores: expected numbers, got NaN")
    items = tuple(float(retrieves(row, own)) for own, row in enumerate(matrix.tolist()))
    return MetricResult(corpus=sum(items) / len(items), items=items)


def self_retrieval_by(
    scorer: Callable[[Sequence[Any], Sequence[str]], ArrayLike],
    pictures: Sequence[Any],
    texts: Sequence[str],
) -> MetricResult:
    """Self-retrieval by an external scorer.

    Args:
        scorer: pictures ``[N]`` and texts ``[M]`` to scores ``[N, M]``, as CLIP's.
        pictures: one of each region, such as a crop.
        texts: one of each region.

    Raises:
        ValueError: as many texts as pictures are needed; or as for :func:`self_retrieval`.
    """
    if len(pictures) != len(texts):
        raise ValueError(f"texts: expected {len(pictures)}, one a picture, got {len(texts)}")
    return self_retrieval(np.asarray(scorer(pictures, texts)).T)
