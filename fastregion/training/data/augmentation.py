"""What training varies: the wording of prompts, and how well a picture was compressed.

The published code draws with Python's ``random``, and so do these functions: given
``random.Random(seed)`` they draw what it drew after ``random.seed(seed)``, in the same order.
"""

from __future__ import annotations

import io
import random
import re

import numpy as np
from PIL import Image

from fastregion.images import RgbImage

__all__ = ["class_name_prompt", "dam_prompt", "gar_prompt", "python_random", "recompress"]

# "{}" takes how long the answer shall be.
_OPEN_PROMPTS = (
    "Describe the masked region {}.",
    "Describe the masked area {}.",
    "What can you describe about the masked region {}?",
    "Can you describe the masked region {}?",
    "Provide an explanation of the masked region {}.",
    "Depict the masked area {}.",
    "Portray the masked area {}.",
    "Describe what the masked region looks like {}.",
    "Illustrate the masked region {}.",
    "How would you explain the masked area {}?",
    "What details can you provide about the masked region {}?",
    "What does the masked region entail {}?",
    "How would you illustrate the masked region {}?",
    "How would you depict the masked area {}?",
    "How would you portray the masked area {}?",
)
# These ask for detail themselves.
_DETAILED_PROMPTS = (
    "Give a detailed description of the masked region.",
    "Provide a thorough description of the masked region.",
    "Can you explain the details of the masked area?",
    "Give a detailed account of the masked region.",
    "Describe the masked area comprehensively.",
    "Provide an in-depth description of the masked region.",
    "Explain the specifics of the masked area.",
    "Can you provide a thorough explanation of the masked region?",
    "What are the details of the masked area?",
    "Provide a comprehensive description of the masked area.",
    "What specific details can you provide about the masked region?",
    "Can you give an in-depth account of the masked section?",
    "What are the main characteristics of the masked region?",
    "Give a thorough description of the masked area's details.",
    "Provide detailed information about the masked area.",
)
_IN_DETAIL = "in detail"
_DETAIL_SHARE, _WORDS_ABOVE = 0.6, 0.8  # between them, sentences are counted
_FEW_WORDS, _MANY_WORDS = 10, 200
_QUALITIES = (75, 100)  # of JPEG files, both included
_SENTENCE_END = re.compile(r"[.!?]")


def python_random(rng: np.random.Generator) -> random.Random:
    """Python's generator, seeded by the next draw of NumPy's."""
    return random.Random(int(rng.integers(1 << 63)))


def gar_prompt(caption: str, draws: random.Random) -> str:
    """How GAR's training asks for a caption (spec page of GAR, section 11, points 5 and 6).

    Six of ten prompts ask for detail, two name the caption's number of sentences, two its number of
    words, rounded to tens where it has ten or more.

    Args:
        caption: the answer.
        draws: what decides, in this order: the kind of prompt, its template, its wording.
    """
    return _prompt(caption, draws, ("in a sentence", "in one sentence", "in 1 sentence"))


def dam_prompt(caption: str, draws: random.Random) -> str:
    """How DAM's training asks for a caption (paper, Appendix H.2), without the image's tag.

    The paper gives the shares, and leaves open where exact numbers of words end and how the two
    sets of prompts share those that ask for detail: both are as in GAR's training, which took DAM's
    prompts over.

    Args:
        caption: the answer.
        draws: what decides.
    """
    return _prompt(caption, draws, ("in one sentence", "in a sentence"))


def class_name_prompt(prompt: str, class_name: str, draws: random.Random) -> str:
    """A prompt that, half of the time, says what the region is (DAM's self-labelling variant).

    Args:
        prompt: as drawn by :func:`dam_prompt`.
        class_name: what the region is called.
        draws: what decides.
    """
    named = draws.random() < 0.5
    return f"{prompt} The masked region shows: {class_name}." if named else prompt


def recompress(image: RgbImage, draws: random.Random) -> RgbImage:
    """The picture after JPEG compression of a quality from 75 to 100 (URECA's augmentation).

    Args:
        image: uint8 RGB ``[H, W, 3]``; URECA recompresses tiles, before they are resized.
        draws: what decides.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=draws.randint(*_QUALITIES))
    return np.array(Image.open(file))


def _prompt(caption: str, draws: random.Random, one_sentence: tuple[str, ...]) -> str:
    kind = draws.random()
    if kind < _DETAIL_SHARE:
        return draws.choice(_OPEN_PROMPTS + _DETAILED_PROMPTS).format(_IN_DETAIL)
    prompt = draws.choice(_OPEN_PROMPTS)
    if kind > _WORDS_ABOVE:
        return prompt.format(_number_of_words(len(caption.split()), draws))
    sentences = sum(bool(part.strip()) for part in _SENTENCE_END.split(caption))
    if sentences == 1:
        return prompt.format(draws.choice(one_sentence))
    return prompt.format(f"in {sentences} sentences")


def _number_of_words(count: int, draws: random.Random) -> str:
    if count < _FEW_WORDS:
        return f"in {count} words"
    if count > _MANY_WORDS:
        return f"in more than {_MANY_WORDS} words"
    return f"in {draws.choice(('about', 'around'))} {round(count / 10) * 10} words"
