"""A whole evaluation with a captioner that knows the truth, and one that stops half way."""

from __future__ import annotations

import functools
import itertools
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from fastregion.evaluation import examples
from fastregion.evaluation.benchmarks.base import Benchmark
from fastregion.evaluation.benchmarks.scene_questions import SceneQuestions
from fastregion.evaluation.benchmarks.scenes import Scenes
from fastregion.evaluation.ground_truth import RegionTruth, scene_truths
from fastregion.evaluation.predictions import Asked
from fastregion.evaluation.run import PREDICTIONS, evaluate
from fastregion.models import load
from fastregion.regions import Region
from fastregion.scenes import Scene, generate_scene

SCENES = 3

generate_once = functools.cache(generate_scene)
_truths: dict[int, list[RegionTruth]] = {}  # by the identity of a scene that is kept


def truths_once(scene: Scene) -> list[RegionTruth]:
    if id(scene) not in _truths:
        _truths[id(scene)] = scene_truths(scene)
    return _truths[id(scene)]


@pytest.fixture(autouse=True)
def _scenes_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "generate_scene", generate_once)
    monkeypatch.setattr(examples, "scene_truths", truths_once)


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

    model_type = "knowing"

    def __init__(self, *, seeds: Sequence[int], stop_after: int | None = None) -> None:
        self.model_id = "knowing"
        self.model = nn.Linear(2, 2)
        with torch.no_grad():
            self.model.weight.fill_(1.0)
            self.model.bias.fill_(0.0)
        self.scenes = {}
        for seed in seeds:
            scene = generate_once(seed)
            self.scenes[scene.image.tobytes()] = (scene, truths_once(scene))
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
        prompt: str | None,
        *,
        max_new_tokens: int,
        **options: Any,
    ) -> list[str]:
        self.options = {**options, **({"prompt": prompt} if prompt else {})}
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


def measure(
    captioner: Any, output: Path | None = None, asked: Asked | None = None, **settings: Any
) -> Any:
    return evaluate(
        Scenes(**settings), captioner, output=output, resume=True, asked=asked, progress=False
    )


def values(result: Any, group: str = "scenes") -> dict[str, tuple[float, int]]:
    return {
        name.removeprefix(f"{group}: "): (entry.value, entry.count)
        for name, entry in result.table.items()
    }


@pytest.mark.parametrize("offline", [Scenes(scenes=2), SceneQuestions(scenes=2)])
def test_scenes_behind_the_limit_are_not_rendered(
    offline: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_alone(seed: int, *_: Any, **__: Any) -> Scene:
        assert seed == 0
        return generate_once(0)

    monkeypatch.setattr(examples, "generate_scene", first_alone)
    assert len(list(itertools.islice(offline.items(Path()), 2))) == 2
    with pytest.raises(AssertionError):
        list(offline.items(Path()))


def num_regions(seed: int) -> int:
    return len(generate_once(seed).regions)


def test_a_captioner_that_knows_the_truth_is_never_wrong() -> None:
    result = measure(KnowingCaptioner(seeds=range(SCENES)), scenes=SCENES)
    found = values(result)
    regions = sum(map(num_regions, range(SCENES)))
    assert found["any wrong statement"] == (0.0, regions)
    for fact in ("main colour", "place", "size", "shape", "pattern", "self-retrieval"):
        value, count = found[fact]
        assert value == 1.0, fact
        assert 0 < count <= regions
    for name, entry in result.table.items():
        assert entry.higher_is_better is ("wrong" not in name)
    assert all(item in result.items for item in result.failures)


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    expected = measure(KnowingCaptioner(seeds=range(SCENES)), scenes=SCENES)
    with pytest.raises(KeyboardInterrupt):
        measure(KnowingCaptioner(seeds=range(SCENES), stop_after=2), tmp_path, scenes=SCENES)
    said = (tmp_path / PREDICTIONS).read_text().splitlines()
    assert len(said) == 1 + num_regions(0) + num_regions(1)

    resumed = KnowingCaptioner(seeds=range(SCENES))
    assert measure(resumed, tmp_path, scenes=SCENES) == expected
    assert resumed.described == SCENES - 2
    silent = KnowingCaptioner(seeds=(), stop_after=0)
    assert measure(silent, tmp_path, scenes=SCENES) == expected


def test_only_the_pictures_asked_for_are_counted(tmp_path: Path) -> None:
    captioner = KnowingCaptioner(seeds=range(SCENES))
    measure(captioner, tmp_path, scenes=SCENES)
    one = measure(captioner, tmp_path, scenes=1, first_seed=2)
    assert values(one)["any wrong statement"][1] == num_regions(2)
    assert captioner.described == SCENES


def test_scenes_are_rendered_once_and_only_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []

    def generate(seed: int, **options: Any) -> Scene:
        rendered.append(seed)
        return generate_once(seed, **options)

    monkeypatch.setattr(examples, "generate_scene", generate)
    captioner = KnowingCaptioner(seeds=range(SCENES))
    regions = num_regions(0) + 1
    evaluate(Scenes(), captioner, limit=regions, progress=False)
    assert rendered == [0, 1]


def test_pictures_that_do_not_fit_are_rendered_again() -> None:
    first, second = examples.scene_tasks(2, 0)
    room = len(zlib.compress(first.picture().tobytes(), level=1))
    store = examples.PictureStore(max_bytes=room)
    for task in (first, second):
        store.keep(task, task.picture())
        assert np.array_equal(store.picture(task), task.picture())
    assert list(store._kept) == [first.name]


def test_results_of_other_weights_are_refused(tmp_path: Path) -> None:
    captioner = KnowingCaptioner(seeds=range(1))
    measure(captioner, tmp_path, scenes=1)
    with torch.no_grad():
        captioner.model.weight.add_(0.5)
    with pytest.raises(ValueError, match=r"output: .* holds results of"):
        measure(captioner, tmp_path, scenes=1)


def test_rows_hold_captions_and_likelihoods(tmp_path: Path) -> None:
    measure(KnowingCaptioner(seeds=(3,)), tmp_path, scenes=1, first_seed=3)
    header, *found = map(json.loads, (tmp_path / PREDICTIONS).read_text().splitlines())
    assert (header["benchmark"], header["model"]) == ("scenes", "knowing")
    assert [row["item"] for row in found] == [f"scene 3, region {k}" for k in range(num_regions(3))]
    for index, row in enumerate(found):
        assert row["text"].endswith(f"number {index}")
        assert row["extra"]["log_probs"] == [-1.0 - abs(index - k) for k in range(num_regions(3))]


def test_a_model_without_likelihoods_is_not_measured_by_them() -> None:
    class Silent:
        def __init__(self) -> None:
            known = KnowingCaptioner(seeds=range(1))
            self.model_id, self.model_type, self.describe = "s", "chat", known.describe

        ask = None

    found = values(measure(Silent(), scenes=1))
    assert "self-retrieval" not in found
    assert found["any wrong statement"][0] == 0.0


def test_what_is_asked_for_is_passed_on_and_written_down(tmp_path: Path) -> None:
    captioner = KnowingCaptioner(seeds=range(1))
    measure(captioner, tmp_path, scenes=1)
    assert captioner.options == {}
    asked = Asked(prompt="in 6 words", options={"unique": True})
    with pytest.raises(ValueError, match=r"output: .* holds results of"):
        measure(captioner, tmp_path, asked, scenes=1)
    measure(captioner, tmp_path / "asked", asked, scenes=1)
    assert captioner.options == {"prompt": "in 6 words", "unique": True}
    header = json.loads((tmp_path / "asked" / PREDICTIONS).read_text().splitlines()[0])
    assert (header["prompt"], header["options"]) == ("in 6 words", {"unique": True})


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
        asked = Asked(prompt="in 6 words", options={"unique": True} if unique else {})
        result = measure(captioner, None, asked, scenes=4, first_seed=1_000, lookalikes=6)
        found[unique] = values(result, "look-alikes")
    retrieved = [found[unique]["self-retrieval, look-alikes"][0] for unique in (False, True)]
    assert retrieved[1] >= retrieved[0] + 0.1
    alone = [found[unique]["true of its region alone"][0] for unique in (False, True)]
    assert alone[1] >= alone[0]
    wrong = [found[unique]["any wrong statement"][0] for unique in (False, True)]
    assert wrong[1] <= wrong[0] + 0.1  # not bought with false statements


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scenes": 0}, "scenes: expected at least one scene or photograph, got none"),
        ({"scenes": -1}, "scenes: expected a count of at least 0, got -1"),
        ({"scenes": 2, "first_seed": 9_999}, r"first_seed: .*0\.\.9999, got 9999\.\.10000"),
        ({"scenes": 2, "first_seed": -1}, "first_seed: "),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scenes(**settings)
