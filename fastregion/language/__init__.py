"""Language: packed prompts, and text from them with any Llama-like decoder (floor 3)."""

from fastregion.language.beams import EarlyStopping, beam_search, check_beams
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
from fastregion.language.reading import ReadPrompts, read_prompts
from fastregion.language.sampling import Sampler
from fastregion.language.scoring import score, score_continuations, token_logprobs
from fastregion.language.text import GeneratedText, Piece, beam_texts, generate_text, stream_text
from fastregion.language.text_stream import StopStrings, TextStream, check_stop
from fastregion.language.tokenizer import Detokenizer, Tokenizer

__all__ = [
    "IGNORED_LABEL",
    "ChatTemplate",
    "Detokenizer",
    "EarlyStopping",
    "FinishReason",
    "Generated",
    "GeneratedText",
    "PackedPrompts",
    "PaddedPrompts",
    "Piece",
    "ReadPrompts",
    "Sampler",
    "StopStrings",
    "TextStream",
    "Token",
    "Tokenizer",
    "append_tokens",
    "beam_search",
    "beam_texts",
    "build_decoder",
    "check_beams",
    "check_stop",
    "generate",
    "generate_text",
    "pack",
    "read_prompts",
    "score",
    "score_continuations",
    "stream",
    "stream_text",
    "token_logprobs",
]
