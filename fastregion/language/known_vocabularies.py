"""Tokenizers of BERT (uncased) and CLIP: from ``tokenizer.json``, or from bare vocabularies.

Checkpoints that were made with them often have nothing but the vocabulary (``vocab.txt``, or
``vocab.json`` and ``merges.txt``); how a text is cut is a part of the kind and stands here.
"""

from __future__ import annotations

from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from fastregion.language.tokenizer import Tokenizer
from fastregion.language.tokenizer_files import TOKENIZER_FILE, check_file, read_backend

__all__ = ["bert_tokenizer", "clip_tokenizer"]

_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CLIP_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
# Contractions, words, single digits, runs of other marks. (Part of the published format.)
_CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def bert_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of an uncased BERT; decoding closes the spaces before punctuation.

    Raises:
        FileNotFoundError: neither ``tokenizer.json`` nor ``vocab.txt``.
        ValueError: a damaged file, or a special token of BERT is missing.
    """
    if (folder / TOKENIZER_FILE).is_file():
        backend = read_backend(folder / TOKENIZER_FILE)
    else:
        file = folder / "vocab.txt"
        check_file(file)
        words = file.read_text(encoding="utf-8").splitlines()
        backend = tokenizers.Tokenizer(
            models.WordPiece({word: i for i, word in enumerate(words)}, unk_token=_BERT_SPECIAL[1])
        )
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    _name_special_tokens(backend, _BERT_SPECIAL, folder)
    return Tokenizer(backend)


def clip_tokenizer(folder: Path) -> Tokenizer:
    """CLIP's tokenizer; ``add_special_tokens`` puts a text between its begin and end tokens.

    Raises:
        FileNotFoundError: neither ``tokenizer.json`` nor ``vocab.json`` and ``merges.txt``.
        ValueError: a damaged file, or one of these tokens is missing.
    """
    if (folder / TOKENIZER_FILE).is_file():
        backend = read_backend(folder / TOKENIZER_FILE)
    else:
        vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
        for file in (vocabulary, merges):
            check_file(file)
        try:
            model = models.BPE.from_file(
                str(vocabulary),
                str(merges),
                continuing_subword_prefix="",
                end_of_word_suffix="</w>",
                unk_token=_CLIP_SPECIAL[1],
            )
        except Exception as error:  # the library raises bare Exception
            raise ValueError(
                f"tokenizer: {vocabulary} and {merges.name} are no byte-pair vocabulary: {error}"
            ) from error
        backend = tokenizers.Tokenizer(model)
        backend.normalizer = normalizers.Sequence(
            [
                normalizers.NFC(),
                normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
                normalizers.Lowercase(),
            ]
        )
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(
                    tokenizers.Regex(_CLIP_PATTERN), behavior="removed", invert=True
                ),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    _name_special_tokens(backend, _CLIP_SPECIAL, folder)
    begin, end = _CLIP_SPECIAL
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(text, backend.token_to_id(text)) for text in _CLIP_SPECIAL],
    )
    return Tokenizer(backend)


def _name_special_tokens(
    backend: tokenizers.Tokenizer, texts: tuple[str, ...], folder: Path
) -> None:
    for text in texts:
        if backend.token_to_id(text) is None:
            raise ValueError(f"tokenizer: {folder}: the vocabulary has no token {text!r}")
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in texts])
