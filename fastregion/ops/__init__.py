"""Operators on regions: torch operators of the ``fastregion::`` namespace (floor 2)."""

from fastregion.ops.backend import backend
from fastregion.ops.registry import OPERATORS, Operator
from fastregion.ops.roi_replay import roi_replay

__all__ = ["OPERATORS", "Operator", "backend", "roi_replay"]
