"""The built-in captioner, end to end: seconds per region from array and mask to text.

    pytest benchmarks/models/bench_mini.py

Floor: about 0.5 GFLOP for the two tiles and 0.2 GFLOP for the prompt of a region, that is 7 ms at
100 GFLOP/s, and about 30 decoding steps that read 2.6 MB of weights from cache, which Python
overhead dominates.
"""

import pytest

import fastregion as fr
from fastregion.scenes import generate_scene

SCENE = generate_scene(7)
MASKS = [region.mask for region in SCENE.regions]


@pytest.fixture(scope="module")
def captioner():
    return fr.load("fastregion/mini")


@pytest.mark.parametrize("regions", [1, 8, 32])
def test_describe(benchmark, captioner, regions):
    masks = [MASKS[k % len(MASKS)] for k in range(regions)]
    texts = benchmark(captioner.describe, SCENE.image, masks)
    assert len(texts) == regions
    benchmark.extra_info["milliseconds per region"] = 1e3 * benchmark.stats["median"] / regions


def test_score(benchmark, captioner):
    text = captioner.describe(SCENE.image, MASKS[0])
    score = benchmark(captioner.score, SCENE.image, MASKS[0], text)
    assert score <= 0
