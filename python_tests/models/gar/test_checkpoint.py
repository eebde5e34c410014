"""Published checkpoints of GAR: names and shapes, folders, configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny_gar
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fastregion.language import build_decoder
from fastregion.models import auto, load
from fastregion.models.gar import GarCaptioner, GarConfig
from fastregion.models.gar.checkpoint import PUBLISHED
from fastregion.models.gar.modeling import GarModel
from fastregion.models.gar.processing import ProcessorConfig

# What transformers 4.56 writes for each config inside another, with its default values.
WRITTEN_IN_FULL: dict[str, Any] = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None,
    "bad_words_ids": None, "begin_suppress_tokens": None, "bos_token_id": None,
    "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None,
    "decoder_start_token_id": None, "diversity_penalty": 0.0, "do_sample": False, "dtype": None,
    "early_stopping": False, "encoder_no_repeat_ngram_size": 0, "eos_token_id": None,
    "exponential_decay_length_penalty": None, "finetuning_task": None,
    "forced_bos_token_id": None, "forced_eos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False,
    "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0,
    "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1,
    "num_beams": 1, "num_return_sequences": 1, "output_attentions": False,
    "output_hidden_states": False, "output_scores": False, "pad_token_id": None, "prefix": None,
    "problem_type": None, "pruned_heads": {}, "remove_invalid_values": False,
    "repetition_penalty": 1.0, "return_dict": True, "return_dict_in_generate": False,
    "sep_token_id": None, "suppress_tokens": None, "task_specific_params": None,
    "temperature": 1.0, "tf_legacy_loss": False, "tie_encoder_decoder": False,
    "tokenizer_class": None, "top_k": 50, "top_p": 1.0, "torchscript": False, "typical_p": 1.0,
    "use_bfloat16": False,
}  # fmt: skip
LEVELS = ((), ("mllm_config",), ("mllm_config", "text_config"), ("mllm_config", "vision_config"))

TOWER = "mllm.model.vision_tower.timm_model."
TEXT = "mllm.model.language_model."
PROJECTOR = "mllm.model.multi_modal_projector."


def published(width: int, depth: int, mlp: int, tokens: int, hidden: int, layers: int,
              text_mlp: int, tied: bool) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Names and shapes as the published table gives them."""
    shapes: dict[str, tuple[int, ...]] = {
        "mask_patch_embedding.weight": (width, 3, 14, 14),
        f"{TOWER}pos_embed": (1, tokens, width),
        f"{TOWER}patch_embed.proj.weight": (width, 3, 14, 14),
        f"{TOWER}norm_pre.weight": (width,),
        f"{TOWER}norm_pre.bias": (width,),
        f"{PROJECTOR}linear_1.weight": (hidden, width),
        f"{PROJECTOR}linear_1.bias": (hidden,),
        f"{PROJECTOR}linear_2.weight": (hidden, hidden),
        f"{PROJECTOR}linear_2.bias": (hidden,),
        f"{TEXT}embed_tokens.weight": (128262, hidden),
        f"{TEXT}norm.weight": (hidden,),
    }
    if tokens == 1025:
        shapes[f"{TOWER}cls_token"] = (1, 1, width)
    for n in range(depth):
        block = f"{TOWER}blocks.{n}."
        for name in ("gamma_1", "gamma_2", "norm1.weight", "norm1.bias", "norm2.weight",
                     "norm2.bias", "attn.proj.bias", "mlp.fc2.bias"):  # fmt: skip
            shapes[block + name] = (width,)
        shapes[block + "attn.qkv.weight"] = (3 * width, width)
        shapes[block + "attn.qkv.bias"] = (3 * width,)
        shapes[block + "attn.proj.weight"] = (width, width)
        shapes[block + "mlp.fc1.weight"] = (mlp, width)
        shapes[block + "mlp.fc1.bias"] = (mlp,)
        shapes[block + "mlp.fc2.weight"] = (width, mlp)
    for n in range(layers):
        layer = f"{TEXT}layers.{n}."
        for name in ("q_proj", "o_proj"):
            shapes[f"{layer}self_attn.{name}.weight"] = (hidden, hidden)
        for name in ("k_proj", "v_proj"):
            shapes[f"{layer}self_attn.{name}.weight"] = (hidden // 4, hidden)
        for name in ("gate_proj", "up_proj"):
            shapes[f"{layer}mlp.{name}.weight"] = (text_mlp, hidden)
        shapes[f"{layer}mlp.down_proj.weight"] = (hidden, text_mlp)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}{name}.weight"] = (hidden,)
    if not tied:
        shapes["mllm.lm_head.weight"] = (128262, hidden)
    return shapes


@pytest.mark.parametrize(
    ("config", "expected", "count"),
    [
        (GarConfig.gar_1b(), published(1024, 23, 4096, 1025, 2048, 16, 8192, True), 1534139392),
        (GarConfig.gar_8b(), published(1536, 47, 8960, 1024, 4096, 32, 14336, False), 9795213056),
    ],
    ids=["GAR-1B", "GAR-8B"],
)
def test_full_size_names_and_shapes(
    config: GarConfig, expected: dict[str, tuple[int, ...]], count: int
) -> None:
    model = GarModel(GarConfig.from_dict(json.loads(json.dumps(config.to_dict()))))
    found = {PUBLISHED.published(name): tuple(p.shape) for name, p in model.named_parameters()}
    assert found == expected
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    stored = {PUBLISHED.published(name) for name in model.state_dict()}
    assert stored - set(expected) <= {"mllm.lm_head.weight"}  # tied: the embedding again


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize("large", [True, False])
def test_save_and_load(tmp_path: Path, image: np.ndarray, large: bool) -> None:
    captioner = tiny_gar.captioner(large=large)
    captioner.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json",
        "chat_template.jinja",
    }  # fmt: skip
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert ("mllm.lm_head.weight" in names) is not large
    assert f"{TOWER}blocks.1.attn.qkv.weight" in names
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["mask_path_embedding_out_channels"] == 32
    assert values["kernel_size"] == [4, 4]

    again = load(tmp_path)
    assert isinstance(again, GarCaptioner)
    assert again.config == captioner.config
    region = (5, 5, 40, 30)
    options = {"max_new_tokens": 4, "return_details": True}
    one, other = (c.describe(image, region, **options) for c in (captioner, again))
    assert one.token_ids == other.token_ids
    assert one.token_logprobs == other.token_logprobs
    assert load(tmp_path, dtype=torch.bfloat16).decoder.lm_head.weight.dtype == torch.bfloat16


def test_a_stored_tied_head_is_accepted(tmp_path: Path) -> None:
    captioner = tiny_gar.captioner()
    captioner.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    head = stored[f"{TEXT}embed_tokens.weight"].clone()
    save_file({**stored, "mllm.lm_head.weight": head}, file)
    loaded = load(tmp_path)
    assert isinstance(loaded, GarCaptioner)
    assert loaded.model.decoder.lm_head.weight is loaded.model.decoder.model.embed_tokens.weight


@pytest.mark.parametrize("key", [f"{TOWER}blocks.1.gamma_2", "mask_patch_embedding.weight"])
def test_a_missing_tensor_is_named(tmp_path: Path, key: str) -> None:
    tiny_gar.captioner().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    del stored[key]
    save_file(stored, file)
    with pytest.raises(ValueError, match=f"no file has tensor '{key}'"):
        load(tmp_path)


def test_an_untied_head_must_be_stored(tmp_path: Path) -> None:
    tiny_gar.captioner(large=False).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    del stored["mllm.lm_head.weight"]
    save_file(stored, file)
    with pytest.raises(ValueError, match=r"no file has tensor 'mllm\.lm_head\.weight'"):
        load(tmp_path)


def test_hub_names_are_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    tiny_gar.captioner().save_pretrained(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    captioner = auto.load("HaochenWang/GAR-1B")
    assert captioner.model_id == "HaochenWang/GAR-1B"
    ((name, patterns),) = asked
    assert name == "HaochenWang/GAR-1B"
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in patterns)


def test_a_download_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **more: Any) -> str:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(FileNotFoundError, match=r"GAR-8B' cannot be downloaded \(Conn.*no network"):
        auto.load("HaochenWang/GAR-8B")


def test_a_download_that_fails_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **more: Any) -> str:
        raise OSError

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(FileNotFoundError, match=r"cannot be downloaded \(OSError: no reason given"):
        auto.load("HaochenWang/GAR-8B")


@pytest.mark.parametrize("large", [True, False])
def test_first_values_leave_loaded_ones_alone(large: bool) -> None:
    model = GarModel(GarConfig.from_dict(tiny_gar.config_values(large=large)))
    loaded = torch.randn(model.mask_patch_embedding.weight.shape)
    model.mask_patch_embedding.weight = torch.nn.Parameter(loaded)
    model.init_weights()
    assert torch.equal(model.mask_patch_embedding.weight, loaded)
    head, table = model.decoder.lm_head.weight, model.decoder.get_input_embeddings().weight
    assert (head is table) == large
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert not GarModel(model.config).init_weights().mask_patch_embedding.weight.any()


class TestConfig:
    def test_round_trip(self) -> None:
        for config in (GarConfig.gar_1b(), GarConfig.gar_8b(replay="released")):
            assert GarConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert GarConfig.gar_1b().replay == "aligned"

    def test_published_files_mean_the_released_replay(self) -> None:
        values = tiny_gar.config_values()
        values |= {"auto_map": {"AutoModel": "x"}, "torch_dtype": "bfloat16"}
        assert GarConfig.from_dict(values).replay == "released"

    @pytest.mark.parametrize("place", LEVELS, ids=lambda keys: ".".join(keys) or "root")
    def test_what_transformers_and_the_published_class_write(self, place: tuple[str, ...]) -> None:
        values = tiny_gar.config_values()
        part = values
        for key in place:
            part = part[key]
        part |= WRITTEN_IN_FULL | {"use_flash_attn": True}
        config = GarConfig.from_dict(values)
        build_decoder(config.mllm_config.text_config)
        part["num_beans"] = 1
        with pytest.raises(ValueError, match=r"unknown key '.*num_beans'"):
            build_decoder(GarConfig.from_dict(values).mllm_config.text_config)

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("mllm_config", None, "'mllm_config' is missing"),
            ("prompt_number", 5, "unknown key 'prompt_number'; the nearest known is 'prompt_num"),
            ("prompt_numbers", 4, "crop_tokens_ids must be one id for each"),
            ("prompt_numbers", True, "prompt_numbers must be an integer"),
            ("kernel_size", [16, 16], r"kernel_size must be \[4, 4\]"),
            ("mask_path_embedding_out_channels", 1280, "must be 32"),
            ("replay", "fixed", "replay must be 'released' or 'aligned'"),
            ("mllm_config.image_token", 3, "unknown key 'mllm_config.image_token'"),
            ("mllm_config.vision_use_cls_token", False, "vision_use_cls_token must be True"),
            ("mllm_config.projector_pooling_ratio", 3, "must divide the patch grid"),
            ("mllm_config.vision_config.architecture", "vit_base", "must be one of vit_pe_core"),
            ("mllm_config.vision_config.architecture", ["x"], r"must be one of .*, got \['x'\]"),
            ("mllm_config.vision_config.model_args.mlp_ratio", "x", "mlp_ratio must be a number"),
            ("mllm_config.vision_config.model_args", None, "'.*model_args' is missing"),
            ("mllm_config.vision_config.model_args.img_size", None, "img_size' is missing"),
            ("mllm_config.vision_config.model_args.ref_feat_shape", None, "ref_feat_shape' is mis"),
            ("mllm_config.vision_config.model_args.ref_feat_shape", [16, 16], "must be img_size /"),
            ("mllm_config.vision_config.model_args.global_pool", "map", "must be an empty string"),
            ("mllm_config.vision_config.model_args.use_post_transformer_norm", True, "be false"),
            ("mllm_config.vision_config.model_args.num_heads", 3, "must be a multiple of 4"),
            ("mllm_config.vision_config.model_args.depths", 3, "nearest known is 'depth'"),
        ],
    )
    def test_refusals(self, path: str, value: Any, message: str) -> None:
        values = tiny_gar.config_values()
        place = values
        *parents, key = path.split(".")
        for parent in parents:
            place = place[parent]
        place[key] = value
        with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
            GarConfig.from_dict(values)


class TestProcessorConfig:
    GOOD: ClassVar = {"tile_size": 448, "max_num_tiles": 16, "image_mean": [0.5] * 3, "resample": 3}

    def test_files(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"has no preprocessor_config\.json"):
            ProcessorConfig.from_folder(tmp_path)
        newer = tmp_path / "processor_config.json"
        newer.write_text(json.dumps({"image_processor": self.GOOD}))
        expected = ProcessorConfig(tile_size=448, max_num_tiles=16)
        assert ProcessorConfig.from_folder(tmp_path) == expected
        older = tmp_path / "preprocessor_config.json"
        older.write_text(json.dumps(self.GOOD | {"max_num_tiles": 8}))
        assert ProcessorConfig.from_folder(tmp_path).max_num_tiles == 8

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("tile_size", None, "has no key 'tile_size'"),
            ("max_num_tiles", 0, "max_num_tiles: must be an integer of at least 1"),
            ("resample", 2, "resample must be 3, got 2"),
            ("image_std", [0.2] * 3, "image_std must be"),
            ("vision_input_type", "vanilla", "vision_input_type must be 'thumb\\+tile'"),
            ("rescale_factor", 1.0, "rescale_factor must be 1/255"),
            ("rescale_factor", "x", "rescale_factor must be 1/255, got 'x'"),
        ],
    )
    def test_refusals(self, tmp_path: Path, key: str, value: Any, message: str) -> None:
        values = {**self.GOOD, key: value}
        values = {k: v for k, v in values.items() if v is not None}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
        with pytest.raises(ValueError, match=message):
            ProcessorConfig.from_folder(tmp_path)
