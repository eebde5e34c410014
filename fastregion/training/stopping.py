"""A wish to stop, as SIGTERM and SIGINT express it, and what workers make of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["StopRequest", "end_with_parent", "ignore_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """While it is entered, SIGTERM and SIGINT are noted; a second SIGINT acts at once.

    Launchers may repeat a SIGTERM, so another one changes nothing. In another thread than the main
    one, where Python does not allow it, nothing is noted.

    Attributes:
        made: whether one has come.
    """

    def __init__(self) -> None:
        self.made = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.made and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.made = True


def ignore_signals(*_: object) -> None:
    """In a worker: signals to the group are the training process's, which saves and ends it."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_with_parent() -> None:
    """In a worker of a pool: without this it outlives a process that is killed, waiting for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
