"""Binary masks as bit-packed rows: the container that the mask operators pass on.

``words [..., H, ceil(W / 64)]`` are 64-bit words held in an ``int64`` tensor: pixel (y, x) is bit
``x % 64`` (least significant first) of ``words[..., y, x // 64]``, and the bits past the width are
0. That is the layout of ``fastregion.regions`` and of csrc/regions/bit_rows.h, so a region's rows
cross over without a copy. One pixel costs one bit instead of the byte of a bool tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.checks import dtype_name
from fastregion.ops.native import run
from fastregion.ops.registration import register

WORD_BITS = 64


def row_words(width: int) -> int:
    """Words that a row of ``width`` pixels takes."""
    return (width + WORD_BITS - 1) // WORD_BITS


@dataclass(frozen=True, eq=False)
class BitMasks:
    """Bit-packed binary masks ``[..., H, W]``.

    Attributes:
        words: ``[..., H, ceil(W / 64)]`` int64; see the module for the order of the bits. The bits
            past ``width`` must be 0.
        width: W in pixels.

    Raises:
        TypeError: ``words`` is not int64.
        ValueError: The last dimension of ``words`` does not fit ``width``.
    """

    words: Tensor
    width: int

    def __post_init__(self) -> None:
        if self.words.dtype != torch.int64:
            raise TypeError(f"BitMasks: words must be int64, got {dtype_name(self.words.dtype)}")
        if self.words.dim() < 2 or self.words.shape[-1] != row_words(self.width):
            raise ValueError(
                f"BitMasks: words must be [..., H, {row_words(self.width)}] for a width of "
                f"{self.width}, got shape {tuple(self.words.shape)}"
            )

    @classmethod
    def pack(cls, masks: Tensor, *, backend: str | None = None) -> BitMasks:
        """Pack masks ``[..., H, W]``, bool or uint8 (any value but 0 is inside).

        Raises:
            TypeError: Another dtype.
            ValueError: Fewer than two dimensions.
        """
        if masks.dtype not in (torch.bool, torch.uint8):
            raise TypeError(
                f"BitMasks.pack: masks must be bool or uint8, got {dtype_name(masks.dtype)}; "
                "threshold first, e.g. masks > 0.5"
            )
        if masks.dim() < 2:
            raise ValueError(
                f"BitMasks.pack: masks must be [..., H, W], got shape {tuple(masks.shape)}"
            )
        return cls(torch.ops.fastregion.pack_bits(masks, backend or ""), masks.shape[-1])

    def unpack(self, *, backend: str | None = None) -> Tensor:
        """Return the masks as a bool tensor ``[..., H, W]``."""
        masks: Tensor = torch.ops.fastregion.unpack_bits(self.words, self.width, backend or "")
        return masks

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape ``(..., H, W)`` of the masks in pixels."""
        return (*self.words.shape[:-1], self.width)


def pack_bits_reference(masks: Tensor) -> Tensor:
    """Words ``[..., H, ceil(W / 64)]`` of masks ``[..., H, W]``, in plain torch."""
    padding = row_words(masks.shape[-1]) * WORD_BITS - masks.shape[-1]
    bits = torch.nn.functional.pad((masks != 0).long(), (0, padding))
    place = torch.arange(WORD_BITS, device=masks.device)
    split = bits.reshape(*bits.shape[:-1], bits.shape[-1] // WORD_BITS, WORD_BITS)
    return (split << place).sum(-1)  # distinct bits: a sum is an or


def unpack_bits_reference(words: Tensor, width: int) -> Tensor:
    """Bool masks ``[..., H, width]`` of words, in plain torch."""
    place = torch.arange(WORD_BITS, device=words.device)
    bits = (words.unsqueeze(-1) >> place) & 1
    return bits.flatten(-2)[..., :width].bool()


def _pack_bits(masks: Tensor, backend: str) -> Tensor:
    chosen = choose_backend("pack_bits", masks.device, force=backend)
    if chosen == "reference":
        return pack_bits_reference(masks)
    words = _pack_bits_fake(masks, backend)
    masks = masks.contiguous()
    num_rows = masks.shape[:-1].numel()
    arguments = (masks.data_ptr(), words.data_ptr(), num_rows, masks.shape[-1])
    run(chosen, "masks.pack_bits", masks.device, *arguments)
    return words


def _unpack_bits(words: Tensor, width: int, backend: str) -> Tensor:
    chosen = choose_backend("unpack_bits", words.device, force=backend)
    if chosen == "reference":
        return unpack_bits_reference(words, width)
    masks = _unpack_bits_fake(words, width, backend)
    words = words.contiguous()
    num_rows = words.shape[:-1].numel()
    arguments = (words.data_ptr(), masks.data_ptr(), num_rows, width)
    run(chosen, "masks.unpack_bits", words.device, *arguments)
    return masks


def _pack_bits_fake(masks: Tensor, backend: str) -> Tensor:
    shape = (*masks.shape[:-1], row_words(masks.shape[-1]))
    return masks.new_empty(shape, dtype=torch.int64)


def _unpack_bits_fake(words: Tensor, width: int, backend: str) -> Tensor:
    return words.new_empty((*words.shape[:-1], width), dtype=torch.bool)


register("pack_bits(Tensor masks, str backend) -> Tensor", _pack_bits, _pack_bits_fake)
register(
    "unpack_bits(Tensor words, SymInt width, str backend) -> Tensor",
    _unpack_bits,
    _unpack_bits_fake,
)
