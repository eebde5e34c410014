"""Reads facts out of a caption by its words.

A caption says something about the region itself ("a small red striped square in the top left") and
about what lies around it ("on a green background, inside a blue round region, cut off by the left
edge, the larger of two red squares"). The reader first takes out the phrases about the
surroundings, each with the words that belong to it, and reads the region's own colour, pattern,
shape, size and place from what is left. Word order, articles, hyphens, spelling (grey, centre) and
light/dark make no difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastregion.evaluation import vocabulary as words


@dataclass(frozen=True, kw_only=True)
class NeighborStatement:
    """A relation to another region: "inside a red round region".

    Attributes:
        relation: One of :data:`fastregion.evaluation.vocabulary.RELATIONS`.
        color: Colour term of the other region, or None when none is said.
        shape: Shape word of the other region, or None when none is said.
    """

    relation: str
    color: str | None = None
    shape: str | None = None


@dataclass(frozen=True, kw_only=True)
class UniqueStatement:
    """What tells a region from others like it: "the leftmost of three red circles".

    Attributes:
        kind: "leftmost", "rightmost", "topmost", "bottommost", "largest", "smallest", "middle",
            "only", or "one" for "one of three red circles".
        count: How many alike regions are claimed, or None when no number is said.
        color: Colour term of the group, or None when none is said.
        shape: Shape word of the group, or None when none is said.
        pattern: Pattern word of the group, or None when none is said.
        rank: 1 for "leftmost", 2 for "second from the left" and "second largest", and so on.
    """

    kind: str
    count: int | None = None
    color: str | None = None
    shape: str | None = None
    pattern: str | None = None
    rank: int = 1


@dataclass(frozen=True, kw_only=True)
class CaptionFacts:
    """What a caption says; None or an empty tuple where it says nothing.

    Attributes:
        colors: Colour terms of the region in the order of their weight: the main colour, then
            second colours.
        patterns: Pattern words that are said to hold.
        denied_patterns: Pattern words that are said not to hold ("not striped").
        shapes: Shape words ("an elongated rectangle" says two).
        hole: True for "with a hole", False for "without a hole".
        size: Size word.
        place: Place word.
        backgrounds: Colour terms of the background.
        cut_edges: The edges of the image that are said to cut the region: "left", "right", "top",
            "bottom".
        neighbors: Relations to other regions.
        uniques: Claims of uniqueness.
    """

    colors: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    denied_patterns: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    hole: bool | None = None
    size: str | None = None
    place: str | None = None
    backgrounds: tuple[str, ...] = ()
    cut_edges: tuple[str, ...] = ()
    neighbors: tuple[NeighborStatement, ...] = ()
    uniques: tuple[UniqueStatement, ...] = ()


def _any(alternatives: Iterable[str]) -> str:
    """A regular expression for any of the words, the longest first."""
    return "(?:" + "|".join(sorted(alternatives, key=len, reverse=True)) + ")"


_COLOR = _any(words.COLORS)
_TEXTURE = _any(words.TEXTURES)
_PATTERN_NOUN = _any(words.PATTERN_NOUNS)
_SHAPE = _any(words.SHAPES)
_SIZE = _any(words.SIZES)
_MODIFIER = _any(words.MODIFIERS)
_NOUN = _any(words.NOUNS)
_COUNT = rf"(?:{_any(words.NUMBERS)}|\d+)"
_PICTURE = _any(words.PICTURES)
_IN_PICTURE = rf"(?: (?:in|of) the {_PICTURE})?"
# "a large , light blue and white striped round region": a comma or "and" only joins adjectives
_ADJECTIVE = rf"(?:{_COLOR}|{_TEXTURE}|{_SIZE}|{_MODIFIER})"
_PHRASE_PART = (
    rf"(?:{_ADJECTIVE}(?:(?: ,| and| , and) {_ADJECTIVE})*"
    rf"|{_SHAPE}|{_NOUN}|shaped|an?|the|another|other)"
)
_PHRASE = rf"{_PHRASE_PART}(?: {_PHRASE_PART})*"
_COLOR_LIST = rf"{_COLOR}(?:(?: ,| and| , and| or| to)*(?: {_MODIFIER})* {_COLOR})*"


class _Text:
    """The part of a caption that has not been read yet: lower case, single spaces, no hyphens."""

    def __init__(self, caption: str) -> None:
        text = caption.lower()
        for pattern, replacement in words.SPELLINGS:
            text = re.sub(pattern, replacement, text)
        text = re.sub(r"([,.;:!?])", r" \1 ", text)
        text = re.sub(r"[^a-z0-9,.;:!?']+", " ", text)
        text = re.sub(r"\s+", " ", text).strip()
        self.rest = re.sub(rf"\b{_any(words.TINGES)} (?={_COLOR}\b)", "", text)

    def take(
        self, pattern: str, accept: Callable[[re.Match[str]], bool] = lambda match: True
    ) -> list[re.Match[str]]:
        """Removes the accepted matches; a "|", which no phrase crosses, stands in their place."""
        taken: list[re.Match[str]] = []

        def replace(match: re.Match[str]) -> str:
            if not accept(match):
                return match.group()
            taken.append(match)
            return "|"

        self.rest = re.sub(rf"\b{pattern}\b", replace, self.rest)
        return taken

    def take_words(self, canonical: dict[str, str]) -> tuple[str, ...]:
        """Removes all words of a vocabulary and returns what they stand for, without repeats."""
        return _unique(canonical[match.group()] for match in self.take(_any(canonical)))


def read_caption(caption: str) -> CaptionFacts:
    """Reads the facts that a caption states.

    Args:
        caption: One or more English sentences about one region.

    Returns:
        The facts, in the canonical words of :mod:`fastregion.evaluation.vocabulary`.

    Raises:
        TypeError: ``caption`` is not a string.
    """
    if not isinstance(caption, str):
        raise TypeError(f"caption: expected str, got {type(caption).__name__}")
    text = _Text(caption)
    uniques = _take_uniques(text)
    cut_edges = _take_cut_edges(text)
    hole = _take_hole(text)
    denied = _take_denied(text)
    backgrounds = _take_backgrounds(text)
    neighbors = _take_neighbors(text)
    painted_colors, painted_patterns = _take_pattern_phrases(text)
    # "white dots on red": the ground is the main colour. "red and white stripes": as ordered.
    # "The leftmost of three red circles." names the region's own colour, pattern and shape.
    colors = text.take_words(words.COLORS) or _unique(u.color for u in uniques if u.color)
    patterns = _unique((*text.take_words(words.TEXTURES), *painted_patterns))
    shapes = text.take_words(words.SHAPES)
    sizes = text.take_words(words.SIZES)
    return CaptionFacts(
        colors=_unique((*colors, *painted_colors)),
        patterns=patterns or _unique(u.pattern for u in uniques if u.pattern),
        denied_patterns=denied,
        shapes=shapes or _unique(u.shape for u in uniques if u.shape),
        hole=hole,
        size=sizes[0] if sizes else None,
        place=_place(text.take_words(words.DIRECTIONS)),
        backgrounds=backgrounds,
        cut_edges=cut_edges,
        neighbors=neighbors,
        uniques=uniques,
    )


def _unique(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found))


def _find(text: str, canonical: dict[str, str]) -> tuple[str, ...]:
    found = re.finditer(rf"\b{_any(canonical)}\b", text)
    return _unique(canonical[match.group()] for match in found)


def _first(text: str, canonical: dict[str, str]) -> str | None:
    return next(iter(_find(text, canonical)), None)


def _place(directions: tuple[str, ...]) -> str | None:
    vertical = next((d for d in directions if d in ("top", "bottom")), None)
    horizontal = next((d for d in directions if d in ("left", "right")), None)
    if vertical or horizontal:
        return " ".join(d for d in (vertical, horizontal) if d)
    return "center" if "center" in directions else None


def _take_uniques(text: _Text) -> tuple[UniqueStatement, ...]:
    extreme, side = _any(words.EXTREMES), _any(words.SIDES)
    ordinal = rf"(?:(?P<ordinal>{_any(words.ORDINALS)}) )?"
    one = rf"(?: (?:one|{_NOUN}))?"
    group = rf"(?:all )?(?:the )?(?P<count>{_COUNT})?(?: ?(?P<group>{_PHRASE}))?{_IN_PICTURE}"
    counted = rf"(?=(?:all )?(?:the )?{_COUNT}\b){group}"
    forms = (
        # of the three red circles , (this is) the leftmost (one)
        rf"(?:of|among) {counted}(?: ,)?(?: this| it)?{one}(?: is)?(?: the)? {ordinal}"
        rf"(?P<kind>{extreme}){one}",
        # the second from the left of three red circles
        rf"{ordinal}(?:{_NOUN} )?from the (?P<from>left|right|top|bottom)(?: of| among) {group}",
        # the leftmost (one) of three red circles
        rf"{ordinal}(?P<kind>{extreme}){one} (?:of|among|out of) {group}",
        # the left (one) of two , the one on the left of the two
        rf"(?P<kind>{side}){one} (?:of|among|out of) {counted}",
        rf"(?P<kind>one) (?:of|among) {counted}",
        rf"(?P<kind>only) (?P<group>{_PHRASE}){_IN_PICTURE}",
        # the leftmost red circle
        rf"{ordinal}(?P<kind>{extreme})(?: (?P<group>{_PHRASE}))?{_IN_PICTURE}",
    )
    statements = []
    for form in forms:
        for match in text.take(rf"(?:the )?{form}"):
            parts = match.groupdict()
            phrase, count, rank = parts.get("group") or "", parts.get("count"), parts.get("ordinal")
            kind = parts.get("from") or parts["kind"]
            statements.append(
                UniqueStatement(
                    kind=words.EXTREMES.get(kind) or words.SIDES.get(kind) or kind,
                    count=None if count is None else words.NUMBERS.get(count) or int(count),
                    color=_first(phrase, words.COLORS),
                    shape=_first(phrase, words.SHAPES),
                    pattern=_first(phrase, words.TEXTURES),
                    rank=words.ORDINALS[rank] if rank else 1,
                )
            )
    return tuple(statements)


def _take_cut_edges(text: _Text) -> tuple[str, ...]:
    edge = r"(?:left|right|top|bottom|upper|lower)(?: hand)?"
    listed = rf"(?P<edges>{edge}(?:(?: ,| and| by| at| the| sides?| edges?| borders?)* {edge})*)"
    border = rf"(?: (?:edges?|borders?|sides?|frame|corner|margin|of the {_PICTURE}|{_PICTURE}))+"
    link = r"(?: (?:by|at|on|over|beyond|past|of|to|along|outside|across|off|out|with|both|the))*"
    cut = r"(?:cut off|cut|cropped|clipped|truncated)"
    leaves = r"(?:runs?|running|continu\w+|extend\w*|touch\w*|reach\w*|partly outside|ends?|ending)"
    found: list[str] = []
    for form in (  # "touching the left edge" needs the word edge, "cut off at the left" does not
        rf"(?:{cut}|{leaves}){link} {listed}{border}",
        rf"{cut}{link} {listed}",
        rf"(?:{cut}|{leaves}){link} (?:edge|border)s?{_IN_PICTURE} (?:on|at) the {listed}",
    ):
        for match in text.take(form):
            found += _find(match["edges"], words.DIRECTIONS)
    return _unique(found)


def _take_hole(text: _Text) -> bool | None:
    adjectives = rf"(?:(?:an?|any|one|the|{_SIZE}|{_SHAPE}|{_MODIFIER}|{_COLOR}) )*"
    where = r"(?: (?:in|at|through|near)(?: the| its| it)?(?: middle| center)?)?"
    hole = rf"{adjectives}(?:hole|opening)s?{where}"
    absent = text.take(rf"(?:without|no|not have|nor) {hole}")
    present = text.take(rf"(?:(?:with|and|has|having|around) )?{hole}")
    present += text.take(r"(?:hollow|pierced)")
    if present:
        return True
    return False if absent else None


def _take_denied(text: _Text) -> tuple[str, ...]:
    """Takes "not striped", "without stripes", "neither dotted nor ..."; "no pattern" is plain."""
    if text.take(r"(?:no|without|not)(?: any| an?)?(?: visible| clear)? (?:pattern|texture)s?"):
        text.rest += " plain"
    known = words.TEXTURES | words.PATTERN_NOUNS
    listed = rf"(?:(?:an?|any|{_COLOR}) )*{_any(known)}"
    denied: list[str] = []
    for match in text.take(rf"(?:not|no|without|neither) {listed}(?:(?: ,| or| nor)+ {listed})*"):
        denied += _find(match.group(), known)
    return _unique(denied)


def _take_backgrounds(text: _Text) -> tuple[str, ...]:
    noun = _any(words.BACKGROUNDS)
    skip = rf"(?:(?:an?|the|its|some|mostly|{_MODIFIER}|{_TEXTURE}) )*"
    listed = rf"{skip}(?P<colors>{_COLOR_LIST})"
    link = r"(?:(?:on|against|over|upon|in|with|before|and|above|in front of|surrounded by) )?"
    between = r"(?: (?:color|is|are|being|of|in|around|behind|it|the|region))+"
    colors: list[str] = []
    for form, accept in (
        (rf"{link}(?:the |its |an? )?{noun}{between} {listed}", lambda match: True),
        (rf"{link}{listed}(?: (?:{_MODIFIER}|{_TEXTURE}))* {noun}", lambda match: True),
        # "on white", "surrounded by green": nothing follows the colour that it could belong to
        (
            rf"(?:on|against|upon|surrounded by) {listed}"
            r"(?= ?(?:$|[,.;:!?|]|and|with|in|at|near|inside))",
            _not_the_ground_of_a_pattern,
        ),
    ):
        for match in text.take(form, accept):
            colors += _find(match["colors"], words.COLORS)
    return _unique(colors)


def _not_the_ground_of_a_pattern(match: re.Match[str]) -> bool:
    """False for the "on red" of "white dots on red", where no colour before could be the main."""
    before = match.string[: match.start()]
    pattern = re.search(rf"(?:\b{_COLOR} )?{_PATTERN_NOUN}(?: pattern)? $", before)
    return pattern is None or _first(before[: pattern.start()], words.COLORS) is not None


def _take_neighbors(text: _Text) -> tuple[NeighborStatement, ...]:
    def is_region(match: re.Match[str]) -> bool:
        phrase = match["phrase"]
        if match["trigger"] not in words.WEAK_RELATIONS:
            return bool(re.search(rf"\b(?:{_NOUN}|{_SHAPE}|{_COLOR})\b", phrase))
        # "in a red round region", but not "in red", "in the middle", "white dots on red"
        named = re.match(rf"(?:an?|the|another) .*\b(?:{_NOUN}|{_SHAPE})\b", phrase)
        return named is not None and _not_the_ground_of_a_pattern(match)

    statements = []
    trigger = _any(words.RELATIONS)
    for match in text.take(rf"(?P<trigger>{trigger}) (?P<phrase>{_PHRASE})", is_region):
        statements.append(
            NeighborStatement(
                relation=words.RELATIONS[match["trigger"]],
                color=_first(match["phrase"], words.COLORS),
                shape=_first(match["phrase"], words.SHAPES),
            )
        )
    return tuple(statements)


def _take_pattern_phrases(text: _Text) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Takes "with thin blue stripes"; returns its colours and patterns."""
    listed = (
        r"(?:thin|thick|wide|narrow|fine|broad|long|diagonal|vertical|horizontal|round|dense|and|,)"
    )
    plural = _any(noun for noun in words.PATTERN_NOUNS if noun.endswith("s"))
    single = _any(noun for noun in words.PATTERN_NOUNS if not noun.endswith("s"))
    colors: list[str] = []
    patterns: list[str] = []
    # The size of dots is not the region's, but "a small red gradient" is a small region.
    for form in (
        rf"(?:(?:{_COLOR}|{_SIZE}|{_MODIFIER}|{listed}) )*(?P<noun>{plural})",
        rf"(?:(?:{_COLOR}|and|to|,) )*(?P<noun>{single})",
    ):
        for match in text.take(form):
            colors += _find(match.group(), words.COLORS)
            patterns.append(words.PATTERN_NOUNS[match["noun"]])
    return _unique(colors), _unique(patterns)
