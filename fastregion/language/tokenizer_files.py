"""The tokenizer of a published checkpoint from its own files; nothing in them is executed.

The vocabulary is in ``tokenizer.json``, or in ``vocab.json`` and ``merges.txt`` (Qwen2), or in a
SentencePiece ``tokenizer.model`` (Llama 2, InternLM2). ``tokenizer_config.json``,
``special_tokens_map.json`` and ``added_tokens.json`` say which tokens were added and what they
mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from fastregion.json_files import read_json_object
from fastregion.language.sentencepiece import SPACE, read_sentencepiece

__all__ = [
    "CONFIG_FILE",
    "TOKENIZER_FILE",
    "check_file",
    "read_backend",
    "read_folder",
    "read_json",
]

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_SPECIAL_MAP, _ADDED = "special_tokens_map.json", "added_tokens.json"
_VOCABULARY, _MERGES, _SENTENCEPIECE = "vocab.json", "merges.txt", "tokenizer.model"
_MAX_BYTES = 128 * 2**20  # the largest published ones (vocabularies of 256,000) take 35 MB
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")

# How Qwen2 cuts a text before byte pairs are merged: contractions, words with the character before
# them, single digits, runs of other marks, line ends, spaces. (Part of its published format.)
_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class _Added(NamedTuple):
    """A token beyond the vocabulary; the fields are arguments of the library's ``AddedToken``."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False


def read_folder(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """Read a checkpoint's tokenizer.

    Args:
        folder: where the files are.

    Returns:
        The library's tokenizer, and the text of each named special token (``"bos_token"``, ...).

    Raises:
        FileNotFoundError: no vocabulary in the folder.
        ValueError: a file that is damaged, or that contradicts another; names file and key.
        NotImplementedError: a kind of vocabulary that is not supported.
    """
    config = _read_optional(folder / CONFIG_FILE)
    names = _names(folder, config)
    added = _added_tokens(folder, config)
    special = {*names.values(), *_additional(folder, config)}
    if (folder / TOKENIZER_FILE).is_file():
        backend = read_backend(folder / TOKENIZER_FILE)
        _add(backend, added, special, folder)
    elif (folder / _VOCABULARY).is_file():
        backend = _qwen2(folder, config)
        _add(backend, added, special, folder)
    elif (folder / _SENTENCEPIECE).is_file():
        backend = _sentencepiece(folder, config, names, added, special)
    else:
        raise FileNotFoundError(
            f"tokenizer: {folder} has no {TOKENIZER_FILE}, {_VOCABULARY} or {_SENTENCEPIECE}"
        )
    return backend, names


def read_backend(file: Path) -> tokenizers.Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is larger than 128 MiB or not a tokenizer.
    """
    check_file(file)
    try:
        return tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"tokenizer: {file} is not a tokenizer.json: {error}") from error


def read_json(file: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is larger than 128 MiB or not a JSON object.
    """
    return read_json_object(file, _MAX_BYTES, "tokenizer")


def _read_optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def check_file(file: Path) -> None:
    """Raise unless the file is there (FileNotFoundError) and not absurdly large (ValueError)."""
    if not file.is_file():
        raise FileNotFoundError(f"tokenizer: no such file: {file}")
    size = file.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(f"tokenizer: {file} must be at most {_MAX_BYTES} bytes, got {size}")


# ---- which tokens there are, and what they mean ----


def _names(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Text of each named special token; ``tokenizer_config.json`` goes before the map."""
    names: dict[str, str] = {}
    sources = ((CONFIG_FILE, config), (_SPECIAL_MAP, _read_optional(folder / _SPECIAL_MAP)))
    for file, values in sources:
        for key in _NAMES:
            if values.get(key) is not None:
                names.setdefault(key, _content(values[key], folder / file, key))
    return names


def _additional(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Texts of the special tokens without a name."""
    for file, values in (
        (CONFIG_FILE, config),
        (_SPECIAL_MAP, _read_optional(folder / _SPECIAL_MAP)),
    ):
        key = "additional_special_tokens"
        tokens = values.get(key) or []
        if not isinstance(tokens, list):
            raise ValueError(f"tokenizer: {folder / file}: {key} must be a list, got {tokens!r}")
        for index, token in enumerate(tokens):
            yield _content(token, folder / file, f"{key}[{index}]")


def _content(token: Any, file: Path, key: str) -> str:
    """The text of a token that is written as a text or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str) or not text:
        raise ValueError(f"tokenizer: {file}: {key} must be a token, got {token!r}")
    return text


def _added_tokens(folder: Path, config: Mapping[str, Any]) -> dict[int, _Added]:
    """Tokens beyond the vocabulary by id, in order."""
    key = "added_tokens_decoder"
    declared = config.get(key) or {}
    if not isinstance(declared, dict):
        raise ValueError(f"tokenizer: {folder / CONFIG_FILE}: {key} must be an object")
    tokens: dict[int, _Added] = {}
    for number, token in declared.items():
        where = f"{key}[{number}]"
        if not isinstance(token, dict):
            raise ValueError(f"tokenizer: {folder / CONFIG_FILE}: {where} must be an object")
        text = _content(token, folder / CONFIG_FILE, where)
        if not number.isdecimal():
            raise ValueError(f"tokenizer: {folder / CONFIG_FILE}: {where} must have a number")
        flags = {name: bool(token[name]) for name in _Added._fields[1:] if name in token}
        tokens[int(number)] = _Added(text, **flags)
    for text, token_id in _read_optional(folder / _ADDED).items():
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise ValueError(f"tokenizer: {folder / _ADDED}: {text!r} must have an id")
        tokens.setdefault(token_id, _Added(text))
    return dict(sorted(tokens.items()))


def _add(
    backend: tokenizers.Tokenizer,
    added: Mapping[int, _Added],
    special: set[str],
    folder: Path,
) -> None:
    """Add tokens; each must get, or have, the id that the files declare."""
    for token_id, token in added.items():
        token = token._replace(special=token.special or token.content in special)
        backend.add_tokens([AddedToken(**token._asdict())])
        got = backend.token_to_id(token.content)
        if got != token_id:
            raise ValueError(
                f"tokenizer: {folder / CONFIG_FILE}: added_tokens_decoder says that "
                f"{token.content!r} is {token_id}, but the vocabulary makes it {got}"
            )
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for text in sorted(special - known):
        if backend.token_to_id(text) is None:
            raise ValueError(
                f"tokenizer: {folder / CONFIG_FILE}: the vocabulary has no token {text!r}"
            )
        backend.add_tokens([AddedToken(text, normalized=False, special=True)])


# ---- vocabularies ----


def _qwen2(folder: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """``vocab.json`` and ``merges.txt``: the cutting of the text is not in these files."""
    kind = config.get("tokenizer_class")
    if kind not in ("Qwen2Tokenizer", "Qwen2TokenizerFast"):
        raise NotImplementedError(
            f"tokenizer: {folder / CONFIG_FILE}: tokenizer_class must be 'Qwen2Tokenizer' for a "
            f"folder with {_VOCABULARY} and no {TOKENIZER_FILE}, got {kind!r}"
        )
    for name in (_VOCABULARY, _MERGES):
        check_file(folder / name)
    try:
        model = models.BPE.from_file(str(folder / _VOCABULARY), str(folder / _MERGES))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(
            f"tokenizer: {folder / _VOCABULARY} and {_MERGES} are no byte-pair vocabulary: {error}"
        ) from error
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(
    folder: Path,
    config: Mapping[str, Any],
    names: Mapping[str, str],
    added: dict[int, _Added],
    special: set[str],
) -> tokenizers.Tokenizer:
    """``tokenizer.model``, with the beginning and the handling of spaces that the config asks for.

    A space is put before a text. With ``"legacy": false`` that happens once, unless a special token
    stands first; otherwise before every stretch of text between special tokens.
    """
    check_file(folder / _SENTENCEPIECE)
    model = read_sentencepiece(folder / _SENTENCEPIECE)
    backend = model.backend
    once = config.get("legacy") is False
    for token_id, text in model.control.items():
        added.setdefault(token_id, _Added(text, special=True))
    for token_id, text in model.user_defined.items():
        added.setdefault(token_id, _Added(text))
    if once:  # tokens that are looked for in the normalized text let the normalizer see all of it
        added = {index: token._replace(normalized=True) for index, token in added.items()}
    steps = list(model.normalizers)
    if model.dummy_prefix and config.get("add_prefix_space", True) is not False:
        if once:
            steps.append(normalizers.Replace(_beginning(added.values(), special), SPACE))
        else:
            steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    backend.normalizer = normalizers.Sequence(steps)
    _add(backend, dict(sorted(added.items())), special, folder)
    backend.post_processor = _around(backend, config, names, folder)
    return backend


def _beginning(added: Iterable[_Added], special: set[str]) -> tokenizers.Regex:
    """The beginning of a text that is not empty and does not begin with a special token.

    The library normalizes an added token as if it were a text, which must leave it as it is.
    """
    first = special | {token.content for token in added if token.special}
    whole = {token.content for token in added} - first
    tokens = [re.escape(text) for text in sorted(first)]
    tokens += [re.escape(text) + r"\z" for text in sorted(whole)]
    return tokenizers.Regex(rf"\A(?!{'|'.join(tokens)})(?=[\s\S])")


def _around(
    backend: tokenizers.Tokenizer,
    config: Mapping[str, Any],
    names: Mapping[str, str],
    folder: Path,
) -> processors.TemplateProcessing:
    """What ``add_special_tokens`` puts around a text."""
    before: list[str] = []
    after: list[str] = []
    for key, default, where in (
        ("bos_token", True, before),
        ("eos_token", False, after),
    ):
        if config.get(f"add_{key}", default):
            if key not in names:
                raise ValueError(f"tokenizer: {folder / CONFIG_FILE}: {key} is missing")
            where.append(names[key])
    return processors.TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=[(text, backend.token_to_id(text)) for text in {*before, *after}],
    )
