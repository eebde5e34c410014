"""Metrics of 10,000 pairs of captions: tokenizer, BLEU, ROUGE-L and CIDEr-D, against pycocoevalcap.

Floor: 20,000 captions of 25 words are 0.6 million tokens. To look each up in a table is 0.05 s in
Python, for the tokenizer, for the numbers of the n-grams and for ROUGE-L; four orders of n-grams
are 2.5 million integers, sorted twice at 0.1 s a million: about 0.7 s in all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from fastregion.benchmarking.measure import Case, Ways
from fastregion.evaluation.metrics.registry import compute

_PAIRS, _WORDS, _VOCABULARY = 10_000, 25, 3000
_NAMES = (*(f"bleu_{n}" for n in range(1, 5)), "rouge_l", "cider")


def _captions(seed: int) -> list[str]:
    """Texts whose words are as unevenly frequent as those of captions."""
    rng = random.Random(0)
    words = [
        "".join(rng.choice("aeioubcdfglmnprst") for _ in range(rng.randint(2, 9)))
        for _ in range(_VOCABULARY)
    ]
    rng.seed(seed)
    weights = [1 / (rank + 1) for rank in range(_VOCABULARY)]
    return [
        " ".join(rng.choices(words, weights, k=rng.randint(_WORDS - 15, _WORDS + 15)))
        + ", it's fine."
        for _ in range(_PAIRS)
    ]


def _ours(candidates: list[str], references: list[str]) -> list[Any]:
    found = compute(_NAMES, candidates, [[text] for text in references])
    return [found.results[name].corpus for name in _NAMES]


def _theirs(candidates: list[str], references: list[str]) -> Callable[[], list[Any]] | None:
    try:
        names = ("tokenizer.ptbtokenizer", "bleu.bleu", "rouge.rouge", "cider.cider")
        modules = [import_module(f"pycocoevalcap.{name}") for name in names]
    except ImportError:
        return None

    def run() -> list[Any]:
        tokenizer = modules[0].PTBTokenizer()
        tokens, texts = (
            tokenizer.tokenize({k: [{"caption": text}] for k, text in enumerate(captions)})
            for captions in (candidates, references)
        )
        scores, _ = modules[1].Bleu(4).compute_score(texts, tokens, verbose=0)
        rouge, _ = modules[2].Rouge().compute_score(texts, tokens)
        other, _ = modules[3].Cider().compute_score(texts, tokens)
        return [*scores, float(rouge), float(other)]

    return run


def _make(device: torch.device) -> Ways:
    candidates, references = _captions(1), _captions(2)
    theirs = _theirs(candidates, references)
    return Ways(
        ours=lambda: _ours(candidates, references),
        peers={"pycocoevalcap": theirs} if theirs else {},
        bytes=sum(map(len, candidates + references)),
        comparable=lambda scores: [round(score, 9) for score in scores],
    )


CASES = (
    Case(
        operator="caption metrics",
        shape=f"{_PAIRS} pairs of {_WORDS} words",
        dtype="text",
        make=_make,
        devices=("cpu",),
    ),
)
