"""The gradient of roi_align with atomics, which tensors on the CPU never reach by themselves."""

import pytest
import simt_module
import torch

from fastregion.ops.native import DTYPE_CODES, family
from fastregion.ops.roi_align import roi_align_backward_reference

pytestmark = pytest.mark.simt


@pytest.mark.parametrize("schedule", simt_module.SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_atomics(schedule: str, dtype: torch.dtype) -> None:
    simt_module.use_schedule(schedule)
    wide = torch.promote_types(dtype, torch.float32)
    grad = torch.randn(4, 3, 2, 3).to(dtype)
    rois = torch.tensor(
        [[1, 0, 0, 7, 5], [0, -3, 2, 4, 9], [1, 2, 2, 2, 2], [5, 0, 0, 7, 5]], dtype=wide
    )
    sums = torch.zeros(2, 3, 6, 7, dtype=wide)
    params = family("roi").RoiAlignParams(
        DTYPE_CODES[dtype],
        sums.data_ptr(),
        grad.data_ptr(),
        rois.data_ptr(),
        *sums.shape,
        *sums.stride(),
        len(rois),
        *(2, 3),  # output size
        -1,  # adaptive sampling
        1.0,
        True,
    )
    family("roi").roi_align_backward_atomic(params, 1)
    expected = roi_align_backward_reference(grad.to(wide), rois, sums.shape, 1.0, (2, 3), -1, True)
    torch.testing.assert_close(sums, expected)
