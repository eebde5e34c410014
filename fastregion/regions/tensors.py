"""Regions as torch tensors. The only module of this floor that needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastregion._native import native_module
from fastregion.regions._backend import backend
from fastregion.regions.region import Region

if TYPE_CHECKING:
    import torch


def mask_tensor(regions: Sequence[Region], device: torch.device | str = "cpu") -> torch.Tensor:
    """Return the masks of regions as one tensor.

    To a CUDA device they travel as bits, an eighth of the bytes, and are unpacked there on the
    current stream (in a build with CUDA kernels).

    Args:
        regions: N regions, bound to images of one size.
        device: where the tensor shall be.

    Returns:
        bool ``[N, H, W]``.

    Raises:
        ValueError: no regions, or regions that are unbound or of different sizes.
    """
    import torch

    if not regions:
        raise ValueError("mask_tensor: expected at least one region, got none")
    packed = [region.pixels() for region in regions]
    sizes = {(len(bits), width) for bits, width in packed}
    if len(sizes) != 1:
        raise ValueError(f"mask_tensor: regions must have the same size, got {sorted(sizes)}")
    height, width = sizes.pop()
    device = torch.device(device)
    native = native_module()
    if device.type == "cuda" and native is not None and native.cuda_compiled:
        bits = torch.from_numpy(np.stack([bits for bits, _ in packed]).view(np.int64)).to(device)
        masks = torch.empty((len(regions), height, width), dtype=torch.bool, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
        native.masks.unpack_bits_cuda(
            bits.data_ptr(),
            masks.data_ptr(),
            len(regions) * height,
            width,
            masks.get_device(),
            stream,
        )
        return masks
    unpacked = np.stack([backend().unpack(bits, width) for bits, _ in packed])
    return torch.from_numpy(unpacked).to(device)
