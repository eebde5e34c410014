"""JSON files that others wrote: read whole, within a limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["read_json_file"]


def read_json_file(file: Path, max_bytes: int) -> Any:
    """Read a file of at most ``max_bytes``; the caller says whose it is, in front of the message.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is larger, or not JSON.
    """
    if not file.is_file():
        raise FileNotFoundError("no such file")
    if file.stat().st_size > max_bytes:
        raise ValueError(f"the file is larger than {max_bytes >> 20} MiB")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # both bad UTF-8 and bad JSON
        raise ValueError(f"not valid JSON ({error})") from error
    except RecursionError as error:
        raise ValueError("not valid JSON (nested too deeply)") from error
