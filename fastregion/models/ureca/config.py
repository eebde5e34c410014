"""Configuration of URECA, with the keys of the published ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from fastregion.language.internlm2 import INTERNLM2
from fastregion.models.config_values import check_int, check_keys, required, wrong
from fastregion.vision.intern_vit import InternVitConfig
from fastregion.vision.pixel_shuffle_projector import PS_VERSIONS

__all__ = ["MaskThumbnail", "UrecaConfig"]

MaskThumbnail = Literal["released", "clean"]

# The templates that are written alike; see prompts.py.
_TEMPLATES = ("mug-cap", "internvl2_5")
_DECODERS = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "InternLM2ForCausalLM": INTERNLM2,
}
_CLASSES = {3: "InternVLChatModel", 2: "MugCapModel_2"}
# The published class's values of keys that a file leaves out.
_DEFAULTS: dict[str, Any] = {
    "select_layer": -1,
    "downsample_ratio": 0.5,
    "ps_version": "v1",
    "template": "mug-cap",
    "system_message": None,
    "dynamic_image_size": False,
    "use_thumbnail": False,
    "min_dynamic_patch": 1,
    "max_dynamic_patch": 6,
    "dynamic_mask_size": False,
    "mask_min_dynamic_patch": 1,
    "mask_max_dynamic_patch": 12,
    "num_mask_token": 8,
    "use_llm_lora": 0,
}
_FIXED = {"use_backbone_lora": 0, "pad2square": False}
# Keys of the tower that mean nothing without experts, which no published model of this size has.
_EXPERTS = """
capacity_factor eval_capacity_factor laux_allreduce moe_coeff_ratio moe_intermediate_size
moe_output_scale noisy_gate_policy num_experts num_routed_experts num_shared_experts
shared_expert_intermediate_size use_residual use_rts use_weighted_residual
"""
_SWITCHES = ("dynamic_image_size", "use_thumbnail", "dynamic_mask_size", "multi_region")
# Keys of our own, and their values where a file leaves them out.
_OURS = {"mask_thumbnail": "released", "max_num": 12, "multi_region": False}
_SYSTEM_MESSAGE = (
    "你是书生·万象\N{FULLWIDTH COMMA}英文名是InternVL\N{FULLWIDTH COMMA}"
    "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)


@dataclass(frozen=True, kw_only=True)
class UrecaConfig:
    """Everything that shapes URECA; ``UrecaConfig.from_dict`` reads the published keys.

    Attributes:
        llm: the language model's published keys (Qwen2, InternLM2 or Llama).
        vision: sizes of the vision tower.
        image_size: S, pixels a side of a tile (``force_image_size``).
        select_layer: which hidden state of the tower the features are; -1 is the last.
        downsample_ratio: tokens a side of the language model for one patch a side: 1 over an
            integer.
        ps_version: of the pixel shuffle, ``"v1"`` (rows and columns swapped) or ``"v2"``.
        template: ``"mug-cap"``, or ``"internvl2_5"``, which is written alike.
        system_message: None for the template's.
        dynamic_image_size: whether pictures are cut into tiles.
        use_thumbnail: whether the whole picture follows its tiles.
        min_dynamic_patch: fewest tiles.
        max_dynamic_patch: most tiles in training.
        dynamic_mask_size: whether masks are cut into tiles, with values 0..255; if not, a mask is
            one tile with values 0 and 1.
        mask_min_dynamic_patch: kept; masks are cut as their picture.
        mask_max_dynamic_patch: kept; masks are cut as their picture.
        num_mask_token: N, mask tokens of a tile.
        use_llm_lora: rank of the LoRA tensors, 0 without. They are folded when a file is read.
        arch: which mask encoder: 3, the published model's, or 2, which looks at image features too.
        mask_thumbnail: ``"released"``, a bicubic thumbnail of the mask that wraps modulo 256, as
            the published weights were trained; ``"clean"``, one clamped to 0..255, for new
            training.
        max_num: most tiles where the captioner is asked, the thumbnail not counted: 12 as in the
            published demo.
        multi_region: allow questions about several regions together, with a ``<mask>`` for each:
            an extension, which no published model was trained for.
    """

    llm: Mapping[str, Any]
    vision: InternVitConfig
    image_size: int = 448
    select_layer: int = -1
    downsample_ratio: float = 0.5
    ps_version: str = "v2"
    template: str = "mug-cap"
    system_message: str | None = None
    dynamic_image_size: bool = True
    use_thumbnail: bool = True
    min_dynamic_patch: int = 1
    max_dynamic_patch: int = 6
    dynamic_mask_size: bool = True
    mask_min_dynamic_patch: int = 1
    mask_max_dynamic_patch: int = 12
    num_mask_token: int = 8
    use_llm_lora: int = 0
    arch: int = 3
    mask_thumbnail: MaskThumbnail = "released"
    max_num: int = 12
    multi_region: bool = False

    def __post_init__(self) -> None:
        for key in ("min_dynamic_patch", "max_dynamic_patch", "num_mask_token"):
            check_int(key, getattr(self, key), 1)
        check_int("max_num", self.max_num, self.min_dynamic_patch)
        check_int("force_image_size", self.image_size, 1)
        check_int("use_llm_lora", self.use_llm_lora, 0)
        for key in _SWITCHES:
            if not isinstance(getattr(self, key), bool):
                raise wrong(key, "true or false", getattr(self, key))
        if self.min_dynamic_patch > self.max_dynamic_patch:
            raise wrong(
                "min_dynamic_patch", f"at most {self.max_dynamic_patch}", self.min_dynamic_patch
            )
        for key, known in (
            ("ps_version", PS_VERSIONS),
            ("template", _TEMPLATES),
            ("arch", tuple(_CLASSES)),
            ("mask_thumbnail", ("released", "clean")),
        ):
            if getattr(self, key) not in known:
                raise wrong(key, f"one of {list(known)}", getattr(self, key))
        if self.system_message is not None and not isinstance(self.system_message, str):
            raise wrong("system_message", "a text or null", self.system_message)
        count = self.vision.num_hidden_layers
        if isinstance(self.select_layer, bool) or not isinstance(self.select_layer, int):
            raise wrong("select_layer", "an integer", self.select_layer)
        if not -count - 1 <= self.select_layer <= count:
            raise wrong("select_layer", f"in [{-count - 1}, {count}]", self.select_layer)
        self._check_grid()

    def _check_grid(self) -> None:
        if self.image_size % self.vision.patch_size:
            raise wrong(
                "force_image_size",
                f"a multiple of vision_config.patch_size {self.vision.patch_size}",
                self.image_size,
            )
        ratio = self.downsample_ratio
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
            raise wrong("downsample_ratio", "a number above 0, at most 1", ratio)
        if self.shuffle_side * ratio != 1 or self.patch_grid % self.shuffle_side:
            raise wrong(
                "downsample_ratio",
                f"1 over an integer that divides the {self.patch_grid} patches a side",
                ratio,
            )
        if self.arch == 3 and self.image_size % 4:
            raise wrong("force_image_size", "a multiple of 4", self.image_size)
        if self.arch == 2:
            if self.token_grid != 16:
                raise wrong("force_image_size", "such that a tile has 16 x 16 tokens (arch 2)",
                            self.image_size)  # fmt: skip
            if self.dynamic_mask_size != self.dynamic_image_size:
                raise wrong(
                    "dynamic_mask_size", "that of dynamic_image_size (arch 2)",
                    self.dynamic_mask_size,
                )  # fmt: skip

    @classmethod
    def ureca_1b(cls, *, num_mask_token: int = 8) -> UrecaConfig:
        """On InternVL2.5-1B (Qwen2.5-0.5B)."""
        return cls._published(
            _qwen2(
                hidden_size=896,
                intermediate_size=4864,
                num_hidden_layers=24,
                num_attention_heads=14,
                num_key_value_heads=2,
            ),
            num_mask_token,
        )

    @classmethod
    def ureca_2b(cls, *, num_mask_token: int = 8) -> UrecaConfig:
        """On InternVL2.5-2B (InternLM2.5-1.8B)."""
        return cls._published(
            _internlm2(
                hidden_size=2048,
                intermediate_size=8192,
                num_hidden_layers=24,
                num_attention_heads=16,
                num_key_value_heads=8,
            ),
            num_mask_token,
        )

    @classmethod
    def ureca_4b(cls, *, num_mask_token: int = 8) -> UrecaConfig:
        """On InternVL2.5-4B (Qwen2.5-3B)."""
        return cls._published(
            _qwen2(
                hidden_size=2048,
                intermediate_size=11008,
                num_hidden_layers=36,
                num_attention_heads=16,
                num_key_value_heads=2,
            ),
            num_mask_token,
        )

    @classmethod
    def ureca_8b(cls, *, num_mask_token: int = 8) -> UrecaConfig:
        """On InternVL2.5-8B (InternLM2.5-7B)."""
        return cls._published(
            _internlm2(
                hidden_size=4096,
                intermediate_size=14336,
                num_hidden_layers=32,
                num_attention_heads=32,
                num_key_value_heads=8,
            ),
            num_mask_token,
        )

    @classmethod
    def _published(cls, llm: Mapping[str, Any], num_mask_token: int) -> UrecaConfig:
        vision = InternVitConfig(  # InternViT-300M
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
        )
        return cls(llm=llm, vision=vision, num_mask_token=num_mask_token)

    @property
    def patch_grid(self) -> int:
        """Patches a side of a tile."""
        return self.image_size // self.vision.patch_size

    @property
    def shuffle_side(self) -> int:
        """Patches a side of one token."""
        return round(1 / self.downsample_ratio)

    @property
    def token_grid(self) -> int:
        """Image tokens a side of a tile."""
        return self.patch_grid // self.shuffle_side

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of a tile (``num_image_token``)."""
        return self.token_grid**2

    @property
    def num_feature_layers(self) -> int:
        """Blocks of the tower that the features need."""
        # The list of hidden states begins with the embeddings and ends behind the last block.
        states = self.vision.num_hidden_layers + 1
        return self.select_layer if self.select_layer >= 0 else states + self.select_layer

    @property
    def system(self) -> str:
        """The system message."""
        return _SYSTEM_MESSAGE if self.system_message is None else self.system_message

    def to_dict(self) -> dict[str, Any]:
        """The published keys, and ours."""
        return {
            "model_type": "internvl_chat",
            "architectures": [_CLASSES[self.arch]],
            "vision_config": {
                "model_type": "intern_vit_6b",
                "architectures": ["InternVisionModel"],
                "hidden_act": "gelu",
                "num_channels": 3,
                **vars(self.vision),
            },
            "llm_config": dict(self.llm),
            "force_image_size": self.image_size,
            "arch": self.arch,
            **_FIXED,
            **{key: getattr(self, key) for key in (*_OURS, *_DEFAULTS)},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UrecaConfig:
        """Read the published keys; what a file leaves out has the published class's value.

        Raises:
            ValueError: a key is missing or unknown, or a value does not fit; the message names it.
            NotImplementedError: a switch that no published model uses, or a decoder that is not
                supported.
        """
        known = [*_DEFAULTS, *_FIXED, *_OURS]
        known += ["arch", "force_image_size", "vision_config", "llm_config"]
        # The last are repeated by some files: they follow from the others and from the tokenizer.
        check_keys("", values, [*known, "hidden_size", "num_image_token", "token_ids"])
        for key, supported in _FIXED.items():
            if values.get(key, supported) != supported:
                raise NotImplementedError(
                    f"config.json: {key} must be {supported!r}, got {values[key]!r}"
                )
        vision = _vision(_part(values, "vision_config"))
        given = {key: values.get(key, value) for key, value in (_DEFAULTS | _OURS).items()}
        smallest = given["mask_min_dynamic_patch"]
        if isinstance(smallest, list) and len(smallest) == 1:  # a slip of the published scripts
            given["mask_min_dynamic_patch"] = smallest[0]
        if given["template"] not in _TEMPLATES:
            raise NotImplementedError(
                f"config.json: template must be one of {list(_TEMPLATES)}, "
                f"got {given['template']!r}"
            )
        size = values.get("force_image_size")
        arch2 = values.get("architectures") == [_CLASSES[2]]
        config = cls(
            llm=_decoder(_part(values, "llm_config")),
            vision=vision,
            image_size=vision.image_size if size is None else size,
            arch=values.get("arch", 2 if arch2 else 3),
            **given,
        )
        if values.get("num_image_token") not in (None, config.tokens_per_tile):
            raise wrong("num_image_token", str(config.tokens_per_tile), values["num_image_token"])
        return config


def _part(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = required("", values, key)
    if not isinstance(part, Mapping):
        raise wrong(key, "an object", part)
    return part


def _vision(given: Mapping[str, Any]) -> InternVitConfig:
    where = "vision_config."
    names = [item.name for item in fields(InternVitConfig)]
    fixed = {"hidden_act": "gelu", "num_channels": 3, "use_moe": False}
    check_keys(where, given, [*names, *fixed, *_EXPERTS.split()])
    for key, supported in fixed.items():
        if given.get(key, supported) != supported:
            raise NotImplementedError(
                f"config.json: {where}{key} must be {supported!r}, got {given[key]!r}"
            )
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        check_int(where + key, required(where, given, key), 1)
    try:
        return InternVitConfig(**{name: given[name] for name in names if name in given})
    except (TypeError, ValueError) as error:
        raise ValueError(f"config.json: {where}{error}") from error


def _decoder(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's keys with the ``model_type`` that its class stands for."""
    named = (given.get("architectures") or [None])[0]
    kind = given.get("model_type") if named is None else _DECODERS.get(named)
    if kind not in _DECODERS.values():
        raise NotImplementedError(
            f"config.json: llm_config.architectures must name one of {list(_DECODERS)}, "
            f"got {named or kind!r}"
        )
    return {**given, "model_type": kind}


def _qwen2(**sizes: Any) -> Mapping[str, Any]:
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": 151677,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        **sizes,
    }


def _internlm2(**sizes: Any) -> Mapping[str, Any]:
    return {
        "model_type": INTERNLM2,
        "architectures": ["InternLM2ForCausalLM"],
        "vocab_size": 92556,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        **sizes,
    }
