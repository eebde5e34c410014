r"""The rules of Penn Treebank tokenisation, as CoreNLP 3.4.1's PTBTokenizer applies them.

A lexer: at each position the rule that matches furthest wins, and of equals the first; what a rule
only looks at (after ``_AHEAD``) counts as matched but is read again. What no rule matches is
dropped. Found and verified by asking the tokenizer, not by reading it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from fastregion.evaluation.metrics.ptb_characters import (
    DIGITS,
    LETTERS,
    MARKS,
    SYMBOLS,
    character_set,
)

__all__ = ["BEFORE_NUMBERS", "PLAIN_WORD", "WIDE_ONLY", "lex"]

_LETTER = "A-Za-z" + character_set(LETTERS)
_DIGIT = "0-9" + character_set(DIGITS)
_SPACES = r" \t\xa0\u2000-\u200a\u3000"
_BREAKS = r"\n\r\v\f\u2028\u2029"
_WIDE = f"[{_SPACES}{_BREAKS}]"  # any space, and the end of a line
WIDE_ONLY = re.compile(f"{_WIDE}*")
"""A blank line."""
_APOSTROPHE = r"(?:['\x92\u2019]|&apos;)"
_HYPHEN = r"[-_\u058a\u2010\u2011]"
_ALNUM = rf"[{_LETTER}{_DIGIT}]"
_IN_WORD = rf"[{_LETTER}{_DIGIT}{character_set(MARKS)}\xad]"
_START = rf"[{_LETTER}{character_set(MARKS)}\xad]"
_WORD = rf"{_START}{_IN_WORD}*(?:[.!?]{_START}{_IN_WORD}*)*"
_NUMBER = rf"(?:[{_DIGIT}]*(?:[.:,\xad\u066b\u066c][{_DIGIT}]+)+|[{_DIGIT}]+)"
_QUOTE = r"(?:['`\x91\x92\u2018\u2019\u201b]|&apos;)"
_CLITIC = rf"{_APOSTROPHE}(?i:[msd]|re|ve|ll)"
_NOT = rf"[nN]{_QUOTE}[tT]"
_PART = rf"(?:[dDoOlL]{_QUOTE}{_ALNUM})?{_ALNUM}+"
_THING = rf"{_PART}(?:{_HYPHEN}{_PART})*"
_NAME = r"[A-Za-z][A-Za-z0-9_:.-]*"
_VALUE = r"(?:'[^'\r\n]*'|\"[^\"\r\n]*\")"
_TAG = (
    rf"<(?:/{_NAME}[ ]*|{_NAME}(?:[ ]+(?:{_NAME}[ ]*=[ ]*{_VALUE}|{_NAME}))*[ ]*/?[ ]*"
    r"|[!?][A-Za-z-][^>\r\n]*)>"
)
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])+"
_HYPHENATED = rf"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-(?:{_ACRONYM}\.|[A-Za-z0-9\xad]+))+"
_NOT_IN_URL = r" \t\n\f\r\"<>|"
_TWO_UNITS = "[\U00010000-\U0010ffff]"  # one character here, two in Java
_HOST = rf"[^{_NOT_IN_URL}.!?(){{}},]+"

# Abbreviations keep their period. Some may end a sentence: they are also cut from a single letter
# that follows.
_FINAL = """
al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est
etc ext feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont
neb nev nov oct okla penn plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt
wed wis wisc wyo ed.d ph.d
"""
_FINAL_CAPITALIZED = "ark az del ill la mass miss ore pa tex wash"
_NOT_FINAL = """
adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs
elec ens ft gen gov govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc
ph pres prof profs pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm
"""
# After an initial and a period, they begin a sentence.
_STARTERS = """
a about according additionally after an as at but earlier he her here however if in it last many
more now once one other our she since so some such that the their then there these they this
we what when while yet you
"""
_NUMBERED = "art ca fig figs no nos op pp prop"


def _any_of(words: str, *, capitalized: bool = False) -> str:
    """One of some words in any case, or capitalized; the longer words are tried first."""
    ordered = sorted(words.split(), key=lambda word: (-len(word), word))
    if not capitalized:
        return f"(?i:{'|'.join(map(re.escape, ordered))})"
    return (
        "(?:" + "|".join(f"{word[0].upper()}(?i:{re.escape(word[1:])})" for word in ordered) + ")"
    )


BEFORE_NUMBERS = _any_of(_NUMBERED)
_MAY_END = (
    rf"(?:{_any_of(_FINAL)}|{_any_of(_FINAL_CAPITALIZED, capitalized=True)}"
    r"|(?i:pp?t)[ye](?i:s)?)\."
)
_CANNOT_END = rf"(?:{_any_of(_NOT_FINAL)}|(?i:m)[ft](?i:g))\."
_EXTENSION = _any_of(
    "bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php "
    "pl png ppt ps py sql tar txt wav x xml zip"
)


_FRACTIONS = {"\xbc": "1/4", "\xbd": "1/2", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
_CURRENCIES = {"\xa2": "cents", "\xa3": "#", **dict.fromkeys("\xa4\x80\u20a0\u20ac", "$")}
_QUOTES = {
    **dict.fromkeys("\x91\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\x92\u2019\u203a", "'"),
    **dict.fromkeys("\x93\u201c\xab", "``"),
    **dict.fromkeys("\x94\u201d\xbb", "''"),
}
_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}


def _plain(text: str) -> str:
    """A token, spelled as the tokenizer spells it."""
    return text.replace("\xad", "").replace("&amp;", "&") or "-"


def _clitic(text: str) -> str:
    """What follows an apostrophe, with a plain one."""
    text = re.sub(f"{_APOSTROPHE}", "'", text)
    return re.sub("[\x91\u2018\u201b]", "`", text)


def _unbroken(text: str) -> str:
    """A token with spaces inside."""
    return re.sub(f"[{_SPACES}]", "\xa0", text)


def _phone(text: str) -> str:
    return _smiley(_unbroken(text))


def _smiley(text: str) -> str:
    return text.replace("(", "-LRB-").replace(")", "-RRB-")


def _quotes(text: str) -> str:
    return "".join(_QUOTES.get(char, char) for char in text)


def _as(written: str) -> Callable[[str], str]:
    return lambda _: written


@dataclass(frozen=True)
class _Rule:
    """What is taken, what must follow, and how a token is written."""

    take: str
    ahead: str = ""
    write: Callable[[str], str] = _plain


_TWO_IN_ONE = (
    *(("can", "not"), ("gon", "na"), ("got", "ta"), ("lem", "me"), ("gim", "me")),
    *(("wan", "na"), ("'t", "is"), ("'t", "was")),
)
PLAIN_WORD = re.compile(rf"(?!(?i:{'|'.join(one + two for one, two in _TWO_IN_ONE)})\Z)[A-Za-z]+")
"""Between spaces, what is a token as it stands, by whatever rules: most words are."""

_RULES = (
    *(_Rule(rf"(?i:{one})", rf"(?i:{two})") for one, two in _TWO_IN_ONE),
    _Rule(_TAG, write=_unbroken),
    # Words, and what follows their apostrophes.
    _Rule(_WORD, _CLITIC),
    _Rule(r"[A-Za-z\xad]*[A-MO-Za-mo-z]\xad*", _NOT),
    _Rule(_WORD),
    _Rule(rf"(?i:{_APOSTROPHE}n{_APOSTROPHE})"),
    _Rule(rf"(?i:{_APOSTROPHE}n)", _WIDE),
    _Rule("[\x92\u2019][nN]"),
    _Rule(rf"[lLdDjJ]{_APOSTROPHE}|[oO]{_APOSTROPHE}[oO]"),
    _Rule(
        rf"(?i:dunkin{_APOSTROPHE}|somethin{_APOSTROPHE}|ol{_APOSTROPHE}|{_APOSTROPHE}em"
        rf"|{_APOSTROPHE}till?|{_APOSTROPHE}cause|{_APOSTROPHE}[2-9]0s"
        r"|cont'd\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)"
    ),
    _Rule(rf"[A-HJ-XZn]{_QUOTE}[{_LETTER}]{{2}}[{_LETTER}]*"),
    _Rule(rf"[{_LETTER}]+[aeiouyAEIOUY]{_QUOTE}[aeiouA-Z][{_LETTER}]*"),
    _Rule(rf"[yY]{_APOSTROPHE}", f"[{_LETTER}]"),
    _Rule(_CLITIC, "[^A-Za-z]", _clitic),
    _Rule("[\x92\u2019](?i:[msd]|re|ve|ll)", write=_clitic),
    _Rule(_NOT, "[^A-Za-z]", _clitic),
    # Addresses.
    _Rule(rf"(?i:https?)://[^{_NOT_IN_URL}(){{}}]+[^{_NOT_IN_URL}.!?(){{}},-]", write=str),
    _Rule(
        rf"(?:(?i:www)\.(?:{_HOST}\.)+[a-zA-Z]{{2,4}}|(?:[^{_NOT_IN_URL}`'.!?(){{}},-_$]+\.)+(?i:com|net|org|edu))"
        rf"(?:/(?:[^{_NOT_IN_URL}(){{}}]+[^{_NOT_IN_URL}.!?(){{}},-]|{_TWO_UNITS}))?",
        write=str,
    ),
    _Rule(
        rf"(?:&lt;|<)?[a-zA-Z0-9][^{_NOT_IN_URL}(){{}}\xa0]*@(?:[^{_NOT_IN_URL}(){{}}.\xa0]+\.)*"
        rf"[^{_NOT_IN_URL}(){{}}.\xa0]+(?:&gt;|>)?",
        write=str,
    ),
    _Rule(rf"@[a-zA-Z_][a-zA-Z_0-9]*|#{_START}+", write=str),
    # Numbers.
    _Rule(rf"[{_DIGIT}]{{1,2}}[-/][{_DIGIT}]{{1,2}}[-/][{_DIGIT}]{{2,4}}"),
    _Rule(rf"[-+]?{_NUMBER}"),
    _Rule("[\u207a\u207b\u208a\u208b]?(?:[\u2070\xb9\xb2\xb3\u2074-\u2079]+|[\u2080-\u2089]+)"),
    _Rule(
        rf"(?:[{_DIGIT}]{{1,4}}[- \xa0])?[{_DIGIT}]{{1,4}}(?:\\?/|\u2044)[{_DIGIT}]{{1,4}}",
        write=_unbroken,
    ),
    *(_Rule(char, write=_as(written)) for char, written in {**_FRACTIONS, **_CURRENCIES}.items()),
    _Rule(r"[A-Z]*\$|#"),
    _Rule(
        r"(?:\([0-9]{2,3}\)[ \xa0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0])"
        r"[0-9]{3,4}[- \xa0]?[0-9]{3,5}"
        r"|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
        write=_phone,
    ),
    _Rule(rf"{_APOSTROPHE}[0-9][0-9]", _WIDE),
    # Words with marks inside.
    _Rule(
        r"-(?:RRB|LRB|RCB|LCB|RSB|LSB|rrb|lrb|rcb|lcb|rsb|lsb)-|C\.D\.s|(?i:pro-|anti-)|S&(?:amp;)?P-500|S&(?:amp;)?Ls"
    ),
    _Rule(rf"{_SLASHED}(?:\\?/{_SLASHED}){{1,2}}"),
    _Rule(rf"{BEFORE_NUMBERS}\.", rf"{_WIDE}?[0-9]"),
    _Rule(_MAY_END, r"[\s\S]{2}"),
    _Rule(rf"{_MAY_END}|{_CANNOT_END}"),
    _Rule(r"[A-Za-z]", rf"\.{_WIDE}+(?:{_any_of(_STARTERS, capitalized=True)}|Mr\.|{_TAG}){_WIDE}"),
    _Rule(r"[A-Za-z]\."),
    _Rule(
        rf"(?:{_ACRONYM}|(?:Canada|Sino|Korean|EU|Japan|non)-U\.S|U\.S\.-(?:U\.K|U\.S\.S\.R))\.?"
    ),
    _Rule(rf"{_WORD}\.", "[,;:\u3001]"),
    _Rule(_HYPHENATED),
    _Rule(rf"{_HYPHENATED}\.", "[,;:\u3001]"),
    _Rule(rf"{_ALNUM}+(?:\.{_ALNUM}+)*\.{_EXTENSION}", rf"(?:{_WIDE}|[.?!,])"),
    _Rule(r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+"),
    _Rule(_THING),
    _Rule(rf"{_THING}\.", "[,;:\u3001]"),
    # Faces.
    _Rule(r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]", "[^A-Za-z0-9]", _smiley),
    _Rule(
        r"[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)",
        write=_smiley,
    ),
    # Punctuation, dropped in the end unless it is written out.
    _Rule("&lt;|<", write=_as("<")),
    _Rule("&gt;|>", write=_as(">")),
    _Rule("&amp;|&", write=_as("&")),
    *(_Rule(re.escape(char), write=_as(written)) for char, written in _BRACKETS.items()),
    _Rule(r"&(?:mdash|ndash|MD);|-{2,4}|[\x96\x97\u2013-\u2015]", write=_as("--")),
    _Rule("-{5,}|-"),
    _Rule(r"\.{3,5}|\.(?:[ \xa0]\.){2,}|\u2026|\x85", write=_as("...")),
    _Rule(r"@+|#+|\\\*|\*+"),
    _Rule(r"[cC]\+\+|[cCfF]#"),
    _Rule(r"&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);"),
    _Rule("&nbsp;", write=_as("")),
    _Rule("[?!]+"),
    _Rule("''|&quot;|\"|``", write=_as("''")),
    _Rule("'|&apos;", write=_as("'")),
    _Rule("[`\x91-\x94\u2018-\u201f\xab\xbb\u2039\u203a]{1,2}", write=_quotes),
    _Rule("<<|>>"),
    _Rule(rf"[.,;:$%*+=/\\|~^{character_set(SYMBOLS)}]|_+"),
)
_COMPILED = tuple((re.compile(f"({rule.take}){rule.ahead}"), rule.write) for rule in _RULES)


def lex(text: str, following: str = "") -> list[str]:
    """The tokens of a line, before lower-casing, punctuation among them.

    Args:
        text: one line.
        following: what comes behind the end of the line; some rules look at its first word.
    """
    context = f"{text}\n{following}"
    found, position = [], 0
    while position < len(text):
        best: re.Match[str] | None = None
        write: Callable[[str], str] = _plain
        for pattern, writer in _COMPILED:
            match = pattern.match(context, position)
            if match and (best is None or match.end() > best.end()):
                best, write = match, writer
        if best is None:
            position += 1  # a space, or what nobody knows
            continue
        if token := write(best[1]):
            found.append(token)
        position = best.end(1)
    return found
