"""Configuration of GAR, with the keys of the published ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from fastregion.models.config_values import check_int, check_keys, required, wrong
from fastregion.vision.perception_encoder import PerceptionEncoderConfig

__all__ = ["GarConfig", "PerceptionLMConfig", "Replay"]

Replay = Literal["released", "aligned"]

# timm's sizes of the towers that Perception-LM is made from, before model_args override them.
# "core" towers end in a norm and a pooling head unless told otherwise, "lang" ones do not.
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 4.0}
_GIGANTIC = {"embed_dim": 1536, "depth": 50, "num_heads": 16, "mlp_ratio": 8960 / 1536}
_CORE = {"patch_size": 14, "global_pool": "map", "use_post_transformer_norm": True}
_LANG = {"patch_size": 14, "global_pool": "", "use_post_transformer_norm": False}
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit_pe_core_large_patch14_336": {**_LARGE, **_CORE},
    "vit_pe_core_gigantic_patch14_448": {**_GIGANTIC, **_CORE},
    "vit_pe_lang_large_patch14_448": {**_LARGE, **_LANG, "depth": 23, "init_values": 0.1},
    "vit_pe_lang_gigantic_patch14_448": {**_GIGANTIC, **_LANG, "depth": 47, "init_values": 0.1},
}
# Without these the published code falls back to other sizes without a word.
_REQUIRED_MODEL_ARGS = ("img_size", "ref_feat_shape")
_MODEL_ARGS = (*_GIGANTIC, *_CORE, "init_values", *_REQUIRED_MODEL_ARGS)

_VISION_KEYS = ("architecture", "model_args", "num_features")


@dataclass(frozen=True, kw_only=True)
class PerceptionLMConfig:
    """The base model's part (``mllm_config``).

    Attributes:
        vision_config: ``architecture`` (timm's name), ``model_args`` (overrides of its sizes),
            ``num_features``.
        text_config: the language model's published keys, for ``language.build_decoder``.
        image_token_id: placeholder of an image token.
        video_token_id: placeholder of a video token (unused by GAR).
        projector_pooling_ratio: patches a side that make one image token.
        vision_use_cls_token: whether the tower has a class token (which is dropped at its end).
    """

    vision_config: Mapping[str, Any]
    text_config: Mapping[str, Any]
    image_token_id: int
    video_token_id: int
    projector_pooling_ratio: int
    vision_use_cls_token: bool

    def __post_init__(self) -> None:
        if not isinstance(self.text_config, Mapping):
            raise wrong("mllm_config.text_config", "an object", self.text_config)
        check_int("mllm_config.projector_pooling_ratio", self.projector_pooling_ratio, 1)
        for name in ("image_token_id", "video_token_id"):
            check_int(f"mllm_config.{name}", getattr(self, name), 0)
        vision = self.vision
        if any(cells % self.projector_pooling_ratio for cells in vision.grid):
            raise ValueError(
                "config.json: mllm_config.projector_pooling_ratio must divide the patch grid "
                f"{vision.grid}, got {self.projector_pooling_ratio}"
            )
        if self.vision_use_cls_token is not vision.class_token:
            raise ValueError(
                f"config.json: mllm_config.vision_use_cls_token must be {vision.class_token} for "
                f"{self.vision_config['architecture']}, got {self.vision_use_cls_token!r}"
            )

    @property
    def vision(self) -> PerceptionEncoderConfig:
        """Sizes of the vision tower."""
        return _vision(self.vision_config)


@dataclass(frozen=True, kw_only=True)
class GarConfig:
    """Everything that shapes GAR's weights; ``GarConfig.from_dict`` reads a ``config.json``.

    Attributes:
        mllm_config: the base model.
        crop_tokens_ids: placeholders of the replayed features of ``<Prompt0>``, ``<Prompt1>``, ...
        prompt_numbers: how many regions a prompt may name; the id of "no region" in id pictures.
        replay: what a region's box is taken to mean. ``"released"``: as the published weights were
            trained, scaled by 1/28 a second time, so that the features come from the top left
            corner of the picture. ``"aligned"``: the features of the region, as in the paper.
    """

    mllm_config: PerceptionLMConfig
    crop_tokens_ids: tuple[int, ...]
    prompt_numbers: int = 5
    replay: Replay = "aligned"

    def __post_init__(self) -> None:
        check_int("prompt_numbers", self.prompt_numbers, 1)
        for token_id in self.crop_tokens_ids:
            check_int("crop_tokens_ids", token_id, 0)
        if len(set(self.crop_tokens_ids)) != len(self.crop_tokens_ids):
            raise wrong("crop_tokens_ids", "different ids", list(self.crop_tokens_ids))
        if len(self.crop_tokens_ids) != self.prompt_numbers:
            raise wrong(
                "crop_tokens_ids",
                f"one id for each of prompt_numbers = {self.prompt_numbers}",
                list(self.crop_tokens_ids),
            )
        if self.mllm_config.image_token_id in self.crop_tokens_ids:
            raise wrong("crop_tokens_ids", "other ids than image_token_id", self.crop_tokens_ids)
        if self.replay not in ("released", "aligned"):
            raise wrong("replay", "'released' or 'aligned'", self.replay)

    @classmethod
    def gar_1b(cls, *, replay: Replay = "aligned") -> GarConfig:
        """The sizes of GAR-1B."""
        vision = _published_vision("vit_pe_core_large_patch14_336", embed_dim=1024, depth=23)
        text = _published_text(
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            tie_word_embeddings=True,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        )
        return cls._published(vision, text, class_token=True, replay=replay)

    @classmethod
    def gar_8b(cls, *, replay: Replay = "aligned") -> GarConfig:
        """The sizes of GAR-8B."""
        vision = _published_vision("vit_pe_core_gigantic_patch14_448", embed_dim=1536, depth=47)
        text = _published_text(
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            tie_word_embeddings=False,
        )
        return cls._published(vision, text, class_token=False, replay=replay)

    @classmethod
    def _published(
        cls, vision: dict[str, Any], text: dict[str, Any], *, class_token: bool, replay: Replay
    ) -> GarConfig:
        return cls(
            mllm_config=PerceptionLMConfig(
                vision_config=vision,
                text_config=text,
                image_token_id=128002,
                video_token_id=128003,
                projector_pooling_ratio=2,
                vision_use_cls_token=class_token,
            ),
            crop_tokens_ids=(128004, 128005, 128008, 128010, 128011),
            replay=replay,
        )

    @property
    def vision(self) -> PerceptionEncoderConfig:
        """Sizes of the vision tower."""
        return self.mllm_config.vision

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens of one tile."""
        rows, columns = self.vision.grid
        pooling = self.mllm_config.projector_pooling_ratio
        return rows // pooling, columns // pooling

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of one tile; also the crop tokens of one region."""
        return self.token_grid[0] * self.token_grid[1]

    def to_dict(self) -> dict[str, Any]:
        """The published keys, and ``replay``."""
        base, vision = self.mllm_config, self.vision
        return {
            "model_type": "GAR",
            "architectures": ["GARModel"],
            "prompt_numbers": self.prompt_numbers,
            "crop_tokens_ids": list(self.crop_tokens_ids),
            "patch_size_h": vision.patch_size,
            "patch_size_w": vision.patch_size,
            "kernel_size": [vision.patch_size, vision.patch_size],
            "mask_path_embedding_out_channels": vision.hidden_size,
            "replay": self.replay,
            "mllm_config": {
                "model_type": "perception_lm",
                **{item.name: getattr(base, item.name) for item in fields(base)},
                "vision_config": {"model_type": "timm_wrapper", **base.vision_config},
                "text_config": dict(base.text_config),
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GarConfig:
        """Read the published keys; ``replay`` is ``"released"`` where the file does not say.

        Raises:
            ValueError: a key is missing or unknown, or a value does not fit; the message names the
                key. Sizes for which the published code would fall back to others are required.
        """
        known = [item.name for item in fields(cls)]
        derived = ("patch_size_h", "patch_size_w", "kernel_size")
        channels = "mask_path_embedding_out_channels"
        check_keys("", values, [*known, *derived, channels])
        base_values = required("", values, "mllm_config")
        if not isinstance(base_values, Mapping):
            raise wrong("mllm_config", "an object", base_values)
        base_known = [item.name for item in fields(PerceptionLMConfig)]
        check_keys("mllm_config.", base_values, base_known)
        base = PerceptionLMConfig(
            **{name: required("mllm_config.", base_values, name) for name in base_known}
        )
        patch, width = base.vision.patch_size, base.vision.hidden_size
        expected = {"kernel_size": [patch, patch], channels: width}
        expected.update(dict.fromkeys(derived[:2], patch))
        for key, value in expected.items():
            if values.get(key) not in (None, value):
                raise wrong(key, f"{value} (from mllm_config.vision_config)", values[key])
        crop_tokens = required("", values, "crop_tokens_ids")
        if not isinstance(crop_tokens, (list, tuple)):
            raise wrong("crop_tokens_ids", "a list of ids", crop_tokens)
        return cls(
            mllm_config=base,
            crop_tokens_ids=tuple(crop_tokens),
            prompt_numbers=required("", values, "prompt_numbers"),
            replay=values.get("replay", "released"),
        )


def _vision(values: Mapping[str, Any]) -> PerceptionEncoderConfig:
    where = "mllm_config.vision_config."
    if not isinstance(values, Mapping):
        raise wrong(where[:-1], "an object", values)
    check_keys(where, values, _VISION_KEYS)
    name = required(where, values, "architecture")
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        raise wrong(where + "architecture", f"one of {', '.join(_ARCHITECTURES)}", name)
    given = required(where, values, "model_args")
    if not isinstance(given, Mapping):
        raise wrong(where + "model_args", "an object", given)
    where += "model_args."
    for key in _REQUIRED_MODEL_ARGS:
        required(where, given, key)
    check_keys(where, given, _MODEL_ARGS)
    args = {**_ARCHITECTURES[name], **given}
    if args["use_post_transformer_norm"] is not False:
        raise wrong(where + "use_post_transformer_norm", "false", args["use_post_transformer_norm"])
    if args["global_pool"] != "":
        raise wrong(where + "global_pool", "an empty string", args["global_pool"])
    for key in ("embed_dim", "depth", "num_heads", "patch_size"):
        check_int(where + key, args[key], 1)
    for key in ("init_values", "mlp_ratio"):
        number = required(where, args, key)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise wrong(where + key, "a number", number)
    width = args["embed_dim"]
    if values.get("num_features") not in (None, width):
        raise wrong("mllm_config.vision_config.num_features", f"{width}", values["num_features"])
    size, grid = (_pair(where + key, args[key]) for key in _REQUIRED_MODEL_ARGS)
    kernel = (size[0] // grid[0], size[1] // grid[1])
    if kernel != (args["patch_size"],) * 2:  # the mask convolution has to give the same grid
        raise wrong(where + "ref_feat_shape", f"img_size / patch_size of {list(size)}", list(grid))
    large = "_large_" in name
    try:
        return PerceptionEncoderConfig(
            hidden_size=width,
            num_layers=args["depth"],
            num_heads=args["num_heads"],
            intermediate_size=int(width * args["mlp_ratio"]),
            patch_size=args["patch_size"],
            image_size=size,
            reference_grid=grid,
            class_token=large,
            grid_offset=int(large),
            layer_scale=float(args["init_values"]),
        )
    except ValueError as error:
        raise ValueError(f"config.json: {where[:-1]}: {error}") from error


def _published_vision(architecture: str, *, embed_dim: int, depth: int) -> dict[str, Any]:
    return {
        "model_type": "timm_wrapper",
        "architecture": architecture,
        "model_args": {
            "embed_dim": embed_dim,
            "depth": depth,
            "img_size": [448, 448],
            "global_pool": "",
            "use_post_transformer_norm": False,
            "init_values": 0.1,
            "ref_feat_shape": [32, 32],
        },
        "num_features": embed_dim,
        "do_pooling": True,
    }


def _published_text(**sizes: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128262,
        "max_position_embeddings": 11520,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        **sizes,
    }


def _pair(name: str, value: Any) -> tuple[int, int]:
    pair = value if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2:
        raise wrong(name, "height and width", value)
    for side in pair:
        check_int(name, side, 1)
    return pair[0], pair[1]
