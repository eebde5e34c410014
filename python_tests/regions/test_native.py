"""The native region functions, instruction set by instruction set, against the reference."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from fastregion.regions import _reference

_C = pytest.importorskip("fastregion._C")

COMPARE = """
import numpy as np
from fastregion._C import cpu_isa, regions as native
from fastregion.regions import _reference as reference

rng = np.random.default_rng(0)
sizes = [(1, 1), (1, 64), (3, 63), (64, 65), (70, 130), (129, 1), (200, 577), (5, 1024)]
for height, width in sizes:
    for density in (0.0, 0.02, 0.5, 1.0):
        values = rng.integers(1, 256, (height, width), np.uint8)
        mask = np.where(rng.random((height, width)) < density, values, 0).astype(np.uint8)
        bits = native.pack(mask)
        assert (bits == reference.pack(mask)).all()
        assert (native.unpack(bits, width) == (mask != 0)).all()
        assert native.extent(bits, width) == reference.extent(bits, width)
        assert native.coordinate_sums(bits, width) == reference.coordinate_sums(bits, width)
        text = native.bits_to_string(bits, width)
        assert text == reference.bits_to_string(bits, width)
        assert (native.string_to_bits(text, height, width) == bits).all()
        masks = native.strings_to_masks([text, text], height, width, 1)
        assert (masks == (mask != 0)).all()
        for target in sizes:
            resized = native.resize(bits, width, *target, 1)
            assert (resized == reference.resize(bits, width, *target, 1)).all()
        for radius in (0, 1, 5, 70):
            edge = native.boundary(bits, width, radius, 1)
            assert (edge == reference.boundary(bits, width, radius, 1)).all()
        other = native.pack(rng.integers(0, 2, (height, width), np.uint8))
        lists = [bits, other], np.array([[0, 0, width, height]] * 2)
        counts = native.intersections(*lists, *lists, True, 1)
        assert (counts == reference.intersections(*lists, *lists, True, 1)).all()
print(cpu_isa())
"""


ISAS = ["baseline", "avx2", "avx512"]
ABOVE = ["avx512_bf16"]  # of which these functions have no loops


def run_as(isa: str, script: str) -> str:
    """What a process of its own prints: the instruction set is chosen once. Empty: the best one."""
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "FASTREGION_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def best_isa() -> str:
    return run_as("", "from fastregion._C import cpu_isa; print(cpu_isa())")


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_agrees_with_the_reference(isa: str, best_isa: str) -> None:
    assert run_as(isa, COMPARE) == min(isa, best_isa, key=[*ISAS, *ABOVE].index)


def test_wrong_shapes_are_refused_before_memory_is_read() -> None:
    bits = np.zeros((4, 1), np.uint64)
    with pytest.raises(ValueError, match=r"bits: must be \[height, 2\] for width 65"):
        _C.regions.unpack(bits, 65)
    with pytest.raises(ValueError, match="bits: must be"):
        _C.regions.bits_to_string(bits[0], 64)
    with pytest.raises(ValueError, match="size: must not be negative"):
        _C.regions.string_to_bits(b"0", -1, 5)
    with pytest.raises(ValueError, match="polygon: points must be"):
        _C.regions.polygon_to_bits(np.zeros((3, 3)), 4, 4)
    with pytest.raises(ValueError, match="resize: sizes must be positive"):
        _C.regions.resize(bits, 64, 0, 5, 1)
    with pytest.raises(ValueError, match="boundary: radius must not be negative"):
        _C.regions.boundary(bits, 64, -1, 1)
    boxes = np.zeros((1, 4), np.int64)
    with pytest.raises(ValueError, match="masks: must all be"):
        _C.regions.intersections([bits], boxes, [bits[:2]], boxes, False, 1)


def test_every_function_has_a_reference() -> None:
    names = {name for name in dir(_C.regions) if not name.startswith("_")}
    assert names == names & set(dir(_reference))
