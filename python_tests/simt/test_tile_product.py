"""The stand-ins for mma, ldmatrix and cp.async against a plain product, and their own mistakes."""

import pytest
import simt_module
import torch
from torch import Tensor

from fastregion.ops.native import DTYPE_CODES

pytestmark = pytest.mark.simt


def product(a: Tensor, b: Tensor, c: Tensor, by_rows: bool, swap: str = "NOTHING") -> Tensor:
    from fastregion import _C

    stored = b if by_rows else b.T.contiguous()
    result = c.clone()
    _C.simt.tile_product(
        DTYPE_CODES[a.dtype],
        a.data_ptr(),
        stored.data_ptr(),
        result.data_ptr(),
        by_rows,
        getattr(_C.simt.Swap, swap),
    )
    return result


def tiles(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(16, 16).to(dtype), torch.randn(16, 8).to(dtype), torch.randn(16, 8)


@pytest.mark.parametrize("schedule", simt_module.SCHEDULES)
@pytest.mark.parametrize("by_rows", [False, True], ids=["columns", "rows"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_product(schedule: str, dtype: torch.dtype, by_rows: bool) -> None:
    simt_module.use_schedule(schedule)
    a, b, c = tiles(dtype)
    torch.testing.assert_close(
        product(a, b, c, by_rows), c + a.float() @ b.float(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("swap", ["HALVES_OF_A", "HALVES_OF_B", "LANES_OF_B"])
@pytest.mark.parametrize("by_rows", [False, True], ids=["columns", "rows"])
def test_a_wrong_fragment_shows(by_rows: bool, swap: str) -> None:
    simt_module.use_schedule("forward")
    a, b, c = tiles(torch.bfloat16)
    right, wrong = product(a, b, c, by_rows), product(a, b, c, by_rows, swap)
    assert not torch.allclose(right, wrong, rtol=0, atol=1e-2)


def test_other_dtypes_are_an_error() -> None:
    a, b, c = (x.float() for x in tiles(torch.float16))
    with pytest.raises(ValueError, match="must be float16 or bfloat16, got code 0"):
        product(a, b, c, True)
