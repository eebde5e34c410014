"""Benchmarks by name: the one list."""

from __future__ import annotations

import importlib

from fastregion.evaluation.benchmarks.base import Benchmark

__all__ = ["NAMES", "find_benchmark"]

# Where each is; imported when it is wanted.
_CLASSES = {
    "dlc-bench": ("fastregion.evaluation.benchmarks.dlc_bench", "DlcBench"),
    "dlc-bench-image": ("fastregion.evaluation.benchmarks.dlc_bench", "DlcBenchImage"),
    "gar-bench-vqa": ("fastregion.evaluation.benchmarks.gar_bench_vqa", "GarBenchVqa"),
    "gar-bench-cap": ("fastregion.evaluation.benchmarks.gar_bench_cap", "GarBenchCap"),
    "ferret-bench": ("fastregion.evaluation.benchmarks.ferret_bench", "FerretBench"),
    "mdvp-bench": ("fastregion.evaluation.benchmarks.mdvp_bench", "MdvpBench"),
    "videorefer-d": ("fastregion.evaluation.benchmarks.videorefer_d", "VideoReferD"),
    "videorefer-q": ("fastregion.evaluation.benchmarks.videorefer_q", "VideoReferQ"),
    "vip-bench": ("fastregion.evaluation.benchmarks.vip_bench", "VipBench"),
    "ureca": ("fastregion.evaluation.benchmarks.ureca", "Ureca"),
    "ref-l4": ("fastregion.evaluation.benchmarks.ref_l4", "RefL4"),
    "lvis-keywords": ("fastregion.evaluation.benchmarks.lvis_paco", "LvisKeywords"),
    "paco-keywords": ("fastregion.evaluation.benchmarks.lvis_paco", "PacoKeywords"),
    "flickr30k-entities": (
        "fastregion.evaluation.benchmarks.flickr30k_entities",
        "Flickr30kEntities",
    ),
    "refcocog": ("fastregion.evaluation.benchmarks.refcocog_vg", "RefCocoG"),
    "visual-genome": ("fastregion.evaluation.benchmarks.refcocog_vg", "VisualGenome"),
    "hc-stvg": ("fastregion.evaluation.benchmarks.hc_stvg", "HcStvg"),
    "pix2cap-coco": ("fastregion.evaluation.benchmarks.pix2cap_coco", "Pix2CapCoco"),
    "scenes": ("fastregion.evaluation.benchmarks.scenes", "Scenes"),
    "scene-questions": ("fastregion.evaluation.benchmarks.scene_questions", "SceneQuestions"),
}

NAMES = tuple(_CLASSES)
"""All names, in the order in which they are listed."""


def find_benchmark(name: str) -> type[Benchmark]:
    """The class of a benchmark.

    Raises:
        ValueError: no benchmark has this name; the message lists those that there are.
    """
    if name not in _CLASSES:
        raise ValueError(f"benchmark: expected one of {', '.join(NAMES)}, got {name!r}")
    module, class_name = _CLASSES[name]
    found: type[Benchmark] = getattr(importlib.import_module(module), class_name)
    return found
