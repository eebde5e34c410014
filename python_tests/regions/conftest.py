"""The two implementations of the region functions, for tests that must hold for both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastregion._native import native_module
from fastregion.regions import _backend, _reference


@pytest.fixture(params=["native", "reference"])
def implementation(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Make the package use one implementation for the duration of a test."""
    if request.param == "reference":
        monkeypatch.setattr(_backend, "native_module", lambda: None)
    elif native_module() is None:
        pytest.skip("the native module is not built")
    _backend.backend.cache_clear()
    assert (_backend.backend() is _reference) == (request.param == "reference")
    yield request.param
    _backend.backend.cache_clear()
