"""Configuration of DAM, with the keys of the published files.

A published checkpoint has a ``config.json`` at its root and one in the folder of each part; here
the parts' stand in the root's, under ``llm_cfg``, ``vision_tower_cfg``, ``mm_projector_cfg`` and
``context_provider_cfg``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastregion.models.config_values import check_int, check_keys, required, wrong
from fastregion.vision.siglip import SiglipConfig

__all__ = ["PARTS", "AdapterFormula", "ContextProviderConfig", "DamConfig"]

AdapterFormula = Literal["released", "paper"]

# The folder of each part of a published checkpoint.
PARTS = ("llm", "vision_tower", "mm_projector", "context_provider")

_ACTIVATION = "gelu_pytorch_tanh"
_ADAPTERS = "cross_attn_end_to_all"
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# The values of keys that a file leaves out, in the published classes.
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_mask_channels": 0,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": _ACTIVATION,
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
}
_CONTEXT_DEFAULTS = {
    **_VISION_DEFAULTS,
    "context_provider_type": None,
    "zero_init_output": True,
    "residual_dropout": 0.0,
    "masked_cross_attn": False,
    "context_image_as_queries": False,
    "treat_image_as_cimage": False,
    "context_provider_layer_indices": None,
    "crop_position_single_embedding": False,
    "trainable_crop_position_embedding": True,
    "crop_embedding_mode": "add",
}
_SWITCHES = (
    "zero_init_output",
    "masked_cross_attn",
    "context_image_as_queries",
    "treat_image_as_cimage",
)
_DROPOUTS = ("attention_dropout", "residual_dropout")


@dataclass(frozen=True, kw_only=True)
class ContextProviderConfig:
    """The adapters between the two passes.

    Attributes:
        hidden_size: D, that of the vision tower.
        intermediate_size: width inside the MLPs.
        num_hidden_layers: number of adapters, that of the vision tower's layers.
        num_attention_heads: heads of the cross attention.
        layer_norm_eps: of all layer norms.
        patch_size: pixels a side of a patch, for ``masked_cross_attn``.
        zero_init_output: whether there are gates; without, they are 1.
        masked_cross_attn: the crop attends only to patches that the mask touches.
        context_image_as_queries: crop and full image change places.
        treat_image_as_cimage: pictures without a region take both passes too.
        attention_dropout: of a published training; only 0 can be trained with here.
        residual_dropout: the same, on the residual stream.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: float = 1e-6
    patch_size: int = 14
    zero_init_output: bool = True
    masked_cross_attn: bool = False
    context_image_as_queries: bool = False
    treat_image_as_cimage: bool = False
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.masked_cross_attn and self.context_image_as_queries:
            raise wrong(
                "context_provider_cfg.masked_cross_attn",
                "false with context_image_as_queries",
                True,
            )


@dataclass(frozen=True, kw_only=True)
class DamConfig:
    """Everything that shapes DAM; ``DamConfig.from_dict`` reads the published keys.

    Attributes:
        llm: the language model's published keys, for ``language.build_decoder``.
        vision: sizes of the vision tower.
        context_provider: sizes and switches of the adapters.
        select_layer: ``mm_vision_select_layer``, which hidden state of the tower the features are:
            -2, that in front of the last layer.
        num_video_frames: frames of a video that are looked at.
        image_video_joint: whether the model was trained on images and videos (DAM-3B-Video): its
            prompts begin with ``Image:`` or ``Video:``.
        adapter_formula: ``"released"``, what the published weights compute; ``"paper"``, Eq. 6-7 of
            the paper as they stand (tanh of the gates, the MLP reads the adapter's input), for new
            training.
    """

    llm: Mapping[str, Any]
    vision: SiglipConfig
    context_provider: ContextProviderConfig
    select_layer: int = -2
    num_video_frames: int = 8
    image_video_joint: bool = False
    adapter_formula: AdapterFormula = "released"

    def __post_init__(self) -> None:
        vision, context = self.vision, self.context_provider
        for key in ("hidden_size", "num_hidden_layers"):
            if getattr(context, key) != getattr(vision, key):
                raise wrong(
                    f"context_provider_cfg.{key}",
                    f"the {getattr(vision, key)} of vision_tower_cfg",
                    getattr(context, key),
                )
        if context.masked_cross_attn and context.patch_size != vision.patch_size:
            raise wrong(
                "context_provider_cfg.patch_size",
                f"the {vision.patch_size} of vision_tower_cfg",
                context.patch_size,
            )
        count = vision.num_hidden_layers
        if isinstance(self.select_layer, bool) or not isinstance(self.select_layer, int):
            raise wrong("mm_vision_select_layer", "an integer", self.select_layer)
        if not -count - 1 <= self.select_layer <= count:
            raise wrong("mm_vision_select_layer", f"in [{-count - 1}, {count}]", self.select_layer)
        check_int("num_video_frames", self.num_video_frames, 1)
        if not isinstance(self.image_video_joint, bool):
            raise wrong("image_video_joint", "true or false", self.image_video_joint)
        if self.adapter_formula not in ("released", "paper"):
            raise wrong("adapter_formula", "'released' or 'paper'", self.adapter_formula)

    @classmethod
    def dam_3b(
        cls, *, image_video_joint: bool = False, adapter_formula: AdapterFormula = "released"
    ) -> DamConfig:
        """The sizes of DAM-3B."""
        sizes: dict[str, Any] = {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "patch_size": 14,
        }
        return cls(
            llm={
                "model_type": "llama",
                "hidden_size": 2560,
                "intermediate_size": 6912,
                "num_hidden_layers": 32,
                "num_attention_heads": 20,
                "num_key_value_heads": 20,
                "head_dim": 128,
                "vocab_size": 32000,
                "max_position_embeddings": 4096,
                "tokenizer_model_max_length": 4096,
                "rms_norm_eps": 1e-5,
                "rope_theta": 10000.0,
                "tie_word_embeddings": False,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 0,
            },
            vision=SiglipConfig(image_size=384, **sizes),
            context_provider=ContextProviderConfig(**sizes),
            image_video_joint=image_video_joint,
            adapter_formula=adapter_formula,
        )

    @property
    def num_feature_layers(self) -> int:
        """Layers of the tower that the features need."""
        # The list of hidden states begins with the embeddings and ends behind the last layer.
        states = self.vision.num_hidden_layers + 1
        return self.select_layer if self.select_layer >= 0 else states + self.select_layer

    @property
    def tokens_per_image(self) -> int:
        """Image tokens of one picture or frame."""
        return ((self.vision.grid_size + 1) // 2) ** 2

    def to_dict(self) -> dict[str, Any]:
        """The published keys, the parts' among them, and ours."""
        vision, context = self.vision, self.context_provider
        shared = {
            "hidden_act": _ACTIVATION,
            "image_size": vision.image_size,
            "num_channels": 3,
            "num_mask_channels": 1,
        }
        return {
            "model_type": "llava_llama",
            "architectures": ["LlavaLlamaModel"],
            "image_aspect_ratio": "resize",
            "mm_vision_select_layer": self.select_layer,
            "mm_vision_select_feature": "cls_patch",
            "hidden_size": self.llm.get("hidden_size"),
            "mm_hidden_size": vision.hidden_size,
            "num_video_frames": self.num_video_frames,
            "image_video_joint": self.image_video_joint,
            "adapter_formula": self.adapter_formula,
            "mask_encoder_cfg": None,
            "llm_cfg": dict(self.llm),
            "vision_tower_cfg": {
                "model_type": "siglip_vision_model",
                "architectures": ["SiglipVisionModel"],
                "attention_dropout": 0.0,
                **shared,
                **vars(vision),
            },
            "mm_projector_cfg": {
                "model_type": "v2l_projector",
                "architectures": ["MultimodalProjector"],
                "mm_projector_type": "mlp_downsample",
            },
            "context_provider_cfg": {
                "model_type": "context_provider",
                "architectures": ["ContextProvider"],
                "context_provider_type": _ADAPTERS,
                "context_provider_layer_indices": None,
                **shared,
                **vars(context),
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DamConfig:
        """Read the keys of :meth:`to_dict`; of the root's, unknown ones are without effect.

        Raises:
            ValueError: a key of the root or of a part is missing, or a value does not fit; the
                message names the key.
            NotImplementedError: a switch asks for something that the published code cannot do
                either, or that fastregion does not do.
        """
        _check_root(values)
        parts = {}
        for part in PARTS:
            parts[part] = required("", values, f"{part}_cfg")
            if not isinstance(parts[part], Mapping):
                raise wrong(f"{part}_cfg", "an object", parts[part])
        kind = parts["mm_projector"].get("mm_projector_type")
        if kind != "mlp_downsample":
            raise NotImplementedError(
                "config.json: mm_projector_cfg.mm_projector_type must be 'mlp_downsample', "
                f"got {kind!r}"
            )
        return cls(
            llm=dict(parts["llm"]),
            vision=_vision(parts["vision_tower"]),
            context_provider=_context_provider(parts["context_provider"]),
            select_layer=required("", values, "mm_vision_select_layer"),
            num_video_frames=values.get("num_video_frames") or 8,
            image_video_joint=values.get("image_video_joint", False),
            adapter_formula=values.get("adapter_formula", "released"),
        )


def _check_root(values: Mapping[str, Any]) -> None:
    """Keys that change what is computed, and of which only one value is supported."""
    feature = required("", values, "mm_vision_select_feature")
    if feature != "cls_patch":
        raise wrong("mm_vision_select_feature", "'cls_patch'", feature)
    for key, supported in (
        ("image_aspect_ratio", (None, "resize")),  # without a value the published code resizes too
        ("mask_encoder_cfg", (None,)),
        ("mm_use_im_start_end", (None, False)),
        ("mm_use_im_patch_token", (None, False)),
        ("s2", (None, False)),
        ("vision_resolution", (None, -1)),
    ):
        if values.get(key) not in supported:
            raise NotImplementedError(
                f"config.json: {key} must be {supported[-1]!r}, got {values[key]!r}"
            )


def _sizes(where: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All keys of a part, checked, with the values of those that the file leaves out."""
    check_keys(where, given, defaults)
    values = {**defaults, **{key: value for key, value in given.items() if key in defaults}}
    for key in (*_SIZES, "image_size", "patch_size"):
        check_int(where + key, values[key], 1)
    if values["hidden_size"] % values["num_attention_heads"]:
        raise wrong(
            where + "num_attention_heads",
            f"a divisor of hidden_size {values['hidden_size']}",
            values["num_attention_heads"],
        )
    eps = values["layer_norm_eps"]
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or eps < 0:
        raise wrong(where + "layer_norm_eps", "a number of at least 0", eps)
    if values["hidden_act"] != _ACTIVATION:
        raise NotImplementedError(
            f"config.json: {where}hidden_act must be {_ACTIVATION!r}, got {values['hidden_act']!r}"
        )
    return values


def _vision(given: Mapping[str, Any]) -> SiglipConfig:
    where = "vision_tower_cfg."
    kinds = given.get("architectures") or [""]
    if "siglip" not in str(kinds[0]).lower():
        raise NotImplementedError(
            f"config.json: {where}architectures must name a SigLIP model, got {kinds!r}"
        )
    values = _sizes(where, given, {**_VISION_DEFAULTS, "vision_use_head": True})
    for key, supported in (
        ("num_channels", 3),
        ("num_mask_channels", 1),
        ("vision_use_head", True),
        ("attention_dropout", 0),
    ):
        if values[key] != supported:
            raise wrong(where + key, repr(supported), values[key])
    names = (*_SIZES, "image_size", "patch_size", "layer_norm_eps")
    try:
        return SiglipConfig(**{name: values[name] for name in names})
    except ValueError as error:
        raise ValueError(f"config.json: {where}{error}") from error


def _context_provider(given: Mapping[str, Any]) -> ContextProviderConfig:
    where = "context_provider_cfg."
    values = _sizes(where, given, _CONTEXT_DEFAULTS)
    kind = values["context_provider_type"]
    if kind != _ADAPTERS:
        raise NotImplementedError(
            f"config.json: {where}context_provider_type must be {_ADAPTERS!r}, got {kind!r}"
        )
    if values["context_provider_layer_indices"] is not None:
        # The published code builds no adapter at all for any list.
        raise NotImplementedError(
            f"config.json: {where}context_provider_layer_indices must be null, "
            f"got {values['context_provider_layer_indices']!r}"
        )
    for key in _SWITCHES:
        if not isinstance(values[key], bool):
            raise wrong(where + key, "true or false", values[key])
    for key in _DROPOUTS:
        share = values[key]
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise wrong(where + key, "a number of at least 0 and below 1", share)
    names = (*_SIZES, "patch_size", "layer_norm_eps", *_SWITCHES, *_DROPOUTS)
    return ContextProviderConfig(**{name: values[name] for name in names})
