"""A process that speaks the OpenAI chat-completions API on loopback, well or badly.

The name of the model says how: words joined by "+", of which the n-th request of one message gets
the n-th (the last one for ever after). ``python chat_server.py`` prints its port and serves until
its standard input is closed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

WAIT = 0.3  # seconds that a busy server asks to wait
SLOW = 0.05  # seconds of a slow answer


class Server:
    """The process, as the tests see it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def log(self) -> list[dict[str, Any]]:
        """All requests so far: model, text of the message, time, headers, body."""
        with urlopen(f"{self.url}/log", timeout=30) as response:
            entries: list[dict[str, Any]] = json.load(response)
        return entries


@contextmanager
def running_server() -> Iterator[Server]:
    """Start the process, and end it."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Server(int(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=30)


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    entries: list[dict[str, Any]] = []  # noqa: RUF012 (one process, one log)
    seen: dict[tuple[str, str], int] = {}  # noqa: RUF012
    lock = threading.Lock()

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.send(200, json.dumps(self.entries))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model, text = body["model"], text_of(body["messages"][-1])
        with self.lock:
            count = self.seen[model, text] = self.seen.get((model, text), 0) + 1
            self.entries.append({"model": model, "text": text, "time": time.monotonic(),
                                 "path": self.path, "headers": dict(self.headers),
                                 "body": body})  # fmt: skip
        ways = model.split("+")
        way = ways[min(count, len(ways)) - 1]
        self.answer(way, text)

    def answer(self, way: str, text: str) -> None:
        if way == "slow":
            time.sleep(SLOW)
        if way in ("good", "slow"):
            self.send(200, completion(f"echo {text}"))
        elif way == "garbage":
            self.send(200, completion("\x00 ?? <script>alert(1)</script>"))
        elif way == "429-wait":
            self.send(429, "busy", {"Retry-After": str(WAIT)})
        elif way == "429-date":
            self.send(429, "busy", {"Retry-After": formatdate(time.time() + 1.5, usegmt=True)})
        elif way == "429-long":
            self.send(429, "busy", {"Retry-After": "99999"})
        elif way.isdigit():
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            self.send(int(way), f'{{"error": "no {way} for {key}"}}')
        elif way == "close":
            self.close_connection = True
        elif way == "timeout":
            time.sleep(3)
        elif way == "drip":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(30):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
            self.close_connection = True
        elif way == "half":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(completion("cut")[:20].encode())
            self.close_connection = True
        elif way == "html":
            self.send(200, "<html>sign in</html>", {"Content-Type": "text/html"})
        else:
            self.send(200, _BODIES[way])

    def send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def completion(text: str) -> str:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    message = {"role": "assistant", "content": text}
    return json.dumps({"choices": [{"index": 0, "message": message}], "usage": usage})


_BODIES = {
    "broken": completion("cut")[:-9],
    "nested": "[" * 200_000,
    "null": json.dumps({"choices": [{"message": {"content": None}}]}),
    "empty": json.dumps({"choices": []}),
    "list": "[1]",
    "huge": completion("x" * (6 << 20)),
    "surrogate": completion("half \ud800"),
    "endless-usage": json.dumps({"choices": [{"message": {"content": "odd"}}],
                                 "usage": {"prompt_tokens": 10**400}}),
    "odd-usage": json.dumps({"choices": [{"message": {"content": "odd"}}],
                             "usage": {"prompt_tokens": "many", "completion_tokens": -1}}),
}  # fmt: skip


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


def main() -> None:
    server = _Server(("127.0.0.1", 0), _Handler)
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
