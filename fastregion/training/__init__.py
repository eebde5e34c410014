"""Training: one loop for all systems, recipes, data and checkpoints (floor 5).

from fastregion.training import read_recipe, train
train(read_recipe("mini", {"minutes": 10}), output="runs/mini")
"""

from fastregion.training.loop import train
from fastregion.training.recipe import Recipe, read_recipe

__all__ = ["Recipe", "read_recipe", "train"]
