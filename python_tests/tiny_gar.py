"""A GAR small enough for tests: real layout, 8 x 8 patches, 16 image tokens a tile."""

from __future__ import annotations

from typing import Any

import tokenizers
import torch

from fastregion.language import Tokenizer
from fastregion.models.gar import GarCaptioner, GarConfig
from fastregion.models.gar.processing import ProcessorConfig

LETTERS = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|image|>",
    "<|video|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(2, 18)),
    *(f"<Prompt{i}>" for i in range(5)),
    "<NO_Prompt>",
]


def tokenizer() -> Tokenizer:
    """Every byte is a token; a BOS token is added where special tokens are asked for."""
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: i for i, letter in enumerate(LETTERS)}, merges=[])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    bos = SPECIAL[0]
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    return Tokenizer(backend)


def config_values(*, large: bool = True) -> dict[str, Any]:
    """A published ``config.json`` with small sizes; large: with class token and tied head."""
    first = len(LETTERS)
    crop = first + SPECIAL.index("<|reserved_special_token_2|>")
    name = "vit_pe_core_large_patch14_336" if large else "vit_pe_core_gigantic_patch14_448"
    return {
        "model_type": "GAR",
        "prompt_numbers": 5,
        "crop_tokens_ids": list(range(crop, crop + 5)),
        "mllm_config": {
            "model_type": "perception_lm",
            "image_token_id": first + SPECIAL.index("<|image|>"),
            "video_token_id": first + SPECIAL.index("<|video|>"),
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
                "vocab_size": first + len(SPECIAL),
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
        tokenizer(),
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
