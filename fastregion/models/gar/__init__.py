"""GAR (Grasp Any Region): Perception-LM with a mask embedding and replayed region features."""

from fastregion.models.gar.captioner import GarCaptioner
from fastregion.models.gar.config import GarConfig

__all__ = ["GarCaptioner", "GarConfig"]
