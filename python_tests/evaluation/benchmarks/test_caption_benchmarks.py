"""Benchmarks that compare captions with references: what they read, and what they ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmark_data import HEIGHT, WIDTH, box_rle, changed, judge_template, write_json, write_lines

from fastregion.evaluation.benchmarks.base import Prediction
from fastregion.evaluation.benchmarks.flickr30k_entities import Flickr30kEntities
from fastregion.evaluation.benchmarks.hc_stvg import HcStvg
from fastregion.evaluation.benchmarks.lvis_paco import LvisKeywords, PacoKeywords
from fastregion.evaluation.benchmarks.ref_l4 import RefL4
from fastregion.evaluation.benchmarks.refcocog_vg import RefCocoG, VisualGenome
from fastregion.evaluation.benchmarks.ureca import Ureca

# ---- RefCOCOg, Visual Genome ----


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    images = [{"id": k, "file_name": f"{k}.jpg", "height": HEIGHT, "width": WIDTH} for k in (5, 3)]
    annotations = [
        {"id": 1, "image_id": 3, "bbox": [0, 0, 10, 20], "caption": "a cat"},
        {"id": 2, "image_id": 5, "bbox": [70.5, 0, 20, 20], "caption": "a dog"},
        {"id": 3, "image_id": 3, "bbox": [0, 0, 10, 20], "caption": "the cat"},
    ]
    for name in ("finetune_refcocog_val_captions", "test_caption"):
        write_json(tmp_path / f"{name}.json", {"images": images, "annotations": annotations})
    return tmp_path


@pytest.mark.parametrize("variant", [RefCocoG(), VisualGenome()], ids=lambda b: b.name)
def test_coco_captions(coco: Path, variant: RefCocoG) -> None:
    dog, cat = variant.items(coco)
    assert (dog.id, dog.masks) == ("5", ((70.5, 0.0, 80.0, 20.0),))  # cut to the picture
    assert cat.row["references"] == ("a cat", "the cat")
    record = write_json(coco / "r.json", [{"image_id": 3, "caption": "cat"}])
    ((prediction,), _) = variant.recorded(coco, record)
    assert (prediction.item, prediction.text) == ("3", "cat")
    changed(record, 0, "image_id", value=4)
    with pytest.raises(ValueError, match="row 0: image_id: is of no item of the data"):
        variant.recorded(coco, record)


def test_coco_captions_bad_data(coco: Path) -> None:
    file = coco / "finetune_refcocog_val_captions.json"
    changed(file, "annotations", 1, "image_id", value=9)
    with pytest.raises(ValueError, match=r"annotations\[1\]: image_id: no image has the id 9"):
        RefCocoG().items(coco)


# ---- Flickr30k Entities ----

XML = """<annotation><filename>7.jpg</filename>
<object><name>11</name><name>12</name>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>13</name><scene>1</scene></object>
<object><name>14</name><nobndbox>1</nobndbox></object>
<object><name>15</name>
<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></object>
</annotation>"""
SENTENCES = """[/EN#11/people A man] sees [/EN#12/animals/other two dogs] .
[/EN#0/notvisual Nobody] sees [/EN#11/people A man] .
[/EN#11/people The tall man] stands in [/EN#13/scene a park] .
"""


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    for folder, suffix, text in (("Annotations", "xml", XML), ("Sentences", "txt", SENTENCES)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"7.{suffix}").write_text(text, encoding="utf-8")
    (tmp_path / "test.txt").write_text("7\n", encoding="utf-8")
    return tmp_path


def test_flickr_boxes_have_the_phrases_of_all_their_chains(flickr: Path) -> None:
    (item,) = Flickr30kEntities().items(flickr)  # the last box has no phrase
    assert item.masks == ((0, 1, 30, 40),)
    assert item.row["references"] == ("A man", "The tall man", "two dogs")
    assert item.image == "images/7.jpg"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmin>1</xmin>", "", "object 0: bndbox must have the integers xmin"),
        ("</annotation>", "", "not valid XML"),
    ],
)
def test_flickr_bad_xml(flickr: Path, old: str, new: str, message: str) -> None:
    file = flickr / "Annotations" / "7.xml"
    file.write_text(XML.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Flickr30kEntities().items(flickr)


def test_flickr_missing_file(flickr: Path) -> None:
    (flickr / "test.txt").write_text("7 8", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"Sentences/8\.txt"):
        Flickr30kEntities().items(flickr)


# ---- LVIS, PACO ----


@pytest.fixture
def keywords(tmp_path: Path) -> Path:
    rows = [
        {
            "file_name": "1.jpg",
            "height": HEIGHT,
            "width": WIDTH,
            "categories": ["teddy_bear", "lamp:shade"],
            "annotations": [
                {"segmentation": box_rle(0, 0, 9, 9)},
                {"segmentation": [[0, 0, 9, 0, 9, 9]]},
            ],
        }
    ]
    for name in ("lvis", "paco"):
        write_json(tmp_path / f"{name}_val_1k_category.json", rows)
    return tmp_path


def test_keywords(keywords: Path) -> None:
    items = LvisKeywords().items(keywords)
    assert [item.id for item in items] == ["0-0", "0-1"]
    assert items[1].row["category"] == "lamp:shade"
    prompts = [b.query(items[0], "GAR").prompt for b in (LvisKeywords(), PacoKeywords())]
    assert prompts[0] == "What is the category of <Prompt0>? Using only one word or phrase."
    assert "object:part" in (prompts[1] or "")


def test_keywords_bad_data_and_settings(keywords: Path) -> None:
    with pytest.raises(ValueError, match="variant: expected one of"):
        LvisKeywords(variant="x")
    changed(keywords / "paco_val_1k_category.json", 0, "categories", value=["a"])
    with pytest.raises(ValueError, match="row 0: annotations: expected 1, as many as categories"):
        PacoKeywords().items(keywords)


# ---- Ref-L4 ----


@pytest.fixture
def ref_l4(tmp_path: Path) -> Path:
    rows = [
        {
            "id": k,
            "file_name": f"{source}_{k}.jpg",
            "height": HEIGHT,
            "width": WIDTH,
            "bbox": [-1, 0, 10, 10],
            "caption": "a long reference",
        }
        for k, source in enumerate(("objects365", "coco"))
    ]
    write_lines(tmp_path / "ref-l4-test.jsonl", rows)
    return tmp_path


def test_ref_l4_reads_objects365_only(ref_l4: Path) -> None:
    (item,) = RefL4().items(ref_l4)
    assert item.image == "images/objects365_0.jpg"
    assert item.masks == ((0.0, 0, 9, 10),)


def test_ref_l4_shortens_each_text_without_the_other(ref_l4: Path) -> None:
    (item,) = RefL4().items(ref_l4)
    prediction = Prediction(item="0", text="what was said")
    wording = judge_template("ref_l4.txt")
    clair, said, reference = RefL4().judge_calls(item, prediction, wording, ref_l4)
    texts = {call.key: str(call.messages) for call in (clair, said, reference)}
    assert "what was said" in texts["clair"]
    assert "a long reference" in texts["clair"]
    assert "what was said" in texts["short prediction"]
    assert "a long reference" not in texts["short prediction"]
    assert "a long reference" in texts["short reference"]
    assert "what was said" not in texts["short reference"]
    assert not RefL4().readable(item, "short prediction", " ")


# ---- URECA ----


def test_ureca(tmp_path: Path) -> None:
    row = {"image": "p.png", "segmentation": box_rle(0, 0, 9, 9), "caption": "a thing"}
    file = write_lines(tmp_path / "test.jsonl", [row, {**row, "id": "x"}])
    assert [item.id for item in Ureca().items(tmp_path)] == ["0", "x"]
    item = Ureca().items(tmp_path)[0]
    prediction = Prediction(item="0", text="said")
    (call,) = Ureca().judge_calls(item, prediction, judge_template("ureca.txt"), tmp_path)
    message = call.messages[0]["content"]
    assert "\n- said\n" in message
    assert "\n- a thing\n" in message
    write_lines(file, [{**row, "segmentation": 5}])
    with pytest.raises(ValueError, match="line 1: segmentation: expected an RLE or polygons"):
        Ureca().items(tmp_path)


# ---- HC-STVG ----


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    row = {
        "video_name": "v",
        "caption": "A man walks.",
        "frame_path": ["a.jpg", "b.jpg"],
        "track_list": [[0, 0, 9, 9], [1, 0, 10, 9]],
    }
    write_json(tmp_path / "hc_stvg.json", [row])
    return tmp_path


def test_hc_stvg(clips: Path) -> None:
    (item,) = HcStvg().items(clips)
    assert item.frames == ("a.jpg", "b.jpg")
    assert item.masks == ((0, 0, 9, 9), (1, 0, 10, 9))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[0, 0, 9, 9]], "row 0: track_list: expected 2 boxes, one a frame, got 1"),
        ([[0, 0, 9, 9], [0, 0]], r"row 0: track_list\[1\]: expected 4 finite numbers"),
        ([[0, 0, 9, 9], [5, 0, 5, 9]], r"row 0: track_list\[1\]: expected x0 < x1 and y0 < y1"),
    ],
)
def test_hc_stvg_bad_data(clips: Path, value: Any, message: str) -> None:
    changed(clips / "hc_stvg.json", 0, "track_list", value=value)
    with pytest.raises(ValueError, match=message):
        HcStvg().items(clips)


# ---- scores ----


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR 1.5 takes seconds to start; its numbers have tests of their own."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)


def test_captions_are_compared_with_all_references(coco: Path, no_java: None) -> None:
    items = RefCocoG().items(coco)
    predictions = {
        "5": Prediction(item="5", text="A dog."),
        "3": Prediction(item="3", text="the big cat"),
    }
    scores = RefCocoG().score(items, predictions, {})
    assert list(scores.table) == ["BLEU@1", "BLEU@2", "BLEU@3", "BLEU@4", "ROUGE-L", "CIDEr-D"]
    assert scores.items["5"]["BLEU@2"] == pytest.approx(100)
    assert scores.items["3"]["BLEU@1"] == pytest.approx(200 / 3)
    assert scores.table["BLEU@1"] == pytest.approx(100 * 4 / 5)  # of the corpus
    rouge = [scores.items[key]["ROUGE-L"] for key in "53"]
    assert scores.table["ROUGE-L"] == pytest.approx(sum(rouge) / 2)
    assert scores.counts["BLEU@4"] == 2
    assert [note.split(" is left out: ")[0] for note in scores.notes] == ["METEOR 1.5", "SPICE"]


def test_items_without_prediction_are_no_part_of_the_corpus(coco: Path, no_java: None) -> None:
    items = RefCocoG().items(coco)
    scores = RefCocoG().score(items, {"5": Prediction(item="5", text="a dog")}, {})
    assert scores.table["BLEU@2"] == pytest.approx(100)
    assert scores.table["CIDEr-D"] == 0  # as always of a single item
    assert "1 of 2 items have no prediction and are left out: 3" in scores.notes
    assert RefCocoG().score(items, {}, {}).table == {}


def test_hc_stvg_released_leaves_out_short_predictions(clips: Path, no_java: None) -> None:
    for released, counted in ((False, 1), (True, 0)):
        benchmark = HcStvg(released=released)
        predictions = {"v": Prediction(item="v", text="walks")}
        scores = benchmark.score(benchmark.items(clips), predictions, {})
        assert scores.counts.get("BLEU@1", 0) == counted
    predictions = {"v": Prediction(item="v", text="A man walks.")}
    scores = HcStvg(released=True).score(HcStvg().items(clips), predictions, {})
    assert scores.table["BLEU@3"] == pytest.approx(100)


def test_ref_l4_scores_the_shortened_texts(ref_l4: Path, no_java: None) -> None:
    items = RefL4().items(ref_l4)
    predictions = {"0": Prediction(item="0", text="what was said")}
    answers = {
        ("0", "clair"): '{"score": 70, "reason": "alike"}',
        ("0", "short prediction"): "red box",
        ("0", "short reference"): "red ball",
    }
    scores = RefL4().score(items, predictions, answers)
    assert scores.table["BLEU@1"] == pytest.approx(50)
    assert scores.table["CLAIR"] == pytest.approx(70)
    assert scores.items["0"]["CLAIR"] == pytest.approx(70)
    del answers["0", "short reference"]
    scores = RefL4().score(items, predictions, answers)
    assert list(scores.table) == ["CLAIR"]
    assert any("lack the shortened texts" in note for note in scores.notes)


def test_ureca_needs_neither_judge_nor_encoder(tmp_path: Path) -> None:
    row = {"image": "p.png", "segmentation": box_rle(0, 0, 9, 9), "caption": "a red thing"}
    write_lines(tmp_path / "test.jsonl", [row, row])
    items = Ureca().items(tmp_path)
    predictions = {item.id: Prediction(item=item.id, text="a red thing") for item in items}
    scores = Ureca().score(items, predictions, {})
    assert scores.table["ROUGE-L (rouge_score)"] == pytest.approx(100)
    assert scores.table["METEOR (NLTK)"] > 90
    assert "CLAIR" not in scores.table
    assert "CLAIR: 2 of 2 items are not judged" in scores.notes
    assert any(note.startswith("BERTScore is left out") for note in scores.notes)
    scores = Ureca().score(items, predictions, {("0", "clair"): "50", ("1", "clair"): "none"})
    assert scores.table["CLAIR"] == pytest.approx(25)
    assert scores.counts["CLAIR"] == 2
    assert "CLAIR: 1 answers hold no score and count 0: 1" in scores.notes
    assert not Ureca().readable(items[0], "clair", "none")


@pytest.mark.parametrize(("variant", "iou"), [("osprey", 50), ("videorefer", 100)])
def test_keywords_are_cleaned_as_the_variant_does(keywords: Path, variant: str, iou: float) -> None:
    benchmark = PacoKeywords(variant=variant)
    items = benchmark.items(keywords)
    predictions = {
        "0-0": Prediction(item="0-0", text="teddy bear."),
        "0-1": Prediction(item="0-1", text="Lamp: shade"),
    }
    scores = benchmark.score(items, predictions, {})
    assert scores.items["0-1"]["semantic IoU"] == pytest.approx(iou)
    assert scores.table["semantic IoU"] == pytest.approx((100 + iou) / 2)
    assert any(note.startswith("semantic similarity is left out") for note in scores.notes)
