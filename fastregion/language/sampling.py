"""Choosing the next token from logits: greedily, or from the tempered, truncated distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Sampler"]


@dataclass(frozen=True, eq=False)
class Sampler:
    """How tokens are chosen.

    Sampling inverts the cumulative distribution at uniform numbers that are drawn beforehand, one
    row per sequence. What a sequence gets therefore depends neither on its batch neighbours nor on
    when they end, and a batch consumes the generator as its sequences one by one would.

    Attributes:
        temperature: 0 for the most likely token; otherwise logits are divided by it.
        top_p: sample from the smallest set of tokens that has at least this probability (nucleus
            sampling, Holtzman et al. 2020); 1 keeps all tokens.
        generator: source of the uniform numbers; None is torch's global one for the CPU.
        top_k: sample from the tokens that are at least as likely as the k-th (Fan et al. 2018);
            None keeps all. Applied before ``top_p``, whose probability is that of what is left.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: temperature negative, infinite or NaN; top_p not in (0, 1]; top_k below 1.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    generator: torch.Generator | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("temperature", self.temperature), ("top_p", self.top_p)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}: must be a number, got {type(value).__name__}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature: must be finite and at least 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: must be in (0, 1], got {self.top_p}")
        if self.top_k is not None:
            if isinstance(self.top_k, bool) or not isinstance(self.top_k, int):
                raise TypeError(f"top_k: must be an integer, got {type(self.top_k).__name__}")
            if self.top_k < 1:
                raise ValueError(f"top_k: must be at least 1, got {self.top_k}")
        if not isinstance(self.generator, torch.Generator | None):
            raise TypeError(
                f"generator: must be a torch.Generator or None, got {type(self.generator).__name__}"
            )

    def draw(self, num_sequences: int, num_tokens: int, device: torch.device) -> Tensor | None:
        """Uniform numbers ``[num_sequences, num_tokens]`` in [0, 1); None when none are needed."""
        if self.temperature == 0:
            return None
        source = torch.device("cpu") if self.generator is None else self.generator.device
        # 53 random bits, so that rare tokens of a large vocabulary can be drawn; MPS has no float64
        dtype = torch.float32 if "mps" in (source.type, device.type) else torch.float64
        uniform = torch.rand(
            num_sequences, num_tokens, generator=self.generator, dtype=dtype, device=source
        )
        return uniform.to(device)

    @torch.inference_mode()
    def choose(self, logits: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        """Next tokens.

        Args:
            logits: ``[B, vocab]``.
            uniform: ``[B]`` from ``draw``, or None for greedy choice.

        Returns:
            Token ids int64 ``[B]`` and their log-probabilities ``[B]`` under the model itself
            (temperature 1, all tokens), at least float32.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logprobs = logits.log_softmax(-1)
        if uniform is None:
            best, tokens = logprobs.max(-1)
            return tokens, best
        # Log-probabilities are at most 0, so that no temperature overflows.
        scores = logprobs.to(uniform.dtype) / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k).values[:, -1:]
            scores = scores.masked_fill(scores < least, float("-inf"))
        probabilities = scores.softmax(-1)
        order = None
        if self.top_p < 1:
            probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities.masked_fill(before >= self.top_p, 0)
        cumulative = probabilities.cumsum(-1)
        # The first token whose cumulative probability exceeds the draw: never one of probability 0.
        point = uniform.unsqueeze(-1) * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, point, right=True)
        tokens.clamp_(max=logits.shape[-1] - 1)  # only reached when the logits are NaN
        if order is not None:
            tokens = order.gather(-1, tokens)
        return tokens.squeeze(-1), logprobs.gather(-1, tokens).squeeze(-1)
