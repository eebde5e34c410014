"""Pix2Cap's pictures, merges and files against numbers of the published code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import GoldenCase, golden_cases
from torch import Tensor

from fastregion.cli import main
from fastregion.models.categories import COCO_PANOPTIC, Category
from fastregion.models.coco_panoptic import (
    MissingImageError,
    PanopticFiles,
    SegmentIdError,
    UnknownCategoryError,
    write_panoptic,
)
from fastregion.models.pix2cap import Pix2CapCaptioner
from fastregion.models.pix2cap.postprocessing import (
    Instances,
    instances,
    keep_queries,
    merge_segments,
    resize_masks,
    segments,
    semantic_map,
)
from fastregion.models.pix2cap.processing import normalise, pad_batch

SCORES = 1e-5


def records(
    panoptic: Tensor, merged: Any, things: set[int], captions: list[str], num_classes: int
) -> list[dict[str, Any]]:
    """Segments as the cases write them."""
    categories = [Category(k, f"class {k}", k in things) for k in range(num_classes)]
    found = segments(panoptic, merged, categories, dict(enumerate(captions)))
    for segment in found:
        assert np.array_equal(segment.mask, panoptic.numpy() == segment.id)
    return [
        {
            "id": segment.id,
            "isthing": segment.category.isthing,
            "category_id": segment.category.id,
            "caption": segment.caption,
        }
        for segment in found
    ]


def as_set(classes: Tensor, scores: Tensor, masks: np.ndarray, captions: list[str]) -> list[Any]:
    """Instances in an order of their own: that of an unsorted top-k means nothing."""
    return sorted(
        (captions[k], int(classes[k]), round(float(scores[k]), 4), masks[k].tobytes())
        for k in range(len(classes))
    )


def assert_same_instances(
    found: Instances, captions: list[str], expected: dict[str, Any], tolerance: float
) -> None:
    ours = as_set(
        found.classes,
        found.scores,
        found.masks.numpy(),
        [captions[query] for query in found.captioned_by.tolist()],
    )
    names = ("classes", "scores", "masks", "captions")
    theirs = as_set(*(expected[name] for name in names))
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    assert np.allclose([row[2] for row in ours], [row[2] for row in theirs], atol=tolerance)
    assert [row[3] for row in ours] == [row[3] for row in theirs], "masks differ"


def size_of(masks: Tensor) -> tuple[int, int]:
    height, width = masks.shape[1:]
    return height, width


@golden_cases("pix2cap", "panoptic")
def test_merges(case: GoldenCase) -> None:
    inputs, outputs = case.tensors("inputs"), case.tensors("outputs")
    infos = case.json("outputs.json")
    for k, about in enumerate(case.json("config.json")):
        class_logits, masks = inputs[f"case{k}.mask_cls"], inputs[f"case{k}.mask_pred"]
        things, captions = set(about["thing_contiguous_ids"]), about["captions"]
        kept = keep_queries(class_logits, about["object_mask_threshold"])
        panoptic, merged = merge_segments(
            kept, masks[kept.queries], size_of(masks), things, about["overlap_threshold"]
        )
        assert torch.equal(panoptic, outputs[f"case{k}.panoptic_seg"])
        assert panoptic.dtype == torch.int32
        found = records(panoptic, merged, things, captions, about["num_classes"])
        assert found == infos[k]["segments_info"]
        expected = outputs[f"case{k}.sem_seg"]
        torch.testing.assert_close(semantic_map(class_logits, masks), expected, rtol=0, atol=SCORES)
        assert_same_instances(
            instances(class_logits, masks, things, about["test_topk_per_image"]),
            captions,
            {
                "classes": outputs[f"case{k}.inst_classes"],
                "scores": outputs[f"case{k}.inst_scores"],
                "masks": outputs[f"case{k}.inst_masks"].bool().numpy(),
                "captions": infos[k]["inst_captions"],
            },
            SCORES,
        )


@golden_cases("pix2cap", "panoptic")
def test_every_rule_of_the_merge_counts(case: GoldenCase) -> None:
    """What the test above would find if a rule were left out."""
    inputs, outputs = case.tensors("inputs"), case.tensors("outputs")
    noticed = dict.fromkeys(("threshold", "overlap", "stuff", "score"), False)
    for k, about in enumerate(case.json("config.json")):
        class_logits, masks = inputs[f"case{k}.mask_cls"], inputs[f"case{k}.mask_pred"]
        things = set(about["thing_contiguous_ids"])
        expected = outputs[f"case{k}.panoptic_seg"]
        kept = keep_queries(class_logits, about["object_mask_threshold"])
        everyone = keep_queries(class_logits, 0.0)
        flat = type(kept)(kept.queries, kept.classes, torch.ones_like(kept.scores))
        every_class = set(range(about["num_classes"]))
        overlap = about["overlap_threshold"]
        for name, changed, kinds, ratio in (
            ("threshold", everyone, things, overlap),
            ("overlap", kept, things, 0.0),
            ("stuff", kept, every_class, overlap),
            ("score", flat, things, overlap),
        ):
            found, _ = merge_segments(changed, masks[changed.queries], size_of(masks), kinds, ratio)
            noticed[name] |= not torch.equal(found, expected)
    assert sum(noticed.values()) >= 2, noticed  # not every set of cases shows every rule


@golden_cases("pix2cap", "panoptic")
def test_a_kept_class_token_ends_nothing(case: GoldenCase) -> None:
    """The published code raises IndexError here; ours gives the same map as without it."""
    inputs, outputs = case.tensors("inputs"), case.tensors("outputs")
    for k, about in enumerate(case.json("config.json")):
        class_logits, masks = inputs[f"case{k}.mask_cls"].clone(), inputs[f"case{k}.mask_pred"]
        class_logits[-1] = 0
        class_logits[-1, 0] = 50  # surely an object
        masks = masks.clone()
        masks[-1] = 50  # everywhere
        kept = keep_queries(class_logits, about["object_mask_threshold"])
        panoptic, _ = merge_segments(
            kept,
            masks[kept.queries],
            size_of(masks),
            about["thing_contiguous_ids"],
            about["overlap_threshold"],
        )
        assert torch.equal(panoptic, outputs[f"case{k}.panoptic_seg"])


@golden_cases("pix2cap", "model")
def test_pixels_are_exact(case: GoldenCase) -> None:
    inputs, expected = case.tensors("inputs"), case.tensors("outputs")["eval.padded_images"]
    values = case.json("config.json")
    mean, std = values["INPUT"]["PIXEL_MEAN"], values["INPUT"]["PIXEL_STD"]
    images = []
    for k in range(len(expected)):
        pixels = torch.from_numpy(case.image(f"image{k}")).permute(2, 0, 1)
        assert torch.equal(pixels, inputs[f"image{k}"])
        images.append(normalise(pixels, mean, std))
    divisor = values["MODEL"]["DECODER"]["SIZE_DIVISIBILITY"]
    assert torch.equal(pad_batch(images, divisor), expected)
    # What this would find: padding before the normalisation is not zero.
    grey = [torch.full_like(image, -1.0) for image in images]
    assert not torch.equal(pad_batch(grey, divisor), expected)


@golden_cases("pix2cap", "model")
def test_from_logits_to_segments(case: GoldenCase) -> None:
    values, texts = case.json("config.json"), case.json("outputs.json")
    outputs = case.tensors("outputs")
    test = values["MODEL"]["DECODER"]["TEST"]
    things = set(values["thing_contiguous_ids"])
    last = max(int(key.split(".")[2][5:]) for key in outputs if key.startswith("eval.decoder."))
    num_classes = len(values["class_names"]) - 1
    for k, size in enumerate(texts["output_sizes"]):
        shape = case.image(f"image{k}").shape[:2]
        height, width = (side or own for side, own in zip(size, shape, strict=True))
        class_logits = outputs[f"eval.decoder.layer{last}.pred_logits"][k]
        logits = outputs[f"eval.decoder.layer{last}.pred_masks"][k]
        padded = tuple(outputs["eval.padded_images"].shape[2:])
        masks = resize_masks(logits, padded, shape, (height, width))
        captions = texts["eval.greedy.text"][k]

        kept = keep_queries(class_logits, test["OBJECT_MASK_THRESHOLD"])
        # Masks of the kept queries alone are enough.
        some = resize_masks(logits[kept.queries], padded, shape, (height, width))
        panoptic, merged = merge_segments(
            kept, some, (height, width), things, test["OVERLAP_THRESHOLD"]
        )
        assert torch.equal(panoptic, outputs[f"eval.final{k}.panoptic_seg"])
        found = records(panoptic, merged, things, captions, num_classes)
        assert found == texts[f"eval.final{k}.segments_info"]
        torch.testing.assert_close(
            semantic_map(class_logits, masks),
            outputs[f"eval.final{k}.sem_seg"],
            rtol=0,
            atol=1e-4,
        )
        packed = outputs[f"eval.final{k}.inst_masks_packed"].numpy()
        bits = np.unpackbits(packed, axis=1, count=height * width).astype(bool)
        assert_same_instances(
            instances(class_logits, masks, things, values["COCO"]["TEST"]["DETECTIONS_PER_IMAGE"]),
            captions,
            {
                "classes": outputs[f"eval.final{k}.inst_classes"],
                "scores": outputs[f"eval.final{k}.inst_scores"],
                "masks": bits.reshape(-1, height, width),
                "captions": texts[f"eval.final{k}.inst_captions"],
            },
            1e-3,
        )
        if merged and (height, width) != shape:
            # What this would find: one step of enlarging instead of two.
            whole = (height, width)
            direct = resize_masks(logits[kept.queries], whole, whole, whole)
            other, _ = merge_segments(kept, direct, whole, things, test["OVERLAP_THRESHOLD"])
            assert not torch.equal(other, panoptic)


@golden_cases("pix2cap", "tables")
def test_classes_of_coco(case: GoldenCase) -> None:
    table = case.json("coco_panoptic_classes.json")
    assert [(c.id, c.name, c.isthing) for c in COCO_PANOPTIC] == [
        (row["coco_id"], row["name"], bool(row["isthing"]))
        for row in sorted(table, key=lambda row: row["contiguous_id"])
    ]


@golden_cases("pix2cap", "metrics")
def test_files_of_others_are_read_and_written_again(case: GoldenCase, tmp_path: Path) -> None:
    for name in ("gt", "pred"):
        raw = case.json(f"{name}.json")
        files = PanopticFiles(case.folder / f"{name}.json")
        assert list(files.image_ids) == [entry["image_id"] for entry in raw["annotations"]]
        for image, entry in zip(files, raw["annotations"], strict=True):
            infos = entry["segments_info"]
            ids = case.image(f"{name}/{entry['file_name'][:-4]}").astype(np.int64) @ [1, 256, 65536]
            assert np.array_equal(image.id_map(), ids)
            assert [
                (segment.id, segment.category.id, segment.caption, int(segment.iscrowd))
                for segment in image.segments
            ] == [
                (
                    info["id"],
                    info["category_id"],
                    info.get("caption", info.get("description")),
                    info.get("iscrowd", 0),
                )
                for info in infos
            ]
        write_panoptic(tmp_path / f"{name}.json", files)
        again = PanopticFiles(tmp_path / f"{name}.json")
        for one, other in zip(files, again, strict=True):
            assert (one.image_id, one.file_name, one.size) == (
                other.image_id,
                other.file_name,
                other.size,
            )
            assert one.segments == other.segments
    with pytest.raises(MissingImageError, match="has none of image 'nobody'"):
        files.read("nobody")


@golden_cases("pix2cap", "metrics")
def test_what_disagrees_is_named(case: GoldenCase, tmp_path: Path) -> None:
    raw = case.json("gt.json")
    first = raw["annotations"][0]
    image_id, segment = first["image_id"], first["segments_info"][0]
    kept = segment["id"]
    segment["id"] = 12_345_678
    file = tmp_path / "gt.json"
    file.write_text(json.dumps(raw))
    files = PanopticFiles(file, case.folder / "gt")
    said = rf"image {image_id!r}.*only in the JSON: \[12345678\], only in the PNG: \[{kept}\]"
    with pytest.raises(SegmentIdError, match=said):
        files.read(image_id)
    segment["id"], segment["category_id"] = kept, 4711
    file.write_text(json.dumps(raw))
    with pytest.raises(UnknownCategoryError, match=f"segment {kept} of image .* category 4711"):
        PanopticFiles(file, case.folder / "gt")


@golden_cases("pix2cap", "model")
def test_the_command_line(
    case: GoldenCase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recorded model finds by itself what its Python method finds, and writes it down."""
    captioner = Pix2CapCaptioner.from_published(case.folder / "weights.safetensors")
    captioner.save_pretrained(tmp_path / "tiny")
    picture = case.folder / "image0.png"
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(
            ["segment", str(picture), "--model", str(tmp_path / "tiny"), "--json",
             "--plot", str(tmp_path / "plot.png"), "--panoptic", str(out)]
        )  # fmt: skip
    assert ended.value.code == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["found_by"], values["described_by"]) == ("tiny", "tiny")
    expected = captioner.segment(picture)
    assert values["segments"] == json.loads(json.dumps([one.to_dict() for one in expected]))
    (written,) = PanopticFiles(out / "panoptic.json")
    assert written.segments == tuple(expected)
