"""The one place that decides which implementation of an operator runs.

Backends: ``reference`` (plain torch, any device), ``cpu`` (C++), ``cuda`` (CUDA C++). The choice,
strongest first: the ``backend=`` argument of an operator, the environment variable
``FASTREGION_BACKEND``, and otherwise (``auto``) the native kernel of the tensors' device where
there is one, the reference where there is none. A backend asked for by name that cannot run raises
the sentence that says why; an automatic choice of the reference logs the same sentence at debug
level. Without the native module the references run, after one warning.
"""

from __future__ import annotations

import logging
import os

import torch

from fastregion._native import native_module
from fastregion.ops.registry import OPERATORS

BACKENDS = ("reference", "cpu", "cuda")
VARIABLE = "FASTREGION_BACKEND"

_log = logging.getLogger(__name__)


def backend(
    operator: str,
    device: torch.device | str = "cpu",
    *,
    force: str | None = None,
    limit: str | None = None,
) -> str:
    """Name the backend that runs ``operator`` on tensors of ``device``.

    Args:
        operator: A name of ``fastregion.ops.OPERATORS``, with ``_backward`` appended for the
            gradient.
        device: Device of the tensors.
        force: What the ``backend=`` argument of the operator would be.
        limit: Set by an operator whose arguments no native kernel takes: the sentence that says so.

    Returns:
        ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        KeyError: An unknown operator.
        ValueError: An unknown backend name, or a forced backend on tensors of another device.
        NotImplementedError: A forced backend that has no kernel for this operator or arguments.
        ImportError: A forced backend that is not part of this installation.
    """
    kernels = _kernels(operator)
    device = torch.device(device)
    asked = force or os.environ.get(VARIABLE) or "auto"
    if asked not in ("auto", *BACKENDS):
        source = "backend" if force else VARIABLE
        raise ValueError(
            f"{operator}: {source} must be auto, reference, cpu or cuda, got {asked!r}"
        )
    if asked == "reference":
        return asked
    if asked != "auto":
        obstacle = _obstacle(operator, kernels, asked, device, limit)
        if obstacle is not None:
            raise obstacle
        return asked

    obstacle = _obstacle(operator, kernels, device.type, device, limit)
    if obstacle is None:
        return device.type
    _log.debug("the reference runs instead: %s", obstacle)
    return "reference"


def _kernels(operator: str) -> tuple[str, ...]:
    name = operator.removesuffix("_backward")
    if name not in OPERATORS:
        raise KeyError(f"{operator}: no such operator, there are {', '.join(OPERATORS)}")
    entry = OPERATORS[name]
    return entry.native_backward if operator.endswith("_backward") else entry.native


def _obstacle(
    operator: str, kernels: tuple[str, ...], name: str, device: torch.device, limit: str | None
) -> Exception | None:
    """Return the error that says why backend ``name`` cannot run here, or None when it can."""
    if name not in kernels:
        return NotImplementedError(f"{operator}: there is no {name} kernel for this operator")
    if limit is not None:
        return NotImplementedError(f"{operator}: {limit}")
    module = native_module()
    if module is None:
        return ImportError(
            f"{operator}: fastregion was installed without its native module "
            f'(backend="{name}" needs it); reinstall with: pip install .'
        )
    if name == "cuda" and not module.cuda_compiled:
        return ImportError(
            f"{operator}: fastregion was built without CUDA kernels "
            f'(backend="cuda" needs them); rebuild with FASTREGION_CUDA=ON'
        )
    if name != device.type:
        return ValueError(f"{operator}: the {name} backend needs {name} tensors, got {device}")
    return None
