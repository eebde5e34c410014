r"""What GAR is told in words, exactly as in training and in the published evaluation.

A region is a name, ``<Prompt2>``, and a block of placeholders for its replayed features:

    There are some objects I am curious about: <Prompt1>;\n<Prompt1>: [block]question
    There are some objects I am curious about: <Prompt0>; <Prompt1>; \n
    <Prompt0>: [block]\n<Prompt1>: [block]\n\nquestion

The first is the form for one region, the second that for questions about several; that of the
training dialogues, in which every region has a turn behind one image, is ``dialogue_intro`` and
``turn_text``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastregion.language import IGNORED_LABEL

__all__ = [
    "ANSWER_HEADER",
    "CAPTION_REGION",
    "CHAT_TEMPLATE",
    "DEFAULT_INSTRUCTION",
    "DEFAULT_VIDEO_INSTRUCTION",
    "END_OF_TURN",
    "IMAGE_TOKEN",
    "answer_labels",
    "crop_token",
    "dialogue_intro",
    "named_regions",
    "question_text",
    "region_name",
    "region_text",
    "turn_text",
]

IMAGE_TOKEN, END_OF_TURN = "<|image|>", "<|eot_id|>"
ANSWER_HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
DEFAULT_INSTRUCTION = "Describe this masked region in detail."
DEFAULT_VIDEO_INSTRUCTION = "Describe the masked region in detail."  # as in the paper's figures
# The region's name in captions of one region, in the published inference code.
CAPTION_REGION = 1
# For checkpoints without a template of their own: Perception-LM's, with its system text.
CHAT_TEMPLATE = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language.<|eot_id|>"
    "{% for message in messages %}"
    "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{% if message.content is string %}{{ message.content | trim }}{% else %}"
    "{% for part in message.content if part.type == 'image' %}<|image|>{% endfor %}"
    "{% for part in message.content if part.type == 'video' %}<|video|>{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text | trim }}{% endfor %}"
    "{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
    "{% endif %}"
)
# Of ANSWER_HEADER and END_OF_TURN in the published vocabulary.
_HEADER_IDS, _END_ID = (128006, 78191, 128007, 271), 128009
_INTRO = "There are some objects I am curious about: "
_NAME = re.compile(r"<Prompt(\d+)>")


def region_name(index: int) -> str:
    """``<Prompt0>`` for 0."""
    return f"<Prompt{index}>"


def crop_token(index: int) -> str:
    """The reserved token that holds the place of a region's, or a frame's, replayed features."""
    return f"<|reserved_special_token_{index + 2}|>"


def named_regions(text: str) -> list[int]:
    """The regions that a text names, each once, in order of first appearance."""
    return list(dict.fromkeys(int(number) for number in _NAME.findall(text)))


def region_text(index: int, blocks: str, instruction: str = DEFAULT_INSTRUCTION) -> str:
    """About one region.

    Args:
        index: the number of its name.
        blocks: its placeholders.
        instruction: what to say about it.
    """
    name = region_name(index)
    return f"{_INTRO}{name};\n{name}: {blocks}{instruction}"


def question_text(order: Sequence[int], blocks: Sequence[str], question: str) -> str:
    """About several regions together.

    Args:
        order: the numbers of their names, as they shall be listed.
        blocks: the placeholders of each, in this order.
        question: names them.
    """
    lines = [f"{region_name(index)}: {block}\n" for index, block in zip(order, blocks, strict=True)]
    return f"{dialogue_intro(order)}{''.join(lines)}\n{question}"


def dialogue_intro(order: Sequence[int]) -> str:
    """The beginning of a dialogue about several regions, to which every region's turn belongs."""
    return f"{_INTRO}{''.join(f'{region_name(index)}; ' for index in order)}\n"


def turn_text(index: int, block: str, instruction: str = DEFAULT_INSTRUCTION) -> str:
    """One region's turn in such a dialogue."""
    return f"{region_name(index)}: {block}{instruction}"


def answer_labels(
    input_ids: Sequence[int],
    header: Sequence[int] = _HEADER_IDS,
    end: int = _END_ID,
) -> list[int]:
    """What is learned of a dialogue: every answer with its end token; -100 elsewhere.

    Args:
        input_ids: the dialogue.
        header: ids in front of an answer.
        end: the id behind it; an answer without it is not learned.
    """
    ids, width = list(input_ids), len(header)
    labels = [IGNORED_LABEL] * len(ids)
    place = 0
    while place + width <= len(ids):
        if ids[place : place + width] != list(header):
            place += 1
            continue
        start = place + width
        if end not in ids[start:]:
            break
        place = ids.index(end, start) + 1
        labels[start:place] = ids[start:place]
    return labels
