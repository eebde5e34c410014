"""Rendered scenes with exact ground truth: pictures, masks, facts, captions, answers."""

from fastregion.scenes.colors import COLOR_TERMS
from fastregion.scenes.facts import Facts, measure
from fastregion.scenes.generate import generate_scene, turn_scene
from fastregion.scenes.scene import EVALUATION_SEEDS, Scene, SceneRegion

__all__ = [
    "COLOR_TERMS",
    "EVALUATION_SEEDS",
    "Facts",
    "Scene",
    "SceneRegion",
    "generate_scene",
    "measure",
    "turn_scene",
]
