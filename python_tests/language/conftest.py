"""Small random decoders and ragged prompts for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fastregion._torchvision_guard import import_transformers
from fastregion.language import PackedPrompts, pack

HIDDEN = 32
VOCABULARY = 61


@pytest.fixture(scope="session")
def make_decoder() -> Callable[..., nn.Module]:
    """Make a random decoder; large initial weights make its predictions definite."""
    transformers: Any = import_transformers()
    kinds = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    }

    def make(
        kind: str = "llama", *, kv_heads: int = 2, seed: int = 0, **settings: Any
    ) -> nn.Module:
        config_class, model_class = kinds[kind]
        config = config_class(
            **{
                "hidden_size": HIDDEN,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": kv_heads,
                "intermediate_size": 48,
                "vocab_size": VOCABULARY,
                "max_position_embeddings": 512,
                "initializer_range": 0.25,
                "tie_word_embeddings": False,
                **settings,
            }
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            decoder = model_class(config).eval()
            for name, parameter in decoder.named_parameters():
                if name.endswith("bias"):  # zero when fresh, which would hide a forgotten bias
                    nn.init.normal_(parameter, std=0.5)
                if "norm" in name:
                    nn.init.normal_(parameter, mean=1.0, std=0.2)
        return decoder

    return make


@pytest.fixture
def make_prompts() -> Callable[..., PackedPrompts]:
    def make(
        lengths: tuple[int, ...] = (5, 5, 9, 1, 14), *, seed: int = 0, dtype: Any = torch.float32
    ) -> PackedPrompts:
        random = torch.Generator().manual_seed(seed)
        return pack([torch.randn(n, HIDDEN, generator=random).to(dtype) for n in lengths])

    return make
