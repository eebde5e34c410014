"""How DAM is asked: conversation templates, queries, and their token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastregion.language import IGNORED_LABEL, Tokenizer

__all__ = [
    "DEFAULT_INSTRUCTION",
    "IMAGE_TAG",
    "IMAGE_TOKEN_ID",
    "JOINT_IMAGE_INSTRUCTION",
    "MULTI_VIEW_INSTRUCTION",
    "TEMPLATES",
    "VIDEO_DETAIL_INSTRUCTION",
    "VIDEO_INSTRUCTION",
    "ConversationTemplate",
    "answer_ids",
    "dialogue_ids",
    "image_query",
    "input_ids",
    "video_query",
    "without_name",
]

IMAGE_TAG = "<image>"
_REGION_NAME = "<Prompt0>"
IMAGE_TOKEN_ID = -200  # stands for the tokens of one picture or frame

DEFAULT_INSTRUCTION = "Describe the masked region in detail."
JOINT_IMAGE_INSTRUCTION = "Given the image above, describe the object in the masked region."
VIDEO_INSTRUCTION = (
    "Given the video in the form of a sequence of frames above, describe the object in the masked "
    "region in the video in detail."
)
# The paper's prompt for motion; the released code stops behind its first sentence.
VIDEO_DETAIL_INSTRUCTION = (
    f"{VIDEO_INSTRUCTION} Focus on appearance, motion, and actions. If the motion involves "
    "multiple stages or steps, break down each stage and describe the movements or changes "
    "sequentially. "
    "Ensure each phase of motion is described clearly, highlighting transitions between actions."
)
# Several views of an object that does not move, given as frames.
MULTI_VIEW_INSTRUCTION = (
    "Describe the masked region in the video in detail. The video consists of multiple views of a "
    "stationary object. Focus on the appearance of the object without mentioning any motion or "
    "actions."
)


@dataclass(frozen=True, kw_only=True)
class ConversationTemplate:
    """How one turn of a user and its answer are written.

    Attributes:
        system: what stands in front of everything.
        user: header of the user's turn.
        user_end: what ends it.
        assistant: header of the answer.
        space: what stands between that and the answer.
        stop: what ends the answer.
    """

    system: str
    user: str
    user_end: str
    assistant: str
    space: str
    stop: str

    def prompt(self, query: str) -> str:
        """The text up to the answer."""
        return f"{self.system}{self.further(query)}"

    def training_text(self, query: str, answer: str) -> str:
        """The text with the answer."""
        return f"{self.prompt(query)}{self.answer(answer)}"

    def answer(self, answer: str) -> str:
        """An answer and its end."""
        return f"{self.space}{answer}{self.stop}"

    def further(self, query: str) -> str:
        """What follows on an answer, up to the next one."""
        return f"{self.user}{query}{self.user_end}{self.assistant}"


_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
_LLAMA_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)


def _vicuna(system: str) -> ConversationTemplate:
    return ConversationTemplate(
        system=f"{system} ",
        user="USER: ",
        user_end=" ",
        assistant="ASSISTANT:",
        space=" ",
        stop="</s>",
    )


# By the names of the published command lines. The published models were trained with v1.
TEMPLATES: Mapping[str, ConversationTemplate] = {
    "v1": _vicuna(_VICUNA_SYSTEM),
    "vicuna_v1_nosys": _vicuna(""),
    "llama_3": ConversationTemplate(
        system=(
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
            f"{_LLAMA_SYSTEM}<|end_of_text|>"
        ),
        user="<|start_header_id|>user<|end_header_id|>\n\n",
        user_end="<|end_of_text|>",
        # The word really is "system".
        assistant="<|start_header_id|>system<|end_header_id|>\n\n",
        space="",
        stop="<|end_of_text|>",
    ),
}


def image_query(instruction: str | None, *, joint: bool) -> str:
    """What the user says about a region of an image; joint: to a model of images and videos."""
    if joint:
        return f"Image: {IMAGE_TAG}\n{instruction or JOINT_IMAGE_INSTRUCTION}"
    return f"{IMAGE_TAG}\n{instruction or DEFAULT_INSTRUCTION}"


def without_name(text: str) -> str:
    """A text about the one region that there is, which DAM has no name for."""
    return text.replace(_REGION_NAME, "the masked region")


def video_query(instruction: str | None, num_frames: int) -> str:
    """What the user says about an object in a video."""
    return f"Video: {IMAGE_TAG * num_frames}\n{instruction or VIDEO_INSTRUCTION}"


def input_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a text, ``IMAGE_TOKEN_ID`` in the place of every image tag.

    Every piece between tags is tokenised by itself, so that with a SentencePiece vocabulary it
    begins with a space of its own; there is one BOS token, in front of all.
    """
    ids: list[int] = []
    for index, piece in enumerate(text.split(IMAGE_TAG)):
        bare = tokenizer.encode(piece)
        whole = tokenizer.encode(piece, add_special_tokens=True)
        if index:
            ids += [IMAGE_TOKEN_ID, *whole[len(whole) - len(bare) :]] if piece else [IMAGE_TOKEN_ID]
        else:
            ids += whole
    return ids


def answer_ids(answer: str, template: ConversationTemplate, tokenizer: Tokenizer) -> list[int]:
    """Ids of an answer and its end, as they follow on a prompt."""
    before = tokenizer.encode(template.assistant)
    whole = tokenizer.encode(f"{template.assistant}{template.answer(answer)}")
    assert whole[: len(before)] == before  # an answer is a word of its own
    return whole[len(before) :]


def dialogue_ids(
    turns: Sequence[tuple[str, str]], template: ConversationTemplate, tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    """Ids of a dialogue, and what is learned of it: every answer with its end.

    Args:
        turns: queries and their answers, the first query with the image tags.
        template: how turns are written.
        tokenizer: of the model.

    Returns:
        Ids, and labels for each: ids of answers, -100 elsewhere.
    """
    text = template.system
    ids: list[int] = []
    labels: list[int] = []
    for query, answer in turns:
        text += template.further(query)
        labels += [IGNORED_LABEL] * (len(input_ids(text, tokenizer)) - len(labels))
        text += template.answer(answer)
        ids = input_ids(text, tokenizer)
        labels += ids[len(labels) :]
    return ids, labels
