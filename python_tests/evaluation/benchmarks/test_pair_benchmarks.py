"""Ferret-Bench and MDVP-Bench."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from benchmark_data import SIZE, box_rle, judge_template, write_json, write_lines, write_picture
from PIL import Image

from fastregion.evaluation.benchmarks.base import Prediction
from fastregion.evaluation.benchmarks.ferret_bench import FerretBench
from fastregion.evaluation.benchmarks.mdvp_bench import MdvpBench
from fastregion.evaluation.benchmarks.mdvp_marks import numbered_boxes
from fastregion.evaluation.benchmarks.pair_scores import relative_score

DOMAINS = ("natural", "ocr_doc", "ocr_spotting", "multipanel", "android", "web")


@pytest.fixture
def ferret(tmp_path: Path) -> Path:
    corners = [5, 5, 25, 5, 25, 25, 5, 25]
    write_json(
        tmp_path / "box_refer_caption.json",
        [
            {
                "question_id": k,
                "image": f"{k}.jpg",
                "category": "description",
                "text": "What is <region>?",
                "annotation": {"bbox": [5, 5, 20, 20], "segmentation": [corners]},
            }
            for k in range(2)
        ],
    )
    for name in ("question", "answer", "context"):
        write_lines(
            tmp_path / f"{name}.jsonl",
            [{"category": "refer_desc", "text": f"{name} {k}"} for k in range(2)],
        )
    rule = {"refer_desc": {"role": "Assistant", "prompt": "Two numbers, please."}}
    write_json(tmp_path / "rule.json", rule)
    return tmp_path


def test_ferret_message_has_no_boxes(ferret: Path) -> None:
    item = FerretBench().items(ferret)[1]
    prediction = Prediction(item=item.id, text="A cat [0.1, 0.2] on [1] a mat")
    wording = judge_template("ferret_bench.txt")
    (call,) = FerretBench().judge_calls(item, prediction, wording, ferret)
    message = call.messages[1]["content"]
    for words in ("context 1", "question 1", "answer 1", "A cat on a mat", "Two numbers, please."):
        assert words in message
    assert "[" not in message


def test_ferret_score_is_a_ratio_of_means(ferret: Path) -> None:
    items = FerretBench().items(ferret)
    predictions = {item.id: Prediction(item=item.id, text="x") for item in items}
    answers = {("0", "review"): "8 4\nsince", ("1", "review"): "2,3"}
    scores = FerretBench().score(items, predictions, answers)
    assert scores.table == {"score": 70.0, "reference": 5.0, "model": 3.5}
    assert scores.failures == ("0", "1")
    answers["1", "review"] = "I cannot say"
    scores = FerretBench().score(items, predictions, answers)
    assert scores.table["score"] == pytest.approx(100 * 1.5 / 3.5)
    assert any("1 reviews do not begin with two scores" in note for note in scores.notes)


def test_ferret_records(ferret: Path, tmp_path: Path) -> None:
    outputs = write_json(tmp_path / "m.json", [{"caption": "a"}, {"caption": "b"}])
    predictions, answers = FerretBench().recorded(ferret, outputs)
    assert [(p.item, p.text) for p in predictions] == [("0", "a"), ("1", "b")]
    assert not answers
    review = {"question_id": 1, "answer2": "b", "content": "1 2"}
    predictions, answers = FerretBench().recorded(
        ferret, write_lines(tmp_path / "m.jsonl", [review])
    )
    assert [(p.item, p.text) for p in predictions] == [("1", "b")]
    assert answers == {("1", "review"): "1 2"}
    other = write_lines(tmp_path / "n.jsonl", [{**review, "question_id": 2}])
    with pytest.raises(ValueError, match="line 1: question_id: is no row of the data, got '2'"):
        FerretBench().recorded(ferret, other)


def test_ferret_files_must_be_aligned(ferret: Path) -> None:
    write_lines(ferret / "answer.jsonl", [{"text": "only one"}])
    with pytest.raises(ValueError, match=r"answer.jsonl: expected 2 lines.*got 1"):
        FerretBench().items(ferret)


@pytest.fixture
def mdvp(tmp_path: Path) -> Path:
    rows = [
        {
            "image_path": f"{domain}.png",
            "mask_rle": box_rle(10, 20, 40, 50),
            "dataset_name": f"{domain}_detailed_caption_box",
            "question": "Please describe.",
            "caption": f"reference of {domain}",
        }
        for domain in ("android", *DOMAINS)
    ]
    write_json(tmp_path / "mdvp_caption_mask.json", rows)
    for domain in DOMAINS:
        task = f"{domain}_detailed_caption"
        questions = [
            {"image_name": f"{domain}.png", "question": f"{domain}?", "bbox": [[10, 20, 30, 30]]}
        ] * (1 if domain == "web" else 2)
        write_json(tmp_path / "data" / task / f"{task}_box.json", questions)
        write_picture(tmp_path / "images" / f"{domain}.png")
    return tmp_path


def test_mdvp_compares_regions_with_their_own_reference(mdvp: Path) -> None:
    benchmark = MdvpBench()
    items = benchmark.items(mdvp)
    assert len(items) == 7
    natural = items[1]
    calls = benchmark.judge_calls(
        natural, Prediction(item="1", text="said"), judge_template("mdvp_bench.txt"), mdvp
    )
    assert [call.key for call in calls] == ["natural"]
    text, picture = calls[0].messages[1]["content"]
    assert "reference of natural" in text["text"]
    assert picture["image_url"]["detail"] == "high"
    shown = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].split(",")[1])))
    )
    assert shown.shape == (*SIZE, 3)
    assert shown[20, 25, 1] > 200  # the upper edge of the box is green
    assert shown[55, 5] == pytest.approx(0.8 * np.array([200, 100, 50]), abs=12)


def scores_of(benchmark: MdvpBench, mdvp: Path) -> dict[str, float]:
    items = benchmark.items(mdvp)
    predictions = {item.id: Prediction(item=item.id, text="said") for item in items}
    answers = {
        (item.id, domain): f"{8 - int(item.id)} {index + 1}"
        for item in items
        for index, domain in enumerate(item.row["asked"])
    }
    return dict(benchmark.score(items, predictions, answers).table)


def test_mdvp_columns(mdvp: Path) -> None:
    table = scores_of(MdvpBench(), mdvp)
    # Two regions of android: references 8 and 3, model 1 and 1.
    assert table["android"] == pytest.approx(100 * 1 / 5.5, rel=1e-5)
    assert table["OCR"] == pytest.approx((table["ocr_doc"] + table["ocr_spotting"]) / 2)
    assert table["Screenshot"] == pytest.approx((table["android"] + table["web"]) / 2)


def test_mdvp_released_pairs_every_domain_with_the_first_regions(mdvp: Path) -> None:
    benchmark = MdvpBench(released=True)
    items = benchmark.items(mdvp)
    assert [item.id for item in items] == ["0", "1"]
    assert list(items[0].row["asked"]) == list(DOMAINS)
    assert "web" not in items[1].row["asked"]  # which has one question
    calls = benchmark.judge_calls(
        items[0], Prediction(item="0", text="said"), judge_template("mdvp_bench.txt"), mdvp
    )
    assert [call.key for call in calls] == list(DOMAINS)
    text = calls[2].messages[1]["content"][0]["text"]
    assert "ocr_spotting?" in text
    assert "reference of android" in text  # the first region of the file
    table = scores_of(benchmark, mdvp)
    assert table["natural"] == pytest.approx(100 * 1 / 7.5, rel=1e-5)
    assert table["web"] == pytest.approx(100 * 6 / 8, rel=1e-5)


def test_mdvp_outputs_are_aligned(mdvp: Path, tmp_path: Path) -> None:
    record = write_json(tmp_path / "m.json", [{"caption": str(k)} for k in range(7)])
    assert [p.text for p in MdvpBench().recorded(mdvp, record)[0]] == list("0123456")
    with pytest.raises(ValueError, match="expected 7 rows, got 1"):
        MdvpBench().recorded(mdvp, write_json(tmp_path / "n.json", [{"caption": "x"}]))
    released = MdvpBench(released=True).recorded(mdvp, record)[0]
    assert [p.text for p in released] == ["0", "1"]  # as many as a domain has questions
    write_json(record, [{"caption": str(k)} for k in range(8)])
    with pytest.raises(ValueError, match="expected 7 rows, got 8"):
        MdvpBench().recorded(mdvp, record)


def test_marks_have_numbers() -> None:
    image = np.full((60, 80, 3), 100, np.uint8)
    once = numbered_boxes(image, [(5, 5, 60, 50)])
    twice = numbered_boxes(image, [(5, 5, 60, 50), (20, 20, 70, 55)])
    assert (image == 100).all()
    assert (once[5, 30] == (0, 255, 0)).all()
    assert (once[6:26, 8:24] == 255).all(axis=-1).any()  # white on black
    assert (once[6:26, 8:24] == 0).all(axis=-1).any()
    assert (twice != once).any()


def test_no_reference_score_is_not_a_number() -> None:
    assert np.isnan(relative_score([(0, 3)]))
