"""Published numbers again, from recorded answers; messages and crops as recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from golden_cases import GoldenCase, golden_cases
from golden_files import golden_json
from recorded_benchmarks import golden_files, read_golden

from fastregion.evaluation.benchmarks.base import Benchmark, Item, Prediction, Scores
from fastregion.evaluation.benchmarks.dlc_bench import DlcBench, DlcBenchImage
from fastregion.evaluation.benchmarks.gar_bench_cap import GarBenchCap
from fastregion.evaluation.benchmarks.gar_bench_vqa import GarBenchVqa
from fastregion.evaluation.benchmarks.judge_crops import judge_window
from fastregion.evaluation.benchmarks.multiple_choice import lettered, parse_choice
from fastregion.evaluation.benchmarks.pair_scores import (
    parse_pair,
    relative_score,
    without_boxes,
)
from fastregion.evaluation.benchmarks.pix2cap_coco import Pix2CapCoco
from fastregion.evaluation.benchmarks.plurals import is_plural
from fastregion.evaluation.benchmarks.videorefer_d import VideoReferD, read_review
from fastregion.evaluation.benchmarks.videorefer_q import VideoReferQ, is_right

EXACT = 1e-12
# The text judge's record has the one class whose wording needs an older inflect as a plural.
OLDER_INFLECT = "wine glass"


def benchmark_folder(file: Path) -> Path:
    """The folder of a record's benchmark: the nearest one above that has annotations."""
    return next(folder for folder in file.parents if (folder / "annotations").is_dir())


def expected_of(file: Path, system: str, name: str) -> dict[str, Any]:
    """The entry of a record, from the nearest ``expected.json`` above it."""
    places = [folder / "expected.json" for folder in file.parents]
    entries = read_golden(next(place for place in places if place.is_file()))[system]
    if name not in entries:
        pytest.skip(f"expected.json has no {name}")
    return entries[name]


def rescored(benchmark: Benchmark, file: Path) -> Scores:
    data = benchmark_folder(file)
    predictions, answers = benchmark.recorded(data, file)
    by_item = {prediction.item: prediction for prediction in predictions}
    return benchmark.score(benchmark.items(data), by_item, answers)


def dlc_variant(file: Path) -> DlcBench:
    return DlcBenchImage() if file.stem.endswith("_gpt") else DlcBench()


def is_dlc(file: Path) -> bool:
    return (file.parent.parent / "annotations" / "qa.json").is_file()


def is_gar(file: Path) -> bool:
    return (file.parent.parent / "annotations" / "GAR-Bench-VQA.json").is_file()


DLC = golden_files("*_eval.json", "*_eval_gpt.json", keep=is_dlc)


@DLC
def test_dlc_bench_from_the_record(file: Path) -> None:
    expected = expected_of(file, "dlc_bench", file.stem)
    scores = rescored(dlc_variant(file), file)
    assert scores.table["pos"] == pytest.approx(expected["avg_pos"], abs=EXACT)
    assert scores.table["neg"] == pytest.approx(expected["avg_neg"], abs=EXACT)
    assert scores.table["avg"] == pytest.approx(expected["avg"], abs=EXACT)
    assert " ".join(f"{scores.table[k]:.3f}" for k in ("pos", "neg", "avg")) == expected["printed"]
    assert scores.items.keys() == expected["per_region"].keys()
    for key, region in expected["per_region"].items():
        found = scores.items[key]
        assert found["recognised"] == region["recognition"]
        for name in ("score_pos", "score_neg", "score"):
            assert found[name] == pytest.approx(region[name], abs=EXACT)


@DLC
def test_dlc_bench_gate_decides_the_record(file: Path) -> None:
    """Without the gate the numbers would be others: the test above sees it."""
    expected = expected_of(file, "dlc_bench", file.stem)
    if expected["ungated"]["avg_pos"] == pytest.approx(expected["avg_pos"], abs=1e-6):
        pytest.skip("the gate voids no credit of this record")
    assert rescored(dlc_variant(file), file).table["pos"] != pytest.approx(
        expected["ungated"]["avg_pos"], abs=1e-6
    )


@DLC
def test_dlc_bench_reads_answers_as_recorded(file: Path) -> None:
    for key, region in read_golden(file).items():
        if not isinstance(region, dict):
            continue
        for kind in ("recognition", "positives", "negatives"):
            for question in region[f"details_{kind}"]:
                texts = [text for text, _ in question["choices"]]
                found = parse_choice(question["pred_answer"], texts)
                assert found == question["pred_index"], key


@DLC
def test_dlc_bench_messages_byte_for_byte(file: Path) -> None:
    """Every message of the record, from the template that its first message of a kind shows."""
    benchmark = dlc_variant(file)
    items = {item.id: item for item in benchmark.items(benchmark_folder(file))}
    records = {key: value for key, value in read_golden(file).items() if isinstance(value, dict)}
    wording = official_wording(records, items)
    for key, region in records.items():
        item = items[key]
        prediction = Prediction(item=key, text=region["pred"])
        said = text_messages(benchmark, item, prediction, wording)
        other_inflect = item.row["class"] == OLDER_INFLECT and "neg_valid_num" in region
        first = 1 if other_inflect and not is_plural(OLDER_INFLECT) else 0
        assert said[first:] == region["prompt"][first:]
        assert len(said) == len(region["prompt"])


def text_messages(
    benchmark: DlcBench, item: Item, prediction: Prediction, wording: str
) -> list[str]:
    """The text of each call, without the pictures, which are not part of the golden data."""

    class Blind(type(benchmark)):  # type: ignore[misc]
        def _pictures(self, *_: Any) -> list[Any]:
            return []

    calls = Blind().judge_calls(item, prediction, wording, Path())
    return [call.messages[0]["content"] for call in calls]


def official_wording(records: dict[str, Any], items: dict[str, Item]) -> str:
    """A template file made of recorded messages, one for each part."""
    parts: dict[str, str] = {}
    for key, region in records.items():
        name = items[key].row["class"]
        question = region["details_recognition"][0]["question"]
        block = f"{question}\n{lettered(['Yes', 'No'])}"
        message = region["prompt"][0]
        if not message.count(region["pred"]) == message.count(block) == 1:
            continue  # a caption that is part of the question shows nothing
        parts["message"] = message.replace(block, "{question}").replace(
            region["pred"], "{description}"
        )
        if "neg_valid_num" not in region:
            parts["recognition"] = question.replace(name, "{class}")
            parts["image"] = parts["mask"] = ""
        elif name == OLDER_INFLECT:
            continue
        elif is_plural(name):
            parts["recognition_plural"] = question.replace(name, "{class}", 1)
        elif f" a {name}" in question:
            parts["recognition_singular"] = question.replace(f"a {name}", "{a_class}", 1)
    return "".join(f"[[{name}]]\n{text}\n" for name, text in parts.items())


@DLC
def test_dlc_bench_other_judges_record_is_scored_as_that_judges(file: Path) -> None:
    other = DlcBench() if isinstance(dlc_variant(file), DlcBenchImage) else DlcBenchImage()
    scores = rescored(other, file)
    assert scores.table == rescored(dlc_variant(file), file).table
    assert any("the record is that of the" in note for note in scores.notes)


@golden_files("*_eval_gpt.json", keep=is_dlc)
def test_dlc_bench_names_contradictions(file: Path) -> None:
    """Where the printed numbers are not those of the record, the notes say so; else they do not."""
    expected = read_golden(
        next(f for f in file.parents if (f / "expected.json").is_file()) / "expected.json"
    )
    printed = expected["published"]["dlc_bench"].get(file.stem)
    if printed is None:
        pytest.skip("nothing is published")
    scores = rescored(DlcBenchImage(), file)
    ours = [round(scores.table[name], 3) for name in ("pos", "neg", "avg")]
    assert any("documentation" in note for note in scores.notes) == (ours != printed)


@golden_files("dlc_synthetic.json")
@pytest.mark.parametrize(
    ("variant", "neg"),
    [(DlcBench(), "avg_neg_text_judge"), (DlcBenchImage(), "avg_neg_image_judge")],
    ids=["text", "image"],
)
def test_dlc_bench_synthetic(variant: DlcBench, neg: str, file: Path) -> None:
    case = read_golden(file)
    items = [
        Item(id=region["key"], row={"class": "thing", "questions": region["questions"]})
        for region in case["regions"]
    ]
    answers = {}
    for region in case["regions"]:
        keys = ["recognition", *map(str, range(len(region["questions"])))]
        answers |= {
            (region["key"], key): answer
            for key, answer in zip(keys, region["answers"], strict=True)
        }
    predictions = {item.id: Prediction(item=item.id, text="a thing") for item in items}
    scores = variant.score(items, predictions, answers)
    assert scores.table["pos"] == pytest.approx(case["avg_pos"], abs=EXACT)
    assert scores.table["neg"] == pytest.approx(case[neg], abs=EXACT)
    for region in case["regions"]:
        expected, found = region["expected"], scores.items[region["key"]]
        assert found["recognised"] == expected["recognition_result"]
        for name in ("score", "score_pos", "score_neg"):
            assert found[name] == pytest.approx(expected[name], abs=EXACT)


@golden_files("*_vqa.json", keep=is_gar)
def test_gar_bench_vqa_from_the_record(file: Path) -> None:
    expected = expected_of(file, "gar_bench", file.stem)
    scores = rescored(GarBenchVqa(), file)
    entries = {**expected["by_type"]}
    entries |= {name: expected[name] for name in ("overall", "perception", "reasoning")}
    assert scores.table.keys() == entries.keys()
    for name, entry in entries.items():
        assert scores.counts[name] == entry["total"]
        right = sum(kept[name] for kept in scores.items.values() if name in kept) / 100
        assert right == pytest.approx(entry["correct"], abs=1e-9)
        assert scores.table[name] == pytest.approx(100 * entry["correct"] / entry["total"])
        assert round(scores.table[name], 1) == entry.get("percent", round(scores.table[name], 1))


@golden_files("*_simple_eval.json", keep=is_gar)
def test_gar_bench_cap_from_the_record(file: Path) -> None:
    model = file.stem.removesuffix("_simple_eval")
    expected = expected_of(file, "gar_bench", f"{model}_caption")
    detailed = file.with_name(file.name.replace("_simple_", "_detailed_"))
    for record in (file, detailed):  # either brings the other along
        scores = rescored(GarBenchCap(), record)
        assert scores.table.keys() == expected.keys()
        for name, entry in expected.items():
            assert scores.counts[name] == entry["total"]
            assert scores.table[name] == pytest.approx(entry["accuracy"], abs=EXACT)


def beside(file: Path, annotations: str) -> Path:
    """The benchmark's folder next to a file that has these annotations."""
    found = sorted(file.parent.glob(f"*/annotations/{annotations}"))
    return found[0].parent.parent


@golden_files("judge_crops.json")
def test_judge_crops(file: Path) -> None:
    case = read_golden(file)
    dlc = {item.id: item for item in DlcBench().items(beside(file, "qa.json"))}
    assert case["dlc"].keys() == dlc.keys()
    for key, window in case["dlc"].items():
        (mask,) = dlc[key].masks
        assert list(judge_window(mask, tuple(mask["size"]))) == window
    gar = GarBenchCap().items(beside(file, "GAR-Bench-Caption-Simple.json"))
    simple = [item for item in gar if item.group == "simple"]
    for item, windows in zip(simple, case["gar_caption_simple"], strict=True):
        found = [list(judge_window(mask, tuple(mask["size"]))) for mask in item.masks]
        assert found == windows


@golden_json("cases", {"multiple_choice_parser"})
def test_multiple_choice(cases: dict[str, Any]) -> None:
    for vector in cases["multiple_choice_parser"]:
        assert parse_choice(vector["answer"], vector["choices"]) == vector["index"]


@golden_json("cases", {"pair_score_parser"})
def test_pair_scores(cases: dict[str, Any]) -> None:
    for vector in cases["pair_score_parser"]:
        assert list(parse_pair(vector["review"])) == vector["scores"]


@golden_json("cases", {"refer_answer_box_removal"})
def test_box_removal(cases: dict[str, Any]) -> None:
    for vector in cases["refer_answer_box_removal"]:
        assert without_boxes(vector["answer"]) == vector["processed"]


@golden_json("cases", {"pair_summary"})
def test_pair_summary(cases: dict[str, Any]) -> None:
    for vector in cases["pair_summary"]:
        pairs = [tuple(pair) for pair in vector["tuples"]]
        assert round(relative_score(pairs), 1) == vector["ferret"]
        assert round(relative_score(pairs, 1e-6), 2) == vector["mdvp"]


@golden_json("cases", {"videorefer_d"})
def test_videorefer_d(cases: dict[str, Any]) -> None:
    vector = cases["videorefer_d"]
    reviews = vector["reviews"]
    for review, extracted in zip(reviews, vector["extracted"], strict=True):
        assert "gpt" not in review or read_review(review["gpt"]) == extracted
    items = [Item(id=str(index)) for index in range(len(reviews))]
    predictions = {item.id: Prediction(item=item.id, text="said") for item in items}
    answers = {
        (item.id, "review"): review["gpt"]
        for item, review in zip(items, reviews, strict=True)
        if "gpt" in review
    }
    scores = VideoReferD().score(items, predictions, answers)
    assert scores.table == pytest.approx(vector["means"] | {"average": vector["average"]})
    assert scores.counts == vector["counts"]


@golden_json("cases", {"videorefer_q"})
def test_videorefer_q(cases: dict[str, Any]) -> None:
    vector = cases["videorefer_q"]
    rows = vector["rows"]
    assert [is_right(row["pred"], row["Answer"]) for row in rows] == vector["correct"]
    items = [
        Item(id=str(k), group=row["type"], row={"answer": row["Answer"]})
        for k, row in enumerate(rows)
    ]
    predictions = {
        item.id: Prediction(item=item.id, text=row["pred"])
        for item, row in zip(items, rows, strict=True)
    }
    scores = VideoReferQ().score(items, predictions, {})
    for name, entry in vector["by_type"].items():
        if entry["all"]:
            assert scores.counts[name] == entry["all"]
            assert scores.table[name] == pytest.approx(entry["accuracy"])


@golden_cases("pix2cap", "metrics")
@pytest.mark.parametrize("released", [True, False])
def test_pix2cap_coco(case: GoldenCase, released: bool, tmp_path: Path) -> None:
    """Annotations and predictions of the published functions, through the benchmark."""
    (tmp_path / "pix2cap_coco_val.json").symlink_to(case.folder / "gt.json")
    (tmp_path / "panoptic_val2017").symlink_to(case.folder / "gt")
    benchmark = Pix2CapCoco(released=released)
    predictions, answers = benchmark.recorded(tmp_path, case.folder / "pred.json")
    by_item = {prediction.item: prediction for prediction in predictions}
    table = benchmark.score(benchmark.items(tmp_path), by_item, answers).table
    expected = case.json("outputs.json")
    quality = expected["caption_quality"]
    published = expected["map" if released else "map_list_captions"]["map"]
    assert table["mAP"] == pytest.approx(100 * published, abs=1e-6)
    for name, key in (("BLEU@4", "bleu"), ("CIDEr-D", "cider"), ("ROUGE-L", "rouge")):
        assert table[name] == pytest.approx(100 * quality[key], abs=1e-6)
    for name in ("PQ", "SQ", "RQ"):
        assert table[name] == pytest.approx(100 * quality[name.lower()], abs=1e-9)
