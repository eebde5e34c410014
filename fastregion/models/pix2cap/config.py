"""Configuration of Pix2Cap, with the keys of the published settings.

The published file is a tree (``MODEL.DECODER.HIDDEN_DIM``, ...); the sections that shape the model
are dataclasses here, whose fields are called as the keys, in lower case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fastregion.models.categories import COCO_PANOPTIC, Category
from fastregion.models.config_values import check_int, required, wrong
from fastregion.models.pix2cap.output import STRIDE
from fastregion.models.pix2cap.published_keys import (
    FIXED,
    check_number,
    inside,
    read_section,
    read_values,
    section,
    tuple_of,
)
from fastregion.vision.focalnet import FocalNetConfig

__all__ = [
    "DecoderConfig",
    "EncoderConfig",
    "InferenceConfig",
    "Pix2CapConfig",
    "TextConfig",
    "TextDecoderConfig",
]

MODEL_TYPE = "pix2cap"
NO_OBJECT = "background"


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Pixel decoder.

    Attributes:
        convs_dim: channels of its maps, a multiple of 32 (the groups of its norms).
        mask_dim: channels of the mask features.
        transformer_enc_layers: layers on the coarsest map.
    """

    convs_dim: int = 512
    mask_dim: int = 512
    transformer_enc_layers: int = 6


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Transformer decoder and its training.

    Attributes:
        hidden_dim: C, width of a query; a multiple of ``nheads`` and of 4.
        num_object_queries: Q, the class token included.
        nheads: attention heads, of the pixel decoder's layers too.
        dim_feedforward: width inside the feed-forward layers, of the pixel decoder's too.
        dec_layers: number of predictions: that of the learned queries, and one a layer.
        class_weight, mask_weight, dice_weight, densecaption_weight: of the losses.
        no_object_weight: of the class "no object" in the class loss.
        top_densecaption_layers: on how many of the last predictions the caption loss is.
        train_num_points: points of a mask that its losses look at.
        oversample_ratio: how many more points are drawn to find the uncertain ones among them.
        importance_sample_ratio: share of the points that are uncertain ones.
    """

    hidden_dim: int = 512
    num_object_queries: int = 201
    nheads: int = 8
    dim_feedforward: int = 2048
    dec_layers: int = 10
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    densecaption_weight: float = 0.1
    no_object_weight: float = 0.1
    top_densecaption_layers: int = 9
    train_num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How predictions become segments.

    Attributes:
        object_mask_threshold: a query counts above this probability of its class.
        overlap_threshold: share of a mask's pixels that must be left to it.
        detections_per_image: how many instances are listed.
    """

    object_mask_threshold: float = 0.8
    overlap_threshold: float = 0.8
    detections_per_image: int = 100


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Text encoder of the class names.

    Attributes:
        context_length: most tokens of a sentence, begin and end included.
        width: of a token; a multiple of ``heads``.
        heads: attention heads.
        layers: number of layers.
        vocab_size: number of tokens; no published key, the tokenizer decides.
    """

    context_length: int = 77
    width: int = 512
    heads: int = 8
    layers: int = 12
    vocab_size: int = 49408


@dataclass(frozen=True, kw_only=True)
class TextDecoderConfig:
    """Caption head.

    Attributes:
        object_feature_size: width of what it sees of an object.
        vocab_size: number of tokens.
        hidden_size: of a token; a multiple of ``attention_heads``.
        num_layers: number of layers.
        attention_heads: attention heads.
        feedforward_size: width inside the feed-forward layers.
        beam_size: first words that a search begins with; 1 is greedy.
    """

    object_feature_size: int = 256
    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 6
    attention_heads: int = 12
    feedforward_size: int = 3072
    beam_size: int = 1


# Sections of the published tree, by field.
_SECTIONS: dict[str, tuple[tuple[str, ...], type[Any]]] = {
    "focal": (("MODEL", "BACKBONE", "FOCAL"), FocalNetConfig),
    "encoder": (("MODEL", "ENCODER"), EncoderConfig),
    "decoder": (("MODEL", "DECODER"), DecoderConfig),
    "text": (("MODEL", "TEXT"), TextConfig),
    "text_decoder": (("MODEL", "TEXT_DECODER"), TextDecoderConfig),
}
_PIXELS = ("pixel_mean", "pixel_std")
_INFERENCE = {
    "object_mask_threshold": ("MODEL", "DECODER", "TEST"),
    "overlap_threshold": ("MODEL", "DECODER", "TEST"),
    "detections_per_image": ("COCO", "TEST"),
}


def _coco_names() -> tuple[str, ...]:
    return (*(category.name for category in COCO_PANOPTIC), NO_OBJECT)


def _coco_things() -> tuple[int, ...]:
    return tuple(index for index, category in enumerate(COCO_PANOPTIC) if category.isthing)


@dataclass(frozen=True, kw_only=True)
class Pix2CapConfig:
    """Everything that shapes Pix2Cap; the defaults are those of the published weights.

    (Where the published file and the published command that trained them differ, the command's.)

    Attributes:
        focal: backbone.
        encoder: pixel decoder.
        decoder: transformer decoder.
        text: text encoder.
        text_decoder: caption head.
        inference: thresholds.
        dim_proj: width in which queries and class names are compared.
        pixel_mean, pixel_std: of red, green and blue in 0..255; pixels are normalised by them.
        class_names: names of the K classes, and of "no object" at the end.
        thing_contiguous_ids: indices of the classes that are things.
    """

    focal: FocalNetConfig = field(default_factory=FocalNetConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    text: TextConfig = field(default_factory=TextConfig)
    text_decoder: TextDecoderConfig = field(default_factory=TextDecoderConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    dim_proj: int = 512
    pixel_mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, ...] = (58.395, 57.12, 57.375)
    class_names: tuple[str, ...] = field(default_factory=_coco_names)
    thing_contiguous_ids: tuple[int, ...] = field(default_factory=_coco_things)

    def __post_init__(self) -> None:
        for where, width, heads in (
            ("MODEL.DECODER.HIDDEN_DIM", self.decoder.hidden_dim, self.decoder.nheads),
            ("MODEL.ENCODER.CONVS_DIM", self.encoder.convs_dim, self.decoder.nheads),
            ("MODEL.TEXT.WIDTH", self.text.width, self.text.heads),
            (
                "MODEL.TEXT_DECODER.HIDDEN_SIZE",
                self.text_decoder.hidden_size,
                self.text_decoder.attention_heads,
            ),
        ):
            if width % heads:
                raise wrong(where, f"a multiple of its {heads} heads", width)
        if self.decoder.hidden_dim % 4:
            raise wrong("MODEL.DECODER.HIDDEN_DIM", "a multiple of 4", self.decoder.hidden_dim)
        if self.encoder.convs_dim % 32:
            raise wrong("MODEL.ENCODER.CONVS_DIM", "a multiple of 32", self.encoder.convs_dim)
        depths = self.focal.depths
        if len(depths) != 4:
            raise wrong("MODEL.BACKBONE.FOCAL.DEPTHS", "those of four stages", list(depths))
        if self.focal.patch_size != STRIDE:
            raise wrong("MODEL.BACKBONE.FOCAL.PATCH_SIZE", str(STRIDE), self.focal.patch_size)
        for name in _PIXELS:
            if len(getattr(self, name)) != 3:
                where = f"INPUT.{name.upper()}"
                raise wrong(where, "a number for red, green and blue", list(getattr(self, name)))
        if 0 in self.pixel_std:
            raise wrong("INPUT.PIXEL_STD", "numbers above 0", list(self.pixel_std))
        count = self.decoder.num_object_queries
        if count < 2:
            raise wrong("MODEL.DECODER.NUM_OBJECT_QUERIES", "2 or more", count)
        share, ratio = self.decoder.importance_sample_ratio, self.decoder.oversample_ratio
        if not 0 <= share <= 1:
            raise wrong("MODEL.DECODER.IMPORTANCE_SAMPLE_RATIO", "in 0..1", share)
        if ratio < 1:
            raise wrong("MODEL.DECODER.OVERSAMPLE_RATIO", "at least 1", ratio)
        if not all(isinstance(name, str) and name.strip() for name in self.class_names):
            raise wrong("class_names", "words", list(self.class_names))
        if len(self.class_names) < 2 or len(set(self.class_names)) < len(self.class_names):
            raise wrong(
                "class_names",
                "different names of classes and that of no object at the end",
                list(self.class_names),
            )
        for index in self.thing_contiguous_ids:
            check_int("thing_contiguous_ids", index, 0)
            if not 0 <= index < self.num_classes:
                raise wrong(
                    "thing_contiguous_ids", f"indices below the {self.num_classes} classes", index
                )

    @property
    def num_classes(self) -> int:
        """K, classes without "no object"."""
        return len(self.class_names) - 1

    @property
    def categories(self) -> tuple[Category, ...]:
        """The K classes: those of COCO panoptic with their ids, others counted from 1."""
        names = self.class_names[:-1]
        is_coco = names == _coco_names()[:-1]
        return tuple(
            Category(
                COCO_PANOPTIC[index].id if is_coco else index + 1,
                name,
                index in self.thing_contiguous_ids,
            )
            for index, name in enumerate(names)
        )

    @property
    def project_maps(self) -> bool:
        """Whether the transformer decoder has a convolution on each map that it reads."""
        return self.encoder.convs_dim != self.decoder.hidden_dim

    def to_dict(self) -> dict[str, Any]:
        """The published keys, and ours."""
        values: dict[str, Any] = {
            "model_type": MODEL_TYPE,
            "class_names": list(self.class_names),
            "thing_contiguous_ids": list(self.thing_contiguous_ids),
        }
        for name, (path, kind) in _SECTIONS.items():
            given = inside(values, path)
            given |= FIXED[name]
            for one in fields(kind):
                value = getattr(getattr(self, name), one.name)
                given[one.name.upper()] = list(value) if isinstance(value, tuple) else value
        for name, path in _INFERENCE.items():
            inside(values, path)[name.upper()] = getattr(self.inference, name)
        values["INPUT"] = {name.upper(): list(getattr(self, name)) for name in _PIXELS}
        values["MODEL"]["DIM_PROJ"] = self.dim_proj
        values["MODEL"]["ENCODER"]["NUM_CLASSES"] = self.num_classes
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Pix2CapConfig:
        """Read the published tree, or the keys of :meth:`to_dict`.

        Of sections that do not shape the network, and of the root, unknown keys are without effect.
        Our keys, ``INPUT`` and ``COCO`` may be left out; the published settings then count.

        Raises:
            ValueError: a key is missing or unknown, or a value does not fit; the message names the
                key.
            NotImplementedError: a value that asks for another network than the published one.
        """
        read: dict[str, Any] = {}
        for name, (path, kind) in _SECTIONS.items():
            read[name] = read_section(name, path, kind, section(values, path))
        read["inference"] = _read_inference(values)
        model = section(values, ("MODEL",))
        check_int("MODEL.DIM_PROJ", required("MODEL.", model, "DIM_PROJ"), 1)
        for name, value in read_values(values, ("INPUT",), _PIXELS).items():
            read[name] = tuple_of(f"INPUT.{name.upper()}", value)
            for number in read[name]:
                check_number(f"INPUT.{name.upper()}", number)
        for name in ("class_names", "thing_contiguous_ids"):
            if name in values:
                read[name] = tuple_of(name, values[name])
        config = cls(dim_proj=model["DIM_PROJ"], **read)
        declared = model["ENCODER"].get("NUM_CLASSES", config.num_classes)
        if declared != config.num_classes:
            raise wrong(
                "MODEL.ENCODER.NUM_CLASSES", f"the {config.num_classes} of class_names", declared
            )
        top = model["DECODER"].get("TOP_MASK_LAYERS", config.decoder.dec_layers)
        check_int("MODEL.DECODER.TOP_MASK_LAYERS", top, 1)
        if top < config.decoder.dec_layers:
            raise NotImplementedError(
                "config.json: MODEL.DECODER.TOP_MASK_LAYERS must be at least the "
                f"{config.decoder.dec_layers} of DEC_LAYERS, got {top}"
            )
        return config


def _read_inference(values: Mapping[str, Any]) -> InferenceConfig:
    """Those of the thresholds that are given; the published ones for the others."""
    read: dict[str, Any] = {}
    for name, path in _INFERENCE.items():
        for value in read_values(values, path, [name]).values():
            where = f"{'.'.join(path)}.{name.upper()}"
            if isinstance(getattr(InferenceConfig(), name), int):
                check_int(where, value, 1)
            else:
                check_number(where, value, 1)
            read[name] = value
    return InferenceConfig(**read)
