"""A DAM small enough for tests: real layout, 3 x 3 patches, 4 image tokens a picture."""

from __future__ import annotations

from typing import Any

import torch

from fastregion.benchmarking.dam import dam_tokenizer
from fastregion.models.dam import ContextProviderConfig, DamCaptioner, DamConfig
from fastregion.vision.siglip import SiglipConfig

TOKENIZER = dam_tokenizer()


def config(**switches: Any) -> DamConfig:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "patch_size": 8,
    }
    more = {
        key: switches.pop(key)
        for key in ("adapter_formula", "image_video_joint", "num_video_frames")
        if key in switches
    }
    return DamConfig(
        llm={
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": len(TOKENIZER),
            "max_position_embeddings": 2048,
            "tokenizer_model_max_length": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "eos_token_id": 2,
        },
        vision=SiglipConfig(image_size=29, **sizes),
        context_provider=ContextProviderConfig(**sizes, **switches),
        **more,
    )


def captioner(seed: int = 0, **switches: Any) -> DamCaptioner:
    """With random weights that react to what they see."""
    made = DamCaptioner(config(**switches), TOKENIZER)
    made.model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if parameter.dim() > 1:
                strong = any(word in name for word in ("patch_embedding", "lm_head"))
                parameter.normal_(0, 0.5 if strong else 0.2, generator=generator)
            elif name.endswith("_factor"):
                parameter.fill_(0.7)
    return made
