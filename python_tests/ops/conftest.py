"""What every operator test shares: the backends, and the rule for low precision."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import simt_module
import torch
from torch import Tensor

from fastregion._native import native_module


@dataclass(frozen=True)
class Backend:
    name: str
    device: torch.device


_BACKENDS = ["reference", "cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
_SIMT_BACKENDS = [f"simt {schedule}" for schedule in simt_module.OPERATOR_SCHEDULES]


@pytest.fixture(params=_SIMT_BACKENDS if os.environ.get(simt_module.VARIABLE) else _BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    name: str = request.param
    if name.startswith("simt "):  # the CUDA kernel stands where the CPU kernel is looked up
        simt_module.use_schedule(name.removeprefix("simt "))
        return Backend("cpu", torch.device("cpu"))
    if name != "reference" and native_module() is None:
        pytest.skip("the native module is not built")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return Backend(name, torch.device("cuda" if name == "cuda" else "cpu"))


@pytest.fixture(params=[getattr(torch, name) for name in simt_module.OPERATOR_DTYPES], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under AddressSanitizer each order takes one dtype: all are seen, in half the time."""
    if simt_module.SANITIZER == "ADDRESS":
        items[:] = [item for item in items if _takes_its_dtype(item)]


def _takes_its_dtype(item: pytest.Item) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if not {"backend", "dtype"} <= params.keys():
        return True
    order = _SIMT_BACKENDS.index(params["backend"])
    return params["dtype"] == getattr(torch, simt_module.OPERATOR_DTYPES[order])


@pytest.fixture
def assert_no_worse_than_eager() -> Callable[..., None]:
    """Low precision by a rule: at most twice the error of plain torch in the same dtype.

    Added to that are one rounding of the result and, where ``magnitudes`` (the same sum over
    absolute values) is given, four float32 roundings of it: long sums taken in another order.
    """

    def check(
        result: Tensor, eager: Tensor, exact: Tensor, magnitudes: Tensor | None = None
    ) -> None:
        assert result.shape == exact.shape
        assert result.dtype == eager.dtype
        if exact.numel() == 0:
            return
        dtype = result.dtype
        result, eager, exact = (x.detach().cpu().double() for x in (result, eager, exact))
        if dtype == torch.float64:  # there is no wider truth: the order of the sum is the error
            torch.testing.assert_close(result, exact, rtol=1e-12, atol=1e-12)
            return
        budget = (eager - exact).abs().max()
        error = (result - exact).abs().max()
        floor = torch.finfo(dtype).eps * exact.abs().max()
        if magnitudes is not None:
            floor += 4 * torch.finfo(torch.float32).eps * magnitudes.abs().max().cpu()
        assert error <= 2 * budget + floor, f"error {error:.2e}, plain torch {budget:.2e}"

    return check
