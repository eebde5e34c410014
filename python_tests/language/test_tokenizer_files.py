"""Published tokenizer files: SentencePiece and byte-pair vocabularies, added and named tokens."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from fastregion._torchvision_guard import import_transformers
from fastregion.language import Tokenizer

# ---- a SentencePiece file, written field by field ----


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def message(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def sentencepiece(
    words: list[str], *, model_type: int = 2, extra_spaces: int = 0, dummy_prefix: int = 1
) -> bytes:
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
    pieces += [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    pieces += [(word, 1) for word in words]
    data = b""
    for rank, (text, kind) in enumerate(pieces):
        score = varint(2 << 3 | 5) + struct.pack("<f", -float(rank))
        data += message(1, message(1, text.encode()) + score + number(3, kind))
    data += message(2, number(3, model_type) + number(35, 1))
    return data + message(
        3, message(1, b"identity") + number(3, dummy_prefix) + number(4, extra_spaces)
    )


WORDS = ["▁r", "ed", "▁red", "▁", "a", "b", "ab", "r", "e", "d", "s", "."]
CONFIG: dict[str, Any] = {
    "tokenizer_class": "LlamaTokenizer",
    "legacy": False,
    "bos_token": "<s>",
    "eos_token": {"content": "</s>"},
    "unk_token": "<unk>",
}


def folder(path: Path, config: dict[str, Any] | None = None, **settings: Any) -> Path:
    (path / "tokenizer.model").write_bytes(sentencepiece(WORDS, **settings))
    (path / "tokenizer_config.json").write_text(json.dumps(CONFIG if config is None else config))
    return path


def words(tok: Tokenizer, text: str) -> list[str]:
    return [tok.backend.id_to_token(token) for token in tok.encode(text)]


def test_a_prefix_comes_once_and_always(tmp_path: Path) -> None:
    tok = Tokenizer.from_pretrained(folder(tmp_path))
    assert words(tok, "red ab") == ["▁red", "▁", "ab"]
    assert words(tok, " red") == ["▁", "▁red"]  # also where the text begins with a space
    assert words(tok, "a</s>red") == ["▁", "a", "</s>", "r", "ed"]  # not after a special token
    assert words(tok, "</s>red") == ["</s>", "r", "ed"]  # and not before one
    assert words(tok, "</s> red") == ["</s>", "▁red"]
    assert words(tok, "") == []
    assert words(tok, "a\né") == ["▁", "a", "<0x0A>", "<0xC3>", "<0xA9>"]
    assert tok.encode("a", add_special_tokens=True) == [1, *tok.encode("a")]
    for text in ("red ab", " red", "a\né", "ab. red"):
        assert tok.decode(tok.encode(text)) == text


def test_the_legacy_way_puts_a_prefix_before_every_stretch_of_text(tmp_path: Path) -> None:
    config = {**CONFIG, "legacy": True, "add_eos_token": True, "add_bos_token": False}
    tok = Tokenizer.from_pretrained(folder(tmp_path, config))
    assert words(tok, "a</s>red") == ["▁", "a", "</s>", "▁red"]
    assert tok.encode("a", add_special_tokens=True) == [*tok.encode("a"), 2]


def test_a_model_or_a_config_without_a_prefix(tmp_path: Path) -> None:
    for config, settings in (
        ({**CONFIG, "add_prefix_space": False}, {}),
        (CONFIG, {"dummy_prefix": 0}),
    ):
        tok = Tokenizer.from_pretrained(folder(tmp_path, config, **settings))
        assert words(tok, "red a") == ["r", "ed", "▁", "a"]


def test_names_and_added_tokens(tmp_path: Path) -> None:
    added = {"271": {"content": "<image>", "special": True}, "272": {"content": "<Prompt0>"}}
    tok = Tokenizer.from_pretrained(folder(tmp_path, {**CONFIG, "added_tokens_decoder": added}))
    assert tok.names == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert tok.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 271}
    assert words(tok, "<image>a<Prompt0>") == ["<image>", "a", "<Prompt0>"]
    assert words(tok, "<Prompt0>a") == ["▁", "<Prompt0>", "a"]
    assert tok.decode([1, 271, *tok.encode("a"), 272]) == "a<Prompt0>"
    assert len(tok) == 273


def test_names_may_stand_in_the_map_only(tmp_path: Path) -> None:
    folder(tmp_path, {"legacy": False})
    special = {"bos_token": "<s>", "additional_special_tokens": ["ab"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    tok = Tokenizer.from_pretrained(tmp_path)
    assert tok.names == {"bos_token": "<s>"}
    assert tok.decode(tok.encode("ab a")) == " a"


def test_save_and_load_keep_everything(tmp_path: Path) -> None:
    tok = Tokenizer.from_pretrained(folder(tmp_path))
    (tmp_path / "out").mkdir()
    tok.save(tmp_path / "out")
    again = Tokenizer.from_pretrained(tmp_path / "out")
    assert again.names == tok.names
    assert again.special_tokens == tok.special_tokens
    for text in ("red ab", " red", "</s>red", "a\né"):
        assert again.encode(text, add_special_tokens=True) == tok.encode(
            text, add_special_tokens=True
        )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"eos_token": 2}, ValueError, r"config\.json: eos_token must be a token, got 2"),
        ({"bos_token": None}, ValueError, r"config\.json: bos_token is missing"),
        ({"pad_token": "<pad>"}, ValueError, r"config\.json: the vocabulary has no token '<pad>'"),
        (
            {"additional_special_tokens": "x"},
            ValueError,
            r"additional_special_tokens must be a list",
        ),
        ({"added_tokens_decoder": []}, ValueError, None),
        ({"added_tokens_decoder": [1]}, ValueError, r"added_tokens_decoder must be an object"),
        (
            {"added_tokens_decoder": {"271": "x"}},
            ValueError,
            r"added_tokens_decoder\[271\] must be",
        ),
        (
            {"added_tokens_decoder": {"300": {"content": "<image>"}}},
            ValueError,
            r"added_tokens_decoder says that '<image>' is 300, but the vocabulary makes it 271",
        ),
        (
            {"added_tokens_decoder": {"x": {"content": "<image>"}}},
            ValueError,
            r"added_tokens_decoder\[x\] must have a number",
        ),
    ],
)
def test_configs_that_contradict(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str | None
) -> None:
    folder(tmp_path, {**CONFIG, **change})
    if message is None:  # an empty list is as good as nothing
        Tokenizer.from_pretrained(tmp_path)
        return
    with pytest.raises(error, match=message):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("settings", [{"model_type": 1}, {"extra_spaces": 1}])
def test_models_of_another_kind(tmp_path: Path, settings: dict[str, int]) -> None:
    with pytest.raises(NotImplementedError, match=r"tokenizer\.model.*support"):
        Tokenizer.from_pretrained(folder(tmp_path, **settings))


def test_damaged_models(tmp_path: Path) -> None:
    whole = sentencepiece(WORDS)
    folder(tmp_path)
    for data in (b"", b"\x00", whole[:-3], whole[:1000], b"not a model", number(1, 5)):
        (tmp_path / "tokenizer.model").write_bytes(data)
        with pytest.raises(ValueError, match=r"tokenizer\.model is not a SentencePiece model"):
            Tokenizer.from_pretrained(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json, vocab\.json or"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json': must be a JSON object"):
        Tokenizer.from_pretrained(tmp_path)


# ---- vocab.json and merges.txt ----


def qwen2(path: Path, **config: Any) -> Path:
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "re", "red", "Ġred", "ĠĠ"]
    (path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (path / "merges.txt").write_text("#version: 0.2\nr e\nre d\nĠ red\nĠ Ġ\n")
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "added_tokens_decoder": {"260": {"content": "<|im_end|>", "special": True}},
        **config,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 260, "<mask>": 261}))
    return path


def test_byte_pair_vocabularies_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    tok = Tokenizer.from_pretrained(qwen2(tmp_path))
    expected = import_transformers("models.qwen2").Qwen2Tokenizer(
        vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt")
    )
    for text in ("a red  one", "12 cafés\n\n it's", "e\N{COMBINING ACUTE ACCENT} 🦊", "", "  "):
        assert tok.encode(text) == expected.encode(text, add_special_tokens=False)
    ids = tok.encode("red<mask><|im_end|>")
    assert ids == [257, 261, 260]
    assert tok.decode(ids) == "red<mask>"
    assert tok.encode("a", add_special_tokens=True) == tok.encode("a")


def test_byte_pair_vocabularies_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match=r"tokenizer_class must be 'Qwen2Tokenizer'"):
        Tokenizer.from_pretrained(qwen2(tmp_path, tokenizer_class="GPT2Tokenizer"))
    qwen2(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<mask>": "261"}))
    with pytest.raises(ValueError, match=r"added_tokens\.json: '<mask>' must have an id"):
        Tokenizer.from_pretrained(tmp_path)
    qwen2(tmp_path)
    (tmp_path / "merges.txt").write_text("q q q\n")
    with pytest.raises(ValueError, match=r"vocab\.json and merges\.txt are no byte-pair"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*merges\.txt"):
        Tokenizer.from_pretrained(tmp_path)


def test_tokenizer_json_with_a_config_beside_it(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "<s>": 1}, merges=[]))
    backend.decoder = decoders.Fuse()
    backend.save(str(tmp_path / "tokenizer.json"))
    added = {"2": {"content": "<Prompt0>", "special": False}}
    config = {"bos_token": "<s>", "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tok = Tokenizer.from_pretrained(tmp_path)
    assert tok.encode("<s>a<Prompt0>") == [1, 0, 2]
    assert tok.special_tokens == {"<s>": 1}
    assert tok.names == {"bos_token": "<s>"}


# ---- golden data ----


def golden_prompts() -> Iterator[tuple[Path, Any]]:
    """Cases with token ids and the checkpoint beside them, whatever the folders are called."""
    root = os.environ.get("FASTREGION_GOLDEN")
    for case in sorted(Path(root).rglob("case.json")) if root else ():
        about = json.loads(case.read_text())
        if (about.get("system"), about.get("kind")) == ("dam", "prompts"):
            for model in sorted(case.parent.parent.rglob("tokenizer.model")):
                yield model.parent, json.loads((case.parent / "prompts.json").read_text())


@pytest.mark.golden
def test_golden_token_ids() -> None:
    seen = 0
    for checkpoint, prompts in golden_prompts():
        tok = Tokenizer.from_pretrained(checkpoint)
        for prompt in prompts:
            for text, key in (("prompt", "input_ids"), ("training_text", "training_input_ids")):
                # cut at <image>; every piece is a text of its own, and only the first has a BOS
                pieces = [
                    tok.encode(piece, add_special_tokens=True)
                    for piece in prompt[text].split("<image>")
                ]
                ids = pieces[0]
                for piece in pieces[1:]:
                    ids = [*ids, -200, *piece[1:]]
                assert ids == prompt[key]
                seen += 1
    assert seen
