"""A GAR small enough for tests: real layout, 8 x 8 patches, 16 image tokens a tile."""

from __future__ import annotations

from typing import Any

import torch

from fastregion.benchmarking.gar import gar_tokenizer
from fastregion.models.gar import GarCaptioner, GarConfig
from fastregion.models.gar.processing import ProcessorConfig
from fastregion.models.gar.prompts import crop_token

TOKENIZER = gar_tokenizer()


def config_values(*, large: bool = True) -> dict[str, Any]:
    """A published ``config.json`` with small sizes; large: with class token and tied head."""
    token = TOKENIZER.token_id
    name = "vit_pe_core_large_patch14_336" if large else "vit_pe_core_gigantic_patch14_448"
    return {
        "model_type": "GAR",
        "prompt_numbers": 5,
        "crop_tokens_ids": [token(crop_token(k)) for k in range(5)],
        "mllm_config": {
            "model_type": "perception_lm",
            "image_token_id": token("<|image|>"),
            "video_token_id": token("<|video|>"),
            "projector_pooling_ratio": 2,
            "vision_use_cls_token": large,
            "vision_config": {
                "model_type": "timm_wrapper",
                "architecture": name,
                "model_args": {
                    "embed_dim": 32,
                    "depth": 2,
                    "num_heads": 4,
                    "mlp_ratio": 2.0,
                    "patch_size": 4,
                    "img_size": [32, 32],
                    "ref_feat_shape": [8, 8],
                    "global_pool": "",
                    "use_post_transformer_norm": False,
                    "init_values": 0.1,
                },
                "num_features": 32,
            },
            "text_config": {
                "model_type": "llama",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": len(TOKENIZER),
                "tie_word_embeddings": large,
                "max_position_embeddings": 4096,
                "rms_norm_eps": 1e-5,
                "rope_theta": 500000.0,
            },
        },
    }


def captioner(*, large: bool = True, max_num_tiles: int = 4, seed: int = 0) -> GarCaptioner:
    """With random weights that react to what they see."""
    made = GarCaptioner(
        GarConfig.from_dict(config_values(large=large)),
        TOKENIZER,
        ProcessorConfig(tile_size=32, max_num_tiles=max_num_tiles),
    )
    made.model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if parameter.dim() > 1:
                strong = any(word in name for word in ("mask", "patch_embed", "lm_head"))
                parameter.normal_(0, 0.5 if strong else 0.2, generator=generator)
    return made
