"""Evaluation of captioners: :func:`.run.evaluate` runs a benchmark, ``fastregion eval`` calls it."""
