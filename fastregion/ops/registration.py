"""Registration of operators in the torch namespace ``fastregion::``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# Lives as long as the process: dropping the library would unregister its operators.
_lib = torch.library.Library("fastregion", "FRAGMENT")  # type: ignore[no-untyped-call]


def register(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define an operator with one implementation for all devices and its shape function.

    The implementation runs below autograd and asks ``ops.backend`` what to call. ``fake`` returns
    empty tensors of the right shapes, so that ``torch.compile`` and ``torch.export`` see the
    operator as one node.
    """
    name = schema.partition("(")[0]
    _lib.define(schema)  # type: ignore[no-untyped-call]
    _lib.impl(name, implementation, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"fastregion::{name}", fake, lib=_lib)


def register_gradient(
    name: str, gradient: Callable[..., Any], setup_context: Callable[..., Any]
) -> None:
    """Give an operator its gradient, which itself calls a registered operator."""
    torch.library.register_autograd(
        f"fastregion::{name}", gradient, setup_context=setup_context, lib=_lib
    )


def refuse_second_gradient(name: str) -> None:
    """Let ``name``, the gradient of an operator, raise where it is itself differentiated.

    Torch takes an operator without a gradient for a constant: the second derivative would lack
    terms, with no more than a warning.
    """
    operator = name.removesuffix("_backward")

    def refuse(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        raise NotImplementedError(f"{operator}: second derivatives are not supported")

    def keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    register_gradient(name, refuse, keep_nothing)
