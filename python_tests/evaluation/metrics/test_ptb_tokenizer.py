"""The tokenizer: by example, and against the Java program on captions full of oddities."""

# ruff: noqa: RUF001
from __future__ import annotations

import random
from pathlib import Path

import pytest
from evaluation_oracles import needs_ptb, ptb_tokens
from hypothesis import given
from hypothesis import strategies as st

from fastregion.evaluation.metrics.ptb_tokenizer import tokenize

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
CHARACTERS = (
    "aAbBnNtTsSmMdDrReElLvVxz.,'’\"-_/&;:!?()[]{}<>@#$%*+=~^|\\`0123456789  \xa0é€£½°²–—…“”‘•"
)


@pytest.mark.parametrize("caption", EXAMPLES, ids=repr)
def test_examples(caption: str) -> None:
    assert tokenize([caption]) == [EXAMPLES[caption]]


def test_the_next_caption_decides_as_in_a_file() -> None:
    assert tokenize(["the letter O.", "The end"])[0] == "the letter o"
    assert tokenize(["the letter O.", "an end"])[0] == "the letter o."
    assert tokenize([]) == []


@given(st.text(max_size=40))
def test_any_text_gives_one_line(text: str) -> None:
    (tokens,) = tokenize([text])
    assert "\n" not in tokens
    assert tokens == tokens.strip(" ")


def _words(rng: random.Random) -> str:
    return " ".join(rng.choice(PIECES) for _ in range(rng.randint(1, 12)))


def _glued(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 5)))


def _characters(rng: random.Random) -> str:
    return "".join(rng.choice(CHARACTERS) for _ in range(rng.randint(1, 14)))


@needs_ptb
@pytest.mark.parametrize(
    ("make", "share"), [(_words, 0.0), (_glued, 0.002), (_characters, 0.002)], ids=lambda x: str(x)
)
def test_equal_to_java(make, share: float, tmp_path: Path) -> None:
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
    assert len(wrong) <= share * len(captions), wrong[:5]
