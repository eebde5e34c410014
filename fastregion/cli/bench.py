"""``fastregion bench``: operators timed side by side with what they replace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastregion.cli.errors import bad_input, reporting

if TYPE_CHECKING:
    from rich.table import Table

    from fastregion.benchmarking import Case, Row

__all__ = ["BENCH_HELP", "bench"]

BENCH_HELP = """Time operators side by side with what they replace.

Each row is a shape: the median time of ours, of each peer, how many times
longer the peer takes, the bytes that must move at least, and the share of
the machine's copy bandwidth that ours reaches (above 100 % the data stayed
in a cache). Peers take turns with ours in one process, results are compared
first, and outputs are allocated by every call. torchvision and pycocotools
are timed where they are installed.

\b
[bold]Examples[/bold]
  fastregion bench --op roi_replay
  fastregion bench --threads 2 --json > rows.json
"""


def bench(
    op: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this operator; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.0, help="About how long to time a row.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")] = False,
) -> None:
    """Time operators side by side with what they replace."""
    with reporting(debug):
        import torch
        from rich.console import Console

        from fastregion.benchmarking import copy_bandwidth, measure

        with bad_input():
            where = _device(device)
            cases = _cases(op or (), where.type)
        torch.set_num_threads(threads)
        bandwidth = copy_bandwidth(where)
        rows = []
        with Console(stderr=True).status("") as status:
            for number, case in enumerate(cases, start=1):
                status.update(f"{number} of {len(cases)}: {case}")
                rows.append(measure(case, where, bandwidth, seconds)[0])
        about = _about(where, bandwidth)
        if as_json:
            typer.echo(json.dumps({**about, "rows": [row.to_json() for row in rows]}, indent=2))
        else:
            _print_table(about, rows)


def _device(name: str) -> Any:
    import torch

    if name not in ("cpu", "cuda"):
        raise ValueError(f"--device: expected cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: torch finds no CUDA device here")
    return torch.device(name, 0) if name == "cuda" else torch.device(name)


def _cases(names: Sequence[str], device: str) -> list[Case]:
    from fastregion.benchmarking import CASES

    known = list(dict.fromkeys(case.operator for case in CASES))
    for name in names:
        if name not in known:
            raise ValueError(f"--op: there is no {name!r}, only {', '.join(known)}")
    return [case for case in CASES if device in case.devices and case.operator in (names or known)]


def _about(device: Any, bandwidth: float) -> dict[str, Any]:
    import torch

    from fastregion._native import native_module
    from fastregion.benchmarking.peers import missing

    native = native_module()
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "instructions": native.cpu_isa() if native else "no native module",
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "copy_gb_per_s": bandwidth / 1e9,
        "not_installed": list(missing()),
    }


def _print_table(about: dict[str, Any], rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for operator in dict.fromkeys(row.case.operator for row in rows):
        table = Table(title=operator, title_justify="left", box=None)
        table.add_column("shape")
        table.add_column("peer")
        for name in ("peer ms", "ours ms", "ratio", "MB", "of roof"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            if row.case.operator == operator:
                _add_row(table, row)
        console.print(table)
    absent = "".join(f"; {name} is not installed" for name in about["not_installed"])
    console.print(
        f"{about['device']}, {about['instructions']}, {about['threads']} thread(s), torch "
        f"{about['torch']}; a copy moves {about['copy_gb_per_s']:.1f} GB/s{absent}"
    )


def _add_row(table: Table, row: Row) -> None:
    shape = f"{row.case.shape}, {row.case.dtype}"
    ours = (f"{row.ours_ms:.3g}",)
    rest = (f"{row.bytes / 1e6:.1f}", f"{100 * row.roof_share:.0f} %")
    if not row.peers_ms:
        table.add_row(shape, "-", "-", *ours, "-", *rest)
    for name, ms in row.peers_ms.items():
        table.add_row(shape, name, f"{ms:,.3g}", *ours, f"{row.ratio(name):.3g}", *rest)
        shape, ours, rest = "", ("",), ("", "")
