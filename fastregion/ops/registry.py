"""The table of operators: what each computes, where it runs natively, what it differentiates.

Data only, read by ``fastregion info``, by the documentation and by the choice of backend. The
plain-torch reference of every operator runs on any device torch knows; ``native`` lists the
backends that have a kernel of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of ``fastregion.ops``.

    Attributes:
        name: Name in ``fastregion.ops`` and in the ``fastregion::`` torch namespace.
        contract: One line, shapes in and shapes out.
        native: Backends with a forward kernel.
        native_backward: Backends with a backward kernel; empty where nothing is differentiable.
        differentiable: Names of the arguments that receive gradients.
        deterministic: Whether the native kernels give the same bits for the same input.
    """

    name: str
    contract: str
    native: tuple[str, ...]
    native_backward: tuple[str, ...] = ()
    differentiable: tuple[str, ...] = ()
    deterministic: bool = True


_OPERATORS = (
    Operator(
        name="roi_replay",
        contract=(
            "tiles [T, P, C], boxes [R, 4] in feature cells -> [R, oh*ow, C]: RoI-Align read "
            "straight from tile-major tokens"
        ),
        native=("cpu",),
        native_backward=("cpu",),
        differentiable=("tiles",),
    ),
)

OPERATORS: Mapping[str, Operator] = MappingProxyType({op.name: op for op in _OPERATORS})
