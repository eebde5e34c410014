"""A number for weights, so that results of one model are not continued with another."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["fingerprint"]


def fingerprint(model: nn.Module) -> str:
    """Eight hexadecimal digits; of large parameters only a thousand values are read."""
    checksum = 0
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 1024)].float().cpu().numpy().tobytes()
        checksum = zlib.crc32(sample, zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"
