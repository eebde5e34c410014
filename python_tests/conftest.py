"""Settings shared by all tests: which marked tests can run here."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import pytest
import simt_module
import torch
from hypothesis import settings

SIMT = simt_module.install()
FRESH_DATA = "--fresh-data"


def pytest_configure(config: pytest.Config) -> None:
    # Time limits per example would judge the load of the machine, not the code.
    repeat = not config.getoption(FRESH_DATA)
    settings.register_profile("fastregion", deadline=None, derandomize=repeat)
    settings.load_profile("fastregion")


@pytest.fixture(autouse=True)
def seeds(request: pytest.FixtureRequest) -> None:
    """A test has the same random data every time, whatever runs before it; or new data."""
    seed = zlib.crc32(request.node.nodeid.encode())
    if request.config.getoption(FRESH_DATA):
        seed = random.SystemRandom().randrange(2**32)
    print(f"seed of random and torch: {seed}")
    random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture(autouse=True, scope="session")
def outside_the_tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run the tests from an empty folder, where Python finds the installed package.

    In the root of the repository a subprocess would import the source tree, which has no native
    module.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("outside"))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption(
        FRESH_DATA,
        action="store_true",
        help="new random data in every test (a failing test prints its seed)",
    )


def gpu_missing() -> str | None:
    """Why tests marked gpu cannot run, or None."""
    try:
        from fastregion import _C
    except ImportError:
        return "the native module is not built"
    if not _C.cuda_compiled:
        return "built without CUDA kernels"
    return None if _C.cuda_device_count() else "no CUDA device"


def simt_missing() -> str | None:
    """Why tests marked simt cannot run, or None."""
    return None if SIMT else f"{simt_module.VARIABLE} is not set"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = None if config.getoption("--slow") else "runs with --slow"
    reasons = {
        "slow": slow,
        "gpu": gpu_missing(),
        "simt": simt_missing(),
    }
    for item in items:
        for mark, reason in reasons.items():
            if reason is not None and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))
