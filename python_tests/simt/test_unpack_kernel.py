"""unpack_rows, which no operator calls yet: bit-packed masks to bytes, run on the host."""

import numpy as np
import pytest
import simt_module
import torch

pytestmark = pytest.mark.simt


@pytest.mark.parametrize("schedule", simt_module.SCHEDULES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 16), (5, 64), (7, 65), (2, 208)])
def test_bytes_are_the_bits(schedule: str, height: int, width: int) -> None:
    from fastregion import _C

    simt_module.use_schedule(schedule)
    mask = np.random.default_rng(width).random((height, width)) < 0.5
    bits = torch.from_numpy(_C.regions.pack(mask.astype(np.uint8)).view(np.int64))
    out = torch.full((height, width), 7, dtype=torch.uint8)
    _C.regions.unpack_cuda(bits.data_ptr(), out.data_ptr(), height, width, 0, 0)
    np.testing.assert_array_equal(out.numpy(), mask)
