"""A mask as a thumbnail for notebooks."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

_LONGER_SIDE = 96


def preview_html(mask: NDArray[np.bool_]) -> str:
    """Return an ``<img>`` element that holds a mask ``[H, W]`` as a small PNG."""
    from PIL import Image

    image = Image.fromarray(mask)
    image.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="mask">'
