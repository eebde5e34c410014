"""Vectors of texts from an encoder of transformers in a local folder."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fastregion.evaluation.metrics.common import MetricUnavailable

__all__ = ["TextEncoder"]


class TextEncoder:
    """An encoder such as BERT, RoBERTa or MiniLM; nothing is downloaded."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Load weights (safetensors) and tokenizer.

        Raises:
            MetricUnavailable: there is no such folder.
        """
        if not (Path(folder) / "config.json").is_file():
            raise MetricUnavailable(
                f"folder: expected a text encoder with its config.json, got {str(folder)!r}; "
                "download one first, such as sentence-transformers/all-MiniLM-L6-v2"
            )
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        ).eval()

    def token_ids(self, text: str) -> list[int]:
        """Ids with the special tokens, cut to the longest that the encoder takes."""
        ids: list[int] = self._tokenizer(text.strip(), truncation=True)["input_ids"]
        return ids

    @torch.inference_mode()
    def hidden_state(self, text: str, layer: int) -> tuple[list[int], Tensor]:
        """Token ids, and their vectors ``[N, D]`` after a layer; 0 is the embedding.

        Raises:
            ValueError: the encoder has no such layer.
        """
        ids = self.token_ids(text)
        states = self._model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        if not 0 <= layer < len(states):
            raise ValueError(f"layer: expected 0 to {len(states) - 1}, got {layer}")
        return ids, states[layer][0]

    def sentence(self, text: str) -> Tensor:
        """Mean of the last layer's vectors over all tokens, of length 1: ``[D]``."""
        _, states = self.hidden_state(text, self._model.config.num_hidden_layers)
        return normalize(states.mean(dim=0), dim=0)
