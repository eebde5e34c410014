"""Pix2Cap's settings: published keys, and messages about wrong ones."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import tiny_pix2cap

from fastregion.models.categories import COCO_PANOPTIC
from fastregion.models.pix2cap import Pix2CapConfig


def test_round_trip_through_json() -> None:
    for config in (Pix2CapConfig(), tiny_pix2cap.config()):
        assert Pix2CapConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_published_keys() -> None:
    values = Pix2CapConfig().to_dict()
    assert values["model_type"] == "pix2cap"
    model = values["MODEL"]
    assert model["DIM_PROJ"] == 512
    assert model["BACKBONE"]["FOCAL"]["FOCAL_WINDOWS"] == [3, 3, 3, 3]
    assert model["ENCODER"]["NUM_CLASSES"] == 133
    assert model["DECODER"]["NUM_OBJECT_QUERIES"] == 201
    assert model["DECODER"]["TEST"] == {"OBJECT_MASK_THRESHOLD": 0.8, "OVERLAP_THRESHOLD": 0.8}
    assert model["TEXT_DECODER"]["BEAM_SIZE"] == 1
    assert values["COCO"]["TEST"]["DETECTIONS_PER_IMAGE"] == 100


def test_categories() -> None:
    assert Pix2CapConfig().categories == COCO_PANOPTIC
    found = tiny_pix2cap.config().categories
    assert [(one.id, one.name, one.isthing) for one in found] == [
        (1, "person", True),
        (2, "dog", True),
        (3, "sky-other-merged", False),
    ]


def test_things_of_coco_are_those_of_the_settings() -> None:
    found = Pix2CapConfig(thing_contiguous_ids=(0,)).categories
    assert [one.id for one in found] == [one.id for one in COCO_PANOPTIC]
    assert [one.name for one in found if one.isthing] == ["person"]


def test_whole_numbers_are_thresholds_too() -> None:
    values = Pix2CapConfig().to_dict()
    values["MODEL"]["DECODER"]["TEST"]["OVERLAP_THRESHOLD"] = 1
    assert Pix2CapConfig.from_dict(values).inference.overlap_threshold == 1


def test_keys_that_may_be_left_out() -> None:
    values = Pix2CapConfig().to_dict()
    for key in ("COCO", "INPUT", "class_names", "thing_contiguous_ids", "model_type"):
        del values[key]
    del values["MODEL"]["DECODER"]["TEST"]["OVERLAP_THRESHOLD"]
    assert Pix2CapConfig.from_dict(values) == Pix2CapConfig()
    values["SOLVER"] = {"ANY": 1}  # of no part of the network
    values["MODEL"]["DECODER"]["CAPTION"] = {"ENABLED": False}  # X-Decoder's
    assert Pix2CapConfig.from_dict(values) == Pix2CapConfig()


@pytest.mark.parametrize(
    ("path", "value", "error", "message"),
    [
        (
            ("MODEL", "DECODER", "HIDEN_DIM"),
            3,
            ValueError,
            "HIDEN_DIM'; the near.*'HIDDEN_DIM'",
        ),
        (("MODEL", "DECODER", "HIDDEN_DIM"), 511, ValueError, "HIDDEN_DIM must be a multiple of"),
        (("MODEL", "DECODER", "NHEADS"), "8", ValueError, "NHEADS must be an integer of at least"),
        (
            ("MODEL", "DECODER", "NUM_OBJECT_QUERIES"),
            1,
            ValueError,
            "QUERIES must be 2 or more",
        ),
        (
            ("MODEL", "DECODER", "IMPORTANCE_SAMPLE_RATIO"),
            1.5,
            ValueError,
            r"IMPORTANCE_SAMPLE_RATIO must be in 0\.\.1, got 1\.5",
        ),
        (("MODEL", "DECODER", "OVERSAMPLE_RATIO"), 0.5, ValueError, "at least 1, got 0.5"),
        (
            ("MODEL", "BACKBONE", "FOCAL", "DROP_PATH_RATE"),
            1.0,
            ValueError,
            r"drop_path_rate must be in \[0, 1\), got 1\.0",
        ),
        (("MODEL", "DECODER", "PRE_NORM"), True, NotImplementedError, "PRE_NORM must be False"),
        (("MODEL", "DECODER", "CLASS_WEIGHT"), -1, ValueError, "CLASS_WEIGHT must be a number of"),
        (("MODEL", "BACKBONE", "FOCAL", "USE_POSTLN"), False, NotImplementedError, "USE_POSTLN"),
        (("MODEL", "BACKBONE", "FOCAL", "DEPTHS"), 3, ValueError, "DEPTHS must be a list, got 3"),
        (("MODEL", "BACKBONE", "FOCAL", "FOCAL_LEVELS"), [4], ValueError, "for each of 4 stages"),
        (("MODEL", "BACKBONE", "FOCAL", "FOCAL_WINDOWS"), [3, 3, 4, 3], ValueError, "odd"),
        (("MODEL", "ENCODER", "NUM_CLASSES"), 80, ValueError, "the 133 of class_names, got 80"),
        (("MODEL", "ENCODER", "CONVS_DIM"), 520, ValueError, "CONVS_DIM must be a multiple of 32"),
        (("MODEL", "TEXT_DECODER"), None, ValueError, "'MODEL.TEXT_DECODER' is missing"),
        (("MODEL", "TEXT"), [], ValueError, r"MODEL\.TEXT must be an object"),
        (("MODEL", "DECODER", "TEST"), 3, ValueError, r"MODEL\.DECODER\.TEST must be an object"),
        (("COCO", "TEST", "DETECTIONS_PER_IMAGE"), 0.5, ValueError, "PER_IMAGE must be an integer"),
        (("class_names",), ["a", "a"], ValueError, "class_names must be different names"),
        (("class_names",), ["a", 3, "b"], ValueError, "class_names must be words"),
        (("thing_contiguous_ids",), ["0"], ValueError, "contiguous_ids must be an integer"),
        (
            ("MODEL", "DECODER", "TEST", "OVERLAP_THRESHOLD"),
            1.5,
            ValueError,
            r"THRESHOLD must be a number in 0\.\.1, got 1\.5",
        ),
        (("MODEL", "DECODER", "TOP_MASK_LAYERS"), 3, NotImplementedError, "TOP_MASK_LAYERS must"),
        (("MODEL", "BACKBONE", "FOCAL", "PATCH_SIZE"), 8, ValueError, "PATCH_SIZE must be 4"),
        (("INPUT", "PIXEL_MEAN"), [1.0], ValueError, "PIXEL_MEAN must be a number for red"),
        (("INPUT", "PIXEL_STD"), [1, 0, 1], ValueError, "PIXEL_STD must be numbers above 0"),
        (("INPUT", "PIXEL_STD"), "1", ValueError, "PIXEL_STD must be a list"),
        (("INPUT",), 3, ValueError, "INPUT must be an object"),
        (("thing_contiguous_ids",), [133], ValueError, "indices below the 133 classes, got 133"),
    ],
)
def test_wrong_values_are_named(
    path: tuple[str, ...], value: Any, error: type[Exception], message: str
) -> None:
    values = copy.deepcopy(Pix2CapConfig().to_dict())
    inside = values
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    with pytest.raises(error, match=f"config.json: .*{message}"):
        Pix2CapConfig.from_dict(values)
