"""BERTScore, names, CLAIR, retrieval and intervals: what must hold for any input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from fastregion.evaluation.metrics.bertscore import (
    BertScore,
    inverse_document_frequency,
    match_tokens,
)
from fastregion.evaluation.metrics.clair import clair, clair_message, read_clair_answer
from fastregion.evaluation.metrics.common import MetricUnavailable
from fastregion.evaluation.metrics.encoder import TextEncoder
from fastregion.evaluation.metrics.panoptic import touching_pairs
from fastregion.evaluation.metrics.retrieval import self_retrieval, self_retrieval_by
from fastregion.evaluation.metrics.similarity import semantic_iou, sentence_similarity
from fastregion.models.categories import COCO_PANOPTIC
from fastregion.models.coco_panoptic import PanopticFiles, PanopticImage, write_panoptic
from fastregion.models.segment import Segment
from fastregion.regions import Region


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "cat", "runs"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), intermediate_size=16, **sizes)
    BertModel(config).save_pretrained(folder)
    return TextEncoder(folder)


def test_bertscore(encoder: TextEncoder) -> None:
    texts = ["a red dog", "a cat runs"]
    for idf in (False, True):
        score = BertScore(encoder=encoder, layer=1, idf=idf)
        same = score(texts, [[text] for text in texts])
        assert same["f1"].items == pytest.approx((1, 1), abs=1e-5)
        other = score(texts[:1], [["a cat runs", "a red cat"]])
        assert other["f1"].corpus < 1
    plain = BertScore(encoder=encoder, layer=1)(texts[:1], [[texts[1]]])
    rescaled = BertScore(encoder=encoder, layer=1, baseline=(0.5, 0.5, 0.5))(
        texts[:1], [[texts[1]]]
    )
    assert rescaled["f1"].corpus == pytest.approx(2 * plain["f1"].corpus - 1)
    with pytest.raises(ValueError, match="layer: expected 0 to 2, got 3"):
        BertScore(encoder=encoder, layer=3)(["a"], [["a"]])
    with pytest.raises(ValueError, match="references: item 0 must be a list"):
        BertScore(encoder=encoder, layer=1)(["a"], ["a"])


def test_rare_tokens_weigh_more() -> None:
    weights = inverse_document_frequency([[1, 2, 2], [1, 3]])
    assert weights == pytest.approx({1: 0, 2: np.log(1.5), 3: np.log(1.5)})


def test_bertscore_refuses_other_widths() -> None:
    with pytest.raises(ValueError, match="candidate, reference"):
        match_tokens(torch.ones(2, 3), torch.ones(2, 4))


def test_sentence_similarity(encoder: TextEncoder) -> None:
    found = sentence_similarity(["dog", "cat"], ["dog", "red dog"], encoder)
    assert found.items[0] == pytest.approx(1, abs=1e-5)
    assert found.items[1] < 1


def test_an_encoder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MetricUnavailable, match="folder: expected a text encoder"):
        TextEncoder(tmp_path)


def test_the_variants_differ_for_parts() -> None:
    assert semantic_iou(["lamp:shade"], ["lamp:shade"], "osprey").corpus == 0.5
    assert semantic_iou(["lamp:shade"], ["lamp:shade"], "videorefer").corpus == 1
    with pytest.raises(ValueError, match="variant: expected one of"):
        semantic_iou(["a"], ["a"], "other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="predictions: expected at least one, got none"):
        semantic_iou([], [])


def test_clair_takes_numbers_alone() -> None:
    assert read_clair_answer('{"score": NaN, "reason": "x"}') is None


def test_clair_asks_again_and_says_when_nothing_was_read() -> None:
    asked: list[str] = []

    def judge(message: str) -> str:
        asked.append(message)
        return "no idea"

    found = clair(["a dog"], ["a cat", "b"], judge)
    assert (found.score, found.readable, len(asked)) == (0, False, 3)
    assert "- a dog\n" in asked[0]
    assert "- a cat\n- b\n" in asked[0]
    with pytest.raises(TypeError, match="references: expected a list"):
        clair_message(["a"], "a cat")


def test_self_retrieval() -> None:
    assert self_retrieval([[0, -1], [-1, 0]]).corpus == 1
    assert self_retrieval([[0, 0], [-1, 0]]).items == (0, 1)  # a tie fails
    for wrong in ([[0]], [[0, 1]], [[0, float("nan")], [0, 1]]):
        with pytest.raises(ValueError, match="scores: expected"):
            self_retrieval(wrong)


def test_an_external_scorer_has_pictures_in_rows() -> None:
    def scorer(pictures: Any, texts: Any) -> np.ndarray:
        return np.array([[5.0, 1.0], [6.0, 2.0]])

    # Text 0 fits picture 1 better than its own; text 1 fits its own.
    assert self_retrieval_by(scorer, ["p", "q"], ["a", "b"]).items == (0, 1)
    with pytest.raises(ValueError, match="texts: expected 2"):
        self_retrieval_by(scorer, ["p", "q"], ["a"])


def test_annotated_areas_are_those_of_the_file(tmp_path: Path) -> None:
    for name, width in (("true", 6), ("said", 4)):
        mask = np.zeros((8, 8), bool)
        mask[:, :width] = True
        segment = Segment.of(Region.from_mask(mask), id=1, category=COCO_PANOPTIC[0], caption="a")
        image = PanopticImage(1, "a.jpg", (8, 8), (segment,))
        write_panoptic(tmp_path / f"{name}.json", [image])
    said = PanopticFiles(tmp_path / "said.json")
    (found,) = touching_pairs(PanopticFiles(tmp_path / "true.json"), said)
    assert found.iou == 32 / 48
    content = json.loads((tmp_path / "true.json").read_text(encoding="utf-8"))
    for area, iou in ((64, 32 / 64), (0, None), (None, None)):
        content["annotations"][0]["segments_info"][0]["area"] = area
        (tmp_path / "true.json").write_text(json.dumps(content), encoding="utf-8")
        annotations = PanopticFiles(tmp_path / "true.json")
        if iou is None:
            with pytest.raises(ValueError, match=f"area of segment 1 .* above 0, got {area}"):
                touching_pairs(annotations, said)
        else:
            assert touching_pairs(annotations, said)[0].iou == iou
