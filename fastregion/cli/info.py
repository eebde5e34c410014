"""``fastregion info``: what is installed, and which kernels run here."""

from __future__ import annotations

import json
import platform
import warnings
from importlib.metadata import version
from types import ModuleType
from typing import Annotated, Any

import typer

from fastregion._version import __version__
from fastregion.cli.errors import reporting

__all__ = ["info"]

_DEVICES = ("cpu", "cuda")


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")] = False,
) -> None:
    """Show versions, devices, and which implementation of each operator runs."""
    with reporting(debug):
        facts = _facts()
        if as_json:
            typer.echo(json.dumps(facts, indent=2))
        else:
            _print_tables(facts)


def _facts() -> dict[str, Any]:
    import torch

    from fastregion import ops
    from fastregion._native import native_module
    from fastregion.language.packed_attention import packed_attention_backend
    from fastregion.models.auto import BUILT_IN
    from fastregion.ops.linear import linear_product

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the missing module is in the answer
        native = native_module()
        operators = [
            {
                "name": operator.name,
                "contract": operator.contract,
                "forward": {device: ops.backend(operator.name, device) for device in _DEVICES},
                "backward": {
                    device: ops.backend(f"{operator.name}_backward", device)
                    for device in (_DEVICES if operator.differentiable else ())
                },
            }
            for operator in ops.OPERATORS.values()
        ]
    cuda = torch.cuda.is_available()
    return {
        "fastregion": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
        "threads": torch.get_num_threads(),
        "linear": linear_product(),
        "packed_attention": {
            "cpu": packed_attention_backend("cpu"),
            "cuda": packed_attention_backend("cuda", torch.bfloat16) if cuda else None,
        },
        "cuda_device": torch.cuda.get_device_name() if cuda else None,
        "native": {
            "available": native is not None,
            "cpu_isa": native.cpu_isa() if native else None,
            "cuda_compiled": bool(native and native.cuda_compiled),
            "cuda_devices": native.cuda_device_count() if native else 0,
            "cuda_obstacle": _cuda_obstacle(native),
        },
        "operators": operators,
        "models": [
            {"name": name, "available": (folder / "model.safetensors").is_file()}
            for name, folder in BUILT_IN.items()
        ],
    }


def _cuda_obstacle(native: ModuleType | None) -> str | None:
    """Why the CUDA kernels cannot run here, or None."""
    import torch

    if native is None:
        return "there is no native module"
    if obstacle := native.cuda_obstacle():
        return str(obstacle)
    return None if torch.cuda.is_available() else "torch finds no CUDA device, or has no CUDA"


def _print_tables(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    native = facts["native"]
    rows = {
        "fastregion": facts["fastregion"],
        "python": f"{facts['python']} on {facts['platform']}",
        "torch": f"{facts['torch']}, {facts['threads']} threads",
        "float32 products": f"{facts['linear']} (FASTREGION_LINEAR)",
        "training attention": ", ".join(
            f"{name} ({device})" for device, name in facts["packed_attention"].items() if name
        ),
        "transformers": facts["transformers"],
        "CUDA device": facts["cuda_device"] or "none",
        "native module": "yes" if native["available"] else "no: pip install . builds it",
        "CPU instructions": native["cpu_isa"] or "-",
        "CUDA kernels": f"off: {native['cuda_obstacle']}" if native["cuda_obstacle"] else "on",
    }
    summary = Table(show_header=False, box=None)
    for name, value in rows.items():
        summary.add_row(name, value)
    console.print(summary)

    table = Table(title="operators: which backend runs", title_justify="left")
    table.add_column("operator")
    for device in _DEVICES:
        table.add_column(f"{device} forward")
        table.add_column(f"{device} backward")
    for operator in facts["operators"]:
        cells = []
        for device in _DEVICES:
            cells += [operator["forward"][device], operator["backward"].get(device, "-")]
        table.add_row(operator["name"], *cells)
    console.print(table)

    for model in facts["models"]:
        state = "built in" if model["available"] else "its weights are missing"
        console.print(f"model {model['name']}: {state}")
