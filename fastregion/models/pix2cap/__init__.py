"""Pix2Cap: panoptic segments, each with a caption."""

from fastregion.models.pix2cap.captioner import Pix2CapCaptioner
from fastregion.models.pix2cap.config import Pix2CapConfig

__all__ = ["Pix2CapCaptioner", "Pix2CapConfig"]
