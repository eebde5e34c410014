"""Language: packed prompts, and text from them with any Llama-like decoder (floor 3)."""

from fastregion.language.build_decoder import build_decoder
from fastregion.language.chat_template import ChatTemplate
from fastregion.language.generation import FinishReason, Generated, Token, generate, stream
from fastregion.language.packed import (
    IGNORED_LABEL,
    PackedPrompts,
    PaddedPrompts,
    append_tokens,
    pack,
)
from fastregion.language.scoring import score, score_continuations, token_logprobs
from fastregion.language.tokenizer import Detokenizer, Tokenizer

__all__ = [
    "IGNORED_LABEL",
    "ChatTemplate",
    "Detokenizer",
    "FinishReason",
    "Generated",
    "PackedPrompts",
    "PaddedPrompts",
    "Token",
    "Tokenizer",
    "append_tokens",
    "build_decoder",
    "generate",
    "pack",
    "score",
    "score_continuations",
    "stream",
    "token_logprobs",
]
