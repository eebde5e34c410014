"""BLEU, ROUGE-L, CIDEr-D, METEOR and the registry: what must hold for any captions."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from evaluation_oracles import needs_meteor, needs_pycocoevalcap
from hypothesis import given
from hypothesis import strategies as st

from fastregion.evaluation.metrics import java, meteor, registry, spice
from fastregion.evaluation.metrics.bleu import bleu
from fastregion.evaluation.metrics.cider import cider
from fastregion.evaluation.metrics.common import MetricUnavailable
from fastregion.evaluation.metrics.meteor import meteor_nltk
from fastregion.evaluation.metrics.rouge import lcs_length, rouge_l, rouge_score_l

WORDS = st.lists(st.sampled_from("abcde"), max_size=12)
TEXT = WORDS.map(" ".join)


def _lcs(one: list[str], other: list[str]) -> int:
    """The textbook's dynamic programme."""
    row = [0] * (len(other) + 1)
    for word in one:
        last = list(row)
        for j, there in enumerate(other, start=1):
            row[j] = last[j - 1] + 1 if word == there else max(last[j], row[j - 1])
    return row[-1]


@given(WORDS, WORDS)
def test_longest_common_subsequence(one: list[str], other: list[str]) -> None:
    assert lcs_length(one, other) == _lcs(one, other)


@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_bounds(items: list[tuple[str, list[str]]]) -> None:
    candidates, references = [item[0] for item in items], [item[1] for item in items]
    for result in (*bleu(candidates, references), rouge_l(candidates, references)):
        assert all(0 <= value <= 1 + 1e-9 for value in (result.corpus, *result.items))
    assert all(0 <= value <= 10 + 1e-9 for value in cider(candidates, references).items)


def test_identity_and_nothing_in_common() -> None:
    same = ["a red dog runs far", "two small cats sleep here"]
    other = [["u v w x y"], ["p q r s t"]]
    references = [[text] for text in same]
    for result in (*bleu(same, references), rouge_l(same, references)):
        assert result.items == pytest.approx((1, 1), abs=1e-8)
    assert cider(same, references).items == pytest.approx((10, 10))
    assert bleu(same, other)[0].corpus < 1e-8
    assert rouge_l(same, other).corpus == cider(same, other).corpus == 0


def test_empty_captions() -> None:
    assert rouge_l([""], [[""]]).corpus == 1  # one empty token each, as published
    assert bleu([""], [["a b"]])[0].corpus == 0
    assert cider([""], [["a b"]]).corpus == 0
    assert rouge_score_l([""], [["a b"]], stem=False).corpus == 0


def test_cider_needs_a_corpus() -> None:
    assert cider(["a b c d e"], [["a b c d e"]]).corpus == 0
    for metric in (bleu, cider, rouge_l, rouge_score_l, meteor_nltk):
        with pytest.raises(ValueError, match="candidates: expected at least one"):
            metric([], [])
        with pytest.raises(ValueError, match="references: item 0 must be a list"):
            metric(["a"], [[]])


@needs_pycocoevalcap
def test_equal_to_pycocoevalcap() -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    rng = random.Random(random.random())

    def text() -> str:
        return " ".join(rng.choice("abcdefgh") for _ in range(rng.randint(0, 15)))

    candidates = [text() for _ in range(60)]
    references = [[text() for _ in range(rng.randint(1, 4))] for _ in candidates]
    own = {k: [text] for k, text in enumerate(candidates)}
    theirs = dict(enumerate(references))
    corpus, items = Bleu(4).compute_score(theirs, own, verbose=0)
    for k, result in enumerate(bleu(candidates, references)):
        assert result.corpus == pytest.approx(corpus[k], abs=1e-12)
        assert result.items == pytest.approx(items[k], abs=1e-12)
    corpus, items = Rouge().compute_score(theirs, own)
    result = rouge_l(candidates, references)
    assert result.corpus == pytest.approx(corpus, abs=1e-12)
    assert result.items == pytest.approx(list(items), abs=1e-12)
    corpus, items = Cider().compute_score(theirs, own)
    result = cider(candidates, references)
    assert result.corpus == pytest.approx(corpus, abs=1e-12)
    assert result.items == pytest.approx(list(items), abs=1e-12)


def test_meteor_of_nltk_says_that_synonyms_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nltk")
    monkeypatch.setattr(meteor, "_wordnet", lambda: None)
    result = meteor_nltk(["a dog runs"], [["the dogs run"]])
    assert result.corpus > 0  # by stems
    assert "synonyms" in result.notes[0]
    assert not meteor_nltk(["a"], [["a"]], synonyms=False).notes


@pytest.mark.parametrize(
    ("program", "error", "message"),
    [
        ("exec sleep 60", TimeoutError, "no answer within 0.2 seconds"),
        ("read line; exit", MetricUnavailable, "Java has ended"),
        ("read line; echo 1; read line; echo x; read line", MetricUnavailable, "unexpected answer"),
    ],
)
def test_a_java_that_fails(
    program: str,
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
    java.chmod(0o700)
    monkeypatch.setattr(meteor, "find_java", lambda metric: str(java))
    monkeypatch.setattr(meteor, "find_jar", lambda *names: tmp_path / "meteor.jar")
    timeout = 0.2 if error is TimeoutError else 60
    with meteor.Meteor(timeout) as scorer, pytest.raises(error, match=message):
        scorer(["a"], [["a"]])
    assert scorer._process.returncode is not None


@needs_meteor
@pytest.mark.slow  # the golden test asks Java already
def test_meteor_in_java_lives_and_ends() -> None:
    with meteor.Meteor() as scorer:
        first = scorer(["a red dog", "x"], [["a red dog"], ["a cat ||| sits"]])
        assert first.items[0] > 0.9
        assert scorer(["a red dog"], [["a red dog"]]).items[0] == first.items[0]
        scorer._timeout = 0
        with pytest.raises(TimeoutError, match="no answer within 0 seconds"):
            scorer(["a red dog"], [["a red dog"]])
    assert scorer._process.returncode is not None


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    monkeypatch.setattr(meteor, "find_jar", lambda *names: __file__)
    computed = registry.compute(["meteor", "spice", "rouge_l"], ["a dog"], [["a dog"]])
    assert computed.results.keys() == {"rouge_l"}
    assert "METEOR 1.5 needs Java" in computed.unavailable["meteor"]
    assert "SPICE needs" in computed.unavailable["spice"]
    with pytest.raises(MetricUnavailable, match="SPICE"):
        spice.spice(["a"], [["a"]])


def test_registry_tokenises_and_keeps_the_order() -> None:
    names = ["rouge_l", "bleu_4", "cider"]
    computed = registry.compute(names, ["A dog, RUNNING!"], [["a dog running", "b"]])
    assert list(computed.results) == names
    assert computed.results["rouge_l"].corpus == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["bleu_5"], ["a"], [["a"]]), "names: expected some of bleu_1"),
        ((["cider"], ["a"], []), "references: expected 1, one list a candidate, got 0"),
        ((["cider"], [], []), "candidates: expected at least one"),
        ((["cider"], ["a"], ["abc"]), "references: item 0 must be a list of captions"),
        ((["cider"], ["a"], [[]]), "references: item 0 must be a list of captions"),
    ],
)
def test_registry_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.compute(*arguments)
