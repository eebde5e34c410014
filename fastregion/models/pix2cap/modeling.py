"""Pix2Cap: every segment of a picture, with a caption (X-Decoder with a caption head).

    res2..res5 = FocalNet(picture)                      strides 4, 8, 16, 32
    mask features, maps = PixelDecoder(res2..res5)
    class, mask, object features = TransformerDecoder(maps, mask features; T)        of each query
    caption = CaptionHead(object features)

``T`` are vectors of the class names, from the text encoder: the vocabulary is open.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastregion.models.pix2cap.caption_head import CaptionHead
from fastregion.models.pix2cap.config import Pix2CapConfig
from fastregion.models.pix2cap.criterion import Pix2CapCriterion
from fastregion.models.pix2cap.output import Pix2CapOutput
from fastregion.models.pix2cap.pixel_decoder import PixelDecoder
from fastregion.models.pix2cap.text_encoder import LanguageEncoder
from fastregion.models.pix2cap.transformer_decoder import TransformerDecoder
from fastregion.models.training_steps import init_meta_parameters
from fastregion.vision.focalnet import FocalNet

__all__ = ["SIZE_DIVISOR", "Pix2CapModel"]

SIZE_DIVISOR = 32
"""Height and width of pictures are padded to multiples of it."""


class Pix2CapModel(nn.Module):
    """All weights of Pix2Cap.

    Parameters are made on the ``meta`` device: load them, or call :meth:`init_weights`.

    Args:
        config: sizes.
    """

    def __init__(self, config: Pix2CapConfig) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.backbone = FocalNet(config.focal)
            self.pixel_decoder = PixelDecoder(config)
            self.predictor = TransformerDecoder(config)
        decoder = config.decoder
        self.criterion = Pix2CapCriterion(
            num_classes=config.num_classes,
            class_weight=decoder.class_weight,
            mask_weight=decoder.mask_weight,
            dice_weight=decoder.dice_weight,
            caption_weight=decoder.densecaption_weight,
            no_object_weight=decoder.no_object_weight,
            num_caption_layers=decoder.top_densecaption_layers,
            num_points=decoder.train_num_points,
            oversample=decoder.oversample_ratio,
            importance=decoder.importance_sample_ratio,
        )

    @property
    def caption_head(self) -> CaptionHead:
        """The caption head."""
        head: CaptionHead = self.predictor.text_decoder.textual
        return head

    @property
    def text_encoder(self) -> LanguageEncoder:
        """What class names go through."""
        encoder: LanguageEncoder = self.predictor.lang_encoder
        return encoder

    def init_weights(self, seed: int = 0) -> Pix2CapModel:
        """Give every parameter that lies on ``meta`` memory and random values; returns self."""
        init_meta_parameters(self, seed, {"gamma": 1e-4, "logit_scale": 1.0})
        return self

    def forward(
        self, pixel_values: Tensor, text_embeddings: Tensor, *, auxiliary: bool = False
    ) -> Pix2CapOutput:
        """Predictions for pictures.

        Args:
            pixel_values: ``[B, 3, H, W]``, normalised, in the dtype of the weights; H and W are
                multiples of 32.
            text_embeddings: T, ``[K + 1, dim_proj]``, "no object" last; without a row where classes
                are not asked for.
            auxiliary: also the predictions of earlier decoder layers, for training.

        Raises:
            ValueError: pictures of another shape.
        """
        shape = tuple(pixel_values.shape)
        if len(shape) != 4 or shape[1] != 3 or shape[2] % SIZE_DIVISOR or shape[3] % SIZE_DIVISOR:
            raise ValueError(
                f"pixel_values: must be [B, 3, H, W] with H and W multiples of {SIZE_DIVISOR}, "
                f"got shape {shape}"
            )
        features = self.pixel_decoder(self.backbone(pixel_values))
        output: Pix2CapOutput = self.predictor(features, text_embeddings, auxiliary=auxiliary)
        return output
