from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmark_data import changed, judge_template, write_json, write_lines, write_picture

from fastregion.evaluation.benchmarks.base import Prediction
from fastregion.evaluation.benchmarks.vip_bench import VipBench, read_grade
from fastregion.evaluation.judging import judge

META = {
    "v1_0": {"question": "<obj>?", "answer": "red<OR>blue", "capability": ["rec", "ocr"]},
    "v1_1": {"question": "<obj>?", "answer": "a<AND>b", "capability": ["rec"]},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_json(tmp_path / "vip-bench-meta-data.json", META)
    rows = [{"question_id": key, "text": f"In the red box of {key}?"} for key in META]
    write_lines(tmp_path / "bbox" / "questions.jsonl", rows)
    for key in META:
        write_picture(tmp_path / "bbox" / "images" / f"{key}.png")
    return tmp_path


class Model:
    """A describer that says how it was asked."""

    model_id, model_type = "m", "other"

    def describe(self, *_: Any, **__: Any) -> list[str]:
        raise AssertionError("the question is asked, not described")

    def ask(self, image: Any, regions: Any, question: str, **_: Any) -> str:
        return f"{question} {[region.box for region in regions]}"


def test_the_whole_picture_is_asked_about(data: Path) -> None:
    benchmark = VipBench()
    item = benchmark.items(data)[0]
    query = benchmark.query(item, "other")
    (answered,) = benchmark.predict(Model(), benchmark.picture(item, data), [item], query)
    assert answered.text == "In the red box of v1_0? [(0, 0, 80, 60)]"


def test_message(data: Path) -> None:
    item = VipBench().items(data)[0]
    wording = judge_template("vip_bench.txt")
    (call,) = VipBench().judge_calls(item, Prediction(item="v1_0", text="Red."), wording, data)
    row = "In the red box of v1_0? | red <OR> blue | Red. |"
    assert call.messages[0]["content"].endswith(row)
    assert (call.attempts, call.options["max_tokens"]) == (5, 3)


def test_further_attempts_are_warmer_and_have_a_hint(data: Path) -> None:
    item = VipBench().items(data)[0]
    wording = judge_template("vip_bench.txt")
    (call,) = VipBench().judge_calls(item, Prediction(item="v1_0", text="Red."), wording, data)
    tried = [call.at(attempt) for attempt in range(call.attempts)]
    assert [one.options["temperature"] for one in tried] == [0.0, 0.5, 1.0, 1.5, 2.0]
    for again in tried[1:]:  # the question is that of the metadata then
        row = "<obj>? | red <OR> blue | Red. |\nNumber from 0.0 to 1.0:"
        assert again.messages[0]["content"].endswith(row)
        assert again.options["max_tokens"] == 3


class Mumbler:
    """A judge who can only be read when it is asked warmly."""

    name, concurrency = "judge", 1

    def ask(self, messages: Any, options: Any) -> Any:
        text = "0.5" if options["temperature"] >= 1.0 else "well"
        return SimpleNamespace(text=text, usage={})


def test_a_judge_is_asked_the_further_attempts(data: Path) -> None:
    items = VipBench().items(data)[:1]
    said = {"v1_0": Prediction(item="v1_0", text="Red.")}
    wording = judge_template("vip_bench.txt")
    mumbler: Any = Mumbler()
    judged = judge(
        VipBench(), mumbler, items, said, wording, data, repeats=1, path=None, progress=False
    )
    assert judged.answers == [{("v1_0", "grade"): "0.5"}]
    assert judged.usage["requests"] == 3


@pytest.mark.parametrize(
    ("answer", "grade"),
    [
        ("0.5", 0.5),
        ("1.0 since", 1.0),
        ("0.3\n", 0.3),
        ("1.5", None),
        ("nan", None),
        ("", None),
        ("half", None),
    ],
)
def test_grades(answer: str, grade: float | None) -> None:
    assert read_grade(answer) == grade


def test_items_count_in_each_of_their_abilities(data: Path) -> None:
    items = VipBench().items(data)
    predictions = {item.id: Prediction(item=item.id, text="x") for item in items}
    answers = {("v1_0", "grade"): "0.4", ("v1_1", "grade"): "no idea"}
    scores = VipBench().score(items, predictions, answers)
    exactly = {"exactly ocr + rec": 40.0, "exactly rec": 0.0}
    assert scores.table == {"rec": 20.0, "ocr": 40.0, "total": 20.0, **exactly}
    assert scores.counts == {"rec": 2, "ocr": 1, "total": 2, **dict.fromkeys(exactly, 1)}
    assert "1 answers hold no number and count 0: v1_1" in scores.notes
    assert scores.failures[0] == "v1_1"


def test_records(data: Path, tmp_path: Path) -> None:
    record = write_json(tmp_path / "m.json", {"v1_1": "green"})
    (prediction,), answers = VipBench().recorded(data, record)
    assert (prediction.item, prediction.text, prediction.model) == ("v1_1", "green", "m")
    assert answers == {}
    changed(record, "v1_9", value="x")
    with pytest.raises(ValueError, match="v1_9: is no item of the data"):
        VipBench().recorded(data, record)


def test_bad_settings_and_data(data: Path) -> None:
    with pytest.raises(ValueError, match=r"split: expected one of \('bbox', 'human'\), got 'x'"):
        VipBench(split="x")
    with pytest.raises(FileNotFoundError, match=r"human/questions\.jsonl"):
        VipBench(split="human").items(data)
    changed(data / "vip-bench-meta-data.json", "v1_1", "capability", value=[])
    with pytest.raises(ValueError, match="v1_1: capability: expected at least 1 values"):
        VipBench().items(data)
