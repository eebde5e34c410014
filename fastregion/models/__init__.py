"""Captioners: each model is a folder here; :func:`load` finds the right one by name (floor 4)."""

from fastregion.models.auto import load
from fastregion.models.base import Captioner
from fastregion.models.description import Description
from fastregion.models.request import RegionRequest

__all__ = ["Captioner", "Description", "RegionRequest", "load"]
