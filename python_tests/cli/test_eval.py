"""``fastregion eval`` from outside: the built-in captioner on rendered scenes, and endpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chat_server import Server, running_server
from toy_benchmark import Toy, write_pictures

from fastregion.cli import main

SCENES = ("--set", "scenes=2", "--set", "first_seed=166")  # small ones, of 3 regions and of 1


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as found:
        yield found


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Result]:
    """Run ``fastregion eval`` in this process, in an empty folder, with a toy to evaluate."""
    from fastregion.evaluation.benchmarks import registry

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(registry, "NAMES", ("scenes", "toy"))
    monkeypatch.setitem(registry._CLASSES, "toy", ("toy_benchmark", "Toy"))
    write_pictures(tmp_path / "data")

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as caught:
            main(["eval", *map(str, arguments)])
        code = caught.value.code
        assert isinstance(code, int)
        return Result(code, *capsys.readouterr())

    return run


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fastregion", "eval", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "COLUMNS": "120",
            "HF_HUB_OFFLINE": "1",
            "https_proxy": "http://[::1]:9",
        },
    )


@pytest.mark.slow
def test_mini_on_scenes_killed_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    killed = start("scenes", *SCENES, "--output", tmp_path / "run")
    said = tmp_path / "run" / "predictions.jsonl"
    deadline = time.monotonic() + 300
    while not said.exists() or len(said.read_bytes().splitlines()) < 2:
        assert killed.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "run" / "scores.json").exists()

    resumed = start("scenes", *SCENES, "--output", tmp_path / "run", "--resume")
    whole = start("scenes", *SCENES, "--output", tmp_path / "whole")
    for process in (resumed, whole):
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        assert "fastregion/mini on scenes" in out
        assert "scenes: main colour" in out
    for name in ("scores.json", "report.html"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["header"]["model"] == "fastregion/mini"
    assert scores["table"]["scenes: size"]["value"] > 0.8
    assert all(item["text"] for item in scores["items"].values())
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == len(scores["items"])


def test_the_list(run: Callable[..., Result]) -> None:
    result = run("--list")
    assert (result.code, result.err) == (0, "")
    assert "scenes, first_seed, lookalikes, photos" in result.out
    listed = json.loads(run("--list", "--json").out)
    assert listed["scenes"]["needs_data"] is False
    assert listed["toy"]["settings"] == ["attempts"]


def endpoint(server: Server, model: str = "good") -> list[str]:
    return ["--model", f"openai:{model}", "--model-url", server.base_url]


def test_a_general_model_and_a_judge_at_an_endpoint(
    run: Callable[..., Result], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTREGION_JUDGE_KEY", "judge-key")
    monkeypatch.setenv("FASTREGION_MODEL_KEY", "model-key")
    judge = ("--judge", server.base_url, "--judge-model", "slow")
    before = len(server.log())
    result = run("toy", *endpoint(server), "--data", "data", *judge,
                 "--price", 1, 2, "--model-price", 3, 4, "--present", "overlay", "--repeats", 2,
                 "--json")  # fmt: skip
    assert (result.code, result.err) == (0, "")
    values = json.loads(result.out)
    assert values["header"]["model"] == "good, overlay"
    assert values["header"]["judge"] == "slow"
    assert values["usage"]["requests"] == 32
    assert values["usage"]["cost"] == pytest.approx((3200 + 2 * 320) / 1e6)
    assert values["model_usage"] == {
        "requests": 8, "prompt_tokens": 800, "completion_tokens": 80,
        "cost": pytest.approx((800 * 3 + 80 * 4) / 1e6),
    }  # fmt: skip
    text = values["items"]["0-0"]["text"]
    assert text == "echo This is about the tinted region.\nwhat?"
    assert Path("runs/toy-openai-good/scores.json").is_file()
    entries = server.log()[before:]
    keys = {(entry["model"], entry["headers"]["Authorization"]) for entry in entries}
    assert keys == {("good", "Bearer model-key"), ("slow", "Bearer judge-key")}
    printed = run("toy", *endpoint(server), "--data", "data", *judge, "--repeats", 2,
                  "--present", "overlay", "--resume")  # fmt: skip
    assert "spread" in printed.out
    assert "model: 80 completion tokens, 800 prompt tokens, 8 requests" in printed.out
    assert "judge: 320 completion tokens, 3200 prompt tokens, 32 requests" in printed.out
    assert len(server.log()[before:]) == len(entries)  # everything was on disk
    for file in Path("runs").rglob("*.*"):
        assert b"-key" not in file.read_bytes(), file


def test_the_judge_of_the_environment_is_for_benchmarks_that_have_one(
    run: Callable[..., Result], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTREGION_JUDGE", server.base_url)
    monkeypatch.setenv("FASTREGION_JUDGE_MODEL", "good")
    result = run("toy", *endpoint(server), "--data", "data", "--limit", 1, "--json")
    assert json.loads(result.out)["header"]["judge"] == "good"
    # scenes go on without it, up to the next thing that is wrong
    assert "model: unknown name" in run("scenes", "--set", "scenes=1", "--model", "x").err


def test_a_dead_judge_ends_with_code_1_and_a_report(
    run: Callable[..., Result], server: Server
) -> None:
    judge = ("--judge", "http://127.0.0.1:9/v1", "--judge-model", "m", "--tries", 1)
    result = run("toy", *endpoint(server), "--data", "data", *judge)
    assert result.code == 1
    assert "8 items not judged, and not in the table: 0-0, " in result.out
    assert "ConnectError" in result.out
    good = ("--judge", server.base_url, "--judge-model", "good")
    assert run("toy", *endpoint(server), "--data", "data", *good, "--resume").code == 0


def test_a_dead_model_ends_with_code_1_and_a_report(run: Callable[..., Result]) -> None:
    model = ("--model", "openai:m", "--model-url", "http://127.0.0.1:9/v1", "--tries", 1)
    result = run("toy", *model, "--data", "data")
    assert result.code == 1
    assert "8 items without an answer of the model: 0-0, " in result.out
    assert "no judge was asked" in result.out


def test_a_record_and_the_recorded_judge(run: Callable[..., Result], server: Server) -> None:
    Path("old.txt").write_text("".join(f"{k}-{r}\ttext {k}\n" for k in range(4) for r in range(2)))
    result = run("toy", "--data", "data", "--judge", "recorded", "--record", "old.txt", "--json")
    assert result.code == 0
    assert json.loads(result.out)["table"]["right"]["value"] == 1.0
    judge = ("--judge", server.base_url, "--judge-model", "good")
    assert run("toy", *endpoint(server), "--data", "data", *judge).code == 0
    again = run("toy", *endpoint(server), "--data", "data", "--judge", "recorded", "--resume")
    assert again.code == 0
    assert "judged by good" in again.out


def test_comparing_two_runs(run: Callable[..., Result], server: Server) -> None:
    for name, present in (("a", "contour"), ("b", "crop")):
        options = ("--data", "data", "--present", present, "--output", name)
        assert run("toy", *endpoint(server), *options).code == 0
    result = run("--compare", "a", "b")
    assert result.code == 0
    assert "a: good, contour on toy" in result.out
    assert "8 items changed" in result.out
    found = json.loads(run("--compare", "a", "b", "--json").out)
    assert found["differences"]["length"]["a"] != found["differences"]["length"]["b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "benchmark: expected one of scenes, toy, got 'nonsense'"),
        (["scenes", "--set", "scene=2"], "set: scenes has the settings scenes, first_seed"),
        (["scenes", "--set", "scenes=many"], "set: scenes: expected int, got 'many'"),
        (["scenes", "--set", "scenes=0"], "scenes: expected at least one scene"),
        (["scenes", "--model", "nonsense"], "model: unknown name 'nonsense'"),
        (["scenes", "--judge", "http://h/v1", "--judge-model", "m"], "judge: scenes has no judge"),
        (["toy", "--data", "data", "--model", "openai:m"], "model: 'openai:m' needs --model-url"),
        (["toy"], "data: toy needs the folder"),
        (["toy", "--data", "data", "--judge", "nonsense"], "judge: expected the URL"),
        (["toy", "--data", "data", "--judge", "http://h/v1"], "needs the name of its model"),
        (["toy", "--data", "data", "--judge", "recorded"], "judge: no answers are recorded in"),
        (["toy", "--data", "data", "--judge", "local:nowhere"], "judge: 'nowhere' is no folder"),
        (["--compare", "nowhere", "data"], "compare: 'nowhere/scores.json': no such file"),
        (["--json"], "BENCHMARK: expected a name; --list has all"),
        (["toy", "--limit", "0"], "--limit"),
    ],
)
def test_bad_input_is_one_line(
    run: Callable[..., Result], arguments: list[str], message: str
) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not Path("runs").exists()


def test_settings_of_every_kind() -> None:
    from fastregion.evaluation.settings import make_benchmark

    made: Any = make_benchmark("scenes", ["scenes=3", "lookalikes=none", "photos=none"])
    assert (made.scenes, made.lookalikes, made.photos) == (3, None, None)
    assert Toy().attempts == 1
