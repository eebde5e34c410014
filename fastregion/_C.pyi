"""Types of the native module (csrc/module.cpp)."""

from types import ModuleType

__version__: str
cuda_compiled: bool

def cpu_isa() -> str: ...
def cuda_device_count() -> int: ...

regions: ModuleType
roi: ModuleType
masks: ModuleType
packing: ModuleType
