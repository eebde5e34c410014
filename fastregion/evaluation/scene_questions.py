"""Questions about the regions of a scene whose right answers are known, and what answers say.

Questions about one region (colour, shape, place, size, pattern), descriptions of a given length,
and questions about two or three regions named ``<Prompt0>``, ``<Prompt1>``, ...: which is larger,
where one lies, whether colours or shapes agree, which of them is striped, and questions whose right
answer is "None of them". Nothing is asked whose answer is within the tolerance of a threshold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fastregion.evaluation.caption_facts import read_caption
from fastregion.evaluation.ground_truth import Mask, RegionTruth
from fastregion.evaluation.judge import judge_caption
from fastregion.evaluation.spatial import Words, position_words, stated_positions
from fastregion.scenes.colors import COLOR_TERMS
from fastregion.scenes.outlines import SHAPES
from fastregion.scenes.textures import PATTERNS

SINGLE_PROMPTS = {
    "color": "What color is it?",
    "shape": "What shape is it?",
    "place": "Where is it?",
    "size": "How large is it?",
    "pattern": "What pattern does it have?",
}
"""The question about each fact of one region."""
KINDS = (
    *SINGLE_PROMPTS,
    *("short", "counted"),
    *("larger", "position", "same color", "same shape", "which", "none"),
)
"""What is asked, in the order of the report: single facts, lengths, then several regions."""
SINGLE_KINDS = tuple(SINGLE_PROMPTS)
RELATION_KINDS = ("larger", "position", "same color", "same shape", "which")
NEGATIVE_KINDS = ("none",)

SHORT_PROMPT = "Describe this region in one short phrase."
_SHORT_LIMIT = 8  # words of a short phrase
_COUNT_SLACK = 2  # words by which "in N words" may be missed; "about" N is asked for
_LARGER = 1.25  # ratio of areas from which one region is clearly larger
_NAME = re.compile(r"<Prompt(\d+)>")
_NONE = re.compile(r"\b(?:none|neither|nothing|no one|not any)\b")


@dataclass(frozen=True, kw_only=True)
class SceneQuestion:
    """One question and what is right.

    Attributes:
        kind: One of :data:`KINDS`.
        regions: The regions asked about, as indices into the scene's, in the order of their names.
        prompt: The question.
        right: The right words: the larger region's name, ways to say where it lies, "yes" or "no",
            all names of a "which" question. Empty where the facts of the region decide, and for a
            right answer "None of them".
        words: Number of words asked for; None where the length is free.
    """

    kind: str
    regions: tuple[int, ...]
    prompt: str
    right: tuple[str, ...] = ()
    words: int | None = None


def make_questions(
    masks: Sequence[Mask], truths: Sequence[RegionTruth], seed: int
) -> tuple[SceneQuestion, ...]:
    """Draws questions of every kind that the scene has a clear answer to.

    Args:
        masks: ``[H, W]`` bool, one for each region.
        truths: What is true of each.
        seed: The same seed draws the same questions.

    Returns:
        For one region drawn at random, a question for every known fact and the descriptions of a
        given length; for every other kind at most one question about two or three regions.
    """
    rng = np.random.default_rng((41, seed))
    index = int(rng.integers(len(masks)))
    one = (index,)
    known = judge_caption(read_caption(""), truths, index, complete=False).right
    questions = [
        SceneQuestion(kind=kind, regions=one, prompt=prompt)
        for kind, prompt in SINGLE_PROMPTS.items()
        if kind in known
    ]
    count = int(rng.integers(3, 13))
    questions += [
        SceneQuestion(kind="short", regions=one, prompt=SHORT_PROMPT),
        SceneQuestion(
            kind="counted",
            regions=one,
            prompt=f"Describe this region in {count} words.",
            words=count,
        ),
    ]
    if len(masks) < 2:
        return tuple(questions)
    for draw in (_larger, _position, _same_color, _same_shape, _which, _none):
        # Several tries: not every pair of regions has a clear answer.
        for _ in range(4):
            order = rng.permutation(len(masks))
            chosen = tuple(int(k) for k in order[: 2 if rng.random() < 0.6 else 3])
            question = draw(chosen, masks, truths, rng)
            if question is not None:
                questions.append(question)
                break
    return tuple(questions)


def judge_answer(question: SceneQuestion, answer: str, truths: Sequence[RegionTruth]) -> bool:
    """Whether an answer is right.

    Args:
        question: What was asked.
        answer: What was said.
        truths: What is true of each region of the scene.
    """
    judge = _JUDGES.get(question.kind, _judge_statements)
    return judge(question, answer, truths)


def _judge_statements(question: SceneQuestion, answer: str, truths: Sequence[RegionTruth]) -> bool:
    """One region: the fact asked for is stated, nothing stated is wrong, the length is kept."""
    verdict = judge_caption(read_caption(answer), truths, question.regions[0], complete=True)
    if verdict.wrong:
        return False
    if question.kind in SINGLE_PROMPTS:
        return verdict.right[question.kind]
    length = len(answer.split())
    if question.words is None:
        return 0 < length <= _SHORT_LIMIT
    return abs(length - question.words) <= _COUNT_SLACK


def _judge_larger(question: SceneQuestion, answer: str, _: Sequence[RegionTruth]) -> bool:
    # The first name is the larger one's ("<Prompt1> is larger than <Prompt0>.").
    said = _NAME.search(answer)
    return said is not None and said.group() == question.right[0]


def _judge_position(question: SceneQuestion, answer: str, _: Sequence[RegionTruth]) -> bool:
    said = stated_positions(answer)
    return bool(said) and said <= set(question.right)


def _judge_same(question: SceneQuestion, answer: str, _: Sequence[RegionTruth]) -> bool:
    said = re.match(r"\W*(yes|no)\b", answer.lower())
    return said is not None and said.group(1) == question.right[0]


def _judge_which(question: SceneQuestion, answer: str, _: Sequence[RegionTruth]) -> bool:
    denied = _NONE.search(answer.lower()) is not None
    named = {match.group() for match in _NAME.finditer(answer)}
    return denied is not bool(question.right) and (denied or named == set(question.right))


_JUDGES: dict[str, Callable[[SceneQuestion, str, Sequence[RegionTruth]], bool]] = {
    "larger": _judge_larger,
    "position": _judge_position,
    "same color": _judge_same,
    "same shape": _judge_same,
    "which": _judge_which,
    "none": _judge_which,
}


def _larger(
    chosen: tuple[int, ...],
    masks: Sequence[Mask],
    truths: Sequence[RegionTruth],
    rng: np.random.Generator,
) -> SceneQuestion | None:
    pair = chosen[:2]
    first, second = (truths[k].area for k in pair)
    if max(first, second) < _LARGER * min(first, second):
        return None
    return SceneQuestion(
        kind="larger",
        regions=pair,
        prompt="Which is larger, <Prompt0> or <Prompt1>?",
        right=(_name(0 if first > second else 1),),
    )


def _position(
    chosen: tuple[int, ...],
    masks: Sequence[Mask],
    truths: Sequence[RegionTruth],
    rng: np.random.Generator,
) -> SceneQuestion | None:
    pair = chosen[:2]
    words = position_words(masks[pair[0]], masks[pair[1]])
    if not words:
        return None
    return SceneQuestion(
        kind="position",
        regions=pair,
        prompt="Where is <Prompt0> relative to <Prompt1>?",
        right=tuple(sorted(words)),
    )


def _same(
    fact: str, chosen: tuple[int, ...], words: Sequence[Words | None]
) -> SceneQuestion | None:
    pair = chosen[:2]
    first, second = (words[k] for k in pair)
    if first is None or second is None:
        return None
    if first == second and len(first) == 1:
        right = "yes"
    elif not first & second:
        right = "no"
    else:
        return None
    prompt = f"Do <Prompt0> and <Prompt1> have the same {fact}?"
    return SceneQuestion(kind=f"same {fact}", regions=pair, prompt=prompt, right=(right,))


def _same_color(
    chosen: tuple[int, ...],
    masks: Sequence[Mask],
    truths: Sequence[RegionTruth],
    rng: np.random.Generator,
) -> SceneQuestion | None:
    return _same("color", chosen, [truth.colors for truth in truths])


def _same_shape(
    chosen: tuple[int, ...],
    masks: Sequence[Mask],
    truths: Sequence[RegionTruth],
    rng: np.random.Generator,
) -> SceneQuestion | None:
    return _same("shape", chosen, [truth.shapes for truth in truths])


def _which(
    chosen: tuple[int, ...],
    masks: Sequence[Mask],
    truths: Sequence[RegionTruth],
    rng: np.random.Generator,
) -> SceneQuestion | None:
    patterns = [truths[k].patterns for k in chosen]
    if None in patterns:
        return None
    sure = sorted({word for words in patterns if words for word in words})
    asked = str(rng.choice(sure))
    having = tuple(_name(k) for k, words in enumerate(patterns) if words and asked in words)
    return SceneQuestion(
        kind="which", regions=chosen, prompt=f"Which of them is {asked}?", right=having
    )


def _none(
    chosen: tuple[int, ...],
    masks: Sequence[Mask],
    truths: Sequence[RegionTruth],
    rng: np.random.Generator,
) -> SceneQuestion | None:
    fact = str(rng.choice(["patterns", "patterns", "colors", "shapes"]))
    known = [getattr(truths[k], fact) for k in chosen]
    if None in known:
        return None
    words = {"patterns": PATTERNS, "colors": COLOR_TERMS, "shapes": SHAPES}[fact]
    absent = [word for word in words if not any(word in own for own in known)]
    if fact == "colors":  # nor as a part of any of them
        absent = [word for word in absent if not any(truths[k].fits_color(word) for k in chosen)]
    if not absent:
        return None
    asked = str(rng.choice(absent))
    return SceneQuestion(kind="none", regions=chosen, prompt=f"Which of them is {asked}?")


def _name(position: int) -> str:
    return f"<Prompt{position}>"
