"""Vectors of class names, kept from picture to picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from fastregion.language import Tokenizer
from fastregion.language.evaluating import evaluating
from fastregion.models.pix2cap.config import NO_OBJECT
from fastregion.models.pix2cap.text_encoder import LanguageEncoder

__all__ = ["ClassVectors"]

_MOST_LISTS = 16  # each takes a quarter of a megabyte for 133 classes


class ClassVectors:
    """T of the lists of names that were asked for last, while the text encoder stays as it is.

    Args:
        tokenizer: that of the encoder.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._kept: OrderedDict[tuple[str, ...], Tensor] = OrderedDict()
        self._weights: tuple[tuple[int, int], ...] = ()  # those that the vectors are of

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, encoder: LanguageEncoder, names: Sequence[str]) -> Tensor:
        """T, ``[len(names) + 1, dim_proj]``: vectors of the names, and that of "no object"."""
        weights = tuple((id(weight), weight._version) for weight in encoder.parameters())
        if weights != self._weights:
            self._weights = weights
            self._kept.clear()
        key = (*names, NO_OBJECT)
        if key not in self._kept:
            with evaluating(encoder), torch.inference_mode():
                self._kept[key] = encoder.embed_classes(key, self._tokenizer)
        self._kept.move_to_end(key)
        while len(self._kept) > _MOST_LISTS:
            self._kept.popitem(last=False)
        return self._kept[key].to(encoder.lang_proj.device)
