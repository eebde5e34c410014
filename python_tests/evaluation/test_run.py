"""The three steps of an evaluation with a judge over HTTP, whole, stopped, killed and failing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Server, running_server
from toy_benchmark import PICTURES, REGIONS, Teller, Toy, write_pictures

from fastregion.evaluation.benchmarks.base import Item, Scores
from fastregion.evaluation.judges.chat import Unanswered
from fastregion.evaluation.judges.choose import recorded_judge
from fastregion.evaluation.judges.openai_compatible import Endpoint, OpenAICompatible
from fastregion.evaluation.predictions import Asked
from fastregion.evaluation.result import read_result
from fastregion.evaluation.run import ANSWERS, PREDICTIONS, evaluate
from fastregion.models.request import TooManyRegionsError

ITEMS = PICTURES * REGIONS


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as found:
        yield found


@pytest.fixture
def open_judge(server: Server) -> Iterator[Any]:
    opened: list[OpenAICompatible] = []

    def make(model: str = "good", **options: Any) -> OpenAICompatible:
        quick = {"base_url": server.base_url, "tries": 2, "back_off": 0.01, "timeout": 20.0}
        opened.append(OpenAICompatible(Endpoint(model=model, **{**quick, **options})))
        return opened[-1]

    yield make
    for chat in opened:
        chat.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "data")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(data: Path, output: Path | None, **options: Any) -> Any:
    arguments = {"benchmark": Toy(), "describer": Teller(), "progress": False, **options}
    return evaluate(**arguments, data=data, output=output)


def test_a_whole_run_and_its_files(data: Path, tmp_path: Path, open_judge: Any) -> None:
    teller = Teller()
    folder = tmp_path / "run"
    result = run(data, folder, describer=teller, chat=open_judge(), prices=(2.0, 10.0))
    assert [call[:2] for call in teller.calls] == [(f"{k}.png", REGIONS) for k in range(PICTURES)]
    assert result.table["right"].value == 1.0
    assert result.table["right"].count == ITEMS
    header, *said = rows(folder / PREDICTIONS)
    assert header["kind"] == "predictions"
    assert (header["benchmark"], header["version"], header["model"]) == ("toy", 3, "teller")
    assert said[1] == {
        "item": "0-1", "text": "0 at [2, 1, 4, 5] what?", "model": "teller", "prompt": "what?",
        "seed": 0, "extra": {}, "usage": {},
    }  # fmt: skip
    header, *answers = rows(folder / ANSWERS)
    assert header["kind"] == "answers"
    assert len(answers) == 2 * ITEMS == len({row["key"] for row in answers})
    first = next(row for row in answers if (row["item"], row["call"]) == ("0-0", "two"))
    assert first["answer"] == "echo two: 0 at [0, 1, 2, 5] what?"
    assert first["usage"] == {"prompt_tokens": 100, "completion_tokens": 10}
    assert result.usage == {
        "requests": 16, "prompt_tokens": 1600, "completion_tokens": 160,
        "cost": pytest.approx((1600 * 2 + 160 * 10) / 1e6),
    }  # fmt: skip
    assert read_result(folder, "output") == result
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_a_second_run_asks_nobody(data: Path, tmp_path: Path, open_judge: Any) -> None:
    first = run(data, tmp_path / "run", chat=open_judge())
    before = (tmp_path / "run" / "scores.json").read_bytes()
    silent = Teller(stop_after=0)
    dead = open_judge(base_url="http://127.0.0.1:9/v1")
    second = run(data, tmp_path / "run", describer=silent, chat=dead, resume=True)
    assert second == first
    assert (tmp_path / "run" / "scores.json").read_bytes() == before


def test_without_resume_a_folder_with_results_is_refused(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run")
    with pytest.raises(ValueError, match=r"output: .*holds results already; resume"):
        run(data, tmp_path / "run")


def test_a_stopped_model_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "run", describer=Teller(stop_after=2))
    assert len(rows(tmp_path / "run" / PREDICTIONS)) == 1 + 2 * REGIONS
    again = Teller()
    assert run(data, tmp_path / "run", describer=again, resume=True) == whole
    assert len(again.calls) == PICTURES - 2


def test_a_picture_that_was_half_written_is_asked_about_as_a_whole(
    data: Path, tmp_path: Path
) -> None:
    whole = run(data, tmp_path / "run")
    path = tmp_path / "run" / PREDICTIONS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))  # the second region of the last picture is lost
    again = Teller()
    assert run(data, tmp_path / "run", describer=again, resume=True) == whole
    assert [call[:2] for call in again.calls] == [("3.png", REGIONS)]


def test_another_model_is_refused(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run")
    with pytest.raises(ValueError, match=r"predictions\.jsonl holds results of"):
        run(data, tmp_path / "run", describer=Teller(model_id="other"), resume=True)


def test_answers_to_another_question_are_refused(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run")
    path = tmp_path / "run" / PREDICTIONS
    path.write_text(path.read_text().replace('"prompt": "what?"', '"prompt": "why?"'))
    with pytest.raises(ValueError, match=r"output: item '0-0' was asked 'why\?' before, and now"):
        run(data, tmp_path / "run", resume=True)


def test_a_changed_prediction_is_judged_again(
    data: Path, tmp_path: Path, open_judge: Any, server: Server
) -> None:
    folder = tmp_path / "run"
    run(data, folder, chat=open_judge())
    text = (folder / PREDICTIONS).read_text().replace("1 at [0, 1, 2, 5]", "something else")
    (folder / PREDICTIONS).write_text(text)
    before = len(server.log())
    result = run(data, folder, chat=open_judge(), resume=True)
    assert sorted(entry["text"] for entry in server.log()[before:]) == [
        "one: something else what?", "two: something else what?",
    ]  # fmt: skip
    assert result.items["1-0"].answers["one"] == ["echo one: something else what?"]
    assert len(rows(folder / ANSWERS)) == 1 + 2 * ITEMS + 2  # the old ones are kept


def test_what_the_user_asks_otherwise(data: Path) -> None:
    teller = Teller()
    asked = Asked(prompt="who?", options={"temperature": 0.5}, seed=7)
    result = run(data, None, describer=teller, asked=asked)
    assert teller.calls[0][2] == {"temperature": 0.5, "seed": 7}
    assert result.items["0-0"].text == "0 at [0, 1, 2, 5] who?"
    run(data, None, describer=teller, asked=Asked(seed=7))
    assert teller.calls[-1][2] == {}  # nothing is drawn


def test_only_the_first_items(data: Path) -> None:
    teller = Teller()
    result = run(data, None, describer=teller, limit=3)
    assert list(result.items) == ["0-0", "0-1", "1-0"]
    assert [call[:2] for call in teller.calls] == [("0.png", 2), ("1.png", 1)]


def test_a_dead_judge_loses_nothing(data: Path, tmp_path: Path, open_judge: Any) -> None:
    folder = tmp_path / "run"
    dead = open_judge(base_url="http://127.0.0.1:9/v1")
    result = run(data, folder, chat=dead)
    assert set(result.unjudged) == set(result.items)
    assert result.table == {}
    assert "nothing could be scored" in result.notes
    assert len(rows(folder / PREDICTIONS)) == 1 + ITEMS
    whole = run(data, folder, describer=Teller(stop_after=0), chat=open_judge(), resume=True)
    assert whole == run(data, None, chat=open_judge())


@pytest.mark.parametrize("way", ["400", "500", "huge", "html", "broken", "close", "null"])
def test_what_a_judge_failed_at_is_judged_by_the_next_run(
    data: Path, tmp_path: Path, open_judge: Any, way: str
) -> None:
    folder = tmp_path / "run"
    chat = open_judge(f"{way}+good", tries=1, concurrency=1)
    result = run(data, folder, chat=chat, limit=2)
    assert set(result.unjudged) == {"0-0", "0-1"}
    assert all(result.unjudged.values())
    again = run(data, folder, chat=chat, limit=2, resume=True)
    assert again.unjudged == {}
    assert again.table["right"].value == 1.0
    assert len(rows(folder / ANSWERS)) == 1 + 4


def test_only_the_unjudged_are_left_out_of_the_table(
    data: Path, tmp_path: Path, open_judge: Any
) -> None:
    folder = tmp_path / "run"
    run(data, folder, chat=open_judge(), limit=2)
    dead = open_judge(base_url="http://127.0.0.1:9/v1")
    result = run(data, folder, chat=dead, resume=True)
    assert set(result.unjudged) == set(result.items) - {"0-0", "0-1"}
    assert result.table["right"].count == 2


def test_answers_that_cannot_be_read_are_asked_again(
    data: Path, tmp_path: Path, open_judge: Any
) -> None:
    chat = open_judge("garbage+garbage+good")
    result = run(data, tmp_path / "run", benchmark=Toy(attempts=3), chat=chat)
    assert result.unreadable == []
    assert result.table["right"].value == 1.0
    assert result.usage["requests"] == 3 * 2 * ITEMS
    attempts = sorted(row["attempt"] for row in rows(tmp_path / "run" / ANSWERS)[1:])
    assert attempts == sorted([0, 1, 2] * 2 * ITEMS)


def test_answers_that_can_never_be_read_are_reported(data: Path, open_judge: Any) -> None:
    result = run(data, None, benchmark=Toy(attempts=2), chat=open_judge("garbage"))
    assert len(result.unreadable) == 2 * ITEMS
    assert result.unjudged == {}
    assert result.table["right"].value == 0.0
    assert "<script>" in result.items["0-0"].answers["one"][0]


def test_repeats_are_asked_and_spread(data: Path, tmp_path: Path, open_judge: Any) -> None:
    # of every message the first answer is right, the second is garbage
    result = run(data, tmp_path / "run", chat=open_judge("good+garbage"), repeats=2)
    right = result.table["right"]
    assert (right.value, right.spread) == (0.5, 0.5)
    assert (right.low, right.high) == (0.5, 0.5)  # every item is right in half of its repeats
    assert len(result.items["0-0"].answers["one"]) == 2
    assert len(rows(tmp_path / "run" / ANSWERS)) == 1 + 2 * 2 * ITEMS


def test_intervals_are_given_for_means_of_items_alone(data: Path) -> None:
    result = run(data, None)
    assert result.table["longest"].low is None
    length = result.table["length"]
    assert length.low is not None
    assert length.high is not None
    assert length.low <= length.value <= length.high
    assert not length.higher_is_better


def test_an_entry_that_is_not_the_mean_of_its_items_gets_no_interval(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Scores(table={"right": 0.9}, items={"0-0": {"right": 0.5}, "0-1": {"right": 1.0}})
    monkeypatch.setattr(Toy, "score", lambda *_: scores)
    assert run(data, None).table["right"].low is None


def test_a_record_needs_no_model(data: Path, tmp_path: Path, open_judge: Any) -> None:
    record = tmp_path / "old.txt"
    record.write_text("0-0\ta\n0-1\tb\n1-0\tc\n1-1\td\n2-0\te\n2-1\tf\n3-0\tg\n3-1\th\n")
    result = run(data, None, describer=None, record=record)
    assert result.table["right"].value == 1.0
    assert (result.header["model"], result.header["judge"]) == ("old", "its record")
    judged = run(data, tmp_path / "run", describer=None, record=record, chat=open_judge())
    assert judged.usage["requests"] == 16


def test_recorded_answers_need_no_judge(data: Path, tmp_path: Path, open_judge: Any) -> None:
    folder = tmp_path / "run"
    run(data, folder, chat=open_judge(), limit=4)
    chat = recorded_judge(folder / ANSWERS, None)
    assert chat.name == "good"
    result = run(data, folder, chat=chat, resume=True)
    assert list(result.unjudged) == ["2-0", "2-1", "3-0", "3-1"]
    assert "no answer" in result.unjudged["2-0"]
    assert result.table["right"].value == 1.0


def test_which_record_of_several(data: Path, tmp_path: Path, open_judge: Any) -> None:
    folder = tmp_path / "run"
    for model in ("good", "slow"):
        run(data, folder, chat=open_judge(model), limit=1, resume=True)
    with pytest.raises(ValueError, match="judge_model: expected one of good, slow"):
        recorded_judge(folder / ANSWERS, None)
    assert recorded_judge(folder / ANSWERS, "slow").name == "slow"
    with pytest.raises(FileNotFoundError, match="no answers are recorded"):
        recorded_judge(tmp_path / "none.jsonl", None)


_KILLED = """
import sys
from pathlib import Path
from toy_benchmark import Teller, Toy
from fastregion.evaluation.judges.openai_compatible import Endpoint, OpenAICompatible
from fastregion.evaluation.run import evaluate
chat = OpenAICompatible(Endpoint(base_url=sys.argv[1], model="slow", concurrency=2))
evaluate(Toy(), Teller(), data=Path(sys.argv[2]), output=Path(sys.argv[3]), chat=chat,
         resume=True, progress=False)
"""


def test_a_killed_run_goes_on_to_the_same_bytes(
    data: Path, tmp_path: Path, server: Server, open_judge: Any
) -> None:
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": tests}

    def start(folder: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-c",
            _KILLED,
            server.base_url,
            str(data),
            str(tmp_path / folder),
        ]
        return subprocess.Popen(command, env=environment)

    killed = start("run")
    answers = tmp_path / "run" / ANSWERS
    deadline = time.monotonic() + 120
    while not answers.exists() or len(answers.read_bytes().splitlines()) < 4:
        assert killed.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    known = len(answers.read_bytes().splitlines())
    assert known < 1 + 2 * ITEMS
    assert not (tmp_path / "run" / "scores.json").exists()
    assert start("run").wait(timeout=120) == 0
    run(data, tmp_path / "whole", chat=open_judge("slow"))
    for name in ("scores.json", "report.html", PREDICTIONS):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": None}, ValueError, "data: toy needs the folder"),
        ({"data": Path("nowhere")}, FileNotFoundError, "data: 'nowhere' is no folder"),
        ({"describer": None}, ValueError, "model: expected a model, or a record"),
        ({"record": Path("nowhere")}, FileNotFoundError, "record: 'nowhere': no such file"),
        ({"limit": 0}, ValueError, "limit: must be at least 1, got 0"),
        ({"repeats": 0}, ValueError, "repeats: must be at least 1, got 0"),
        ({"repeats": 2}, ValueError, "repeats: needs a judge that is asked, got 2"),
        ({"template": Path("x")}, ValueError, "template: needs a judge that is asked"),
        ({"prices": (1.0, 2.0)}, ValueError, "price: needs a judge that is asked"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(
    data: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"describer": Teller(stop_after=0), "data": data, "progress": False, **options}
    with pytest.raises(error, match=message):
        evaluate(Toy(), **arguments)


def test_a_missing_picture_is_named_before_any_work(data: Path) -> None:
    (data / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"data: item '3-0' of toy needs .*3\.png"):
        run(data, None, describer=Teller(stop_after=0))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "a/../../b.png"])
def test_names_in_the_data_do_not_lead_out_of_its_folder(data: Path, name: str) -> None:
    class Leading(Toy):
        def items(self, data: Path) -> list[Item]:
            return [Item(id="0", image=name, masks=((0, 0, 1, 1),))]

    with pytest.raises(ValueError, match=r"data: item '0' of toy names .* not in the folder"):
        run(data, None, benchmark=Leading(), describer=Teller(stop_after=0))


def test_a_question_about_too_many_regions_is_reported_and_the_others_are_asked(
    data: Path, tmp_path: Path
) -> None:
    class Narrow(Teller):
        def describe(self, image: Any, *arguments: Any, **options: Any) -> list[str]:
            if Path(image).stem == "1":
                raise TooManyRegionsError("narrow", 1, REGIONS)
            return super().describe(image, *arguments, **options)

    result = run(data, tmp_path / "run", describer=Narrow())
    assert list(result.missing) == ["1-0", "1-1"]
    assert "at most 1 regions together, got 2" in result.missing["1-0"]
    assert len(rows(tmp_path / "run" / PREDICTIONS)) == 1 + ITEMS - REGIONS


def test_what_a_general_model_said_of_a_region_is_kept_when_another_fails(
    data: Path, tmp_path: Path
) -> None:
    class Failing(Teller):
        model_type = "chat"

        def describe(self, image: Any, regions: Any, *arguments: Any, **options: Any) -> Any:
            if regions[0][0] == 2:
                raise Unanswered("no")
            return super().describe(image, regions, *arguments, **options)

    result = run(data, tmp_path / "run", describer=Failing())
    assert list(result.missing) == [f"{k}-1" for k in range(PICTURES)]
    assert len(rows(tmp_path / "run" / PREDICTIONS)) == 1 + PICTURES
