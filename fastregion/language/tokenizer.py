"""Token ids and text: a checkpoint's tokenizer through the ``tokenizers`` library, and streaming.

The AutoTokenizer machinery of transformers is not used: the files say all that is needed.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import tokenizers

from fastregion.language.tokenizer_files import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    read_backend,
    read_folder,
)

__all__ = ["Detokenizer", "Tokenizer"]

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what bytes that are not (yet) a character decode to


class Tokenizer:
    """Text to token ids and back.

    Args:
        backend: the library's tokenizer, used as it is.
        names: text of the special tokens that have a name, such as ``{"eos_token": "</s>"}``.

    Attributes:
        backend: the library's tokenizer.
        vocab_size: number of tokens, added ones included.
        special_tokens: id of each special token by its text.
        names: as given.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, names: Mapping[str, str] | None = None
    ) -> None:
        self.backend = backend
        self.names = dict(names or {})
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.special_tokens: dict[str, int] = {
            token.content: token_id
            for token_id, token in sorted(backend.get_added_tokens_decoder().items())
            if token.special
        }
        self._special_ids = frozenset(self.special_tokens.values())
        byte_ids = (backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        known = [token_id for token_id in byte_ids if token_id is not None]
        # SentencePiece's: characters that the vocabulary does not have, byte by byte.
        self._byte_ids: list[int] = known if len(known) == 256 else []
        self._bytes = {token_id: byte for byte, token_id in enumerate(self._byte_ids)}

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Load ``tokenizer.json`` alone, given as the file or the folder that holds it.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is larger than 128 MiB or not a tokenizer.
        """
        file = Path(path)
        return cls(read_backend(file / TOKENIZER_FILE if file.is_dir() else file))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Tokenizer:
        """Load a published checkpoint's tokenizer.

        The vocabulary is taken from ``tokenizer.json``, from ``vocab.json`` and ``merges.txt``
        (Qwen2) or from ``tokenizer.model`` (SentencePiece, as the slow Llama tokenizer of
        transformers reads it); added tokens and names from ``tokenizer_config.json``,
        ``special_tokens_map.json`` and ``added_tokens.json``.

        Raises:
            FileNotFoundError: no vocabulary in the folder.
            ValueError: a file is damaged or contradicts another; the message names file and key.
            NotImplementedError: a kind of vocabulary that is not supported.
        """
        return cls(*read_folder(Path(folder)))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokenizer.json`` (and names, to ``tokenizer_config.json``) into a folder."""
        text = self.backend.to_str(pretty=True)
        Path(folder, TOKENIZER_FILE).write_text(text + "\n", encoding="utf-8")
        if self.names:
            text = json.dumps(self.names, indent=2, sort_keys=True, ensure_ascii=False)
            Path(folder, CONFIG_FILE).write_text(text + "\n", encoding="utf-8")

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a text; special tokens written in it are recognised.

        Args:
            text: any text.
            add_special_tokens: also add those that the file's post-processor puts around a text.
        """
        if not isinstance(text, str):
            raise TypeError(f"text: must be a str, got {type(text).__name__}")
        ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; of bytes that are no character each becomes U+FFFD."""
        ids = list(token_ids)
        if skip_special_tokens:
            ids = [token_id for token_id in ids if token_id not in self._special_ids]
        # What is left out has gone: the library knows nothing of `keeping_special`.
        text: str = self.backend.decode(self._mended(ids), skip_special_tokens=False)
        return text

    def _mended(self, token_ids: list[int]) -> list[int]:
        """Token ids with the bytes of U+FFFD for every byte that is no part of a character.

        For a single wrong byte the library would give up all byte tokens around it; SentencePiece
        does not.
        """
        found: list[int] = []
        for is_byte, run in groupby(token_ids, self._bytes.__contains__):
            if is_byte:
                data = bytes(self._bytes[token_id] for token_id in run)
                text = data.decode("utf-8", "surrogateescape")  # a surrogate for each wrong byte
                mended = re.sub("[\udc80-\udcff]", _INCOMPLETE, text).encode()
                found += [self._byte_ids[byte] for byte in mended]
            else:
                found += run
        return found

    def keeping_special(self, but: Collection[int]) -> Tokenizer:
        """The same tokenizer, to which special tokens are text like any other, but for some.

        Args:
            but: ids of those that are left out of texts still.
        """
        other = copy.copy(self)
        other.special_tokens = {t: k for t, k in self.special_tokens.items() if k in but}
        other._special_ids = frozenset(other.special_tokens.values())
        return other

    def token_id(self, token: str) -> int:
        """Id of a token given by its text.

        Raises:
            ValueError: the vocabulary does not have it.
        """
        token_id: int | None = self.backend.token_to_id(token)
        if token_id is None:
            raise ValueError(f"tokenizer: the vocabulary has no token {token!r}")
        return token_id

    def __len__(self) -> int:
        return self.vocab_size


class Detokenizer:
    """Text of a token stream, piece by piece; never half a character.

    The pieces, with the one from ``flush``, join to ``tokenizer.decode`` of all tokens. A token may
    end inside a character, so text that ends in U+FFFD waits for more.
    What a token adds is found by decoding it after the tokens of the previous piece, because some
    decoders treat the first token of a text differently (a leading space).

    Args:
        tokenizer: gives ``decode``.
        skip_special_tokens: leave special tokens out.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._left_out = frozenset(tokenizer.special_tokens.values() if skip_special_tokens else ())
        self._context: list[int] = []  # tokens of the previous piece
        self._pending: list[int] = []  # tokens since

    def put(self, token_id: int) -> str:
        """Text that has become certain with this token; may be empty."""
        if token_id in self._left_out:
            return ""
        self._pending.append(token_id)
        return self._take(final=False)

    def flush(self) -> str:
        """Text still held back at the end of the stream (U+FFFD for an unfinished character)."""
        return self._take(final=True)

    def fork(self) -> Detokenizer:
        """A stream that goes its own way from here."""
        other = copy.copy(self)
        other._pending = self._pending.copy()
        return other

    def _take(self, *, final: bool) -> str:
        text = self._decode(self._context + self._pending)
        known = self._decode(self._context)
        if len(text) <= len(known) or (text.endswith(_INCOMPLETE) and not final):
            return ""
        self._context, self._pending = self._pending, []
        return text[len(known) :]

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip_special_tokens)
