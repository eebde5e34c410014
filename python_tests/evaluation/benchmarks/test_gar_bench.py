from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_gar
from benchmark_data import box_rle, changed, judge_template, write_json, write_picture

from fastregion.evaluation.benchmarks.base import Prediction
from fastregion.evaluation.benchmarks.gar_bench_cap import GarBenchCap
from fastregion.evaluation.benchmarks.gar_bench_vqa import GarBenchVqa
from fastregion.evaluation.predictions import Asked
from fastregion.evaluation.report import remarks
from fastregion.evaluation.run import PREDICTIONS, evaluate
from fastregion.evaluation.settings import make_benchmark

RLES = [box_rle(0, 0, 10, 10), box_rle(20, 20, 50, 50)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_json(
        tmp_path / "GAR-Bench-VQA.json",
        [
            {
                "image": f"images/{name}.png",
                "mask_rles": RLES,
                "question": "Is <Prompt0> larger?",
                "choices": ["A. yes", "B. no, <Prompt1> is"],
                "answer": answer,
                "type": kind,
            }
            for name, answer, kind in (("a", "A", "color"), ("b", "B", "mirror"))
        ],
    )
    write_json(
        tmp_path / "annotations" / "GAR-Bench-Caption-Simple.json",
        [
            {
                "image": "images/s.png",
                "mask_rles": RLES,
                "question": "How is <Prompt0> to <Prompt1>?",
                "answer": "<Prompt0> is above <Prompt1>.",
            }
        ],
    )
    write_json(
        tmp_path / "annotations" / "GAR-Bench-Caption-Detailed.json",
        [
            {
                "image": "images/d.png",
                "mask_rles": RLES,
                "subject_name": "cat",
                "object_name": "mat",
                "predicate_name": "on",
            }
        ],
    )
    for name in "abds":
        write_picture(tmp_path / "images" / f"{name}.png")
    return tmp_path


def said(**texts: str) -> dict[str, Prediction]:
    return {key: Prediction(item=key, text=text) for key, text in texts.items()}


def test_vqa_asks_about_all_regions(data: Path) -> None:
    item = GarBenchVqa().items(data)[0]
    query = GarBenchVqa().query(item, "GAR")
    assert query.joint
    assert query.prompt == (
        "Question: Is <Prompt0> larger?\nOptions:\nA. yes\nB. no, <Prompt1> is\n"
        "Answer with the correct option's letter directly."
    )
    assert query.options == {"temperature": 0.0, "max_new_tokens": 1024}


def test_vqa_takes_the_whole_answer(data: Path) -> None:
    items = GarBenchVqa().items(data)
    predictions = {"0": Prediction(item="0", text="a"), "1": Prediction(item="1", text="B.")}
    scores = GarBenchVqa().score(items, predictions, {})
    assert scores.table["color"] == 100
    assert scores.table["mirror"] == 0
    assert scores.table["perception"] == 100
    assert scores.table["overall"] == 50
    assert scores.counts["overall"] == 2
    assert scores.failures == ("1",)
    assert scores.notes == ("scored on 2 questions; the published benchmark has 424",)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mask_rles", RLES[:1], r"row 0: mask_rles: expected one for each region of the question"),
        ("answer", "C", r"row 0: answer: expected one of \['A', 'B'\], got 'C'"),
        ("type", "sound", "row 0: type: expected one of"),
        ("choices", ["A. yes"], "row 0: choices: expected at least 2"),
    ],
)
def test_vqa_bad_data(data: Path, field: str, value: Any, message: str) -> None:
    changed(data / "GAR-Bench-VQA.json", 0, field, value=value)
    with pytest.raises(ValueError, match=message):
        GarBenchVqa().items(data)


@pytest.fixture
def six(data: Path) -> Path:
    """The second question is about six regions."""
    file = data / "GAR-Bench-VQA.json"
    changed(file, 1, "mask_rles", value=[box_rle(9 * k, 0, 9 * k + 5, 40) for k in range(6)])
    changed(file, 1, "choices", value=["A. <Prompt2> or <Prompt3>", "B. <Prompt5>, <Prompt4>"])
    changed(file, 1, "question", value="Is <Prompt0> larger than <Prompt1>?")
    return data


def test_gar_answers_questions_about_more_regions_than_it_has_names_for(
    six: Path, tmp_path: Path
) -> None:
    captioner = tiny_gar.captioner(large=False)
    shared: dict[str, Any] = {
        "describer": captioner,
        "data": six,
        "asked": Asked(options={"max_new_tokens": 3}),
        "progress": False,
    }
    result = evaluate(GarBenchVqa(), output=tmp_path / "run", **shared)
    assert not result.missing
    assert all(item.text is not None for item in result.items.values())
    notes = " ".join(remarks(result))
    assert "in 2 items about several regions each of them is replayed from the box of the" in notes
    assert "1 items are about more than the 5 regions that GAR has names for" in notes
    assert result.header["settings"] == {"released": True}
    assert captioner.boxes == "per-region"  # as it was

    trained = make_benchmark("gar-bench-vqa", ["released=false"])
    found = evaluate(trained, **shared)
    assert list(found.missing) == ["1"]
    assert "at most 5 regions together, got 6" in found.missing["1"]
    assert not any("published evaluation" in note for note in found.notes)
    assert found.items["0"].text is not None

    before = (tmp_path / "run" / PREDICTIONS).read_bytes()
    with pytest.raises(ValueError, match=r"'0' was asked \{'boxes': 'released'\} before, and now"):
        evaluate(trained, output=tmp_path / "run", resume=True, **shared)
    assert (tmp_path / "run" / PREDICTIONS).read_bytes() == before
    again = evaluate(GarBenchVqa(), output=tmp_path / "run", resume=True, **shared)
    assert again.to_json() == result.to_json()


def test_only_gar_is_asked_with_the_quirks_of_its_evaluation(data: Path) -> None:
    for benchmark in (GarBenchVqa(), GarBenchCap()):
        item = benchmark.items(data)[0]
        assert benchmark.query(item, "GAR").switches == {"boxes": "released"}
        assert not benchmark.query(item, "mini").switches
    assert not GarBenchCap(released=False).query(item, "GAR").switches


def test_vqa_record_of_other_pictures(data: Path, tmp_path: Path) -> None:
    record = write_json(tmp_path / "m_vqa.json", [{"image": "images/z.png", "model_output": "A"}])
    with pytest.raises(ValueError, match="row 0: image: is of no item of the data"):
        GarBenchVqa().recorded(data, record)


def test_vqa_record_of_a_picture_with_several_questions(data: Path, tmp_path: Path) -> None:
    rows = json.loads((data / "GAR-Bench-VQA.json").read_text(encoding="utf-8"))
    again = [
        {**rows[0], "question": "Is <Prompt0> smaller?"},
        {**rows[0], "mask_rles": RLES[::-1]},
    ]
    write_json(data / "GAR-Bench-VQA.json", [*rows, *again])
    said = [{**row, "model_output": text} for row, text in zip(again, "BA", strict=True)]
    record = write_json(
        tmp_path / "m_vqa.json", [said[1], {**rows[0], "model_output": "C"}, said[0]]
    )
    predictions, _ = GarBenchVqa().recorded(data, record)
    assert {one.item: one.text for one in predictions} == {"3": "A", "0": "C", "2": "B"}
    image = {"image": rows[0]["image"], "model_output": "A"}
    with pytest.raises(ValueError, match="row 0: image: is of 3 items of the data"):
        GarBenchVqa().recorded(data, write_json(tmp_path / "n_vqa.json", [image]))


def test_cap_queries(data: Path) -> None:
    simple, detailed = GarBenchCap().items(data)
    assert GarBenchCap().query(simple, "GAR").prompt == "How is <Prompt0> to <Prompt1>?"
    prompt = GarBenchCap().query(detailed, "GAR").prompt
    assert prompt == "Describe <Prompt0> in detail, including the relationship with <Prompt1>."


def test_cap_message_shows_picture_crops_and_masks(data: Path) -> None:
    simple, detailed = GarBenchCap().items(data)
    wording = judge_template("gar_bench_cap.txt")
    (call,) = GarBenchCap().judge_calls(simple, Prediction(item="x", text="Above."), wording, data)
    content = call.messages[0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"] * 5 + ["text"]
    texts = [part["text"] for part in content if part["type"] == "text"]
    assert [text.split(".")[0] for text in texts[:5]] == list("12345")
    assert "<Prompt1>" in texts[3]
    assert "<Prompt0> is above <Prompt1>." in texts[5]
    assert "Above." in texts[5]
    (call,) = GarBenchCap().judge_calls(detailed, Prediction(item="x", text="Cat."), wording, data)
    last = call.messages[0]["content"][-1]["text"]
    assert all(word in last for word in ("cat", "mat", "on", "Cat."))


def test_cap_true_is_exactly_true(data: Path) -> None:
    items = GarBenchCap().items(data)
    predictions = said(**{item.id: "text" for item in items})
    answers = {("simple-0", "same"): "True", ("detailed-0", "same"): "true"}
    scores = GarBenchCap().score(items, predictions, answers)
    assert scores.table == {"simple": 1.0, "detailed": 0.0, "pooled": 0.5}
    assert "1 answers are neither True nor False: detailed-0" in scores.notes
    assert not GarBenchCap().readable(items[0], "same", "true")


def test_cap_with_one_kind_only(data: Path) -> None:
    (data / "annotations" / "GAR-Bench-Caption-Detailed.json").unlink()
    items = GarBenchCap().items(data)
    scores = GarBenchCap().score(items, said(**{"simple-0": "x"}), {("simple-0", "same"): "True"})
    assert scores.table == {"simple": 1.0, "pooled": 1.0}
    (data / "annotations" / "GAR-Bench-Caption-Simple.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"GAR-Bench-Caption-Simple\.json or"):
        GarBenchCap().items(data)
