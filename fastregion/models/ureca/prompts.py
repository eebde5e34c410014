r"""How URECA is asked: template, the places of image and mask tokens, and what is learned.

A question such as ``<image>\n<mask>\nDescribe this region in the image.`` is a user's turn.
``<image>`` becomes ``<img>``, a place for every image token, ``</img>``; ``<mask>`` becomes
``<mask>``, a place for every mask token, ``</mask>``. Mask tokens stand where the question has
them, which is behind the image in everything that the model was trained with (the paper's text
puts them in front).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fastregion.language import IGNORED_LABEL, Tokenizer

__all__ = [
    "DEFAULT_INSTRUCTION",
    "END",
    "IMAGE_CONTEXT",
    "MASK_CONTEXT",
    "NEW_TOKENS",
    "SPECIAL_TOKENS",
    "ask_about",
    "chat",
    "conversation_ids",
    "expand",
    "place_masks",
]

DEFAULT_INSTRUCTION = "Describe this region in the image."
IMAGE_CONTEXT, MASK_CONTEXT = "<IMG_CONTEXT>", "<MASK_CONTEXT>"
_IMAGE, _IMAGE_START, _IMAGE_END = "<image>", "<img>", "</img>"
_MASK, _MASK_END = "<mask>", "</mask>"
_START, END = "<|im_start|>", "<|im_end|>"
NEW_TOKENS = (MASK_CONTEXT, _MASK, _MASK_END)  # in the order in which URECA adds them
SPECIAL_TOKENS = (_START, END, _IMAGE_START, _IMAGE_END, IMAGE_CONTEXT, *NEW_TOKENS)

_REGION_NAME = re.compile(r"<Prompt(\d+)>")
_MAX_LENGTH = 8192  # of a training conversation, in tokens


def ask_about(instruction: str | None, num_regions: int) -> str:
    """The question about one region, or about several together.

    Args:
        instruction: None for a description; a question with a ``<mask>`` for each region, in
            their order; or one that names them ``<Prompt0>``, ``<Prompt1>``, ..., in front of
            which their masks are put.
        num_regions: how many regions it is about.

    Raises:
        ValueError: no ``<mask>`` and no region's name, another number of masks than of regions, or
            several images.
    """
    question = DEFAULT_INSTRUCTION if instruction is None else instruction
    names = ["this region"]
    if num_regions > 1:
        names = [f"region {k + 1}" for k in range(num_regions)]
    said = _REGION_NAME.sub(lambda found: names[int(found[1])], question)
    named = instruction is None or said != question
    if _IMAGE not in said:
        said = f"{_IMAGE}\n{said}"
    if named:
        said = place_masks(said, num_regions)
    for placeholder in (IMAGE_CONTEXT, MASK_CONTEXT):
        if placeholder in said:
            raise ValueError(f"prompt: must not contain the placeholder {placeholder!r}")
    if said.count(_IMAGE) > 1:
        raise ValueError(
            f"prompt: must contain {_IMAGE!r} at most once, got {said.count(_IMAGE)} of them"
        )
    _check_masks(said, num_regions)
    return said


def place_masks(question: str, num_masks: int) -> str:
    """A question with the image's place, and places of masks behind it unless it has some."""
    if _IMAGE not in question:
        question = f"{_IMAGE}\n{question}"
    if _MASK in question:
        return question
    return question.replace(_IMAGE, _IMAGE + f"\n{_MASK}" * num_masks, 1)


def _check_masks(question: str, num_masks: int) -> None:
    found = question.count(_MASK)
    if not found:
        raise ValueError(
            f"prompt: must contain {_MASK!r} where the tokens of the region go, or name the region "
            f"<Prompt0>, got {question!r}"
        )
    if found != num_masks:
        raise ValueError(
            f"prompt: must contain {_MASK!r} once for each of {num_masks} regions, got {found}"
        )


def expand(question: str, image_tokens: int, mask_tokens: Sequence[int]) -> str:
    """A question with a place for every token.

    Args:
        question: what the user says; without ``<image>`` the image is put in front.
        image_tokens: tokens of the image, all tiles together.
        mask_tokens: tokens of each mask, all tiles together.

    Raises:
        ValueError: another number of ``<mask>`` than of masks.
    """
    if _IMAGE not in question:
        question = f"{_IMAGE}\n{question}"
    _check_masks(question, len(mask_tokens))
    image = f"{_IMAGE_START}{IMAGE_CONTEXT * image_tokens}{_IMAGE_END}"
    first, *rest = question.replace(_IMAGE, image, 1).split(_MASK)
    return first + "".join(
        f"{_MASK}{MASK_CONTEXT * count}{_MASK_END}{text}"
        for count, text in zip(mask_tokens, rest, strict=True)
    )


def _turn(role: str, text: str) -> str:
    return f"{_START}{role}\n{text}{END}\n"


def chat(system: str, question: str) -> str:
    """The text up to the answer."""
    return f"{_turn('system', system)}{_turn('user', question)}{_START}assistant\n"


def conversation_ids(
    conversation: Sequence[Mapping[str, str]],
    tokenizer: Tokenizer,
    *,
    system: str,
    image_tokens: int,
    mask_tokens: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Ids and labels of a training conversation, every turn tokenised by itself.

    Labels are -100 but for the answers and their end.

    Args:
        conversation: turns with ``from`` (``human`` and ``gpt`` in turns; ``system`` may come
            first, and replaces the system message) and ``value``.
        tokenizer: one that begins a text with a BOS token gives one, in front of everything.
        system: the system message.
        image_tokens: tokens of the image, all tiles together.
        mask_tokens: tokens of each mask; ``<mask>`` stands in the first question.

    Returns:
        Ids and labels, cut off behind 8192 tokens.

    Raises:
        ValueError: turns of other speakers, or another number of ``<mask>`` than of masks.
    """
    turns = list(conversation)
    if turns and turns[0].get("from") == "system":
        system = turns.pop(0)["value"]
    speakers = [turn.get("from") for turn in turns]
    if not turns or speakers != ["human", "gpt"] * (len(turns) // 2):
        raise ValueError(
            f"conversations: must be turns of 'human' and 'gpt' one after the other, got {speakers}"
        )
    bare = tokenizer.encode("")
    ids = tokenizer.encode("", add_special_tokens=True)[len(bare) :]  # the BOS token, if any
    labels = [IGNORED_LABEL] * len(ids)

    def add(text: str) -> None:
        new = tokenizer.encode(text)
        ids.extend(new)
        labels.extend([IGNORED_LABEL] * len(new))

    add(_turn("system", system))
    for index, turn in enumerate(turns):
        text = turn["value"]
        if turn["from"] == "human":
            add(_turn("user", text if index else expand(text, image_tokens, mask_tokens)))
            continue
        before, after = tokenizer.encode(f"{_START}assistant\n"), tokenizer.encode("\n")
        whole = tokenizer.encode(_turn("assistant", text))
        ids += whole
        end = len(whole) - len(after)
        labels += [IGNORED_LABEL] * len(before) + whole[len(before) : end]
        labels += [IGNORED_LABEL] * len(after)
    return ids[:_MAX_LENGTH], labels[:_MAX_LENGTH]
