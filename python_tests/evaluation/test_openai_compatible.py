"""An endpoint asked over HTTP, when it answers well and when it fails in every way."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from chat_server import WAIT, Server, running_server

from fastregion.evaluation.judges.chat import Answer, Unanswered
from fastregion.evaluation.judges.choose import api_key
from fastregion.evaluation.judges.openai_compatible import Endpoint, OpenAICompatible
from fastregion.evaluation.judges.rate_limit import RateLimit


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as found:
        yield found


@pytest.fixture
def open_model(server: Server) -> Iterator[Any]:
    opened: list[OpenAICompatible] = []

    def make(model: str, **options: Any) -> OpenAICompatible:
        quick = {"base_url": server.base_url, "tries": 3, "back_off": 0.02, "timeout": 20.0}
        endpoint = Endpoint(model=model, **{**quick, **options})
        opened.append(OpenAICompatible(endpoint))
        return opened[-1]

    yield make
    for chat in opened:
        chat.close()


def message(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def requests(server: Server, text: str) -> list[dict[str, Any]]:
    return [entry for entry in server.log() if entry["text"] == text]


def test_what_is_asked_and_what_comes_back(server: Server, open_model: Any) -> None:
    chat = open_model("good", api_key="k-1")
    parts = [
        {"type": "text", "text": "is it so?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
    ]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": parts}]
    answer = chat.ask(messages, {"temperature": 0, "max_tokens": 3})
    assert answer == Answer(
        text="echo is it so?", usage={"prompt_tokens": 100, "completion_tokens": 10}
    )
    (entry,) = requests(server, "is it so?")
    assert entry["path"] == "/v1/chat/completions"
    assert entry["body"] == {
        "model": "good", "messages": messages, "temperature": 0, "max_tokens": 3,
    }  # fmt: skip
    assert entry["headers"]["Authorization"] == "Bearer k-1"


def test_halves_of_surrogate_pairs_are_sent_as_question_marks(open_model: Any) -> None:
    assert open_model("good").ask(message("a \ud83d cat \U0001f408"), {}).text == (
        "echo a ? cat \U0001f408"
    )


def test_without_a_key_none_is_sent(server: Server, open_model: Any) -> None:
    open_model("good").ask(message("no key"), {})
    (entry,) = requests(server, "no key")
    assert "Authorization" not in entry["headers"]


@pytest.mark.parametrize(
    "way",
    ["429", "429-wait", "500", "503", "408", "close", "half", "broken", "nested", "html", "null",
     "empty", "list"],
)  # fmt: skip
def test_what_may_pass_is_tried_again(server: Server, open_model: Any, way: str) -> None:
    text = f"once {way}"
    answer = open_model(f"{way}+good").ask(message(text), {})
    assert answer.text == f"echo {text}"
    assert len(requests(server, text)) == 2


def test_a_server_that_does_not_answer_is_given_so_long(server: Server, open_model: Any) -> None:
    start = time.monotonic()
    answer = open_model("timeout+good", timeout=0.4).ask(message("late"), {})
    assert answer.text == "echo late"
    assert time.monotonic() - start < 2.5


def test_the_time_limit_is_one_of_the_whole_answer(server: Server, open_model: Any) -> None:
    # a byte comes every 0.1 s: no single wait is long
    with pytest.raises(Unanswered, match="took too long"):
        open_model("drip", timeout=0.5, tries=1).ask(message("drip"), {})


@pytest.mark.parametrize(
    ("way", "reason", "count"),
    [
        ("500", r"HTTP 500 .*\(try 3\)", 3),
        ("close", r"\(try 3\)", 3),
        ("broken", r"not JSON \(try 3\)", 3),
        ("nested", r"not JSON", 3),
        ("html", "content type: expected application/json, got 'text/html'", 3),
        ("null", r"no choices\[0\]\.message\.content", 3),
        ("huge", "larger than 4 MiB", 1),
        ("400", r"HTTP 400 .*\(try 1\)", 1),
        ("422", "HTTP 422", 1),
        ("301", "HTTP 301", 1),
        ("429-long", "asks to wait 99999 s", 1),
    ],
)
def test_what_does_not_pass_is_reported(
    server: Server, open_model: Any, way: str, reason: str, count: int
) -> None:
    text = f"always {way}"
    with pytest.raises(Unanswered, match=reason):
        open_model(way).ask(message(text), {})
    assert len(requests(server, text)) == count


def test_a_port_where_nobody_listens(open_model: Any) -> None:
    chat = open_model("good", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(Unanswered, match="ConnectError"):
        chat.ask(message("anyone?"), {})


def test_a_wrong_key_is_tried_once_and_never_again(server: Server, open_model: Any) -> None:
    chat = open_model("401", api_key="k-secret")
    with pytest.raises(Unanswered, match="HTTP 401") as caught:
        chat.ask(message("first"), {})
    assert "k-secret" not in str(caught.value)  # the server repeats it
    with pytest.raises(Unanswered, match="given up") as caught:
        chat.ask(message("second"), {})
    assert "k-secret" not in str(caught.value)
    assert requests(server, "second") == []


def test_an_endpoint_that_only_fails_is_given_up(server: Server, open_model: Any) -> None:
    chat = open_model("500", tries=1)
    for number in range(8):
        with pytest.raises(Unanswered):
            chat.ask(message(f"down {number}"), {})
    asked = [entry for entry in server.log() if entry["text"].startswith("down ")]
    assert len(asked) == 5


def test_one_good_answer_and_it_is_not_given_up(open_model: Any) -> None:
    chat = open_model("400+good", tries=1)
    for number in range(12):  # each message fails once, then is answered
        with pytest.raises(Unanswered):
            chat.ask(message(f"now and then {number}"), {})
        assert chat.ask(message(f"now and then {number}"), {}).text


def test_a_busy_server_is_waited_for_by_all_threads(server: Server, open_model: Any) -> None:
    chat = open_model("429-wait+good", concurrency=2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(chat.ask, message("busy 0"), {})
        time.sleep(WAIT / 3)  # the first one has been told to wait
        second = pool.submit(chat.ask, message("busy 1"), {})
        assert (first.result().text, second.result().text) == ("echo busy 0", "echo busy 1")
    (refused, accepted), others = (requests(server, f"busy {k}") for k in range(2))
    assert accepted["time"] - refused["time"] >= WAIT
    assert others[0]["time"] - refused["time"] >= WAIT


def test_a_date_to_wait_for(server: Server, open_model: Any) -> None:
    assert open_model("429-date+good").ask(message("dated"), {}).text
    refused, accepted = requests(server, "dated")
    assert 0.3 <= accepted["time"] - refused["time"] < 6  # dates have whole seconds


def test_back_off_grows(server: Server, open_model: Any) -> None:
    with pytest.raises(Unanswered):
        open_model("500", tries=4, back_off=0.1).ask(message("grows"), {})
    times = [entry["time"] for entry in requests(server, "grows")]
    waits = [after - before for before, after in itertools.pairwise(times)]
    for wait, most in zip(waits, (0.1, 0.2, 0.4), strict=True):
        assert wait >= most / 2


def test_requests_a_minute(open_model: Any) -> None:
    chat = open_model("good", requests_per_minute=600.0, concurrency=4)  # 10 a second
    start = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: chat.ask(message(f"paced {k}"), {}), range(5)))
    assert time.monotonic() - start >= 0.39


def test_tokens_a_minute_count_what_was_used(open_model: Any) -> None:
    start = time.monotonic()
    chat = open_model("good", tokens_per_minute=6000.0)  # 100 a second, from now on
    chat._limit.correct(6000)  # the minute's worth is gone
    for k in range(3):  # 110 each: the third begins when the first two are paid
        chat.ask(message(f"tokens {k}"), {})
    assert time.monotonic() - start >= 2.1


def test_closing_ends_the_waiting(open_model: Any) -> None:
    chat = open_model("429-wait", tries=1000)
    threading.Timer(0.2, chat.close).start()
    start = time.monotonic()
    with pytest.raises(Unanswered):
        chat.ask(message("until closed"), {})
    assert time.monotonic() - start < 5


def test_odd_usage_is_not_counted(open_model: Any) -> None:
    for way in ("odd-usage", "endless-usage"):
        chat = open_model(way, tokens_per_minute=1e6)
        assert chat.ask(message("usage"), {}) == Answer(text="odd")


def test_text_that_no_file_takes_is_mended(open_model: Any) -> None:
    assert open_model("surrogate").ask(message("half"), {}).text == "half ?"


def test_a_limit_that_is_none_does_not_wait() -> None:
    limit = RateLimit(None, None, threading.Event())
    assert all(limit.wait(10**9) for _ in range(100))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000/v1"}, "base_url: expected http"),
        ({"base_url": "file:///etc/passwd"}, "base_url: expected http"),
        ({"base_url": "http://user:pw@host/v1"}, "base_url: expected an address without user"),
        ({"model": " "}, "model: expected the name"),
        ({"api_key": "secret\nX-Other: 1"}, "api_key: expected ASCII characters"),
        ({"api_key": "sécret secret"}, "api_key: expected ASCII characters"),
        ({"concurrency": 0}, "concurrency: must be at least 1, got 0"),
        ({"tries": 0}, "tries: must be at least 1, got 0"),
        ({"timeout": 0}, "timeout: must be above 0 seconds, got 0"),
        ({"back_off": float("nan")}, "back_off: must be above 0 seconds, got nan"),
    ],
)
def test_bad_endpoints_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Endpoint(**{"base_url": "http://localhost/v1", "model": "m", **options})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
def test_limits_above_zero(name: str) -> None:
    endpoint = Endpoint(base_url="http://localhost/v1", model="m", **{name: 0.0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{name}: expected a number above 0, got 0"):
        OpenAICompatible(endpoint)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    monkeypatch.delenv("FASTREGION_JUDGE_KEY", raising=False)
    assert api_key("https://api.openai.com/v1", "FASTREGION_JUDGE_KEY") == "theirs"
    # OpenAI's key is nobody else's business
    assert api_key("http://api.openai.com.example.org/v1", "FASTREGION_JUDGE_KEY") is None
    monkeypatch.setenv("FASTREGION_JUDGE_KEY", "own\n")  # as read from a file
    assert api_key("http://localhost/v1", "FASTREGION_JUDGE_KEY") == "own"
    assert "own" not in repr(Endpoint(base_url="http://localhost/v1", model="m", api_key="own"))
