"""DAM, the Describe Anything Model: focal prompt and localized vision backbone."""

from fastregion.models.dam.captioner import DamCaptioner
from fastregion.models.dam.config import ContextProviderConfig, DamConfig

__all__ = ["ContextProviderConfig", "DamCaptioner", "DamConfig"]
