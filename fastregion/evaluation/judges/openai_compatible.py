"""An endpoint that speaks the OpenAI chat-completions API, with everything that can go wrong.

Connections that fail, time-outs, 408, 409, 425, 429, 5xx and answers that are no chat completion
are tried again, with exponential back-off and jitter, or when ``Retry-After`` says. Anything else
is refused for good. After several refusals in a row the endpoint is asked no more: what is
left is reported, and the next run goes on there.
"""

from __future__ import annotations

import email.utils
import json
import math
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastregion.evaluation.judges.chat import Answer, Messages, Unanswered
from fastregion.evaluation.judges.rate_limit import RateLimit

if TYPE_CHECKING:
    import httpx

__all__ = ["Endpoint", "OpenAICompatible"]

_AGAIN = frozenset((408, 409, 425, 429))
_USELESS = frozenset((401, 403, 404))  # the next request would fare no better
_LONGEST_BACK_OFF = 60.0  # seconds
_LONGEST_RETRY_AFTER = 600.0  # seconds
_GIVE_UP_AFTER = 5  # requests in a row that failed for good
_MAX_BYTES = 4 << 20  # of an answer
_MOST_TOKENS = 1 << 31  # of a usage that is believed
_CHARACTERS_PER_TOKEN = 4  # about, for the limit of tokens, until the endpoint tells
_TOKENS_PER_PICTURE = 1000  # likewise


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where an endpoint is and how it is asked.

    Attributes:
        base_url: such as ``https://api.openai.com/v1``; ``/chat/completions`` is put behind it.
        model: its name there.
        api_key: sent as a bearer token; None sends none.
        concurrency: requests at a time.
        timeout: seconds for a request, from its beginning to the last byte of the answer.
        tries: requests until one message is given up.
        back_off: seconds before the second try; doubled for each further one.
        requests_per_minute: None for no limit.
        tokens_per_minute: of prompts and answers; None for no limit.

    Raises:
        ValueError: a value out of its range.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 8
    timeout: float = 120.0
    tries: int = 6
    back_off: float = 1.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"base_url: expected http://... or https://..., got {self.base_url!r}")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("base_url: expected an address without user, query and fragment")
        if not self.model.strip():
            raise ValueError("model: expected the name of the endpoint's model, got a blank one")
        key = self.api_key or "-"
        if not (key.isascii() and key.isprintable()) or " " in key:  # not shown: it is a secret
            raise ValueError("api_key: expected ASCII characters without blanks and line ends")
        for name in ("concurrency", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("timeout", "back_off"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0 seconds, got {getattr(self, name)}")


class _Failed(Exception):
    """A request failed.

    Attributes:
        again: whether the same request may fare better; if not, it is refused for good.
        wait: seconds that the endpoint asks to wait; None where it is ours to choose.
        useless: whether no other request would fare better either.
    """

    def __init__(
        self, reason: str, *, again: bool, wait: float | None = None, useless: bool = False
    ) -> None:
        super().__init__(reason)
        self.again, self.wait, self.useless = again, wait, useless


class OpenAICompatible:
    """Answers messages by a chat-completions endpoint; see :class:`..chat.Chat`.

    Args:
        endpoint: where and how.

    Raises:
        ImportError: httpx is not installed.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ImportError(
                'an endpoint needs httpx, which is not installed; pip install "fastregion[eval]"'
            ) from error
        self.name, self.concurrency = endpoint.model, endpoint.concurrency
        self._endpoint = endpoint
        self._stopped = threading.Event()
        self._limit = RateLimit(
            endpoint.requests_per_minute, endpoint.tokens_per_minute, self._stopped
        )
        self._lock = threading.Lock()
        self._failures_in_a_row = 0
        self._given_up: str | None = None
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
        if endpoint.api_key:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        self._client = httpx.Client(
            headers=headers,
            timeout=endpoint.timeout,
            limits=httpx.Limits(max_connections=endpoint.concurrency),
        )

    def ask(self, messages: Messages, options: Mapping[str, Any]) -> Answer:
        """See :meth:`..chat.Chat.ask`."""
        body = {"model": self.name, "messages": list(messages), **options}
        tokens = _estimate(messages) + int(options.get("max_tokens") or 0)
        for number in range(1, self._endpoint.tries + 1):
            if self._given_up is not None:
                raise Unanswered(self._given_up)
            if not self._limit.wait(tokens):
                raise Unanswered("stopped")
            try:
                answer = self._request(body)
            except _Failed as failed:
                if not failed.again or number == self._endpoint.tries:
                    raise self._refused(failed, number) from None
                wait = failed.wait
                if wait is None:
                    most = min(self._endpoint.back_off * 2 ** (number - 1), _LONGEST_BACK_OFF)
                    wait = most * random.uniform(0.5, 1.0)  # threads that failed together spread
                else:
                    self._limit.pause(wait)  # all threads, not only this one
                self._stopped.wait(wait)
                continue
            with self._lock:
                self._failures_in_a_row = 0
            if answer.usage:
                self._limit.correct(sum(answer.usage.values()) - tokens)
            return answer
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """End waiting and close the connections."""
        self._stopped.set()
        self._client.close()

    def _refused(self, failed: _Failed, number: int) -> Unanswered:
        reason = f"{failed} (try {number})"
        with self._lock:
            self._failures_in_a_row += 1
            if failed.useless or self._failures_in_a_row >= _GIVE_UP_AFTER:
                self._given_up = f"the endpoint was given up: {failed}"
        return Unanswered(reason)

    def _request(self, body: Mapping[str, Any]) -> Answer:
        import httpx

        timeout = self._endpoint.timeout
        deadline = time.monotonic() + timeout
        url = self._endpoint.base_url.rstrip("/") + "/chat/completions"
        # Halves of surrogate pairs, which captions read from JSON may hold, become question marks.
        content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
        try:
            with self._client.stream("POST", url, content=content) as response:
                answer = _read(response, deadline)
                if response.status_code != 200:
                    raise self._bad_status(response, answer)
                kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
        except httpx.TimeoutException:
            raise _Failed(f"no answer in {timeout:g} s", again=True) from None
        except httpx.HTTPError as error:
            raise _Failed(f"{type(error).__name__}: {error}", again=True) from None
        if kind != "application/json":
            raise _Failed(f"content type: expected application/json, got {kind!r}", again=True)
        return _parse(answer)

    def _bad_status(self, response: httpx.Response, content: bytes) -> _Failed:
        status = response.status_code
        said = content.decode("utf-8", "replace")
        if self._endpoint.api_key:  # some endpoints repeat it; no part of it may be left by a cut
            said = said.replace(self._endpoint.api_key, "(key)")
        reason = f"HTTP {status} {' '.join(said[:300].split())}".rstrip()
        if status not in _AGAIN and status < 500:
            return _Failed(reason, again=False, useless=status in _USELESS)
        wait = _retry_after(response.headers.get("retry-after"))
        if wait is not None and wait > _LONGEST_RETRY_AFTER:
            return _Failed(f"{reason}; asks to wait {wait:.0f} s", again=False, useless=True)
        return _Failed(reason, again=True, wait=wait)


def _read(response: httpx.Response, deadline: float) -> bytes:
    """The body; httpx limits the time between bytes, not that of the whole, nor the size."""
    content = bytearray()
    for piece in response.iter_bytes():
        content += piece
        if len(content) > _MAX_BYTES:
            raise _Failed(f"the answer is larger than {_MAX_BYTES >> 20} MiB", again=False)
        if time.monotonic() > deadline:
            raise _Failed("the answer took too long", again=True)
    return bytes(content)


def _parse(content: bytes) -> Answer:
    try:
        values = json.loads(content)
        text = values["choices"][0]["message"]["content"]
    except (ValueError, RecursionError):
        raise _Failed("the answer is not JSON", again=True) from None
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise _Failed("the answer has no choices[0].message.content", again=True)
    told = values.get("usage")
    usage = {}
    for name in ("prompt_tokens", "completion_tokens"):
        count = told.get(name) if isinstance(told, dict) else None
        if type(count) is int and 0 <= count <= _MOST_TOKENS:
            usage[name] = count
    # JSON can spell halves of surrogate pairs, which no file or terminal takes.
    return Answer(text=text.encode("utf-8", "replace").decode(), usage=usage)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header, which holds seconds or a date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _estimate(messages: Messages) -> int:
    """Tokens of messages, about."""
    tokens = 0
    for message in messages:
        content = message.get("content") or ""
        for part in [{"text": content}] if isinstance(content, str) else content:
            text = part.get("text")
            tokens += len(text) // _CHARACTERS_PER_TOKEN if text else _TOKENS_PER_PICTURE
    return tokens
