"""Decoders from published configs: every key counts, and what does not fit is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fastregion._torchvision_guard import import_transformers
from fastregion.language import build_decoder, generate, pack

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
    "max_position_embeddings": 256,
}
LLAMA = {"model_type": "llama", **SMALL}
QWEN2 = {"model_type": "qwen2", **SMALL}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def fill(decoder: Any) -> None:
    """Give the parameters memory and numbers, as a loader does."""
    torch.manual_seed(0)
    numbers = {name: 0.2 * torch.randn(value.shape) for name, value in decoder.named_parameters()}
    decoder.load_state_dict(numbers, strict=False, assign=True)
    decoder.tie_weights()


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        QWEN2,
        {**LLAMA, "tie_word_embeddings": True, "rope_theta": 5e5, "rope_scaling": LLAMA3},
        {**LLAMA, "rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
        {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}, "attention_bias": True},
        {**LLAMA, "head_dim": 16, "mlp_bias": True, "rms_norm_eps": 0.5, "hidden_act": "gelu"},
        {**QWEN2, "tie_word_embeddings": True, "rope_theta": 1e6, "sliding_window": 64},
    ],
)
def test_it_computes_what_transformers_computes(config: dict[str, Any]) -> None:
    transformers: Any = import_transformers()
    decoder = build_decoder(config)
    assert all(parameter.is_meta for parameter in decoder.parameters())
    assert not any(buffer.is_meta for buffer in decoder.buffers())
    assert not decoder.training
    fill(decoder)
    assert (decoder.lm_head.weight is decoder.model.embed_tokens.weight) == config.get(
        "tie_word_embeddings", False
    )
    kinds = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}
    classes = {"llama": transformers.LlamaForCausalLM, "qwen2": transformers.Qwen2ForCausalLM}
    kind = config["model_type"]
    settings = {key: value for key, value in config.items() if key != "model_type"}
    expected = classes[kind](kinds[kind](**json.loads(json.dumps(settings)))).eval()
    expected.load_state_dict(decoder.state_dict())
    ids = torch.arange(50)[None]
    with torch.no_grad():
        torch.testing.assert_close(decoder(ids).logits, expected(ids).logits, atol=1e-5, rtol=1e-5)
    (result,) = generate(
        decoder, pack([torch.randn(5, 32)]), max_new_tokens=3, eos_token_ids=[]
    )  # weights assigned to a tied head are found
    assert len(result.token_ids) == 3


def test_parameters_have_the_type_asked_for_and_frequencies_stay_exact() -> None:
    decoder = build_decoder(LLAMA, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in decoder.parameters()} == {torch.bfloat16}
    assert decoder.model.rotary_emb.inv_freq.dtype == torch.float32
    with torch.device("meta"):
        assert not build_decoder(LLAMA).model.rotary_emb.inv_freq.is_meta


def test_the_callers_config_is_not_modified() -> None:
    config = {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    before = json.dumps(config)
    build_decoder(config)
    assert json.dumps(config) == before


def test_what_transformers_writes_is_read() -> None:
    transformers: Any = import_transformers()
    config = transformers.Qwen2Config(**SMALL)
    assert build_decoder(config.to_dict()).config.hidden_size == 32
    old = {"torch_dtype": "bfloat16", "use_cache": True, "top_k": 50, "_name_or_path": "x"}
    assert build_decoder({**LLAMA, **old}).config.hidden_size == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, r"file: model_type must be one of .*llama.*, got 'gpt2'"),
        ({"hiden_size": 32}, r"file: unknown key 'hiden_size'; the nearest known is 'hidden_size'"),
        ({"quantization_config": {}}, r"file: unknown key 'quantization_config'"),
        ({"hidden_size": 0}, r"file: hidden_size must be a positive integer, got 0"),
        ({"hidden_size": "32"}, r"file: hidden_size must be a positive integer, got '32'"),
        ({"hidden_size": 30}, r"file: .*30.*"),
        ({"rope_scaling": 2.0}, r"file: rope_scaling must be an object or null, got 2.0"),
        ({"rope_scaling": {"type": "linear", "faktor": 2}}, r"rope_scaling: unknown key 'faktor'"),
        ({"rope_scaling": {"type": "spiral", "factor": 2.0}}, r"file: .*spiral"),
        ({"rope_scaling": {"type": "linear"}}, r"file: .*factor"),
        ({"hidden_act": "loud"}, r"file: .*loud"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_decoder({**LLAMA, **change}, source="file")


def test_a_config_must_be_a_mapping() -> None:
    with pytest.raises(TypeError, match="file: expected a mapping, got list"):
        build_decoder([], source="file")  # type: ignore[arg-type]


@pytest.mark.golden
def test_published_configs_give_published_names_and_shapes() -> None:
    """The language half of every captioner below the golden folder, whatever its name."""
    import safetensors

    seen = 0
    for file in sorted(Path(os.environ["FASTREGION_GOLDEN"]).rglob("config.json")):
        weights = file.with_name("weights.safetensors")
        published = json.loads(file.read_text())
        if not isinstance(published, dict) or "mllm_config" not in published:
            continue
        config = published["mllm_config"].get("text_config")
        if config is None or not weights.is_file():
            continue
        with safetensors.safe_open(weights, "pt") as stored:
            shapes = {
                name.partition("mllm.")[2].replace("model.language_model.", "model."): list(
                    stored.get_slice(name).get_shape()
                )
                for name in stored.keys()  # noqa: SIM118 (not a dict)
                if "language_model" in name or "lm_head" in name
            }
        if not shapes:
            continue
        decoder = build_decoder(config, source=str(file))
        built = {name: list(value.shape) for name, value in decoder.named_parameters()}
        if "lm_head.weight" not in shapes:
            built.pop("lm_head.weight", None)
        assert built == shapes
        seen += 1
    assert seen
