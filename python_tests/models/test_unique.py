"""Texts that tell regions apart: scores, the choice among candidates, and what both cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny_dam
import tiny_gar
import tiny_pix2cap
import tiny_ureca
import torch

from fastregion import language
from fastregion.language.step_decoder import StepDecoder
from fastregion.models import Captioner, Description, RegionRequest, load
from fastregion.models.description import Uniqueness
from fastregion.models.unique import choose
from fastregion.regions import Region

SIZE = (50, 70)
BOXES = [(0, 0, 9, 9), (40, 30, 70, 50), (2, 30, 20, 48), (45, 3, 60, 12), (5, 5, 65, 45)]
NEW = {"max_new_tokens": 5}
MAKERS: dict[str, Callable[[], Captioner]] = {
    "mini": lambda: load("fastregion/mini"),
    "gar": lambda: tiny_gar.captioner(large=False),
    "dam": tiny_dam.captioner,
    "ureca": tiny_ureca.captioner,
    "pix2cap": tiny_pix2cap.captioner,
}


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as many: what is chosen from is as good for these tests."""
    monkeypatch.setattr("fastregion.models.unique._BEAMS", 3)
    monkeypatch.setattr("fastregion.models.unique._DRAWS", 3)


@pytest.fixture(scope="module", params=list(MAKERS))
def captioner(request: pytest.FixtureRequest) -> Captioner:
    return MAKERS[request.param]()


@pytest.fixture(scope="module")
def gar() -> Captioner:
    return MAKERS["gar"]()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def regions() -> list[Region]:
    return [Region.from_box(box, SIZE) for box in BOXES]


def unique(captioner: Captioner, image: Any, regions: Any, **more: Any) -> list[Description]:
    found: list[Description] = captioner.describe(
        image, regions, unique=True, return_details=True, **{**NEW, **more}
    )
    return found


def plain_scores(
    captioner: Captioner, image: np.ndarray, regions: list[Region], texts: list[str]
) -> np.ndarray:
    """``[T, R]``, every pair by itself."""
    pairs = [(region, text) for text in texts for region in regions]
    scores = captioner.score(image, [region for region, _ in pairs], [text for _, text in pairs])
    return np.reshape(scores, (len(texts), len(regions)))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Tokens that the decoder reads with no prefix to continue, and calls of encoders."""
    seen: dict[str, list[int]] = {"read": [], "continued": []}
    prefill = StepDecoder.prefill

    def counting(self: Any, prompts: Any, cache: Any = None) -> Any:
        fresh = cache is None or cache.prefix(0) is None
        seen["read" if fresh else "continued"].append(prompts.total_tokens)
        return prefill(self, prompts, cache)

    monkeypatch.setattr(StepDecoder, "prefill", counting)
    return seen


def option(*totals: float, tokens: int = 4) -> Uniqueness:
    """Log-probabilities of a whole text for regions, the first of them its own."""
    return Uniqueness(tuple(total / tokens for total in totals), 0, tokens)


class TestChoice:
    """Worth: log p + 2 log P, where P is the share of p in the sum over regions."""

    def test_what_tells_apart_and_costs_little(self) -> None:
        first = option(-2.0, -2.0)  # P = 1/2: worth -2 - 2 log 2 = -3.386
        assert choose([first, option(-3.0, -13.0)]) == 1  # P = 1: -3.0
        assert choose([first, option(-3.3, -13.0)]) == 1
        assert choose([first, option(-3.5, -13.0)]) == 0  # too unlikely for the own region
        assert choose([first, option(-90.0, -900.0)]) == 0  # whatever its margin
        assert choose([first, option(-2.9, -3.0), option(-3.2, -9.0)]) == 2  # -4.19, -3.21
        assert choose([first, option(-2.0, -2.2)]) == 1  # -3.196

    def test_the_more_others_fit_the_more_may_be_paid(self) -> None:
        candidate = [-4.5, -20.0, -20.0, -20.0]
        assert choose([option(*[-2.0] * 3), option(*candidate[:3])]) == 0  # -2 - 2 log 3 = -4.197
        assert choose([option(*[-2.0] * 4), option(*candidate)]) == 1  # -2 - 2 log 4 = -4.773

    def test_whole_texts_are_compared_whatever_their_lengths(self) -> None:
        first = option(-2.0, -2.0, tokens=2)
        assert choose([first, option(-3.3, -13.0, tokens=30)]) == 1
        assert choose([first, option(-3.5, -13.0, tokens=30)]) == 0

    def test_of_equal_ones_the_first(self) -> None:
        assert choose([option(-2.0, -2.0)] * 3) == 0
        assert choose([option(-2.0, -2.0), option(-2.0, -9.0), option(-2.0, -9.0)]) == 1


class TestScores:
    def test_they_are_those_of_every_pair(
        self, captioner: Captioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        found = unique(captioner, image, regions)
        expected = plain_scores(captioner, image, regions, [one.text for one in found])
        for index, one in enumerate(found):
            assert one.uniqueness is not None
            assert one.uniqueness.index == index
            np.testing.assert_allclose(one.uniqueness.scores, expected[index], atol=2e-5)
            others = np.delete(expected[index], index)
            assert one.uniqueness.margin == pytest.approx(
                expected[index, index] - others.max(), abs=4e-5
            )
            assert set(one.timings) == {"encode", "generate", "unique"}

    def test_several_batches_of_regions_are_one_comparison(
        self, captioner: Captioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        regions = regions[:3]
        expected = unique(captioner, image, regions)
        found = unique(captioner, image, regions, batch_size=2)
        assert [one.text for one in found] == [one.text for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.uniqueness is not None
            assert other.uniqueness is not None
            np.testing.assert_allclose(one.uniqueness.scores, other.uniqueness.scores, atol=2e-5)

    def test_regions_that_share_an_image(
        self, gar: Captioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        """Prompts with one beginning are compared as whole prompts of the same regions are."""
        found = unique(gar, image, regions, share="prompts")
        again = unique(gar, image, regions, share="prompts", batch_size=1)
        assert [one.text for one in found] == [one.text for one in again]
        plain = gar.describe(image, regions, share="prompts", **NEW)
        assert sum(a.text == b for a, b in zip(found, plain, strict=True)) >= 1


class TestTexts:
    # mini's figures: evaluation/test_mini.py
    def test_retrieval_gets_better_and_what_was_right_stays(
        self, gar: Captioner, regions: list[Region]
    ) -> None:
        before = after = 0
        for seed in range(2):
            image = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            plain = gar.describe(image, regions, return_details=True, **NEW)
            scores = plain_scores(gar, image, regions, [one.text for one in plain])
            found = unique(gar, image, regions)
            for index, (one, other) in enumerate(zip(found, plain, strict=True)):
                assert one.uniqueness is not None
                others = np.delete(scores[index], index).max()
                retrieved = scores[index, index] > others + 1e-4
                before += retrieved
                after += one.uniqueness.rank == 1
                if retrieved:
                    assert one.text == other.text
                    assert one.token_ids == other.token_ids
                    assert one.token_logprobs == other.token_logprobs
        assert 0 < before < after

    def test_the_same_again(self, gar: Captioner, image: np.ndarray, regions: list[Region]) -> None:
        expected = [one.text for one in unique(gar, image, regions)]
        torch.manual_seed(99)  # nothing is drawn from here
        assert gar.describe(image, regions, unique=True, **NEW) == expected
        drawn = [
            gar.describe(image, regions[:3], unique=True, temperature=1.5, seed=seed, **NEW)
            for seed in (3, 3, 4)
        ]
        assert drawn[0] == drawn[1] != drawn[2]

    def test_replaced_texts_keep_to_the_settings(
        self, gar: Captioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        plain = gar.describe(image, regions, **NEW)
        found = unique(gar, image, regions, stop="e")
        assert any(one.text != text for one, text in zip(found, plain, strict=True))
        for one in found:
            assert "e" not in one.text
            assert len(one.token_ids) == len(one.token_logprobs) <= NEW["max_new_tokens"]
            assert one.text == gar.tokenizer.decode(one.token_ids).split("e")[0].strip()

    def test_strings_as_without(
        self, gar: Captioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        text = gar.describe(image, regions[0], unique=True, **NEW)
        assert text == gar.describe(image, regions[0], **NEW)
        beams = gar.describe(image, regions[:2], unique=True, num_beams=3, **NEW)
        assert all(isinstance(text, str) for text in beams)

    def test_objects_of_a_video(self, image: np.ndarray, regions: list[Region]) -> None:
        captioner = tiny_dam.captioner(num_video_frames=2)
        frames = [image, image[:, ::-1]]
        objects = [[regions[0], regions[1]], [regions[2], None], [regions[0], regions[1]]]
        first, second, twin = unique(captioner, frames, objects)
        assert second.uniqueness is not None
        assert first.uniqueness is not None
        assert twin.uniqueness is not None
        for one, other in ((first.uniqueness, 2), (twin.uniqueness, 0)):
            assert one.scores[one.index] == one.scores[other]  # to the bit
            assert one.rank > 1


class TestEdges:
    def test_one_region_alone(self, gar: Captioner, image: np.ndarray) -> None:
        only = gar.describe(
            image, Region.from_box(BOXES[0], SIZE), unique=True, return_details=True, **NEW
        )
        assert only.uniqueness.rank == 1
        assert only.uniqueness.margin == math.inf
        assert only.uniqueness.nearest is None
        assert json.loads(json.dumps(only.to_dict()))["uniqueness"]["margin"] is None

    def test_the_same_pixels_twice_are_said_to_be_so(
        self, gar: Captioner, image: np.ndarray, regions: list[Region], monkeypatch: Any
    ) -> None:
        same = Region.from_mask(regions[0].mask.copy(), label="again")
        searched: list[int] = []
        search = gar.candidates

        def counting(prompts: Any, sampling: Any) -> Any:
            searched.append(len(prompts))
            return search(prompts, sampling)

        monkeypatch.setattr(gar, "candidates", counting)
        unique(gar, image, regions[:3])
        assert searched.pop()
        found = unique(gar, image, [regions[0], same], batch_size=1)
        assert not searched  # no text could tell them apart
        for one, other in zip(found, (1, 0), strict=True):
            assert one.uniqueness is not None
            assert one.uniqueness.rank == 2
            assert one.uniqueness.margin == 0
            assert one.uniqueness.nearest == other

    def test_texts_up_to_the_end_of_the_context(
        self, image: np.ndarray, regions: list[Region]
    ) -> None:
        captioner = MAKERS["gar"]()
        prompts = captioner.encode(captioner.process(RegionRequest(image, tuple(regions[:2]))))
        assert isinstance(prompts, language.PackedPrompts)
        captioner.decoder.config.max_position_embeddings = int(prompts.positions.max()) + 6
        found = unique(captioner, image, regions[:2], max_new_tokens=30)
        for one in found:
            assert len(one.token_ids) <= 6
            assert one.uniqueness is not None
            assert one.uniqueness.num_tokens <= 6

    def test_streams_are_refused(
        self, gar: Captioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        with pytest.raises(ValueError, match="unique: cannot be combined with stream"):
            gar.describe(image, regions, unique=True, stream=True)

    def test_a_model_in_training_stays_in_it(
        self, image: np.ndarray, regions: list[Region]
    ) -> None:
        captioner = MAKERS["gar"]()
        captioner.model.train()
        captioner.describe(image, regions[:2], unique=True, **NEW)
        assert captioner.model.training
        assert all(parameter.grad is None for parameter in captioner.model.parameters())


class TestCost:
    def test_everything_is_encoded_and_read_once(
        self,
        captioner: Captioner,
        image: np.ndarray,
        regions: list[Region],
        counted: dict[str, list[int]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        encode, calls = captioner.encode, []

        def encoding(batch: Any) -> Any:
            calls.append(batch)
            return encode(batch)

        monkeypatch.setattr(captioner, "encode", encoding)
        captioner.describe(image, regions, **NEW)
        alone = sum(counted["read"])
        assert len(calls) == 1
        counted["read"].clear()
        captioner.describe(image, regions, unique=True, **NEW)
        assert len(calls) == 2
        assert sum(counted["read"]) == alone

    def test_batches_are_read_at_most_once_for_each_pass(
        self,
        gar: Captioner,
        image: np.ndarray,
        regions: list[Region],
        counted: dict[str, list[int]],
    ) -> None:
        gar.describe(image, regions, batch_size=2, **NEW)
        alone = sum(counted["read"])
        counted["read"].clear()
        gar.describe(image, regions, batch_size=2, unique=True, **NEW)
        assert alone < sum(counted["read"]) <= 4 * alone
