"""Panoptic captioning (Pix2Cap, 2025): m@kIoU, PQ, and mAP over thresholds of IoU and METEOR.

The published mAP hands METEOR the predicted caption as a string where a list is expected, so that
each *character* becomes a reference: ``mode="released"`` reproduces that, ``mode="words"`` is what
the paper means. Its hypothesis is the annotation, its records are all pairs that touch, and no
score orders them, in both modes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fastregion.evaluation.metrics.bleu import bleu_of_counts
from fastregion.evaluation.metrics.cider import cider_of_counts
from fastregion.evaluation.metrics.meteor import meteor_nltk
from fastregion.evaluation.metrics.ngrams import count_ngrams
from fastregion.evaluation.metrics.ptb_tokenizer import tokenize
from fastregion.evaluation.metrics.rouge import rouge_l
from fastregion.models.coco_panoptic import PanopticFiles
from fastregion.models.segment import Segment

__all__ = [
    "CaptionMap",
    "Match",
    "PanopticQuality",
    "caption_map",
    "panoptic_quality",
    "touching_pairs",
]

IOU_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
METEOR_THRESHOLDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
_RECALLS = np.arange(0.0, 1.01, 0.01)  # 101 points


@dataclass(frozen=True, kw_only=True)
class Match:
    """An annotated and a predicted segment of one category that touch."""

    image_id: int | str
    annotated: Segment
    predicted: Segment
    iou: float


@dataclass(frozen=True, kw_only=True)
class PanopticQuality:
    """Segmentation, and the captions of what was found.

    Attributes:
        pq, sq, rq: means over the categories that occur.
        categories: by category id, numbers of ``tp``, ``fp``, ``fn`` and the summed ``iou``.
        captions: BLEU-4, CIDEr and ROUGE-L of matched captions, times the share
            matched / (tp + fp + fn).
        matches: the pairs with IoU > 0.5.
    """

    pq: float
    sq: float
    rq: float
    categories: Mapping[int, Mapping[str, float]]
    captions: Mapping[str, float]
    matches: tuple[Match, ...]


@dataclass(frozen=True, kw_only=True)
class CaptionMap:
    """Mean average precision of panoptic captioning.

    Attributes:
        map: mean over all thresholds.
        detection_map: the same without captions.
        ap: by (IoU, METEOR) threshold.
        detection_ap: by IoU threshold.
        records: the pairs that were judged, in their order, each with its METEOR; -1 for
            an empty prediction, which counts as wrong.
        segments: how many are annotated, crowds among them.
    """

    map: float
    detection_map: float
    ap: Mapping[tuple[float, float], float]
    detection_ap: Mapping[float, float]
    records: tuple[tuple[Match, float], ...]
    segments: int


@dataclass(frozen=True)
class _Overlaps:
    """One image: segments by id, and pixels that an annotated and a predicted id share.

    As published, the areas of annotated segments are those that the file states; those of predicted
    ones are counted.
    """

    image_id: int | str
    annotated: Mapping[int, Segment]
    areas: Mapping[int, float]  # of annotated segments
    predicted: Mapping[int, Segment]
    pixels: Mapping[tuple[int, int], int]  # in increasing order of ids; 0 is void

    def matches(self) -> Iterator[Match]:
        """All pairs of one category that touch, crowds left out."""
        for (one, other), pixels in self.pixels.items():
            annotated, predicted = self.annotated.get(one), self.predicted.get(other)
            if annotated is None or predicted is None or annotated.iscrowd:
                continue
            if annotated.category.id != predicted.category.id:
                continue
            void = self.pixels.get((0, other), 0)
            union = self.areas[one] + predicted.area - pixels - void
            yield Match(
                image_id=self.image_id,
                annotated=annotated,
                predicted=predicted,
                iou=pixels / union,
            )


def _overlaps(annotations: PanopticFiles, predictions: PanopticFiles) -> Iterator[_Overlaps]:
    for image in annotations:
        predicted = predictions.read(image.image_id)
        if predicted.size != image.size:
            raise ValueError(
                f"predictions: image {image.image_id!r} must have size {image.size}, "
                f"got {predicted.size}"
            )
        joint = image.id_map().astype(np.int64) << 24 | predicted.id_map()
        codes, counts = np.unique(joint, return_counts=True)
        yield _Overlaps(
            image.image_id,
            {_id(segment): segment for segment in image.segments},
            {info["id"]: _area(info, image.image_id) for info in annotations.infos(image.image_id)},
            {_id(segment): segment for segment in predicted.segments},
            {
                (code >> 24, code & 0xFFFFFF): count
                for code, count in zip(codes.tolist(), counts.tolist(), strict=True)
            },
        )


def _area(info: Mapping[str, Any], image_id: int | str) -> float:
    area = info.get("area")
    if isinstance(area, bool) or not isinstance(area, int | float) or not area > 0:
        raise ValueError(
            f"annotations: area of segment {info['id']} of image {image_id!r} must be a number "
            f"above 0, got {area!r}"
        )
    return area


def _id(segment: Segment) -> int:
    assert isinstance(segment.id, int)  # panoptic images have no others
    return segment.id


def touching_pairs(annotations: PanopticFiles, predictions: PanopticFiles) -> list[Match]:
    """The records of the mAP: of each image in turn, in increasing order of ids."""
    return [match for image in _overlaps(annotations, predictions) for match in image.matches()]


def panoptic_quality(annotations: PanopticFiles, predictions: PanopticFiles) -> PanopticQuality:
    """PQ, SQ and RQ (Kirillov et al., 2019), and caption scores at IoU > 0.5 ("m@kIoU").

    Raises:
        MissingImageError: an annotated image without a prediction.
        ValueError: files that do not fit, or no segment at all.
    """
    counts: dict[str, Counter[int]] = {key: Counter() for key in ("tp", "fp", "fn")}
    ious: dict[int, float] = defaultdict(float)
    matched: list[Match] = []
    for image in _overlaps(annotations, predictions):
        found = [match for match in image.matches() if match.iou > 0.5]
        matched += found
        for match in found:
            counts["tp"][match.annotated.category.id] += 1
            ious[match.annotated.category.id] += match.iou
        hit = {_id(match.annotated) for match in found}
        used = {_id(match.predicted) for match in found}
        crowds = {s.category.id: i for i, s in image.annotated.items() if s.iscrowd}
        for number, segment in image.annotated.items():
            if not segment.iscrowd and number not in hit:
                counts["fn"][segment.category.id] += 1
        for number, segment in image.predicted.items():
            if number in used:
                continue
            crowd = crowds.get(segment.category.id, -1)
            ignored = image.pixels.get((0, number), 0) + image.pixels.get((crowd, number), 0)
            if ignored / segment.area <= 0.5:
                counts["fp"][segment.category.id] += 1
    categories = {
        category: {
            **{key: float(values[category]) for key, values in counts.items()},
            "iou": ious[category],
        }
        for category in sorted({key for values in counts.values() for key in values})
    }
    if not categories:
        raise ValueError("annotations: expected at least one segment, got none")
    quality = np.array([_quality(**values) for values in categories.values()]).mean(axis=0)
    total = sum(sum(values.values()) for values in counts.values())
    return PanopticQuality(
        pq=float(quality[0]),
        sq=float(quality[1]),
        rq=float(quality[2]),
        categories=categories,
        captions=_caption_scores(matched, len(matched) / total),
        matches=tuple(matched),
    )


def _quality(tp: float, fp: float, fn: float, iou: float) -> tuple[float, float, float]:
    size = tp + fp / 2 + fn / 2
    return iou / size, iou / tp if tp else 0.0, tp / size


def _caption_scores(matched: Sequence[Match], share: float) -> dict[str, float]:
    if not matched:
        return {"bleu_4": 0.0, "cider": 0.0, "rouge_l": 0.0}
    candidates = tokenize([match.predicted.caption for match in matched])
    references = [[text] for text in tokenize([match.annotated.caption for match in matched])]
    counts = count_ngrams(candidates, references)
    return {
        "bleu_4": bleu_of_counts(counts)[3].corpus * share,
        "cider": cider_of_counts(counts).corpus * share,
        "rouge_l": rouge_l(candidates, references).corpus * share,
    }


def caption_map(
    annotations: PanopticFiles,
    predictions: PanopticFiles,
    *,
    mode: Literal["words", "released"] = "words",
) -> CaptionMap:
    """The mean AP over thresholds of IoU and METEOR, and the AP of detection alone.

    Args:
        annotations: with captions.
        predictions: likewise, of the same images.
        mode: what METEOR's references are: the predicted caption, or, as published, each of its
            characters.

    Raises:
        MissingImageError: an annotated image without a prediction.
        MetricUnavailable: without the package nltk.
        ValueError: an unknown mode, or files that do not fit.
    """
    if mode not in ("words", "released"):
        raise ValueError(f"mode: expected 'words' or 'released', got {mode!r}")
    pairs = touching_pairs(annotations, predictions)
    segments = sum(len(image.segments) for image in annotations)
    ious = np.array([match.iou for match in pairs])
    said = np.array([_meteor(match, mode) for match in pairs])
    precise = {
        (iou, meteor): _average_precision((ious >= iou) & (said > meteor), segments)
        for iou in IOU_THRESHOLDS
        for meteor in METEOR_THRESHOLDS
    }
    detected = {
        iou: _average_precision((ious >= iou) & (said > -1), segments) for iou in IOU_THRESHOLDS
    }
    return CaptionMap(
        map=float(np.mean(list(precise.values()))),
        detection_map=float(np.mean(list(detected.values()))),
        ap=precise,
        detection_ap=detected,
        records=tuple(zip(pairs, said.tolist(), strict=True)),
        segments=segments,
    )


def _meteor(match: Match, mode: str) -> float:
    caption = match.predicted.caption
    if not caption:
        return -1.0  # below every threshold: without a caption nothing is found
    references = [caption] if mode == "words" else sorted(set(caption))
    return meteor_nltk([match.annotated.caption], [references]).corpus


def _average_precision(right: np.ndarray, segments: int) -> float:
    """101-point AP of records in their order: which of them are true positives."""
    if not len(right) or not segments:
        return 0.0
    hits = np.cumsum(right)
    recall, precision = hits / segments, hits / np.arange(1, len(right) + 1)
    best = [precision[recall >= point] for point in _RECALLS]
    return float(np.mean([values.max() if len(values) else 0.0 for values in best]))
