"""Metrics against the numbers of the published code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from evaluation_oracles import needs_meteor
from golden_cases import GoldenCase, golden_cases
from golden_files import golden_json

from fastregion.evaluation.metrics.bertscore import match_tokens
from fastregion.evaluation.metrics.bleu import bleu
from fastregion.evaluation.metrics.cider import cider
from fastregion.evaluation.metrics.clair import clair
from fastregion.evaluation.metrics.common import MetricResult
from fastregion.evaluation.metrics.meteor import Meteor, meteor_nltk
from fastregion.evaluation.metrics.panoptic import caption_map, panoptic_quality
from fastregion.evaluation.metrics.ptb_tokenizer import tokenize
from fastregion.evaluation.metrics.rouge import rouge_l, rouge_score_l
from fastregion.evaluation.metrics.similarity import normalize_names, semantic_iou
from fastregion.models.coco_panoptic import PanopticFiles

VECTORS = golden_json("vectors", {"items", "corpora"})
Corpus = tuple[list[str], list[list[str]]]


def corpora(vectors: Any) -> dict[str, Corpus]:
    items = {item["id"]: item for item in vectors["items"]}
    return {
        name: (
            [items[i]["candidate_tokens"] for i in corpus["ids"]],
            [
                items[i]["reference_tokens"][: 1 if corpus["references"] == "first" else None]
                for i in corpus["ids"]
            ],
        )
        for name, corpus in vectors["corpora"].items()
    }


def check(found: MetricResult, corpus: Any, key: str, tolerance: float) -> None:
    assert found.corpus == pytest.approx(corpus["corpus"][key], abs=tolerance)
    assert found.items == pytest.approx(corpus["per_item"][key], abs=tolerance)


@VECTORS
def test_tokens(vectors: Any) -> None:
    items = vectors["items"]
    assert tokenize([item["candidate"] for item in items]) == [
        item["candidate_tokens"] for item in items
    ]
    assert tokenize([text for item in items for text in item["references"]]) == [
        text for item in items for text in item["reference_tokens"]
    ]


@VECTORS
def test_bleu_rouge_cider(vectors: Any) -> None:
    for name, texts in corpora(vectors).items():
        expected = vectors["corpora"][name]
        for order, found in enumerate(bleu(*texts), start=1):
            check(found, expected, f"Bleu_{order}", 1e-12)
        check(rouge_l(*texts), expected, "ROUGE_L", 1e-12)
        check(cider(*texts), expected, "CIDEr", 1e-12)


@needs_meteor
@VECTORS
def test_meteor_in_java(vectors: Any) -> None:
    with Meteor() as meteor:
        for name, texts in corpora(vectors).items():
            check(meteor(*texts), vectors["corpora"][name], "METEOR", 1e-6)


@VECTORS
def test_rouge_score_and_meteor_of_nltk(vectors: Any) -> None:
    pytest.importorskip("nltk")
    for item in vectors["items"]:
        for index, text in enumerate(item["references"]):
            for stem, key in ((True, "stemmer"), (False, "nostemmer")):
                found = rouge_score_l([item["candidate"]], [[text]], stem=stem)
                expected = item[f"rouge_score_rougeL_f_{key}"][index]
                assert found.corpus == pytest.approx(expected, abs=1e-12)
        found = meteor_nltk([item["candidate_tokens"]], [item["reference_tokens"]], synonyms=False)
        assert found.corpus == pytest.approx(item["nltk_meteor_without_synonyms"], abs=1e-12)


@golden_json("vectors", {"cases", "order"})
def test_bertscore_matching(vectors: Any) -> None:
    for case in vectors["cases"]:
        pair = torch.tensor(case["candidate"]), torch.tensor(case["reference"])
        assert match_tokens(*pair) == pytest.approx(case["no_idf"], abs=1e-5)
        weights = torch.tensor(case["idf_candidate"]), torch.tensor(case["idf_reference"])
        assert match_tokens(*pair, *weights) == pytest.approx(case["with_idf"], abs=1e-5)


@golden_json("vectors", {"clair"})
def test_clair(vectors: Any) -> None:
    for case in vectors["clair"]:
        answers = iter(case["responses"])
        found = clair(["a"], ["b"], lambda _, answers=answers: next(answers))
        assert found.score == pytest.approx(case["score"], abs=1e-12)
        assert found.reason == case["reason"]


@golden_json("vectors", {"semantic_iou"})
@pytest.mark.parametrize("variant", ["osprey", "videorefer"])
def test_semantic_iou(vectors: Any, variant: Any) -> None:
    for case in vectors["semantic_iou"]:
        expected = case[variant]
        names = case["prediction"], case["category"]
        assert normalize_names(*names, variant) == (expected["prediction"], expected["category"])
        found = semantic_iou(*([name] for name in names), variant)
        assert found.corpus == pytest.approx(expected["iou"], abs=1e-12)


@golden_cases("pix2cap", "metrics")
def test_panoptic_quality(case: GoldenCase) -> None:
    expected = case.json("outputs.json")
    found = panoptic_quality(*files(case))
    quality = expected["caption_quality"]
    assert (found.pq, found.sq, found.rq) == pytest.approx(
        (quality["pq"], quality["sq"], quality["rq"]), abs=1e-12
    )
    assert found.captions == pytest.approx(
        {"bleu_4": quality["bleu"], "cider": quality["cider"], "rouge_l": quality["rouge"]},
        abs=1e-12,
    )
    assert {str(key) for key in found.categories} == expected["per_category"].keys()
    for key, values in found.categories.items():
        numbers = {k: v for k, v in expected["per_category"][str(key)].items() if k != "n"}
        assert values == pytest.approx(numbers, abs=1e-12)


@golden_cases("pix2cap", "metrics")
@pytest.mark.parametrize("mode", ["released", "words"])
def test_panoptic_map(case: GoldenCase, mode: Any) -> None:
    pytest.importorskip("nltk")
    expected = case.json("outputs.json")
    found = caption_map(*files(case), mode=mode)
    numbers = expected["map" if mode == "released" else "map_list_captions"]
    assert found.map == pytest.approx(numbers["map"], abs=1e-12)
    assert found.detection_map == pytest.approx(numbers["detmap"], abs=1e-12)
    assert list(found.ap.values()) == pytest.approx([*numbers["ap_breakdown"].values()], abs=1e-12)
    assert list(found.detection_ap.values()) == pytest.approx(
        [*numbers["det_breakdown"].values()], abs=1e-12
    )
    assert found.segments == expected["npos"]
    key = "meteor" if mode == "released" else "meteor_list_captions"
    records = expected["records"]
    assert [match.iou for match, _ in found.records] == pytest.approx(
        [record["iou"] for record in records], abs=1e-12
    )
    # An empty prediction has no METEOR, which the record writes as 0.
    assert [max(said, 0) for _, said in found.records] == pytest.approx(
        [max(record[key], 0) for record in records], abs=1e-12
    )


def files(case: GoldenCase) -> tuple[PanopticFiles, PanopticFiles]:
    return PanopticFiles(case.folder / "gt.json"), PanopticFiles(case.folder / "pred.json")
