"""Configuration of Pix2Cap, with the keys of the published settings.

The published file is a tree (``MODEL.DECODER.HIDDEN_DIM``, ...); the sections that shape the model
are dataclasses here, whose fields are called as the keys, in lower case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fastregion.models.categories import COCO_PANOPTIC, Category
from fastregion.models.config_values import check_int, check_keys, required, wrong
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
_INFERENCE = {
    "object_mask_threshold": ("MODEL", "DECODER", "TEST"),
    "overlap_threshold": ("MODEL", "DECODER", "TEST"),
    "detections_per_image": ("COCO", "TEST"),
}
# Keys of which only one value is computed here, by section.
_FIXED: dict[str, dict[str, Any]] = {
    "focal": {
        "PATCH_NORM": True,
        "USE_CONV_EMBED": True,
        "SCALING_MODULATOR": True,
        "USE_POSTLN": True,
        "USE_POSTLN_IN_MODULATION": False,
        "USE_LAYERSCALE": True,
        "DROP_RATE": 0.0,
        "OUT_INDICES": [0, 1, 2, 3],
    },
    "encoder": {"NAME": "transformer_encoder_fpn", "NORM": "GN", "COMMON_STRIDE": 4},
    "decoder": {
        "TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
        "DROPOUT": 0.0,
        "PRE_NORM": False,
        "ENFORCE_INPUT_PROJ": False,
        "SIZE_DIVISIBILITY": 32,
    },
    "text": {"TOKENIZER": "clip", "AUTOGRESSIVE": True},
    "text_decoder": {"MASK_FUTURE_POSITIONS": True, "PADDING_IDX": 0, "DECODER_TYPE": "bert_en"},
}
# Published keys that have no effect on the network, or none at all, by section.
_WITHOUT_EFFECT = {
    "focal": "PRETRAIN_IMG_SIZE OUT_FEATURES USE_CHECKPOINT",
    "encoder": "IGNORE_VALUE NUM_CLASSES LOSS_WEIGHT IN_FEATURES BINARY_CLASSES DEFORMABLE_"
    "TRANSFORMER_ENCODER_IN_FEATURES DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS "
    "DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS TOTAL_NUM_FEATURE_LEVELS NUM_FEATURE_LEVELS "
    "FEATURE_ORDER",
    "decoder": "NAME MASK FROZEX DETECTION DENSECAPTION DEEP_SUPERVISION BBOX_WEIGHT GIOU_WEIGHT "
    "TEST BACKBONER_WEIGHT CAPTION_WEIGHT CAPTIONING_WEIGHT RETRIEVAL_WEIGHT COST_SPATIAL COSINE "
    "CAPTION CAPTIONING RETRIEVAL GROUNDING SPATIAL OPENIMAGE TOP_MASK_LAYERS TOP_CAPTION_LAYERS "
    "TOP_CAPTIONING_LAYERS TOP_RETRIEVAL_LAYERS TOP_GROUNDING_LAYERS TOP_DETECTION_LAYERS "
    "GCLASS_WEIGHT GMASK_WEIGHT GDICE_WEIGHT OCLASS_WEIGHT OMASK_WEIGHT ODICE_WEIGHT "
    "GROUNDING_WEIGHT DECODER_WEIGHT IGNORE_VALUE",
    "text": "ARCH NAME",
    "text_decoder": "USE_ACT_CHECKPOINT MAX_STEPS",
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
        count = self.decoder.num_object_queries
        if count < 2:
            raise wrong("MODEL.DECODER.NUM_OBJECT_QUERIES", "2 or more", count)
        if len(self.class_names) < 2 or len(set(self.class_names)) < len(self.class_names):
            raise wrong(
                "class_names",
                "different names of classes and that of no object at the end",
                list(self.class_names),
            )
        for index in self.thing_contiguous_ids:
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
        if names == _coco_names()[:-1]:
            return COCO_PANOPTIC
        return tuple(
            Category(index + 1, name, index in self.thing_contiguous_ids)
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
            section = _inside(values, path)
            section |= _FIXED[name]
            for one in fields(kind):
                value = getattr(getattr(self, name), one.name)
                section[one.name.upper()] = list(value) if isinstance(value, tuple) else value
        for name, path in _INFERENCE.items():
            _inside(values, path)[name.upper()] = getattr(self.inference, name)
        values["MODEL"]["DIM_PROJ"] = self.dim_proj
        values["MODEL"]["ENCODER"]["NUM_CLASSES"] = self.num_classes
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Pix2CapConfig:
        """Read the published tree, or the keys of :meth:`to_dict`.

        Of sections that do not shape the network, and of the root, unknown keys are without effect.
        Our keys, and ``COCO``, may be left out; those of the published settings then count.

        Raises:
            ValueError: a key is missing or unknown, or a value does not fit; the message names the
                key.
            NotImplementedError: a value that asks for another network than the published one.
        """
        read: dict[str, Any] = {}
        for name, (path, kind) in _SECTIONS.items():
            read[name] = _read_section(name, path, kind, _section(values, path))
        read["inference"] = _read_inference(values)
        model = _section(values, ("MODEL",))
        check_int("MODEL.DIM_PROJ", required("MODEL.", model, "DIM_PROJ"), 1)
        for name in ("class_names", "thing_contiguous_ids"):
            if name in values:
                read[name] = _tuple(name, values[name])
        config = cls(dim_proj=model["DIM_PROJ"], **read)
        declared = model["ENCODER"].get("NUM_CLASSES", config.num_classes)
        if declared != config.num_classes:
            raise wrong(
                "MODEL.ENCODER.NUM_CLASSES", f"the {config.num_classes} of class_names", declared
            )
        return config


def _inside(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        values = values.setdefault(key, {})
    return values


def _section(values: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    where = ""
    for key in path:
        values = required(where, values, key)
        where += f"{key}."
        if not isinstance(values, Mapping):
            raise wrong(where.rstrip("."), "an object", values)
    return values


def _read_section(
    name: str, path: tuple[str, ...], kind: type[Any], given: Mapping[str, Any]
) -> Any:
    where = ".".join(path) + "."
    defaults = {one.name: getattr(kind(), one.name) for one in fields(kind)}
    fixed = _FIXED[name]
    known = [*(key.upper() for key in defaults), *fixed, *_WITHOUT_EFFECT[name].split()]
    check_keys(where, given, known)
    for key, supported in fixed.items():
        value = given.get(key, supported)
        if value != supported:
            raise NotImplementedError(
                f"config.json: {where}{key} must be {supported!r}, got {value!r}"
            )
    read: dict[str, Any] = {}
    for key, default in defaults.items():
        value = given.get(key.upper(), default)
        full = where + key.upper()
        if isinstance(default, tuple):
            value = _tuple(full, value)
            for number in value:
                check_int(full, number, 1)
        elif isinstance(default, int):
            check_int(full, value, 1)
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise wrong(full, "a number of at least 0", value)
        read[key] = value
    try:
        return kind(**read)
    except ValueError as error:
        raise ValueError(f"config.json: {where}{error}") from error


def _read_inference(values: Mapping[str, Any]) -> InferenceConfig:
    """Those of the thresholds that are given; the published ones for the others."""
    read = vars(InferenceConfig()).copy()
    for name, path in _INFERENCE.items():
        found: Any = values
        for key in path:
            found = found.get(key, {}) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            raise wrong(".".join(path), "an object", found)
        value = found.get(name.upper(), read[name])
        if isinstance(value, bool) or not isinstance(value, type(read[name])) or value < 0:
            raise wrong(f"{'.'.join(path)}.{name.upper()}", "a number of at least 0", value)
        read[name] = value
    return InferenceConfig(**read)


def _tuple(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise wrong(name, "a list", value)
    return tuple(value)
