from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from fastregion.language import Detokenizer, Tokenizer, tokenizer_files

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("r", "e"), ("re", "d"), ("Ġ", "red")]


def byte_level() -> Tokenizer:
    """Every byte is a token; a few merges; three special tokens."""
    words = [*BYTES, "re", "red", "Ġred"]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=MERGES)
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|begin|>", "<|end|>"])
    backend.add_tokens(["<Prompt0>"])
    begin = backend.token_to_id("<|begin|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    return Tokenizer(backend)


def sentence_piece() -> Tokenizer:
    """A vocabulary with word marks and byte fallback, whose decoder strips the first space."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "▁red", "s", "▁"]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={word: index for index, word in enumerate(words)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(backend)


def test_text_to_ids_and_back() -> None:
    tok = byte_level()
    ids = tok.encode("a red café 🦊")
    assert tok.token_id("Ġred") in ids
    assert tok.decode(ids) == "a red café 🦊"
    assert len(tok) == tok.vocab_size == 262


def test_special_tokens() -> None:
    tok = byte_level()
    assert tok.special_tokens == {
        "<|begin|>": 259,
        "<|end|>": 260,
    }  # <Prompt0> is added, not special
    assert tok.encode("<|end|>a") == [260, *tok.encode("a")]
    assert tok.encode("a", add_special_tokens=True) == [259, *tok.encode("a")]
    ids = [259, *tok.encode("red<Prompt0>"), 260]
    assert tok.decode(ids) == "red<Prompt0>"
    assert tok.decode(ids, skip_special_tokens=False) == "<|begin|>red<Prompt0><|end|>"


def test_special_tokens_that_are_kept() -> None:
    tok = byte_level()
    keeping = tok.keeping_special([260])
    ids = [259, *tok.encode("red<Prompt0>"), 260]
    assert keeping.decode(ids) == "<|begin|>red<Prompt0>"
    assert "".join(pieces(keeping, ids)) == "<|begin|>red<Prompt0>"
    assert keeping.special_tokens == {"<|end|>": 260}
    assert tok.decode(ids) == "red<Prompt0>"  # as it was


def test_a_missing_token_is_an_error() -> None:
    with pytest.raises(ValueError, match="vocabulary has no token '<image>'"):
        byte_level().token_id("<image>")


def test_text_must_be_text() -> None:
    with pytest.raises(TypeError, match="text: must be a str, got bytes"):
        byte_level().encode(b"red")  # type: ignore[arg-type]


def test_save_and_load(tmp_path: Path) -> None:
    tok = byte_level()
    tok.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        again = Tokenizer.from_file(path)
        assert again.encode("a red one") == tok.encode("a red one")
        assert again.special_tokens == tok.special_tokens


def test_files_that_are_no_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        Tokenizer.from_file(tmp_path)
    file = tmp_path / "tokenizer.json"
    for content in (b"", b"{}", b"not json", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
            Tokenizer.from_file(file)
    monkeypatch.setattr(tokenizer_files, "_MAX_BYTES", 1)
    with pytest.raises(ValueError, match="at most 1 bytes, got 2"):
        Tokenizer.from_file(file)


def pieces(tok: Tokenizer, ids: list[int], *, skip_special_tokens: bool = True) -> list[str]:
    stream = Detokenizer(tok, skip_special_tokens=skip_special_tokens)
    return [*(stream.put(token) for token in ids), stream.flush()]


@settings(deadline=None)
@given(st.text(max_size=30))
def test_streamed_text_joins_to_the_text(text: str) -> None:
    tok = byte_level()
    ids = tok.encode(text)
    assert "".join(pieces(tok, ids)) == tok.decode(ids)


@settings(deadline=None)
@given(st.lists(st.integers(0, 261), max_size=40), st.booleans())
def test_streamed_pieces_join_to_the_decoded_text_for_any_tokens(
    ids: list[int], skip: bool
) -> None:
    tok = byte_level()
    joined = "".join(pieces(tok, ids, skip_special_tokens=skip))
    assert joined == tok.decode(ids, skip_special_tokens=skip)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["▁a", "▁red", "s", "▁"])
        | st.characters(codec="utf-8").map(str.encode)
        | st.binary(max_size=4)
    )
)
def test_the_same_with_word_marks_and_byte_fallback(parts: list[str | bytes]) -> None:
    tok = sentence_piece()
    ids = []
    for part in parts:
        ids += [tok.token_id(part)] if isinstance(part, str) else [1 + byte for byte in part]
    assert "".join(pieces(tok, ids)) == tok.decode(ids)


def test_only_wrong_bytes_are_given_up() -> None:
    tok = sentence_piece()
    data = b"\xc3\xa9\xe2\x82A\xff\xc3\xa9\xed\xa0\x80\xc3"
    wrong = "\N{REPLACEMENT CHARACTER}"
    text = tok.decode([1 + byte for byte in data])
    assert text == f"é{2 * wrong}A{wrong}é{4 * wrong}"


def test_a_character_comes_whole_and_as_soon_as_it_is_whole() -> None:
    tok = byte_level()
    assert pieces(tok, tok.encode("é")) == ["", "é", ""]
    assert pieces(tok, tok.encode("🦊!")) == ["", "", "", "🦊", "!", ""]
    assert pieces(tok, tok.encode("a red")) == ["a", " red", ""]


def test_an_unfinished_character_shows_at_the_end_only() -> None:
    tok = byte_level()
    half = tok.encode("é")[:1]
    assert pieces(tok, [*tok.encode("a"), *half]) == ["a", "", "\N{REPLACEMENT CHARACTER}"]


def test_spaces_between_word_pieces_are_kept() -> None:
    tok = sentence_piece()
    ids = [tok.token_id(word) for word in ("▁a", "▁red", "s")]
    assert pieces(tok, ids) == ["a", " red", "s", ""]
