"""Sentences about regions: captions of several lengths, questions with answers, comparisons.

A sentence states the main facts in a fixed order (size, pattern, colour, shape, place) and then
what surrounds the region; wording varies with the random generator. A fact that is None is left
out, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastregion.scenes.colors import COLOR_TERMS
from fastregion.scenes.facts import Facts, grow
from fastregion.scenes.outlines import SHAPES
from fastregion.scenes.scene import SceneRegion
from fastregion.scenes.textures import PATTERNS

DETAILED_PROMPT = "Describe this region in detail."
"""The default instruction."""

_DETAILED = (DETAILED_PROMPT, DETAILED_PROMPT, "Describe the region.", "What is in this region?")
_SHORT = (
    "Describe this region in one short phrase.",
    "in one short phrase",
    "Describe it briefly.",
)
_QUESTIONS = {
    "color": ("What color is it?", "Which color does it have?", "What colour is this region?"),
    "shape": ("What shape is it?", "Which shape does it have?", "What is its shape?"),
    "place": ("Where is it?", "Where in the image is it?", "Where is this region?"),
    "size": ("How large is it?", "How big is it?", "What size is it?"),
    "pattern": (
        "What pattern does it have?",
        "Which pattern does it have?",
        "What is its pattern?",
    ),
}
# What is asked about several regions, and how often: what is harder to see more often.
_COMPARED = {
    "position": 0.22,
    "which": 0.38,
    "larger": 0.06,
    "color": 0.16,
    "shape": 0.14,
    "describe": 0.04,
}
_QUESTION_SHARES = (0.15, 0.3, 0.1, 0.1, 0.35)  # what is harder to see is asked more often


class Exchange(NamedTuple):
    """One instruction and the right answer to it."""

    prompt: str
    answer: str


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeio" else f"a {words}"


def _color(facts: Facts) -> str:
    words = f"{facts.tone} {facts.color}" if facts.tone else facts.color
    return f"{words} and {facts.second}" if facts.second else words


def _looks(facts: Facts, *, color_first: bool = False) -> list[str]:
    looks = [facts.pattern, _color(facts)] if facts.pattern else [_color(facts)]
    return looks[::-1] if color_first else looks


def _join(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def _surroundings(facts: Facts) -> list[str]:
    parts = []
    if facts.relation is not None:
        kind, color, shape = facts.relation
        parts.append(f"{kind} {_article(f'{color} {shape}' if shape else color)} region")
    elif facts.background is not None:
        parts.append(f"on {_article(facts.background)} background")
    if facts.edges:
        noun = "edge" if len(facts.edges) == 1 else "edges"
        parts.append(f"cut off by the {_join(facts.edges)} {noun}")
    if facts.unique is not None:
        parts.append(f"the {facts.unique}")
    return parts


def detailed_caption(facts: Facts, rng: np.random.Generator) -> str:
    """One sentence with everything that is known."""
    noun = str(rng.choice(["region", "region", "area", "object"]))
    looks = _looks(facts, color_first=bool(facts.pattern != "plain" and rng.random() < 0.25))
    words = [facts.size, *looks, *([facts.shape] if facts.shape else []), noun]
    hole = " with a hole" if facts.hole else ""
    corner = " " in facts.place or facts.place == "center"
    place = f"in the {facts.place}" if corner and rng.random() < 0.3 else f"at the {facts.place}"
    if rng.random() < 0.3:
        place += " of the image"
    sentence = f"{_article(' '.join(words))}{hole} {place}"
    sentence = ", ".join([sentence, *_surroundings(facts)])
    return sentence[0].upper() + sentence[1:] + "."


def short_caption(facts: Facts) -> str:
    """A phrase: size, looks and shape."""
    shape = [facts.shape] if facts.shape else []
    return " ".join([facts.size, *_looks(facts), *shape, "region"])


def counted_caption(facts: Facts, rng: np.random.Generator) -> Exchange:
    """A phrase of about as many words as the prompt asks for, the most telling facts first."""
    looks = _looks(facts)
    limit = int(rng.integers(2, 16))
    slots = {"color": looks[-1], "noun": "region", "shape": facts.shape or "", "size": facts.size}
    slots["pattern"] = looks[0] if facts.pattern else ""
    slots["place"] = f"at the {facts.place}"
    slots["around"] = ", ".join(_surroundings(facts)[:1])
    slots["image"] = "of the image"  # says nothing, but makes a long phrase long enough
    order = ("color", "noun", "shape", "size", "pattern", "place", "around", "image")
    used, count = set(), 0
    for slot in order:
        length = len(slots[slot].split())
        fits = count + length <= limit or count < 2
        if length and fits and (slot != "image" or "place" in used):
            used.add(slot)
            count += length
    position = ("size", "pattern", "color", "shape", "noun", "place", "image")
    phrase = " ".join(slots[slot] for slot in position if slot in used)
    if "around" in used:
        phrase += f", {slots['around']}"
    lead = str(rng.choice(["Describe this region in", "in"]))
    about = 0 <= limit - count <= 2 and rng.random() < 0.5
    return Exchange(f"{lead} {limit if about else count} words", phrase)


def question(facts: Facts, rng: np.random.Generator) -> Exchange:
    """A question about one fact."""
    kind = str(rng.choice(list(_QUESTIONS), p=_QUESTION_SHARES))
    if kind == "pattern" and facts.pattern is None:
        kind = "color"
    answers = {
        "color": f"It is {_color(facts)}.",
        "shape": f"It is {facts.shape}." if facts.shape else "Its shape cannot be told.",
        "place": f"At the {facts.place} of the image.",
        "size": f"It is {facts.size}.",
        "pattern": f"It is {facts.pattern}.",
    }
    return Exchange(str(rng.choice(_QUESTIONS[kind])), answers[kind])


def exchanges(facts: Facts, rng: np.random.Generator, *, extra: int) -> list[Exchange]:
    """A detailed caption and ``extra`` other exchanges about one region."""
    result = [Exchange(str(rng.choice(_DETAILED)), detailed_caption(facts, rng))]
    for _ in range(extra):
        kind = rng.random()
        if kind < 0.2:
            result.append(Exchange(str(rng.choice(_SHORT)), short_caption(facts)))
        elif kind < 0.4:
            result.append(counted_caption(facts, rng))
        else:
            result.append(question(facts, rng))
    return result


def position_of(first: SceneRegion, second: SceneRegion) -> str | None:
    """How the first region lies to the second; None where no word is clear."""
    a, b = first.mask, second.mask
    if (a & b).sum() >= 0.2 * min(a.sum(), b.sum()):
        return "overlapping"
    ys_a, xs_a = np.flatnonzero(a.any(axis=1)), np.flatnonzero(a.any(axis=0))
    ys_b, xs_b = np.flatnonzero(b.any(axis=1)), np.flatnonzero(b.any(axis=0))
    box_a, box_b = (xs_a[0], ys_a[0], xs_a[-1], ys_a[-1]), (xs_b[0], ys_b[0], xs_b[-1], ys_b[-1])
    touching = bool((grow(a, 2) & b).any())
    if touching and _within(box_a, box_b):
        return "inside"
    if touching and _within(box_b, box_a):
        return "around"
    dx, dy = box_a[0] + box_a[2] - box_b[0] - box_b[2], box_a[1] + box_a[3] - box_b[1] - box_b[3]
    clear = 0.12 * max(a.shape)  # of the doubled centre distance
    if max(abs(dx), abs(dy)) < clear:
        return None
    if abs(dx) >= 1.5 * abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    if abs(dy) >= 1.5 * abs(dx):
        return "above" if dy < 0 else "below"
    return "touching" if touching else None


def _within(inner: Sequence[int], outer: Sequence[int]) -> bool:
    return bool(
        outer[0] < inner[0] and outer[1] < inner[1] and inner[2] < outer[2] and inner[3] < outer[3]
    )


def compare(regions: Sequence[SceneRegion], rng: np.random.Generator) -> Exchange | None:
    """A question about several regions, named ``<Prompt0>``, ``<Prompt1>``, ... in their order.

    Returns None where the drawn question has no clear answer.
    """
    names = [f"<Prompt{k}>" for k in range(len(regions))]
    kind = str(rng.choice(list(_COMPARED), p=list(_COMPARED.values())))
    if kind == "describe":
        k = int(rng.integers(len(regions)))
        return Exchange(f"Describe {names[k]} in detail.", detailed_caption(regions[k].facts, rng))
    if kind == "which":
        return _which(regions, names, rng)
    i, j = (int(k) for k in rng.permutation(len(regions))[:2])
    first, second = regions[i], regions[j]
    if kind == "larger":
        ratio = float(first.mask.sum()) / float(second.mask.sum())
        if 0.75 < ratio < 1.33:
            return None
        larger = names[i] if ratio > 1 else names[j]
        prompt = (
            f"Which is larger, {names[i]} or {names[j]}?"
            if rng.random() < 0.6
            else f"Is {names[i]} or {names[j]} larger?"
        )
        return Exchange(prompt, f"{larger} is larger.")
    if kind == "position":
        position = position_of(first, second)
        if position is None:
            return None
        prompt = str(
            rng.choice(
                [
                    f"Where is {names[i]} relative to {names[j]}?",
                    f"Where does {names[i]} lie relative to {names[j]}?",
                    f"What is the relationship between {names[i]} and {names[j]}?",
                ]
            )
        )
        return Exchange(prompt, f"{names[i]} is {position} {names[j]}.")
    if kind == "color":
        return _same(names[i], names[j], first.facts.color, second.facts.color, "color", rng)
    if first.facts.shape is None or second.facts.shape is None:
        return None
    return _same(names[i], names[j], first.facts.shape, second.facts.shape, "shape", rng)


def _same(
    name_a: str, name_b: str, word_a: str, word_b: str, kind: str, rng: np.random.Generator
) -> Exchange:
    prompt = (
        f"Do {name_a} and {name_b} have the same {kind}?"
        if rng.random() < 0.6
        else f"Are {name_a} and {name_b} the same {kind}?"
    )
    if word_a == word_b:
        return Exchange(prompt, f"Yes, both are {word_a}.")
    return Exchange(prompt, f"No, {name_a} is {word_a} and {name_b} is {word_b}.")


def _which(
    regions: Sequence[SceneRegion], names: Sequence[str], rng: np.random.Generator
) -> Exchange | None:
    """A question for the regions that have a pattern, colour or shape."""
    kind = str(rng.choice(["pattern", "color", "shape"], p=[0.5, 0.25, 0.25]))
    words = [getattr(region.facts, kind) for region in regions]
    if None in words:
        return None
    asked = str(rng.choice({"pattern": PATTERNS, "color": COLOR_TERMS, "shape": SHAPES}[kind]))
    if rng.random() < 0.6:
        asked = str(rng.choice(words))
    # Where a colour is fair beside the one that is said, the answer would be a matter of taste.
    fair = [region.facts.color_ok for region in regions]
    if kind == "color" and any(
        asked in ok and asked != word for ok, word in zip(fair, words, strict=True)
    ):
        return None
    having = [name for name, word in zip(names, words, strict=True) if word == asked]
    prompt = f"Which of them is {asked}?" if rng.random() < 0.8 else f"Which one is {asked}?"
    if not having:
        return Exchange(prompt, "None of them.")
    verb = "is" if len(having) == 1 else "are"
    return Exchange(prompt, f"{_join(having)} {verb} {asked}.")
