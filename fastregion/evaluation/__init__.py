"""Evaluation of captioners: :func:`.run.evaluate` runs a benchmark; so does ``fastregion eval``."""
