"""Judges of captioners: :func:`fastregion.evaluation.mini.evaluate` measures what can be seen."""
