from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_data import SIZE, box_rle, changed, judge_template, write_json, write_picture
from PIL import Image

from fastregion.evaluation.benchmarks.base import Prediction, Scores
from fastregion.evaluation.benchmarks.dlc_bench import DlcBench, DlcBenchImage

POSITIVE = {
    "question": "Which fits?",
    "choices": [["Not told.", 0], ["Told, red.", 1], ["Told, not red.", -1]],
    "type": "positive",
}
NEGATIVE = {
    "question": "Which fits?",
    "choices": [["No boat.", 1], ["A boat.", -1]],
    "type": "negative",
    "subtype": "salient negative",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "annotations"
    image = {"id": 7, "file_name": "p.png", "height": SIZE[0], "width": SIZE[1]}
    annotations = [
        {"id": key, "image_id": 7, "segmentation": box_rle(10, 20, 30, 40)} for key in (2, 1)
    ]
    write_json(folder / "annotations.json", {"images": [image], "annotations": annotations})
    write_json(folder / "class_names.json", {"1": "apple", "2": "bus"})
    write_json(folder / "qa.json", {"1": [POSITIVE, NEGATIVE], "2": [POSITIVE, NEGATIVE]})
    write_picture(tmp_path / "images" / "p.png")
    return tmp_path


def score(data: Path, *answers: tuple[str, str, str], benchmark: DlcBench | None = None) -> Scores:
    """Answers to the questions of items "1", "2", ... in their order."""
    benchmark = benchmark or DlcBench()
    items = benchmark.items(data)[: len(answers)]
    keys = ("recognition", "0", "1")
    given = {
        (item.id, key): text
        for item, texts in zip(items, answers, strict=True)
        for key, text in zip(keys, texts, strict=True)
    }
    predictions = {item.id: Prediction(item=item.id, text="a red thing") for item in items}
    return benchmark.score(items, predictions, given)


def test_items_are_in_the_order_of_their_questions(data: Path) -> None:
    items = DlcBench().items(data)
    assert [item.id for item in items] == ["1", "2"]
    assert items[0].image == "images/p.png"
    assert items[0].row["class"] == "apple"


def test_a_class_that_is_not_recognised_voids_credit(data: Path) -> None:
    scores = score(data, ("A. Yes", "B. Told, red.", "A"), ("B. No", "Told, red.", "B. A boat."))
    assert scores.table == {"pos": 0.5, "neg": 0.0, "avg": 0.25}
    assert scores.items["2"]["values"] == {"positive": [0.0], "negative": [-1.0]}
    assert scores.failures == ("2",)


def test_what_cannot_be_read_is_told(data: Path) -> None:
    scores = score(data, ("A. Yes", "whatever", "E. A plane."), ("perhaps", "A", "A"))
    assert scores.table == {"pos": 0.0, "neg": 0.0, "avg": 0.0}
    told = " ".join(scores.notes)
    assert "2 answers mean no choice and count 0: 1/0, 1/1" in told
    assert "1 regions are left out, whose answer about the class" in told
    assert DlcBench().readable(DlcBench().items(data)[0], "1", "E. A plane.") is False


def test_missing_ones_are_left_out_and_told(data: Path) -> None:
    benchmark = DlcBench()
    items = benchmark.items(data)
    predictions = {"1": Prediction(item="1", text="x"), "2": Prediction(item="2", text="Error: y")}
    answers = {("1", "recognition"): "Yes", ("1", "0"): "B", ("2", "recognition"): "Yes"}
    scores = benchmark.score(items, predictions, answers)
    assert scores.table == {}
    assert "1 of 2 items have no prediction and are left out: 2" in scores.notes
    assert "1 of 1 items lack answers of the judge and are left out: 1" in scores.notes


def test_text_messages(data: Path) -> None:
    benchmark = DlcBench()
    apple, bus = benchmark.items(data)
    prediction = Prediction(item="1", text="{question} of a red fruit")
    calls = benchmark.judge_calls(apple, prediction, judge_template("dlc_bench.txt"), data)
    assert [call.key for call in calls] == ["recognition", "0", "1"]
    messages = [call.messages[0]["content"] for call in calls]
    assert all("{question} of a red fruit" in message for message in messages)
    assert "an apple" in messages[0]
    assert messages[0].endswith("A. Yes\nB. No\n")
    assert messages[1].endswith("A. Not told.\nB. Told, red.\nC. Told, not red.\n")
    assert calls[0].options["temperature"] == 0
    calls = benchmark.judge_calls(bus, prediction, judge_template("dlc_bench.txt"), data)
    assert "a bus" in calls[0].messages[0]["content"]  # no plural


def test_image_messages_show_window_and_mask(data: Path) -> None:
    benchmark = DlcBenchImage()
    item = benchmark.items(data)[0]
    prediction = Prediction(item="1", text="a red fruit")
    calls = benchmark.judge_calls(item, prediction, judge_template("dlc_bench_image.txt"), data)
    content = calls[0].messages[0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"] * 2 + ["text"]
    picture, mask = (decoded(content[k]) for k in (1, 3))
    # The box is 20 wide and high, widened to 56 around its middle (20, 30), and cut.
    assert picture.shape == (60, 80, 3)
    assert mask.shape == (60, 80)
    assert mask.sum() == 255 * 400
    assert mask[20:40, 10:30].all()
    assert "apple" in content[4]["text"]


def decoded(part: dict[str, Any]) -> np.ndarray:
    head, _, text = part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.mark.parametrize(
    ("file", "place", "value", "message"),
    [
        ("annotations", ("annotations", 0, "image_id"), 8, r"annotations\[0\]: image_id: no image"),
        ("annotations", ("annotations", 0, "segmentation"), 8, r"expected an object, got 8"),
        ("annotations", ("annotations", 1), None, "qa.json': 1: has no annotation"),
        ("class_names", ("1",), None, "class_names.json': 1: is missing"),
        ("qa", ("1", 0, "type"), "other", r"1\[0\]: type: expected one of"),
        ("qa", ("1", 0, "choices", 0), ["a"], r"1\[0\]: choices: expected pairs"),
        ("qa", ("1",), [], "1: expected at least 1 values"),
    ],
)
def test_bad_data(data: Path, file: str, place: Any, value: Any, message: str) -> None:
    changed(data / "annotations" / f"{file}.json", *place, value=value)
    with pytest.raises(ValueError, match=message):
        DlcBench().items(data)


def test_records(data: Path, tmp_path: Path) -> None:
    captions = write_json(tmp_path / "m.json", {"query": "q", "1": "red", "2": "blue"})
    predictions, answers = DlcBench().recorded(data, captions)
    assert [(p.item, p.text, p.model) for p in predictions] == [
        ("1", "red", "m"),
        ("2", "blue", "m"),
    ]
    assert answers == {}
    judged = {"1": {"pred": "red", "response": ["A", "B", "A"], "neg_valid_num": 1}, "avg": 0.1}
    file = write_json(tmp_path / "m_eval.json", judged)
    predictions, answers = DlcBench().recorded(data, file)
    assert predictions[0].model == "m"
    assert answers == {("1", "recognition"): "A", ("1", "0"): "B", ("1", "1"): "A"}
    changed(file, "1", "response", value=["A"])
    with pytest.raises(ValueError, match="1: response: expected 3 answers, got 1"):
        DlcBench().recorded(data, file)
    with pytest.raises(ValueError, match="5: is no region of the data"):
        DlcBench().recorded(data, write_json(tmp_path / "n.json", {"5": "red"}))
