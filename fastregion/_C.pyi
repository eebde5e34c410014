"""Types of the native module (csrc/module.cpp)."""

from types import ModuleType

from fastregion.regions._backend import RegionsBackend

__version__: str
cuda_compiled: bool

def cpu_isa() -> str: ...
def cuda_device_count() -> int: ...
def cuda_obstacle() -> str: ...

regions: RegionsBackend
roi: ModuleType
masks: ModuleType
packing: ModuleType
attention: ModuleType
