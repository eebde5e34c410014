"""The words that captions use, each with the canonical word it stands for.

All words are written the way the reader sees them: lower case, hyphens as spaces, British spellings
made American.
"""

from __future__ import annotations

from fastregion.scenes.colors import COLOR_TERMS

_COLOR_STEMS = "black|white|gray|red|orange|yellow|green|blue|purple|pink|brown"

SPELLINGS: tuple[tuple[str, str], ...] = (
    (r"[\u2010-\u2015\-_/]", " "),
    (r"[\u2018\u2019]", "'"),
    (r"grey", "gray"),
    (r"centre", "center"),
    (r"colour", "color"),
    (r"chequer", "checker"),
    (rf"\b({_COLOR_STEMS}) (?:colored|hued|toned)\b", r"\1"),
)
"""Regular expressions and replacements that make spellings the same, applied to lower-case text."""

COLORS: dict[str, str] = {term: term for term in COLOR_TERMS} | {
    "violet": "purple",
    "navy": "blue",
    "reddish": "red",
    "greenish": "green",
    "bluish": "blue",
    "yellowish": "yellow",
    "brownish": "brown",
    "pinkish": "pink",
    "grayish": "gray",
    "orangish": "orange",
    "purplish": "purple",
    "blackish": "black",
    "whitish": "white",
}
"""Colour words. "reddish brown" is brown: see :data:`TINGES`."""

TINGES = tuple(word for word in COLORS if word.endswith("ish"))
"""Words that only tinge a colour that follows."""

TEXTURES: dict[str, str] = {
    "plain": "plain",
    "solid": "plain",
    "uniform": "plain",
    "uniformly": "plain",
    "unpatterned": "plain",
    "single color": "plain",
    "single colored": "plain",
    "one color": "plain",
    "evenly colored": "plain",
    "striped": "striped",
    "stripy": "striped",
    "stripey": "striped",
    "banded": "striped",
    "checkered": "checkered",
    "checked": "checkered",
    "dotted": "dotted",
    "polka dotted": "dotted",
    "spotted": "dotted",
    "spotty": "dotted",
    "speckled": "speckled",
    "speckly": "speckled",
    "flecked": "speckled",
    "mottled": "speckled",
    "fading": "gradient",
    "fades": "gradient",
    "shaded": "gradient",
    "graded": "gradient",
}
"""Adjectives for a pattern."""

PATTERN_NOUNS: dict[str, str] = {
    "stripe": "striped",
    "stripes": "striped",
    "striping": "striped",
    "check": "checkered",
    "checks": "checkered",
    "checkers": "checkered",
    "checkerboard": "checkered",
    "chessboard": "checkered",
    "dot": "dotted",
    "dots": "dotted",
    "polka dots": "dotted",
    "polka dot": "dotted",
    "spots": "dotted",
    "speckle": "speckled",
    "speckles": "speckled",
    "speckling": "speckled",
    "specks": "speckled",
    "flecks": "speckled",
    "gradient": "gradient",
    "gradients": "gradient",
}
"""Nouns for a pattern; the colours said with them are the second ones ("red with blue stripes")."""

SHAPES: dict[str, str] = {
    "round": "round",
    "circular": "round",
    "circle": "round",
    "circles": "round",
    "disc": "round",
    "discs": "round",
    "disk": "round",
    "disks": "round",
    "oval": "oval",
    "ovals": "oval",
    "elliptical": "oval",
    "ellipse": "oval",
    "ellipses": "oval",
    "egg": "oval",
    "square": "square",
    "squares": "square",
    "rectangular": "rectangular",
    "rectangle": "rectangular",
    "rectangles": "rectangular",
    "oblong": "rectangular",
    "triangular": "triangular",
    "triangle": "triangular",
    "triangles": "triangular",
    "star": "star-shaped",
    "stars": "star-shaped",
    "ring": "ring-shaped",
    "rings": "ring-shaped",
    "annular": "ring-shaped",
    "donut": "ring-shaped",
    "doughnut": "ring-shaped",
    "crescent": "crescent",
    "crescents": "crescent",
    "moon": "crescent",
    "sickle": "crescent",
    "cross": "cross-shaped",
    "crosses": "cross-shaped",
    "plus shaped": "cross-shaped",
    "plus sign": "cross-shaped",
    "elongated": "elongated",
    "long": "elongated",
    "strip": "elongated",
    "strips": "elongated",
    "bar": "elongated",
    "bars": "elongated",
    "stretched": "elongated",
    "irregular": "irregular",
    "irregularly": "irregular",
    "blob": "irregular",
    "blobs": "irregular",
    "lobed": "irregular",
}
"""Shape words, adjectives and nouns."""

SIZES: dict[str, str] = {
    "tiny": "tiny",
    "very small": "tiny",
    "minuscule": "tiny",
    "small": "small",
    "smallish": "small",
    "little": "small",
    "medium": "medium-sized",
    "mid": "medium-sized",
    "moderately": "medium-sized",
    "moderate": "medium-sized",
    "average": "medium-sized",
    "large": "large",
    "largish": "large",
    "big": "large",
    "very large": "huge",
    "very big": "huge",
    "huge": "huge",
    "giant": "huge",
    "enormous": "huge",
}
"""Size words; "sized" after them is ignored."""

DIRECTIONS: dict[str, str] = {
    "top": "top",
    "upper": "top",
    "bottom": "bottom",
    "lower": "bottom",
    "left": "left",
    "right": "right",
    "center": "center",
    "central": "center",
    "centered": "center",
    "centrally": "center",
    "middle": "center",
}
"""Words for a place in the picture."""

MODIFIERS = (
    *("light", "dark", "bright", "pale", "deep", "vivid", "dull", "lighter", "darker", "pastel"),
    *("mostly", "mainly", "very", "fairly", "rather", "quite", "slightly", "nearly", "almost"),
    *("sized", "colored", "patterned", "faded", "blurred", "noisy"),
)
"""Words between an article and a noun that change no fact."""

NOUNS = (
    *("region", "regions", "shape", "shapes", "object", "objects", "area", "areas", "figure"),
    *("figures", "form", "forms", "patch", "patches", "one", "ones", "thing", "things", "element"),
    *("elements", "part", "parts", "piece", "pieces"),
)
"""Nouns for a region of unsaid kind."""

BACKGROUNDS = ("background", "backdrop", "surroundings", "surrounding", "surface", "ground")
"""Nouns for what lies behind or around a region."""

PICTURES = ("image", "picture", "photo", "photograph", "frame", "scene", "canvas", "view")
"""Nouns for the whole picture."""

NUMBERS: dict[str, int] = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
}
"""Counts of a group of look-alikes."""

ORDINALS: dict[str, int] = {"second": 2, "third": 3, "fourth": 4}
"""Ranks in an order."""

EXTREMES: dict[str, str] = {
    "leftmost": "leftmost",
    "rightmost": "rightmost",
    "topmost": "topmost",
    "uppermost": "topmost",
    "highest": "topmost",
    "bottommost": "bottommost",
    "lowermost": "bottommost",
    "lowest": "bottommost",
    "largest": "largest",
    "larger": "largest",
    "biggest": "largest",
    "bigger": "largest",
    "smallest": "smallest",
    "smaller": "smallest",
}
"""Words that rank a region among its look-alikes and mean nothing else."""

SIDES: dict[str, str] = {
    "left": "leftmost",
    "right": "rightmost",
    "top": "topmost",
    "upper": "topmost",
    "bottom": "bottommost",
    "lower": "bottommost",
    "middle": "middle",
}
"""Words that rank a region only before "of two", "of the three"."""

RELATIONS: dict[str, str] = {
    "in front of": "in front of",
    "on top of": "in front of",
    "inside of": "inside",
    "inside": "inside",
    "within": "inside",
    "enclosed by": "inside",
    "surrounded by": "inside",
    "covered by": "behind",
    "hidden by": "behind",
    "hidden behind": "behind",
    "behind": "behind",
    "below": "below",
    "beneath": "below",
    "under": "below",
    "above": "above",
    "overlapping with": "overlapping",
    "overlapping": "overlapping",
    "overlaps with": "overlapping",
    "overlaps": "overlapping",
    "overlapped by": "overlapping",
    "covering": "in front of",
    "touching": "touching",
    "next to": "next to",
    "beside": "next to",
    "near": "next to",
    "around": "around",
    "surrounding": "around",
    "to the left of": "left of",
    "to the right of": "right of",
    "left of": "left of",
    "right of": "right of",
    "in": "inside",
    "on": "in front of",
    "over": "in front of",
}
"""Words that relate a region to another one."""

WEAK_RELATIONS = frozenset({"in", "on", "over", "near", "around", "below", "above", "under"})
"""Relations that only count when a colour or a shape of the other region follows."""
