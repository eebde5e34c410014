"""What the native module says about itself, and that it loads cleanly."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import fastregion

_C = pytest.importorskip("fastregion._C")

INSTRUCTION_SETS = ["baseline", "avx2", "avx512", "avx512_bf16"]  # each has those before it


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_version_is_that_of_the_package() -> None:
    assert _C.__version__ == fastregion.__version__


def test_says_what_was_built() -> None:
    assert isinstance(_C.cuda_compiled, bool)
    assert _C.cuda_device_count() >= 0
    assert (_C.cuda_obstacle() == "") == (_C.cuda_device_count() > 0)
    assert _C.cpu_isa() in INSTRUCTION_SETS


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_instruction_set_can_be_lowered_but_not_raised(isa: str) -> None:
    result = run_python("from fastregion import _C; print(_C.cpu_isa())", FASTREGION_ISA=isa)
    given, machine = result.stdout.strip(), _C.cpu_isa()
    assert given == min(isa, machine, key=INSTRUCTION_SETS.index)


def test_unknown_instruction_set_is_refused() -> None:
    result = run_python("from fastregion import _C; _C.cpu_isa()", FASTREGION_ISA="sse9")
    assert result.returncode != 0
    assert (
        "FASTREGION_ISA: must be baseline, avx2, avx512 or avx512_bf16, got 'sse9'" in result.stderr
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
@pytest.mark.parametrize("order", ["fastregion._C, torch", "torch, fastregion._C"])
def test_one_openmp_runtime_per_process(order: str) -> None:
    code = f"""
import {order}
maps = open("/proc/self/maps").read().split()
print(len({{path for path in maps if "libgomp" in path}}))
"""
    result = run_python(code)
    assert result.stdout.strip() == "1", result.stderr
