"""The harness notices kernels that are broken on purpose; if not, the instrument is broken."""

import math
import os
import subprocess
import sys

import pytest
import simt_module

pytestmark = pytest.mark.simt

SUMS = [2016.0, 6112.0]

# What the harness itself says, in every build and order.
REFUSED = {
    "divergent barrier": r"divergent barrier: .* is at faults.cu:\d+:\d+, others wait at faults.cu",
    "ended thread": "a thread ended while others wait|after some threads have ended",
    "half warp at barrier": "deadlock: .* at the block barrier .* at a warp operation",
    "own lane not in mask": "lane .* is not in its own mask",
    "reads outside mask": "lane .* reads lane 20, which is not in the mask",
    "different operations": "are in different warp operations: .*__shfl_",
    "copy not waited for": "ends with 1 asynchronous copies that it has not waited for",
    "copy misaligned": r"cp.async at faults.cu:\d+:\d+: an address is not a multiple of 16",
    "half warp at matrices": "in different warp operations: .*(ldmatrix .*_shfl|_shfl.* ldmatrix)",
    "product and matrices": "in different warp operations: .*(ldmatrix .* mma|mma .* ldmatrix)",
    "shared too small": "the kernel needs 264 bytes, launched with 263",
}
# What shows in the sums.
POISONED = ("missing barrier", "copy read early")
WRONG = (*POISONED, "blocks collide")
# What a sanitizer says: the build, and a word of its report.
REPORTED = {
    "out of bounds": ("ADDRESS", "heap-buffer-overflow"),
    "shared out of bounds": ("ADDRESS", "index 64 out of bounds"),
    "not a number to int": ("ADDRESS", "outside the range of representable values"),
    "missing barrier": ("THREAD", "data race"),
    "reuse without barrier": ("THREAD", "data race"),
    "lost update": ("THREAD", "data race"),
    "copy read early": ("THREAD", "data race"),
}


def run(name: str) -> list[float]:
    from fastregion import _C

    return _C.simt.run_fault(name)


@pytest.fixture(params=simt_module.SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> str:
    simt_module.use_schedule(request.param)
    return request.param


def test_every_fault_is_expected_somewhere() -> None:
    from fastregion import _C

    assert set(_C.simt.fault_names()) == {"none", *REFUSED, *WRONG, *REPORTED}


def test_the_correct_kernel_is_correct(schedule: str) -> None:
    assert run("none") == SUMS


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_the_next_launch_works(schedule: str, name: str) -> None:
    with pytest.raises(RuntimeError, match=f"^faulty_sum: block .*({REFUSED[name]})"):
        run(name)
    assert run("none") == SUMS


@pytest.mark.skipif(simt_module.SANITIZER == "THREAD", reason="the race ends the process")
@pytest.mark.parametrize("name", POISONED)
def test_what_is_not_there_yet_is_poison(schedule: str, name: str) -> None:
    assert all(math.isnan(value) for value in run(name))


def test_colliding_blocks_differ_between_orders() -> None:
    simt_module.use_schedule("forward")
    forward = run("blocks collide")[0]
    simt_module.use_schedule("reverse")
    assert run("blocks collide")[0] != forward


@pytest.mark.parametrize("name", REPORTED)
def test_reported_by_a_sanitizer(name: str) -> None:
    build, words = REPORTED[name]
    if build != simt_module.SANITIZER:
        pytest.skip(f"needs FASTREGION_SIMT={build}")
    script = (
        "import simt_module; simt_module.install(); simt_module.use_schedule('forward');"
        f"from fastregion import _C; _C.simt.run_fault({name!r})"
    )
    path = os.pathsep.join([os.path.dirname(simt_module.__file__), *sys.path])
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert words in found.stderr


def test_an_unknown_fault_is_an_error() -> None:
    with pytest.raises(ValueError, match="no fault is named sunspots"):
        run("sunspots")
