"""Runs of the toy task, as a program: what the tests of several processes and of killing start.

``python toy_runs.py JSON``, a list of runs: ``{"output", "recipe": {}, "task": {}}``.
"""

import json
import sys

from toy_training import toy_recipe, toy_task

from fastregion.training.loop import train

for run in json.loads(sys.argv[1]):
    task = toy_task(**run.get("task", {}))
    print("finished" if train(toy_recipe(**run["recipe"]), run["output"], task=task) else "stopped")
