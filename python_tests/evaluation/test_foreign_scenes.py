"""Mini on scenes of a generator that it was not trained on."""

from collections import defaultdict

import numpy as np
import pytest
from foreign_scenes import draw_scene, foreign_tasks

from fastregion.evaluation.caption_facts import read_caption
from fastregion.evaluation.judge import judge_caption
from fastregion.models import load
from fastregion.scenes.outlines import SHAPES
from fastregion.scenes.textures import PATTERNS


def test_scenes_are_drawn_with_their_truths() -> None:
    for seed in range(4):
        example, again = draw_scene(seed), draw_scene(seed)
        assert np.array_equal(example.image, again.image)
        assert len(example.masks) == len(example.truths) > 0
        for mask, truth in zip(example.masks, example.truths, strict=True):
            assert mask.shape == example.image.shape[:2]
            assert truth.area == pytest.approx(mask.mean())
            assert truth.patterns is not None
            assert truth.patterns <= set(PATTERNS)
            assert truth.shapes is None or truth.shapes <= set(SHAPES)


@pytest.mark.slow
def test_mini_describes_what_it_has_never_seen_drawn_like_this() -> None:
    """Well below what it reached when it was trained (its README), far above guessing."""
    captioner = load("fastregion/mini")
    right: dict[str, list[bool]] = defaultdict(list)
    for task in foreign_tasks(25):
        example = task.make()
        for index, caption in enumerate(captioner.describe(example.image, list(example.masks))):
            verdict = judge_caption(
                read_caption(caption), example.truths, index, complete=example.complete
            )
            for fact, ok in verdict.right.items():
                right[fact].append(ok)
    for fact, least in (("color", 0.9), ("place", 0.95), ("size", 0.95), ("shape", 0.85)):
        assert np.mean(right[fact]) >= least, fact
    assert np.mean(right["pattern"]) >= 0.8
