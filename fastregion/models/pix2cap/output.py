"""What Pix2Cap's transformer decoder predicts: the interface between network, criterion and merge.

Symbols: B images, Q queries (201 in the published model; the last one is the class token), K
classes without "no object", ``h, w`` the padded input at stride 4, D the width of an object feature
(256), C the decoder's width (512).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["STRIDE", "Pix2CapOutput"]

STRIDE = 4
"""Of predicted masks in the padded input."""


@dataclass(frozen=True, eq=False)
class Pix2CapOutput:
    """Predictions of one decoder layer; the last layer's hold those of the earlier ones too.

    Attributes:
        class_logits: ``[B, Q, K + 1]``; the last class is "no object". Softmax over all.
        mask_logits: ``[B, Q, h, w]``; sigmoid.
        boxes: ``[B, Q, 4]``, cx, cy, w, h as fractions of the padded input; neither supervised nor
            used.
        object_features: ``[B, Q - 1, 2, D]``, what the caption head sees of each query but the
            class token: the query, and the feature of the whole image.
        queries: ``[B, Q, C]``, the decoder's state behind the layer, not normalised.
        auxiliary: predictions of the earlier layers in their order, that of the learned queries
            (before any layer) first; each without a list of its own. Empty unless asked for.
    """

    class_logits: Tensor
    mask_logits: Tensor
    boxes: Tensor
    object_features: Tensor
    queries: Tensor
    auxiliary: tuple[Pix2CapOutput, ...] = ()
