"""A whole evaluation with a captioner that knows the truth, and one that stops half way."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from fastregion.evaluation import examples
from fastregion.evaluation.ground_truth import RegionTruth, scene_truths
from fastregion.evaluation.mini import evaluate
from fastregion.models import load
from fastregion.regions import Region
from fastregion.scenes import generate_scene

SCENES = 3

generate_once = functools.cache(generate_scene)
true_once = functools.cache(lambda seed: scene_truths(generate_once(seed)))


@pytest.fixture(autouse=True)
def _scenes_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "generate_scene", generate_once)


def true_caption(truth: RegionTruth) -> str:
    """States every known fact rightly."""
    parts = [
        min(truth.sizes or ()),
        min(truth.patterns or ("",)),
        min(truth.colors or ("",)),
        min(truth.shapes or ("",)),
        "region at the",
        min(truth.places or ()),
    ]
    return " ".join(part for part in parts if part)


class KnowingCaptioner:
    """Recognises scenes by their pixels; finds a caption likelier, the nearer its region."""

    def __init__(self, *, seeds: Sequence[int], stop_after: int | None = None) -> None:
        self.model_id = "knowing"
        self.model = nn.Linear(2, 2)
        with torch.no_grad():
            self.model.weight.fill_(1.0)
            self.model.bias.fill_(0.0)
        self.scenes = {}
        for seed in seeds:
            scene = generate_once(seed)
            self.scenes[scene.image.tobytes()] = (scene, true_once(seed))
        self.described = 0
        self.stop_after = stop_after

    def _index(self, image: npt.NDArray[np.uint8], region: Region) -> int:
        scene, _ = self.scenes[image.tobytes()]
        masks = [other.mask for other in scene.regions]
        return next(k for k, mask in enumerate(masks) if np.array_equal(mask, region.mask))

    def describe(
        self,
        image: npt.NDArray[np.uint8],
        regions: list[Region],
        *,
        max_new_tokens: int,
        **options: Any,
    ) -> list[str]:
        self.options = options
        if self.described == self.stop_after:
            raise KeyboardInterrupt
        self.described += 1
        _, truths = self.scenes[image.tobytes()]
        return [
            f"{true_caption(truths[self._index(image, region)])} number {k}"
            for k, region in enumerate(regions)
        ]

    def score(
        self, image: npt.NDArray[np.uint8], regions: list[Region], texts: list[str], prompt: Any
    ) -> list[float]:
        assert prompt == self.options.get("prompt")  # texts are scored as what they answer
        # Captions end in the number of their region.
        return [
            -1.0 - abs(int(text.split()[-1]) - self._index(image, region))
            for region, text in zip(regions, texts, strict=True)
        ]


def values(report: Any) -> dict[str, tuple[float | None, int]]:
    return {m.name: (m.value, m.count) for m in report.groups["scenes"]}


def test_a_captioner_that_knows_the_truth_is_never_wrong() -> None:
    captioner: Any = KnowingCaptioner(seeds=range(SCENES))
    found = values(evaluate(captioner, scenes=SCENES, progress=False))
    regions = sum(len(generate_once(seed).regions) for seed in range(SCENES))
    assert found["any wrong statement"] == (0.0, regions)
    for fact in ("main colour", "place", "size", "shape", "pattern", "self-retrieval"):
        value, count = found[fact]
        assert value == 1.0, fact
        assert 0 < count <= regions


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    whole: Any = KnowingCaptioner(seeds=range(SCENES))
    expected = evaluate(whole, scenes=SCENES, progress=False)

    stopped: Any = KnowingCaptioner(seeds=range(SCENES), stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopped, scenes=SCENES, output=output, progress=False)
    assert len(output.read_text().splitlines()) == 1 + 2

    resumed: Any = KnowingCaptioner(seeds=range(SCENES))
    report = evaluate(resumed, scenes=SCENES, output=output, progress=False)
    assert resumed.described == SCENES - 2
    assert report == expected

    again: Any = KnowingCaptioner(seeds=(), stop_after=0)
    assert evaluate(again, scenes=SCENES, output=output, progress=False) == expected


def test_only_the_pictures_asked_for_are_counted(tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    captioner: Any = KnowingCaptioner(seeds=range(SCENES))
    evaluate(captioner, scenes=SCENES, output=output, progress=False)
    one = evaluate(captioner, scenes=1, first_seed=2, output=output, progress=False)
    assert values(one)["any wrong statement"][1] == len(generate_once(2).regions)
    assert captioner.described == SCENES


def test_results_of_other_weights_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    captioner: Any = KnowingCaptioner(seeds=range(1))
    evaluate(captioner, scenes=1, output=output, progress=False)
    with torch.no_grad():
        captioner.model.weight.add_(0.5)
    with pytest.raises(ValueError, match=r"output: .* holds results of"):
        evaluate(captioner, scenes=1, output=output, progress=False)


def test_json_lines_hold_captions_truth_and_likelihoods(tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    captioner: Any = KnowingCaptioner(seeds=(3,))
    evaluate(captioner, scenes=1, first_seed=3, output=output, progress=False)
    header, line = (json.loads(text) for text in output.read_text().splitlines())
    assert header["task"] == "mini"
    assert header["model"] == "knowing"
    assert line["name"] == "scene 3"
    regions = len(generate_once(3).regions)
    assert len(line["captions"]) == len(line["truths"]) == regions
    if regions > 1:
        assert np.shape(line["log_probs"]) == (regions, regions)
        assert line["log_probs"][0][0] == -1.0


def test_what_is_asked_for_is_passed_on_and_written_down(tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    captioner: Any = KnowingCaptioner(seeds=range(1))
    evaluate(captioner, scenes=1, output=output, progress=False)
    assert captioner.options == {}
    asked: dict[str, Any] = {"prompt": "in 6 words", "unique": True}
    with pytest.raises(ValueError, match=r"output: .* holds results of"):
        evaluate(captioner, scenes=1, output=output, progress=False, **asked)
    other = tmp_path / "asked.jsonl"
    evaluate(captioner, scenes=1, output=other, progress=False, **asked)
    assert captioner.options == asked
    header = json.loads(other.read_text().splitlines()[0])
    assert {name: header[name] for name in asked} == asked


def test_scenes_of_lookalikes() -> None:
    (task,) = examples.scene_tasks(1, 5, lookalikes=6)
    assert (task.name, task.group) == ("6 look-alikes 5", "look-alikes")
    example = task.make()
    assert example.lookalike
    assert len(example.masks) == len(example.truths) == 6


def test_unique_texts_of_lookalikes_are_retrieved_more_often() -> None:
    captioner = load("fastregion/mini")
    found = {}
    for unique in (False, True):
        report = evaluate(
            captioner,
            scenes=4,
            first_seed=1_000,
            lookalikes=6,
            prompt="in 6 words",
            unique=unique,
            progress=False,
        )
        found[unique] = {m.name: m.value for m in report.groups["look-alikes"]}
    retrieved = [found[unique]["self-retrieval, look-alikes"] for unique in (False, True)]
    assert retrieved[1] >= retrieved[0] + 0.1
    alone = [found[unique]["true of its region alone"] for unique in (False, True)]
    assert alone[1] >= alone[0]
    wrong = [found[unique]["any wrong statement"] for unique in (False, True)]
    assert wrong[1] <= wrong[0] + 0.1  # not bought with false statements


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenes": 0}, "scenes: expected at least one scene or photograph, got none"),
        ({"scenes": -1}, "scenes: expected a count of at least 0, got -1"),
        ({"scenes": 2, "first_seed": 9_999}, r"first_seed: .*0\.\.9999, got 9999\.\.10000"),
        ({"scenes": 2, "first_seed": -1}, "first_seed: "),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, int], message: str) -> None:
    captioner: Any = KnowingCaptioner(seeds=())
    with pytest.raises(ValueError, match=message):
        evaluate(captioner, progress=False, **arguments)  # type: ignore[arg-type]
