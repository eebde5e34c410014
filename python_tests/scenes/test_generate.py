from dataclasses import replace

import numpy as np
import pytest

from fastregion.scenes import generate_scene, measure, turn_scene
from fastregion.scenes.facts import centroid
from fastregion.scenes.outlines import SHAPES
from fastregion.scenes.textures import PATTERNS


def test_a_seed_gives_the_same_bits_and_others_differ() -> None:
    first, again, other = generate_scene(11), generate_scene(11), generate_scene(12)
    assert np.array_equal(first.image, again.image)
    assert [r.facts for r in first.regions] == [r.facts for r in again.regions]
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("seed", range(10))
def test_scenes_are_well_formed(seed: int) -> None:
    scene = generate_scene(seed)
    height, width, channels = scene.image.shape
    assert scene.image.dtype == np.uint8
    assert channels == 3
    assert min(height, width) >= 128
    assert max(height, width) <= 1024
    for region in scene.regions:
        assert region.mask.shape == (height, width)
        assert region.mask.sum() >= 40
        facts = region.facts
        assert facts.color in facts.color_ok
        assert facts.place in facts.place_ok
        assert facts.size in facts.size_ok
        assert facts.shape is None or facts.shape in SHAPES
        assert facts.pattern is None or facts.pattern in PATTERNS
        # What pixels and mask decide is what was measured.
        measured = measure(scene.image, region.mask)
        assert (measured.color, measured.place, measured.size) == (
            facts.color,
            facts.place,
            facts.size,
        )


def test_vocabulary_is_all_used() -> None:
    facts = [region.facts for seed in range(90) for region in generate_scene(seed).regions]
    assert {f.shape for f in facts} >= set(SHAPES)
    assert {f.pattern for f in facts} >= set(PATTERNS)
    assert len({f.color for f in facts}) == 11
    assert len({f.size for f in facts}) == 5
    assert len({f.place for f in facts}) == 9
    assert {f.relation[0] for f in facts if f.relation} == {"inside", "in front of"}
    assert any(f.unique for f in facts)
    assert any(f.hole for f in facts)


@pytest.mark.parametrize("count", [2, 5, 12])
def test_as_many_lookalikes_as_asked_for(count: int) -> None:
    for seed in range(3):
        scene = generate_scene(seed, lookalikes=count)
        assert scene.lookalike
        assert len(scene.regions) == count
        shapes = [region.facts.shape for region in scene.regions if region.facts.shape]
        assert len(set(shapes)) <= 1
        assert sum(region.mask.astype(int) for region in scene.regions).max() == 1
    again = generate_scene(2, lookalikes=count)
    assert np.array_equal(again.image, scene.image)


@pytest.mark.parametrize("count", [1, 13, -2])
def test_other_counts_of_lookalikes_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"lookalikes: expected 2\.\.12, got {count}"):
        generate_scene(0, lookalikes=count)


@pytest.mark.parametrize("turn", range(8))
def test_turned_scenes_have_the_facts_of_the_turned_picture(turn: int) -> None:
    scene = next(s for s in map(generate_scene, range(50)) if s.lookalike)
    turned = turn_scene(scene, turn)
    for before, after in zip(scene.regions, turned.regions, strict=True):
        x, y = centroid(before.mask)
        if turn & 4:
            x, y = y, x
        expected = (1 - x if turn & 1 else x, 1 - y if turn & 2 else y)
        assert centroid(after.mask) == pytest.approx(expected)
        measured = measure(turned.image, after.mask)
        assert measured.place == after.facts.place
        assert measured.edges == after.facts.edges
        kept = replace(after.facts, unique=None, shape=None, pattern=None, relation=None)
        assert kept.color == before.facts.color
