"""Pix2Cap as a captioner: segments, captions of given regions, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_pix2cap
import torch
from captioner_checks import check_batches

from fastregion.models.pix2cap import Pix2CapCaptioner
from fastregion.models.pix2cap import captioner as captioner_module
from fastregion.models.pix2cap.captions import tidy
from fastregion.models.pix2cap.postprocessing import resize_masks
from fastregion.models.pix2cap.region_queries import matching_queries
from fastregion.models.pix2cap.templates import TEMPLATES
from fastregion.models.pix2cap.text_encoder import draw_sentences
from fastregion.models.segmentation import Segmenter
from fastregion.regions import Region

SIZE = (60, 90)
BOX = (10, 8, 60, 40)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 800 pixels a side most of the time would go into convolutions."""
    monkeypatch.setattr(captioner_module, "inference_size", lambda size: (size[0] + 7, size[1]))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def describing() -> Pix2CapCaptioner:
    """One that finds several segments."""
    return tiny_pix2cap.captioner(3)


def test_segments(image: np.ndarray) -> None:
    captioner = describing()
    assert isinstance(captioner, Segmenter)
    found = captioner.segment(image)
    assert len(found) >= 2
    assert [segment.id for segment in found] == list(range(1, len(found) + 1))
    covered = np.zeros(SIZE, int)
    for segment in found:
        assert segment.size == SIZE
        assert segment.category in captioner.config.categories
        assert segment.score is not None
        assert 0.3 < segment.score <= 1
        assert segment.caption
        covered += segment.mask
    assert covered.max() == 1
    assert captioner.segment(image, mask_threshold=1.0) == []
    fewer = captioner.segment(image, mask_threshold=found[0].score)
    assert len(fewer) < len(found)


def test_masks_are_resized_a_few_at_a_time(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = describing()
    whole = captioner.segment(image, mask_threshold=0)
    resized: list[int] = []

    def counted(mask_logits: torch.Tensor, *sizes: Any) -> torch.Tensor:
        resized.append(len(mask_logits))
        return resize_masks(mask_logits, *sizes)

    monkeypatch.setattr(captioner_module, "resize_masks", counted)
    monkeypatch.setattr(captioner_module, "_MASKS_AT_A_TIME", 2)
    assert captioner.segment(image, mask_threshold=0) == whole
    assert len(resized) > 1
    assert max(resized) == 2


def test_only_what_becomes_a_segment_is_captioned(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = describing()
    written: list[int] = []
    caption = captioner.caption

    def counted(features: Any, **more: Any) -> Any:
        written.append(len(features))
        return caption(features, **more)

    monkeypatch.setattr(captioner, "caption", counted)
    found = captioner.segment(image)
    assert written == [len(found)]


def test_vocabularies_of_the_user(image: np.ndarray) -> None:
    captioner = describing()
    found = captioner.segment(image, ["cat", "a red sky"], stuff=["a red sky"], mask_threshold=0)
    assert {(one.category.id, one.category.name, one.category.isthing) for one in found} <= {
        (1, "cat", True),
        (2, "a red sky", False),
    }
    assert sum(one.category.name == "a red sky" for one in found) <= 1
    names = captioner.config.class_names[:-1]
    own = captioner.text_embeddings(names)
    assert captioner.text_embeddings(names) is captioner.text_embeddings(names)
    with torch.no_grad():
        captioner.model.text_encoder.lang_proj.mul_(torch.linspace(0.1, 1, 16))
    assert not torch.allclose(captioner.text_embeddings(names), own), "weights have changed"


def test_sentences_are_drawn_for_training() -> None:
    names = ("sky-other-merged", "a, b+c")
    drawn = draw_sentences(names, np.random.default_rng(0))
    assert drawn != draw_sentences(names, np.random.default_rng(1))
    assert drawn[0] in [template.format("sky") for template in TEMPLATES]
    assert drawn[1] in [template.format("a b c") for template in TEMPLATES]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classes": "dog"}, TypeError, "classes: expected a list of names, got str"),
        ({"classes": []}, ValueError, "classes: expected at least one name, got none"),
        ({"classes": ["dog", 3]}, TypeError, "classes: expected str, got int at 1"),
        ({"classes": ["dog", "dog"]}, ValueError, "classes: must be different .* got 'dog' at 1"),
        ({"classes": [" "]}, ValueError, "classes: must be different words"),
        ({"classes": ["background"]}, ValueError, "classes: .* not 'background'"),
        ({"classes": ["dog"], "stuff": ["sky"]}, ValueError, "stuff: must be among .* got 'sky'"),
        ({"classes": ["-other"]}, ValueError, "classes: must be different words"),
        ({"classes": ["dog"], "stuff": "dog"}, TypeError, "stuff: expected some of classes, got"),
        ({"classes": ["dog"], "stuff": 3}, TypeError, "stuff: expected some of classes, got int"),
        ({"num_beams": 99}, ValueError, "num_beams: must be at most the 26 tokens .* got 99"),
        ({"stuff": ["sky"]}, ValueError, "stuff: must be among classes"),
        ({"num_beams": 0}, ValueError, "num_beams: must be at least 1, got 0"),
        ({"mask_threshold": 1.5}, ValueError, r"mask_threshold: must be in 0\.\.1, got 1\.5"),
        ({"overlap_threshold": "all"}, TypeError, "overlap_threshold: expected a number, got str"),
    ],
)
def test_wrong_arguments_are_named(
    image: np.ndarray, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    captioner = Pix2CapCaptioner(tiny_pix2cap.config(), *tiny_pix2cap.tokenizer_pair())
    with pytest.raises(error, match=message):  # before any work: there are no weights
        captioner.segment(image, **arguments)
    with pytest.raises(TypeError, match="image: "):
        captioner.segment(3)  # type: ignore[arg-type]


def test_regions_are_told_as_one_by_one(image: np.ndarray) -> None:
    captioner = describing()
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    regions = [
        Region.from_mask(mask)
        for mask in (x < 20, y < 20, (x > 50) & (y > 30), (x == 3) & (y == 4), x >= 0)
    ]
    check_batches(captioner, image, regions)


def test_the_network_runs_once_for_an_image(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = describing()
    count = 0
    forward = captioner.model.backbone.forward

    def counted(pixel_values: torch.Tensor) -> Any:
        nonlocal count
        count += 1
        return forward(pixel_values)

    monkeypatch.setattr(captioner.model.backbone, "forward", counted)
    captioner.describe(image, [BOX, (0, 0, 20, 20), (30, 10, 50, 50)], batch_size=1)
    assert count == 1
    assert not len(captioner._class_vectors), "no class is asked for"


def test_a_segment_is_told_as_in_segment(image: np.ndarray) -> None:
    """The region of a query that overlaps nothing else finds that query again."""
    captioner = describing()
    with torch.inference_mode():
        output, _ = captioner._predict(image, captioner.text_embeddings(["dog"]))
    masks = output.mask_logits[0, :-1]
    wanted = (masks > 0).float()
    seen = wanted.flatten(1).sum(1) > 4
    different = torch.unique(wanted[seen], dim=0)
    assert len(different) > 3
    found = matching_queries(wanted[seen], masks)
    assert torch.equal(wanted[found], wanted[seen])
    # A region where no mask reaches one half goes to the likeliest.
    faint = torch.full((3, 4, 4), -9.0)
    faint[1, 2, 2] = -1
    place = torch.zeros(1, 4, 4)
    place[0, 2, 2] = 0.2
    assert matching_queries(place, faint).tolist() == [1]


def test_details_beams_and_score(image: np.ndarray) -> None:
    captioner = describing()
    details = captioner.describe(image, BOX, return_details=True)
    assert details.text == captioner.describe(image, BOX)
    assert details.finish_reason in ("stop", "length")
    searched = captioner.describe(image, BOX, num_beams=4, return_details=True)
    assert sum(searched.token_logprobs) >= sum(details.token_logprobs)
    assert len(captioner.describe(image, BOX, max_new_tokens=3, return_details=True).token_ids) <= 3
    stopped = captioner.describe(image, BOX, stop="right")
    assert "right" not in stopped
    sampled = [captioner.describe(image, BOX, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    pieces = list(captioner.describe(image, BOX, stream=True))
    assert "".join(pieces).replace(" ", "") == details.text.replace(" ", "")
    scores = captioner.score(image, [BOX, BOX], ["the dog is red", "dog " * 60])
    assert isinstance(scores, list)
    assert all(score < 0 for score in scores)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"length_penalty": 2.0}, NotImplementedError, "num_beams: pix2cap searches without"),
        ({"early_stopping": True}, NotImplementedError, "num_beams: pix2cap searches without"),
        ({"stop": "dog"}, NotImplementedError, "num_beams: pix2cap searches without"),
        ({"num_beams": 27}, ValueError, "num_beams: must be at most the 26 tokens .* got 27"),
        ({"num_beams": 1, "share": "prompts"}, NotImplementedError, "share: pix2cap needs an"),
    ],
)
def test_what_cannot_be_asked_is_said_before_any_work(
    image: np.ndarray, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    captioner = Pix2CapCaptioner(tiny_pix2cap.config(), *tiny_pix2cap.tokenizer_pair())
    with pytest.raises(error, match=message):  # there are no weights
        captioner.describe(image, BOX, **{"num_beams": 2, **settings})


@pytest.mark.parametrize("num_beams", [1, 3])
def test_unique_captions(image: np.ndarray, num_beams: int) -> None:
    captioner = describing()
    boxes = [BOX, (0, 0, 20, 20), (30, 10, 50, 50)]
    found = captioner.describe(
        image, boxes, unique=True, num_beams=num_beams, batch_size=2, return_details=True
    )
    for index, one in enumerate(found):
        assert one.text
        assert one.text == tidy(one.text)
        scores = captioner.score(image, boxes, [one.text] * len(boxes))
        assert one.uniqueness.index == index
        assert one.uniqueness.scores == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(image: np.ndarray, dtype: torch.dtype) -> None:
    """Random weights tell nothing about captions; masks are as close as the dtype lets them be."""
    captioner, rounded = describing(), describing()
    rounded.model.to(dtype)
    names = ["dog", "sky"]
    with torch.inference_mode():
        exact, _ = captioner._predict(image, captioner.text_embeddings(names))
        found, _ = rounded._predict(image, rounded.text_embeddings(names))
    assert found.mask_logits.dtype == dtype
    # Of the learned queries' share, before masks that round to the other side change what is seen.
    same = ((found.mask_logits > 0) == (exact.mask_logits > 0)).float().mean()
    assert same > 0.8
    assert all(rounded.describe(image, [BOX, (0, 0, 20, 20)]))
    assert all(segment.caption for segment in rounded.segment(image))


def test_pixels_are_normalised_as_the_settings_say(image: np.ndarray) -> None:
    captioner, other = describing(), tiny_pix2cap.captioner(3, pixel_mean=(0.0, 0.0, 0.0))
    vectors = captioner.text_embeddings(["dog"])
    with torch.inference_mode():
        one, another = captioner._predict(image, vectors)[0], other._predict(image, vectors)[0]
    assert not torch.allclose(one.mask_logits, another.mask_logits)


def test_vectors_of_a_few_vocabularies_are_kept() -> None:
    captioner = describing()
    first = captioner.text_embeddings(["dog"])
    for name in "abcdefghijklmnopqrst":
        captioner.text_embeddings([name])
        assert captioner.text_embeddings(["dog"]) is first  # asked for again and again
    assert len(captioner._class_vectors) == 16


def test_no_questions(image: np.ndarray) -> None:
    captioner = Pix2CapCaptioner(tiny_pix2cap.config(), *tiny_pix2cap.tokenizer_pair())
    with pytest.raises(NotImplementedError, match="prompt: pix2cap captions regions and takes no"):
        captioner.describe(image, BOX, "What is <Prompt0>?")
    with pytest.raises(NotImplementedError, match="prompt: pix2cap captions regions and takes no"):
        captioner.ask(image, [BOX], "What is <Prompt0>?")


def test_wrong_pixels_are_named() -> None:
    model = tiny_pix2cap.captioner().model
    for shape in ((1, 3, 60, 64), (1, 4, 64, 64), (3, 64, 64)):
        with pytest.raises(ValueError, match=r"pixel_values: must be \[B, 3, H, W\] with H and W"):
            model(torch.zeros(shape), torch.zeros(4, 16))


def test_names_and_freezing() -> None:
    captioner = tiny_pix2cap.captioner()
    trained = captioner.freeze("backbone.*", "sem_seg_head.pixel_decoder.*", "*lang_encoder*")
    assert trained
    assert all(name.startswith("sem_seg_head.predictor.") for name in trained)
