"""A run of the toy task, as a program for torchrun: ``{"output", "recipe": {}, "task": {}}``."""

import json
import sys

from toy_training import toy_recipe, toy_task

from fastregion.training.loop import train

if __name__ == "__main__":
    run = json.loads(sys.argv[1])
    finished = train(toy_recipe(**run["recipe"]), run["output"], task=toy_task(**run["task"]))
    print("finished" if finished else "stopped")
