"""The tokenizer: by example, and against the Java program on captions full of oddities."""

# ruff: noqa: RUF001
from __future__ import annotations

import random
from pathlib import Path

import pytest
from evaluation_oracles import needs_ptb, ptb_tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from fastregion.evaluation.metrics.ptb_rules import lex
from fastregion.evaluation.metrics.ptb_tokenizer import _join, _tokenize_word, tokenize

EXAMPLES = {
    "A man's dog can't, won't; it's \"fine\".": "a man 's dog ca n't wo n't it 's fine",
    "I cannot; they're gonna 'tis": "i can not they 're gon na 't is",
    "(a) [b] {c} -LRB-": "-lrb- a -rrb- -lsb- b -rsb- -lcb- c -rcb- -lrb-",
    "50% of £2, €3, 5¢ and US$4": "50 % of # 2 $ 3 5 cents and us$ 4",
    "1,000 at 10:30, 1.5m 3.5-inch 1/2 ½ 1 1/2": "1,000 at 10:30 1.5 m 3.5-inch 1/2 1/2 1\xa01/2",
    "Mr. Smith, e.g. in the U.S. etc.": "mr. smith e.g. in the u.s. etc.",
    "No. 5, but no.": "no. 5 but no",
    "red-and-white a/b @home #tag a_b": "red-and-white a/b @home #tag a_b",
    "see http://a.com/x?y=1, a.b@c.com": "see http://a.com/x?y=1 a.b@c.com",
    "‘what’ “is” – this — here… -- ...": "what is this here",
    "café 😀 naïve 日本 soft\xadhyphen": "café naïve 日本 softhyphen",
    "<Prompt0> is <b>x</b> <a href='x'>": "<prompt0> is <b> x </b> <a\xa0href='x'>",
    "a ---- b ----- c": "a b ----- c",
    "......10 \xadn't 3-5\xad., x_l‘m1": ".10 n t 3-5. x_l‘m1",
    "what?! why?!?": "what ?! why ?!?",
    "AT&T &amp; R&B, rock 'n' roll O'Reilly": "at&t & r&b rock 'n' roll o'reilly",
    "one\r\ntwo\nthree": "one two three",
    "": "",
    " . , ! ": "",
}
_PIECES = r"""
a the dog Red Man man's U.S. No. can't I'm it's don't etc. e.g. p.m. St. 5 3.5 12,000 10:30 1/2 $5
50% -- - ' " '' `` ` ( ) [ ] { } . , ; : ! ? ... / \ & @ # * + = _ ~ ^ | < > <b> </b> http://a.com
www.b.org x.y a-b A.B. C++ é ü 日 ’ ‘ “ ” – — … ½ £ € ° ² × • 😀 Mr. Inc. &amp; 's The C. 1 2 (555)
"""
PIECES = _PIECES.split()
TWO_IN_ONE = ["can", "not", "gon", "na", "cannot", "GonNa", "wanna", "inc", "pt"]
CHARACTERS = (
    "aAbBnNtTsSmMdDrReElLvVxz.,'’\"-_/&;:!?()[]{}<>@#$%*+=~^|\\`0123456789  \xa0é€£½°²–—…“”‘•"
)


@pytest.mark.parametrize("caption", EXAMPLES, ids=repr)
def test_examples(caption: str) -> None:
    assert tokenize([caption]) == [EXAMPLES[caption]]


def test_the_next_caption_decides_as_in_a_file() -> None:
    assert tokenize(["the letter O.", "The end"])[0] == "the letter o"
    assert tokenize(["the letter O.", "an end"])[0] == "the letter o."
    for gap in ("", " ", "\n"):  # blank captions are no words; nor are spaces at the end
        assert tokenize(["the letter O.", gap, gap, "The end"])[0] == "the letter o"
        assert tokenize([f"the letter O.{gap}", "Mr.", ""])[0] == "the letter o"
    assert tokenize(["the letter O.", "<b>", "one"])[0] == "the letter o"
    assert tokenize(["seat no.", "", "5"])[0] == "seat no"
    assert tokenize(["seat no.", "5"])[0] == "seat no."
    assert tokenize([]) == []


@settings(max_examples=50)
@given(st.text(max_size=40))
def test_any_text_gives_one_line(text: str) -> None:
    (tokens,) = tokenize([text])
    assert "\n" not in tokens
    assert tokens == tokens.strip(" ")


@given(st.text(st.sampled_from("aZ1.,)( <\t\xa0no5"), max_size=9))
def test_lines_are_read_as_wholes_where_they_must_be(text: str) -> None:
    assert tokenize([text, "q"])[0] == _join(lex(text, "q"))


@given(st.lists(st.sampled_from(TWO_IN_ONE), max_size=3))
def test_plain_words(parts: list[str]) -> None:
    word = "".join(parts)
    assert _tokenize_word(word) == _join(lex(word))


def _words(rng: random.Random) -> str:
    return " ".join(rng.choice(PIECES) for _ in range(rng.randint(1, 12)))


def _glued(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 5)))


def _characters(rng: random.Random) -> str:
    return "".join(rng.choice(CHARACTERS) for _ in range(rng.randint(1, 14)))


@needs_ptb
@pytest.mark.parametrize(
    ("make", "differences"),
    [(_words, 0), (_glued, 1), (_characters, 1)],  # of 180,000 each, 0, 1 and 0 were measured
    ids=["words", "glued", "characters"],
)
def test_equal_to_java(make, differences: int, tmp_path: Path) -> None:
    rng = random.Random(random.random())
    captions = [make(rng) for _ in range(3000)]
    # A line between two: what follows a caption is tested by itself.
    lines = [line for caption in captions for line in (caption, "q")]
    expected = ptb_tokens(lines, tmp_path)
    assert expected[1::2] == ["q"] * len(captions)
    found = [tokenize([caption, "q"])[0] for caption in captions]
    wrong = [
        (caption, ours, java)
        for caption, ours, java in zip(captions, found, expected[::2], strict=True)
        if ours != java
    ]
    assert len(wrong) <= differences, wrong[:5]
