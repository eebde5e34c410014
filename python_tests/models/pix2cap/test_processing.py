"""Sizes and pixels of Pix2Cap's batches and training views."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastregion.models.categories import COCO_PANOPTIC
from fastregion.models.pix2cap import Pix2CapConfig
from fastregion.models.pix2cap.augmentation import Augmentation, may_be_learned, training_view
from fastregion.models.pix2cap.processing import inference_size, normalise, pad_batch, resize
from fastregion.models.segment import Segment
from fastregion.regions import Region

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((500, 500), (800, 800)),
        ((480, 1280), (500, 1333)),  # the longer side decides
        ((1, 10_000), (1, 1333)),
        ((2000, 3000), (800, 1200)),
    ],
)
def test_inference_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert inference_size(size) == expected


def test_a_batch_is_padded_with_zeros_after_normalising() -> None:
    pixels = [
        torch.from_numpy(RNG.integers(0, 256, (3, *size), dtype=np.uint8))
        for size in ((33, 20), (10, 64))
    ]
    config = Pix2CapConfig()
    batch = pad_batch([normalise(image, config.pixel_mean, config.pixel_std) for image in pixels])
    assert batch.shape == (2, 3, 64, 64)
    assert batch.dtype == torch.float32
    assert batch[0, :, 33:].count_nonzero() == batch[0, :, :, 20:].count_nonzero() == 0
    exact = (pixels[1].double().numpy() - [[[123.675]], [[116.28]], [[103.53]]]) / [
        [[58.395]],
        [[57.12]],
        [[57.375]],
    ]
    assert np.abs(batch[1, :, :10, :64].numpy() - exact).max() < 1e-6


def test_resizing_keeps_what_is_flat() -> None:
    image = np.full((30, 40, 3), (10, 200, 90), np.uint8)
    assert (resize(image, (7, 91)) == (10, 200, 90)).all()
    assert resize(image, (7, 91)).shape == (7, 91, 3)


def segments(size: tuple[int, int]) -> list[Segment]:
    left, right = np.zeros(size, bool), np.zeros(size, bool)
    left[:, : size[1] // 4], right[:, size[1] // 4 :] = True, True
    return [
        Segment.of(Region.from_mask(mask), id=k, category=COCO_PANOPTIC[index], caption=text)
        for k, (mask, index, text) in enumerate(((left, 0, "someone"), (right, 80, "a sheet")), 1)
    ]


def test_a_view_shows_picture_and_masks_alike() -> None:
    """Where each mask is one colour in the picture, it still is in its view."""
    size = (300, 200)
    found = segments(size)
    image = np.zeros((*size, 3), np.uint8)
    image[found[0].mask], image[found[1].mask] = (255, 0, 0), (0, 0, 255)
    for flip, scale, offset in ((False, 0.5, 0.0), (True, 1.7, 0.3), (True, 2.0, 1.0)):
        view, targets = training_view(
            image, found, COCO_PANOPTIC, Augmentation(flip, scale, offset)
        )
        assert view.shape == (1024, 1024, 3)
        assert targets.masks.shape == (2, 1024, 1024)
        assert targets.classes.tolist() == [0, 80]
        assert targets.captions == ("someone", "a sheet")
        red, blue = (targets.masks[k].numpy() for k in (0, 1))
        assert not (red & blue).any()
        outside = ~(red | blue)
        assert (view[outside] == 128).all()
        # Of the borders, on which the picture is mixed, a column or two is left out.
        for mask, channel in ((red, 0), (blue, 2)):
            if mask.any():
                inside = mask & np.roll(mask, 6, 1) & np.roll(mask, -6, 1)
                assert (view[inside][:, channel] == 255).all()
        assert red.any() or scale > 1


def test_how_large_and_where_a_view_is() -> None:
    augmentation = Augmentation(flip=False, scale=1.5, offset=0.5)
    assert augmentation.size((300, 200)) == (1536, 1024)
    ids = np.arange(1, 301, dtype=np.int32)[:, None].repeat(200, 1)
    view = augmentation.id_map(ids)
    # 1536 rows, of which 256 above are cut off: row 0 of the view is row 256 / 5.12 = 50.
    assert view[0, 0] == 51
    assert view[-1, 0] == 250
    half = Augmentation(flip=False, scale=0.5, offset=0.9).id_map(ids)
    assert half[511, 300] == 300
    assert not half[512:].any()
    assert not half[:, 341:].any()
    tiny = Augmentation(flip=False, scale=0.1, offset=0.0)
    assert tiny.size((10_000, 20)) == (102, 1)  # never nothing


def test_what_is_lost_stays_as_an_empty_mask() -> None:
    found = segments((64, 256))
    _, targets = training_view(
        np.zeros((64, 256, 3), np.uint8), found, COCO_PANOPTIC, Augmentation(False, 2.0, 1.0)
    )
    assert targets.masks.flatten(1).any(1).tolist() == [False, True]


def test_crowds_and_short_captions_are_not_learned() -> None:
    found = segments((64, 64))
    crowd = Segment.of(
        found[0], id=1, category=COCO_PANOPTIC[0], caption="many people", iscrowd=True
    )
    _, targets = training_view(
        np.zeros((64, 64, 3), np.uint8),
        [crowd, found[1]],
        COCO_PANOPTIC,
        Augmentation(False, 1.0, 0.0),
    )
    assert targets.captions == ("a sheet",)
    assert may_be_learned(found)
    short = Segment.of(found[0], id=1, category=COCO_PANOPTIC[0], caption="ox")
    assert not may_be_learned([short, found[1]])


def test_a_segment_that_cannot_be_learned_is_named() -> None:
    found = segments((64, 64))
    image, view = np.zeros((64, 64, 3), np.uint8), Augmentation(False, 1.0, 0.0)
    with pytest.raises(ValueError, match="segments: 'banner' is no class"):
        training_view(image, found, COCO_PANOPTIC[:80], view)
    with pytest.raises(ValueError, match=r"segments: must have size \(64, 65\)"):
        training_view(np.zeros((64, 65, 3), np.uint8), found, COCO_PANOPTIC, view)


def test_draws_cover_the_published_ranges() -> None:
    rng = np.random.default_rng(1)
    drawn = [Augmentation.draw(rng) for _ in range(400)]
    assert 120 < sum(one.flip for one in drawn) < 280
    scales = [one.scale for one in drawn]
    assert 0.1 <= min(scales) < 0.15
    assert 1.95 < max(scales) <= 2.0
    assert max(one.offset for one in drawn) > 0.95
