"""The wording of judges: template files, ours or the user's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastregion.images import check_input_file

__all__ = ["Template", "read_template"]

_FOLDER = Path(__file__).with_name("judge_templates")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Template:
    """A template.

    Attributes:
        name: of its file.
        text: what it says.
        sha256: of its bytes, for reports.
    """

    name: str
    text: str
    sha256: str


def read_template(name: str | None, file: Path | None = None) -> Template | None:
    """Read a template of the package, or the user's in its place.

    Args:
        name: of ours; None where the benchmark has none.
        file: the user's; None for ours.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file for a benchmark without a template, or one that is no text.
    """
    if file is not None and name is None:
        raise ValueError("template: this benchmark has no wording that could be replaced")
    if name is None:
        return None
    path = _FOLDER / name if file is None else file
    check_input_file(path, "a text file", argument="template")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"template: {str(path)!r} is larger than {_MAX_BYTES >> 20} MiB")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"template: {str(path)!r} is no UTF-8 text: {error}") from error
    return Template(name=path.name, text=text, sha256=hashlib.sha256(content).hexdigest())
