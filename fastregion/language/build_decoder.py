"""A transformers decoder from the ``config.json`` of a published checkpoint, before its weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from fastregion._torchvision_guard import import_transformers

__all__ = ["WITHOUT_EFFECT", "build_decoder"]

# What shapes the numbers, by model_type. transformers leaves keys out that have its default value.
_SHARED = {
    "attention_dropout",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
}
_KEYS = {
    "llama": _SHARED | {"attention_bias", "mlp_bias", "pretraining_tp"},
    "qwen2": _SHARED | {"layer_types", "max_window_layers", "sliding_window", "use_sliding_window"},
}
_CLASSES = {
    "llama": ("models.llama", "LlamaConfig", "LlamaForCausalLM"),
    "qwen2": ("models.qwen2", "Qwen2Config", "Qwen2ForCausalLM"),
}
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
_ROPE_KEYS = {
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "high_freq_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "rope_theta",
    "rope_type",
    "truncate",
    "type",
}
# What transformers (4.x and 5.x) and training code write into every config and what does not touch
# the forward pass: names, task heads, tokens, outdated generation settings.
_UNUSED_NAMES = """
add_cross_attention architectures attn_implementation auto_map bad_words_ids
begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size
decoder_start_token_id diversity_penalty do_sample dtype early_stopping
encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
forced_bos_token_id forced_eos_token_id id2label is_decoder is_encoder_decoder
keys_to_ignore_at_inference label2id length_penalty max_length min_length model_max_length
model_type name_or_path no_repeat_ngram_size num_beam_groups num_beams num_labels
num_return_sequences output_attentions output_hidden_states output_scores pad_token_id prefix
problem_type pruned_heads remove_invalid_values repetition_penalty resume_path return_dict
return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature
tf_legacy_loss tie_encoder_decoder tokenizer_class tokenizer_model_max_length
tokenizer_padding_side top_k top_p torch_dtype torchscript transformers_version typical_p
use_bfloat16 use_cache use_flash_attn
"""
WITHOUT_EFFECT = frozenset(_UNUSED_NAMES.split())


def build_decoder(
    config: Mapping[str, Any], *, source: str = "config", dtype: torch.dtype = torch.float32
) -> Any:
    """Build a Llama or Qwen2 causal language model whose weights wait to be assigned.

    Parameters lie on the ``meta`` device: give them memory by assigning (for example
    ``load_state_dict(..., assign=True)``), not by ``to_empty``, which would also empty the rotary
    frequencies; those are not part of a checkpoint, are computed here, on the CPU and in float32,
    and should stay in float32. A tied head is tied (``lm_head.weight is embed_tokens.weight``);
    after assigning, ``tie_weights()`` ties it again.

    Args:
        config: the published keys, ``model_type`` (``"llama"`` or ``"qwen2"``) included; a key that
            is left out has the default value of transformers' config class.
        source: what to call the config in errors, such as ``"config.json: text_config"``.
        dtype: floating-point type of the parameters.

    Returns:
        A transformers ``LlamaForCausalLM`` or ``Qwen2ForCausalLM``, in evaluation mode.

    Raises:
        TypeError: ``config`` is not a mapping.
        ValueError: another ``model_type``, an unknown key, or a value that does not fit; the
            message names ``source`` and the key.
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"{source}: expected a mapping, got {type(config).__name__}")
    model_type = config.get("model_type")
    if model_type not in _KEYS:
        raise ValueError(f"{source}: model_type must be one of {sorted(_KEYS)}, got {model_type!r}")
    values = _checked(config, model_type, source)
    module_name, config_name, model_name = _CLASSES[model_type]
    module = import_transformers(module_name)
    try:
        model_config = getattr(module, config_name)(**values, attn_implementation="sdpa")
        with torch.device("meta"):
            decoder = getattr(module, model_name)(model_config).to(dtype)
        # The meta device has taken the rotary frequencies too.
        with torch.device("cpu"):
            rotary = decoder.model.rotary_emb
            decoder.model.rotary_emb = type(rotary)(config=model_config)
    except Exception as error:  # each field is checked by other code with errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{source}: transformers refuses it: {reason}") from error
    return decoder.eval()


def _checked(config: Mapping[str, Any], model_type: str, source: str) -> dict[str, Any]:
    """The keys that shape the numbers; an unknown one, or a size that is none, is an error."""
    known = _KEYS[model_type]
    values: dict[str, Any] = {}
    for key, value in config.items():
        if key in known:
            values[key] = value
        elif not key.startswith("_") and key not in WITHOUT_EFFECT:
            raise ValueError(_unknown(source, key, known))
    for key in _SIZES:
        size = values.get(key)
        if size is None:  # left out, or null: the default
            values.pop(key, None)
        elif isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{source}: {key} must be a positive integer, got {size!r}")
    for key in ("rope_scaling", "rope_parameters"):
        rope = values.get(key)
        if rope is None:
            continue
        if not isinstance(rope, Mapping):
            raise ValueError(f"{source}: {key} must be an object or null, got {rope!r}")
        for name in rope:
            if name not in _ROPE_KEYS:
                raise ValueError(_unknown(f"{source}: {key}", name, _ROPE_KEYS))
        values[key] = dict(rope)  # transformers writes into it
    return values


def _unknown(source: str, key: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
    return f"{source}: unknown key {key!r}; the nearest known is {nearest!r}"
