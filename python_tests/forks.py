"""Processes with everything imported, which are made in no time: forks of the one that tests."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

__all__ = ["fork", "fork_group", "join", "one_thread"]

_PATIENCE = 300  # seconds


@contextmanager
def one_thread() -> Iterator[None]:
    """A fork has none of the threads its parent computed with; and bits depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fork(run: Callable[[], object], environment: Mapping[str, str] | None = None) -> int:
    """The number of a process that does something and ends with exit code 0."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.environ.update(environment or {})
            run()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def fork_group(run: Callable[[], object], count: int = 2) -> list[int]:
    """Several that do the same, as torchrun makes them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
    }
    places = ({"RANK": str(k), "LOCAL_RANK": str(k)} for k in range(count))
    return [fork(run, {**group, **place}) for place in places]


def join(children: list[int], patience: float = _PATIENCE) -> list[int]:
    """Their exit codes; negative for a signal, that of a process that never ends too."""
    alarm = threading.Timer(
        patience, lambda: [os.kill(child, signal.SIGKILL) for child in children]
    )
    alarm.start()
    try:
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    finally:
        alarm.cancel()
