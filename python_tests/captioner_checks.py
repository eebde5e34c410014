"""What is checked of more than one captioner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastregion.models import Captioner
from fastregion.regions import Region

NEW = {"max_new_tokens": 6}


def token_ids(
    captioner: Captioner, image: np.ndarray, regions: Sequence[Region], **more: Any
) -> list[list[int]]:
    found = captioner.describe(image, regions, return_details=True, **NEW, **more)
    return [list(one.token_ids) for one in found]


def check_batches(captioner: Captioner, image: np.ndarray, regions: Sequence[Region]) -> None:
    """Regions together are described as one by one, and told apart."""
    alone = [token_ids(captioner, image, [region])[0] for region in regions]
    assert token_ids(captioner, image, regions) == alone
    assert token_ids(captioner, image, regions, batch_size=3) == alone
    if len(regions) > 2:
        assert len({tuple(one) for one in alone}) > 1
