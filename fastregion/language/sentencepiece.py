"""A SentencePiece model (``tokenizer.model``) as a tokenizer of the ``tokenizers`` library.

The file is a protocol buffer of which a handful of fields matter; reading those here spares two
dependencies. Field numbers are those of the public ``sentencepiece_model.proto``. Byte-pair models
only, which is what Llama-like decoders have.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers

__all__ = ["SPACE", "SentencePieceModel", "read_sentencepiece"]

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how pieces write a space
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # ModelProto.SentencePiece.Type
_BPE = 2  # TrainerSpec.ModelType

_Value = int | bytes


class SentencePieceModel(NamedTuple):
    """What a ``tokenizer.model`` says.

    Attributes:
        backend: the model with its decoder, without a normalizer.
        dummy_prefix: whether a space is put before a text.
        normalizers: what a text goes through before its spaces are replaced.
        control: pieces that stand for no text, such as ``<s>``, by id.
        user_defined: pieces that are never cut, by id.
    """

    backend: tokenizers.Tokenizer
    dummy_prefix: bool
    normalizers: list[normalizers.Normalizer]
    control: dict[int, str]
    user_defined: dict[int, str]


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a byte-pair model.

    Raises:
        ValueError: the file is damaged.
        NotImplementedError: a model of another kind, or one that drops repeated spaces.
    """
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, _Value] = {}
    normalizer: dict[int, _Value] = {}
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1:
                piece = dict(_fields(_message(value)))
                score = struct.unpack("<f", _message(piece.get(2, bytes(4))))[0]
                kind = _number(piece.get(3, _NORMAL))
                pieces.append((_message(piece[1]).decode("utf-8"), score, kind))
            elif field == 2:
                trainer = dict(_fields(_message(value)))
            elif field == 3:
                normalizer = dict(_fields(_message(value)))
        if not pieces:
            raise ValueError("no pieces")
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"tokenizer: {path} is not a SentencePiece model: {error}") from error
    if trainer.get(3, 1) != _BPE:
        raise NotImplementedError(f"tokenizer: {path}: only byte-pair (BPE) models are supported")
    if normalizer.get(4, 1):
        raise NotImplementedError(
            f"tokenizer: {path}: normalizer_spec.remove_extra_whitespaces is not supported"
        )
    dummy_prefix = bool(normalizer.get(3, 1))
    unknown = [text for text, _, kind in pieces if kind == _UNKNOWN]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={text: index for index, (text, _, _) in enumerate(pieces)},
            merges=_merges({text: score for text, score, kind in pieces if kind == _NORMAL}),
            unk_token=unknown[0] if unknown else None,
            fuse_unk=True,
            byte_fallback=bool(trainer.get(35, 0)),
        )
    )
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(steps)
    charsmap = _message(normalizer.get(2, b""))

    def of_kind(*kinds: int) -> dict[int, str]:
        return {index: text for index, (text, _, kind) in enumerate(pieces) if kind in kinds}

    return SentencePieceModel(
        backend=backend,
        dummy_prefix=dummy_prefix,
        normalizers=[normalizers.Precompiled(charsmap)] if charsmap else [],
        control=of_kind(_UNKNOWN, _CONTROL),
        user_defined=of_kind(_USER_DEFINED),
    )


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """The pairs that make each piece, best piece first: SentencePiece merges by score."""
    ranked = sorted(scores, key=lambda piece: -scores[piece])
    return [
        (piece[:cut], piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]


def _fields(data: bytes) -> Iterator[tuple[int, _Value]]:
    """Field numbers and values of a protocol buffer message (a later one replaces an earlier)."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"wire type {kind} at byte {at}")
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        if at + size > len(data):
            raise ValueError(f"ends in the middle of a field at byte {at}")
        yield key >> 3, data[at : at + size]
        at += size


def _message(value: _Value) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where a message was expected")
    return value


def _number(value: _Value) -> int:
    if not isinstance(value, int):
        raise TypeError("a message where a number was expected")
    return value
