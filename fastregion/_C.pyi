"""Types of the native module (csrc/module.cpp)."""

from types import ModuleType
from typing import Protocol

from fastregion.regions._backend import RegionsBackend

__version__: str
cuda_compiled: bool

def cpu_isa() -> str: ...
def cuda_device_count() -> int: ...
def cuda_obstacle() -> str: ...

class _Regions(RegionsBackend, Protocol):
    def unpack_cuda(  # only if cuda_compiled
        self, bits: int, mask: int, num_rows: int, width: int, device: int, stream: int
    ) -> None: ...

regions: _Regions
roi: ModuleType
masks: ModuleType
packing: ModuleType
attention: ModuleType
