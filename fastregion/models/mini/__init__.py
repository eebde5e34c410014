"""Mini: the captioner that comes with the package."""

from fastregion.models.mini.captioner import MiniCaptioner
from fastregion.models.mini.config import MiniConfig

__all__ = ["MiniCaptioner", "MiniConfig"]
