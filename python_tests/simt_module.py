"""Puts a SIMT build of the native module in the place of the installed one.

Such a build (``cmake -DFASTREGION_SIMT=PLAIN|ADDRESS|THREAD``) runs the CUDA kernels on the host.
Where an operator has one, it is called instead of the CPU kernel, so that the operators' own tests
are the tests of their CUDA kernels.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

VARIABLE = "FASTREGION_SIMT_MODULE"
"""Environment variable with the path of the module's file."""

_SCHEDULES = {
    "forward": ("FORWARD", "FORWARD", 0),
    "reverse": ("REVERSE", "REVERSE", 0),
    "random 1": ("RANDOM", "REVERSE", 1),
    "random 2": ("RANDOM", "RANDOM", 2),
}
SCHEDULES = tuple(_SCHEDULES)
SANITIZER = os.environ.get("FASTREGION_SIMT_SANITIZER", "PLAIN")
"""The build: PLAIN, ADDRESS or THREAD."""
# What a sanitizer finds hangs less on orders and dtypes, and it takes its time.
OPERATOR_SCHEDULES = {"ADDRESS": ("forward", "random 2"), "THREAD": ("forward",)}.get(
    SANITIZER, SCHEDULES
)
OPERATOR_DTYPES = {"ADDRESS": ("float32", "bfloat16"), "THREAD": ("float32",)}.get(
    SANITIZER, ("float64", "float32", "bfloat16", "float16")
)


class _Family:
    """A submodule in which ``name`` is ``name_cuda`` where there is one."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self._module, f"{name}_cuda", None)
        if kernel is None:
            return getattr(self._module, name)
        return lambda *arguments: kernel(*arguments[:-1], 0, 0)  # device and stream, no threads


def install() -> ModuleType | None:
    """Loads the module that the environment names, if it names one."""
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    spec = importlib.util.spec_from_file_location("fastregion._C", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stand_in = ModuleType("fastregion._C")
    stand_in.__dict__.update(vars(module))
    for family in ("roi", "masks", "packing", "attention"):
        setattr(stand_in, family, _Family(getattr(module, family)))
    sys.modules["fastregion._C"] = stand_in
    return stand_in


def use_schedule(name: str) -> None:
    """Chooses the order in which threads and blocks run from now on."""
    simt = sys.modules["fastregion._C"].simt
    threads, blocks, seed = _SCHEDULES[name]
    simt.set_schedule(getattr(simt.Order, threads), getattr(simt.Order, blocks), seed)
