"""URECA: unique region captions, from a mask encoder beside an InternVL2.5 model."""

from fastregion.models.ureca.captioner import UrecaCaptioner
from fastregion.models.ureca.config import UrecaConfig

__all__ = ["UrecaCaptioner", "UrecaConfig"]
