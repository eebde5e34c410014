"""BERTScore (Zhang et al., 2020): greedy cosine matching of contextual token vectors.

The arithmetic is ours; the vectors come from any encoder of transformers in a local folder.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fastregion.evaluation.metrics.common import MetricResult, check_captions
from fastregion.evaluation.metrics.encoder import TextEncoder

__all__ = ["DEFAULT_LAYERS", "BertScore", "inverse_document_frequency", "match_tokens"]

DEFAULT_LAYERS = {
    "roberta-large": 17,
    "bert-base-uncased": 9,
    "bert-base-multilingual-cased": 9,
    "distilbert-base-uncased": 5,
    "microsoft/deberta-xlarge-mnli": 40,
}
"""The layer whose vectors are compared, by the name of the published model."""

_SPECIAL = 2  # tokens: one before a text and one behind it


def match_tokens(
    candidate: Tensor,
    reference: Tensor,
    candidate_weights: Tensor | None = None,
    reference_weights: Tensor | None = None,
) -> tuple[float, float, float]:
    """Precision, recall and F1 of one pair (paper, Eq. 1 and section 3).

    Args:
        candidate: ``[N, D]`` vectors of all tokens, the first and the last special.
        reference: ``[M, D]``.
        candidate_weights: ``[N]``; by default 1, and 0 for the first and the last.
        reference_weights: ``[M]``, likewise.

    Returns:
        Values; all 0 where a text has no tokens but the two special ones.

    Raises:
        ValueError: shapes that do not fit.
    """
    if candidate.ndim != 2 or reference.ndim != 2 or candidate.shape[1] != reference.shape[1]:
        raise ValueError(
            f"candidate, reference: expected [N, D] and [M, D], got {tuple(candidate.shape)} "
            f"and {tuple(reference.shape)}"
        )
    if min(len(candidate), len(reference)) <= _SPECIAL:
        return 0.0, 0.0, 0.0
    similar = normalize(candidate, dim=1) @ normalize(reference, dim=1).T  # [N, M]
    precision = _weighted(similar.max(dim=1).values, candidate_weights)
    recall = _weighted(similar.max(dim=0).values, reference_weights)
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def _weighted(values: Tensor, weights: Tensor | None) -> float:
    if weights is None:
        weights = torch.ones_like(values)
        weights[0] = weights[-1] = 0
    if weights.shape != values.shape:
        raise ValueError(f"weights: expected {tuple(values.shape)}, got {tuple(weights.shape)}")
    total = weights.sum()
    return float((values * weights).sum() / total) if total else 0.0


def inverse_document_frequency(references: Sequence[Sequence[int]]) -> dict[int, float]:
    """Weights log((N + 1) / (df + 1)) of token ids; an unknown id has log(N + 1).

    Args:
        references: token ids of each of N references.
    """
    frequency = Counter(token for tokens in references for token in set(tokens))
    return {
        token: math.log((len(references) + 1) / (count + 1)) for token, count in frequency.items()
    }


@dataclass(kw_only=True)
class BertScore:
    """BERTScore with one encoder.

    Attributes:
        encoder: of the texts.
        layer: hidden state that is compared; 0 is the embedding. See :data:`DEFAULT_LAYERS`.
        idf: whether tokens are weighted by how rare they are among the references.
        baseline: (precision, recall, F1) that random pairs have with this encoder and layer;
            values are rescaled to (x - b) / (1 - b). None for no rescaling.
    """

    encoder: TextEncoder
    layer: int
    idf: bool = False
    baseline: tuple[float, float, float] | None = None

    def __call__(
        self, candidates: Sequence[str], references: Sequence[Sequence[str]]
    ) -> dict[str, MetricResult]:
        """Score raw captions.

        Returns:
            ``precision``, ``recall`` and ``f1``; the corpus has the mean. Of several references
            each has its best, as in the package bert-score.

        Raises:
            ValueError: no candidates, an item without a reference, or other numbers of them.
        """
        check_captions(candidates, references)
        rare = None
        if self.idf:
            rare = inverse_document_frequency(
                [self.encoder.token_ids(text) for texts in references for text in texts]
            )
            unknown = math.log(sum(map(len, references)) + 1)
        rows = []
        for candidate, texts in zip(candidates, references, strict=True):
            pairs = []
            own_ids, own = self.encoder.hidden_state(candidate, self.layer)
            for text in texts:
                ids, other = self.encoder.hidden_state(text, self.layer)
                weights: list[Any] = [None, None]
                if rare is not None:
                    weights = [
                        torch.tensor([rare.get(token, unknown) for token in tokens])
                        for tokens in (own_ids, ids)
                    ]
                pairs.append(match_tokens(own, other, *weights))
            precision, recall, f1 = map(max, zip(*pairs, strict=True))
            rows.append(self._rescaled((precision, recall, f1)))
        return {
            name: MetricResult(corpus=sum(values) / len(values), items=values)
            for name, values in zip(
                ("precision", "recall", "f1"), zip(*rows, strict=True), strict=True
            )
        }

    def _rescaled(self, values: tuple[float, float, float]) -> tuple[float, float, float]:
        if self.baseline is None:
            return values
        precision, recall, f1 = (
            (value - base) / (1 - base) for value, base in zip(values, self.baseline, strict=True)
        )
        return precision, recall, f1
