"""Region as a value: constructors, properties, equality, binding."""

from __future__ import annotations

import dataclasses
import doctest
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp

import fastregion.regions
from fastregion.regions import Region, rle_encode, rle_uncompress

SIZE = (48, 64)


def example_mask() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[10:30, 5:40] = True
    mask[15:20, 10:20] = False
    return mask


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=140)))
def test_properties_are_those_of_the_mask(mask: np.ndarray) -> None:
    region = Region.from_mask(mask)
    rows, columns = np.nonzero(mask)
    assert region.size == mask.shape
    np.testing.assert_array_equal(region.mask, mask)
    assert region.area == mask.sum()
    assert region.rle == rle_encode(mask)
    if mask.any():
        assert region.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert region.centroid == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5))
    else:
        assert region.box == (0, 0, 0, 0)
        assert np.isnan(region.centroid).all()


@pytest.mark.usefixtures("implementation")
def test_constructors_agree() -> None:
    mask = example_mask()
    expected = Region.from_mask(mask)
    rle = rle_encode(mask)
    assert Region.from_rle(rle) == expected
    assert Region.from_rle(rle_uncompress(rle)) == expected
    assert Region.from_sam({"segmentation": mask, "bbox": [5, 10, 34, 19]}) == expected
    assert Region.from_sam({"segmentation": rle}, SIZE) == expected
    assert Region.from_coco({"segmentation": rle}) == expected
    assert Region.from_coco({"segmentation": rle}, SIZE) == expected
    assert Region.from_mask(torch.from_numpy(mask)) == expected
    assert Region.from_label_map(mask.astype(np.int64)) == [dataclasses.replace(expected, id=1)]


def test_keeps_what_is_known() -> None:
    box = {"bbox": [5, 10, 35, 20], "id": 3, "category_id": 7, "score": np.float32(0.5)}
    region = Region.from_coco(box, SIZE)
    assert (region.id, region.label, region.score) == (3, 7, 0.5)
    assert region.box == (5, 10, 40, 30)
    region = Region.from_sam({"segmentation": example_mask(), "predicted_iou": 0.9})
    assert region.score == 0.9
    region = Region.from_box((1, 2, 3, 4), id="a", label="cat", score=1).bind(SIZE)
    assert (region.id, region.label, region.score) == ("a", "cat", 1.0)
    assert repr(region) == (
        "Region(box=(1, 2, 3, 4), area=4, size=(48, 64), id='a', label='cat', score=1.0)"
    )


def test_coco_polygons_decide_over_the_box() -> None:
    polygon = [5, 10, 40, 10, 40, 30, 5, 30]
    region = Region.from_coco({"segmentation": [polygon], "bbox": [0, 0, 1, 1]}, SIZE)
    assert region == Region.from_polygon(polygon, SIZE)
    assert Region.from_coco({"segmentation": [], "bbox": [0, 0, 1, 1]}, SIZE).area == 1


def test_label_map_gives_one_region_per_label() -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[:10] = 300
    labels[20:, 5:] = 2
    regions = Region.from_label_map(labels)
    assert [region.id for region in regions] == [2, 300]
    for region in regions:
        np.testing.assert_array_equal(region.mask, labels == region.id)
    assert Region.from_label_map(np.zeros(SIZE, int)) == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Region.from_label_map(np.zeros(SIZE)), TypeError, "labels: must be integers"),
        (lambda: Region.from_label_map([[-1, 0]]), ValueError, "labels: must not be negative"),
        (lambda: Region.from_label_map([1, 2]), ValueError, r"labels: expected shape \(height"),
        (lambda: Region.from_coco([1]), TypeError, "annotation: must be a dict, got list"),
        (lambda: Region.from_coco({"id": 3}), ValueError, "annotation: must have a segmentation"),
        (lambda: Region.from_coco({"bbox": [1, 2, 3]}), ValueError, "bbox: must be 4 numbers"),
        (lambda: Region.from_coco({"bbox": [1, 2, 0, 4]}), ValueError, "box: must have x0 < x1"),
        (
            lambda: Region.from_coco({"bbox": [1, 2, 3, 4], "score": "high"}),
            TypeError,
            "score: must be a number, got 'high'",
        ),
        (lambda: Region.from_sam(3), TypeError, "record: must be a dict, got int"),
        (lambda: Region.from_sam({"bbox": []}), ValueError, "record: must have a segmentation"),
        (
            lambda: Region.from_sam({"segmentation": example_mask()}, (64, 48)),
            ValueError,
            r"mask: expected shape \(64, 48\) to match the image, got \(48, 64\)",
        ),
        (
            lambda: Region.from_rle({"size": [2, 3], "counts": "6"}, (3, 2)),
            ValueError,
            r"rle: expected size \(3, 2\) to match the image, got \(2, 3\)",
        ),
    ],
)
def test_refuses_malformed_records(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


# ---- binding ---------------------------------------------------------------------------------

UNBOUND = [
    Region.from_box((5, 10, 40, 30)),
    Region.from_points([(5, 10), (40, 30)], radius=2.5),
    Region.from_polygon([5, 10, 40, 10, 40, 30]),
    Region.from_coco({"bbox": [5, 10, 35, 20]}),
]


@pytest.mark.parametrize("region", UNBOUND, ids=repr)
def test_an_unbound_region_becomes_pixels_when_bound(region: Region) -> None:
    assert region.size is None
    for name in ("mask", "rle", "area", "centroid"):
        with pytest.raises(ValueError, match="region: is not bound to an image yet"):
            getattr(region, name)
    bound = region.bind(SIZE)
    assert bound.size == SIZE
    assert bound.area > 0
    assert bound.bind(SIZE) is bound
    assert region.size is None  # binding does not change the original
    assert region.bind((100, 200)).size == (100, 200)
    assert bound != region


def test_an_unbound_box_knows_its_box() -> None:
    assert Region.from_box((5, 10, 40, 30)).box == (5, 10, 40, 30)
    with pytest.raises(ValueError, match="not bound"):
        _ = Region.from_points((1, 2)).box


def test_binding_to_another_size_is_refused() -> None:
    region = Region.from_mask(example_mask())
    message = r"mask: expected shape \(64, 48\) to match the image, got \(48, 64\)"
    with pytest.raises(ValueError, match=message):
        region.bind((64, 48))
    with pytest.raises(TypeError, match=r"size: must be two integers \(height, width\), got 48"):
        region.bind(48)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"size: must be positive \(height, width\), got \(0, 5\)"):
        Region.from_box((0, 0, 1, 1), size=(0, 5))


# ---- being a value ---------------------------------------------------------------------------


def test_equal_regions_have_equal_hashes() -> None:
    mask = example_mask()
    other = mask.copy()
    other[12, 7] = False
    other[16, 12] = True  # same area and box, other pixels
    region = Region.from_mask(mask)
    assert region == Region.from_mask(mask.astype(np.uint8))
    assert hash(region) == hash(Region.from_mask(mask.astype(np.uint8)))
    assert region != Region.from_mask(other)
    assert region != Region.from_mask(mask, id=1)
    assert region != mask.tolist()
    assert len({region, Region.from_rle(region.rle), Region.from_mask(other)}) == 2
    assert len({*UNBOUND, Region.from_box((5, 10, 40, 30))}) == 3


@pytest.mark.parametrize("region", [Region.from_mask(example_mask(), id=4), *UNBOUND], ids=repr)
def test_survives_pickling(region: Region) -> None:
    again = pickle.loads(pickle.dumps(region))
    assert again == region
    assert hash(again) == hash(region)
    assert again.bits is None or not again.bits.flags.writeable


def test_cannot_be_changed() -> None:
    mask = example_mask()
    region = Region.from_mask(mask)
    mask[:] = False
    region.mask[:] = False
    assert region.area == example_mask().sum()
    np.testing.assert_array_equal(region.mask, example_mask())
    with pytest.raises(dataclasses.FrozenInstanceError):
        region.id = 3  # type: ignore[misc]
    assert region.bits is not None
    with pytest.raises(ValueError, match="read-only"):
        region.bits[0, 0] = 1


def test_shows_itself_in_a_notebook() -> None:
    html = Region.from_mask(example_mask(), label="<b>")._repr_html_()
    assert html.startswith('<img src="data:image/png;base64,')
    assert "label=&#x27;&lt;b&gt;&#x27;" in html
    assert "BoxOutline" in UNBOUND[0]._repr_html_()


def test_works_in_a_forked_data_loader_worker() -> None:
    regions = [Region.from_mask(example_mask(), id=index) for index in range(4)]
    loader = torch.utils.data.DataLoader(
        regions,  # type: ignore[arg-type]
        batch_size=2,
        num_workers=1,
        multiprocessing_context="fork",
        collate_fn=lambda batch: fastregion.regions.iou(batch).tolist() + batch,
    )
    batches = list(loader)
    assert batches[0] == [[1, 1], [1, 1], regions[0], regions[1]]
    assert batches[1][2:] == regions[2:]


def test_examples_in_the_documentation_hold() -> None:
    assert doctest.testmod(fastregion.regions).failed == 0
    assert doctest.testmod(fastregion.regions).attempted > 0


def test_importing_loads_neither_torch_nor_pillow() -> None:
    code = (
        "import sys, fastregion.regions; print([m for m in ('torch', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_without_the_native_module_it_warns_once_and_works() -> None:
    code = """
import sys, warnings
sys.modules["fastregion._C"] = None  # what an import that fails looks like
from fastregion.regions import Region
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    region = Region.from_box((1, 2, 3, 4), size=(8, 8))
    region.rle, region.area
print(len(caught), region.area, str(caught[0].message)[:45])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "1 4 fastregion: the native module does not load ("
