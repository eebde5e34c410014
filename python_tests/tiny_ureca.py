"""A URECA small enough for tests: real layout, 4 x 4 patches, 4 image tokens a tile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fastregion.benchmarking.ureca import ureca_tokenizer
from fastregion.models.ureca import UrecaCaptioner, UrecaConfig

TOKENIZER = ureca_tokenizer()
INTERNLM2_TOKENIZER = ureca_tokenizer(bos=True)


def config_values(*, internlm2: bool = False, **more: Any) -> dict[str, Any]:
    """A published ``config.json`` with small sizes."""
    llm: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(INTERNLM2_TOKENIZER if internlm2 else TOKENIZER),
        "max_position_embeddings": 2048,
        "rope_theta": 1000000.0,
    }
    if internlm2:
        llm |= {
            "architectures": ["InternLM2ForCausalLM"],
            "model_type": "internlm2",
            "bias": False,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
            "rms_norm_eps": 1e-5,
        }
    else:
        llm |= {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,  # the published class unties it
        }
    return {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": 32,
            "patch_size": 8,
            "use_flash_attn": True,
            "use_moe": False,
            "num_experts": 8,
        },
        "llm_config": llm,
        "force_image_size": 32,
        "template": "mug-cap",
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "ps_version": "v2",
        "dynamic_mask_size": True,
        "mask_min_dynamic_patch": [1],
        "num_mask_token": 4,
        **more,
    }


def captioner(
    seed: int = 0, *, internlm2: bool = False, max_num: int = 4, multi_region: bool = False,
    **more: Any,
) -> UrecaCaptioner:  # fmt: skip
    """With random weights that react to what they see."""
    made = UrecaCaptioner(
        UrecaConfig.from_dict(config_values(internlm2=internlm2, **more)),
        INTERNLM2_TOKENIZER if internlm2 else TOKENIZER,
        max_num=max_num,
        multi_region=multi_region,
    )
    made.model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if parameter.dim() > 1:
                strong = any(word in name for word in ("patch_embedding", "lm_head"))
                parameter.normal_(0, 0.5 if strong else 0.2, generator=generator)
        # Pixels of a mask are 255: without this its tokens would be all that counts.
        first = next(m for m in made.model.mask_tokens.modules() if isinstance(m, nn.Conv2d))
        first.weight.mul_(1 / 255)
    return made


def write_base_model(folder: Path, *, internlm2: bool = False) -> int:
    """An InternVL2.5 folder; gives the size of its vocabulary, which has no tokens of masks."""
    made = captioner(internlm2=internlm2)
    made.save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    old = len(made.tokenizer) - 3
    tables = [key for key, value in stored.items() if value.shape == (old + 3, 32)]
    assert len(tables) == 2
    base = {key: value for key, value in stored.items() if not key.startswith("mask_")}
    base |= {key: base[key][:old].contiguous() for key in tables}
    save_file(base, folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())
    ours = ("arch", "mask_thumbnail", "max_num", "multi_region")
    for key in ("num_mask_token", "dynamic_mask_size", *ours):
        del values[key]
    values |= {"template": "internvl2_5"}
    values["llm_config"]["vocab_size"] = old
    (folder / "config.json").write_text(json.dumps(values))
    _without_masks(folder / "tokenizer.json")
    return old


def _without_masks(file: Path) -> None:
    """Take the last three tokens out of a vocabulary."""
    values = json.loads(file.read_text())
    names = ("<MASK_CONTEXT>", "<mask>", "</mask>")
    values["added_tokens"] = [t for t in values["added_tokens"] if t["content"] not in names]
    vocabulary = values["model"]["vocab"]
    kept = sorted((k for k in vocabulary if k not in names), key=vocabulary.get)
    values["model"]["vocab"] = {token: place for place, token in enumerate(kept)}
    for token in values["added_tokens"]:
        token["id"] = values["model"]["vocab"][token["content"]]
    file.write_text(json.dumps(values))
