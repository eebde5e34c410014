"""Masks resized to grey, as DAM and URECA do, beside Pillow.

One 1500 x 2250 mask. DAM: bicubic to 384 x 384, in the released code as an RGB picture of three
equal channels. URECA: the thumbnail bicubic in float32 to 448 x 448, cut and wrapped to bytes.
Floor: the mask is read once, 3.4 MB as bytes, and 0.15 MB written. Pillow's first pass is 1500 x
384 windows of 24 taps; only those at the mask's outline need arithmetic.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastregion.benchmarking.masks import HEIGHT, WIDTH, make_mask
from fastregion.benchmarking.measure import Call, Case, Ways
from fastregion.ops import mask_resize

_BICUBIC = Image.Resampling.BICUBIC


def _resized(picture: Image.Image, size: int) -> np.ndarray:
    """Columns first, as in the released systems' Pillow; two calls cost what one does."""
    narrow = picture.resize((size, HEIGHT), _BICUBIC)
    result: np.ndarray = np.asarray(narrow.resize((size, size), _BICUBIC))
    return result


def _dam(mask: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(255 * mask.astype(np.uint8)).convert("RGB")
    grey: np.ndarray = _resized(picture, 384)[..., 0]
    return grey


def _dam_grey(mask: np.ndarray) -> np.ndarray:
    return _resized(Image.fromarray(255 * mask.astype(np.uint8)), 384)


def _ureca(mask: np.ndarray) -> np.ndarray:
    picture = Image.fromarray((255.0 * mask.astype(np.float64)).astype(np.float32))
    wrapped: np.ndarray = np.trunc(_resized(picture, 448)).astype(np.int64) & 255
    return wrapped.astype(np.uint8)


def _make(rule: str, kind: str, device: torch.device) -> Ways:
    mask: Tensor = make_mask(kind, device)
    values = mask.cpu().numpy()
    dam = rule == "bicubic"
    peers: dict[str, Call] = (
        {"published": lambda: _dam(values), "Pillow, one channel": lambda: _dam_grey(values)}
        if dam
        else {"published": lambda: _ureca(values)}
    )
    size = 384 if dam else 448
    return Ways(
        ours=lambda: mask_resize(mask, size, rule),
        peers=peers,
        bytes=HEIGHT * WIDTH + size * size,
        comparable=lambda grey: torch.as_tensor(np.asarray(torch.as_tensor(grey).cpu())),
    )


CASES = tuple(
    Case(
        operator="mask_resize",
        shape=f"{HEIGHT} x {WIDTH} to {'384, DAM' if rule == 'bicubic' else '448, URECA'}, {kind}",
        dtype="uint8",
        make=partial(_make, rule, kind),
    )
    for rule in ("bicubic", "bicubic_wrapped")
    for kind in ("ellipse", "noise")
)
