"""BERT's and CLIP's tokenizers from bare vocabularies, beside those of transformers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_pix2cap import write_vocabularies

from fastregion._torchvision_guard import import_transformers
from fastregion.language.known_vocabularies import bert_tokenizer, clip_tokenizer

TEXTS = (
    "The dog's ON  top - of 2 cats.",
    "déjà vu, \tdoing 12\nthings!",
    "a photo of a dog.",
    "",
    "中文 dog",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_vocabularies(tmp_path)
    return tmp_path


def test_bert_is_that_of_transformers(folder: Path) -> None:
    transformers: Any = import_transformers()
    theirs = transformers.BertTokenizer(str(folder / "tokenizer_bert" / "vocab.txt"))
    ours = bert_tokenizer(folder / "tokenizer_bert")
    for text in TEXTS:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text) == ids
    assert ours.decode([2, 6, 7, 3, 0]) == "the dog"


def test_clip_is_that_of_transformers(folder: Path) -> None:
    transformers: Any = import_transformers()
    files = folder / "tokenizer_clip"
    theirs = transformers.CLIPTokenizer.from_pretrained(str(files))
    ours = clip_tokenizer(files)
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=True) == theirs(text)["input_ids"], text


def test_a_saved_tokenizer_is_the_same(folder: Path) -> None:
    for name, read in (("tokenizer_bert", bert_tokenizer), ("tokenizer_clip", clip_tokenizer)):
        bare = read(folder / name)
        saved = folder / f"saved_{name}"
        saved.mkdir()
        bare.save(saved)
        again = read(saved)
        for text in TEXTS:
            ids = bare.encode(text, add_special_tokens=True)
            assert again.encode(text, add_special_tokens=True) == ids
            assert again.decode(ids) == bare.decode(ids)


def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"tokenizer: no such file: .*vocab\.txt"):
        bert_tokenizer(folder / "empty")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*vocab\.json"):
        clip_tokenizer(folder / "empty")
    vocabulary = folder / "tokenizer_bert" / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text().replace("[SEP]\n", ""))
    with pytest.raises(ValueError, match=r"the vocabulary has no token '\[SEP\]'"):
        bert_tokenizer(vocabulary.parent)
    shutil.copy(vocabulary, folder / "tokenizer_clip" / "vocab.json")
    with pytest.raises(ValueError, match=r"vocab\.json and merges\.txt are no byte-pair"):
        clip_tokenizer(folder / "tokenizer_clip")
