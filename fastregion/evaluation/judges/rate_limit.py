"""How fast an endpoint may be asked: requests and tokens a minute, and pauses that it asks for."""

from __future__ import annotations

import threading
import time

__all__ = ["RateLimit"]


class RateLimit:
    """Spaces requests of several threads.

    Each limit is a bucket that fills evenly and from which requests take.

    Args:
        requests_per_minute: None for no limit.
        tokens_per_minute: of prompts and answers together; None for no limit.
        stopped: set to end all waiting.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        stopped: threading.Event,
    ) -> None:
        for name, limit in (
            ("requests_per_minute", requests_per_minute),
            ("tokens_per_minute", tokens_per_minute),
        ):
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}: expected a number above 0, got {limit}")
        # No burst: a request goes when a whole one has flowed in. Of tokens nobody knows how many
        # an answer has, so that one begins when none are owed.
        self._requests = requests_per_minute and _Bucket(requests_per_minute, most=1.0, needed=1.0)
        self._tokens = tokens_per_minute and _Bucket(tokens_per_minute, tokens_per_minute, 0.0)
        self._lock = threading.Lock()
        self._paused_until = time.monotonic()
        self._stopped = stopped

    def wait(self, tokens: int) -> bool:
        """Wait for the turn of a request of about so many tokens; False when it was stopped."""
        while not self._stopped.is_set():
            with self._lock:
                delay = self._paused_until - time.monotonic()
                for bucket in (self._requests, self._tokens):
                    delay = max(delay, bucket.delay() if bucket else 0.0)
                if delay <= 0:
                    if self._requests:
                        self._requests.level -= 1
                    if self._tokens:
                        self._tokens.level -= tokens
                    return True
            self._stopped.wait(delay)
        return False

    def correct(self, tokens: int) -> None:
        """Take so many tokens more than ``wait`` was told (fewer where negative)."""
        with self._lock:
            if self._tokens:
                self._tokens.level -= tokens

    def pause(self, seconds: float) -> None:
        """Let no request begin for so long."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)


class _Bucket:
    """Fills evenly to ``most``; ``needed`` must be in it for the next request."""

    def __init__(self, per_minute: float, most: float, needed: float) -> None:
        self.level = self._most = most
        self._per_second, self._needed = per_minute / 60, needed
        self._filled = time.monotonic()

    def delay(self) -> float:
        """Seconds until there is enough, 0 when there is."""
        now = time.monotonic()
        self.level = min(self.level + (now - self._filled) * self._per_second, self._most)
        self._filled = now
        return max(0.0, (self._needed - self.level) / self._per_second)
