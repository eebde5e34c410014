"""From requests to answers: prompts in evaluation mode, decoding, text. For every captioner."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from fastregion import language
from fastregion.images import RgbImage
from fastregion.language import GeneratedText, PackedPrompts, ReadPrompts
from fastregion.language.evaluating import evaluating
from fastregion.models.description import Description
from fastregion.models.pieces import StrippedText
from fastregion.models.request import RegionRequest, Request, Sampling
from fastregion.models.shared_prompts import SharedPrompts
from fastregion.regions import Region

if TYPE_CHECKING:
    from fastregion.models.base import Captioner

__all__ = [
    "descriptions",
    "encode_request",
    "generate_answers",
    "prompt_arguments",
    "score_texts",
    "stream_answers",
]


def generate_answers(
    captioner: Captioner, requests: Sequence[Request], sampling: Sampling
) -> list[Description]:
    """Answers to all requests, worked on one after the other."""
    generator = sampling.generator(captioner.device)
    return [d for request in requests for d in _generate(captioner, request, sampling, generator)]


def _generate(
    captioner: Captioner,
    request: Request,
    sampling: Sampling,
    generator: torch.Generator | None,
) -> list[Description]:
    start = time.perf_counter()
    prompts = encode_request(captioner, request)
    encoded = time.perf_counter()
    generated = captioner.generate(prompts, sampling, generator)
    timings = {"encode": encoded - start, "generate": time.perf_counter() - encoded}
    return descriptions(captioner, request, generated, timings)


def descriptions(
    captioner: Captioner,
    request: Request,
    generated: Sequence[GeneratedText],
    timings: Mapping[str, float],
) -> list[Description]:
    """What was written about the subjects of a request."""
    return [
        Description(
            text=answer.text.strip(),
            region=region,
            model_id=captioner.model_id,
            token_ids=tuple(answer.token_ids),
            token_logprobs=tuple(answer.logprobs),
            finish_reason=answer.finish_reason,
            timings=timings,
            image=image,
        )
        for (image, region), answer in zip(request.subjects, generated, strict=False)
    ]


def stream_answers(
    captioner: Captioner, requests: Sequence[Request], sampling: Sampling
) -> Iterator[tuple[int, str]]:
    """Pieces of the answers' texts, each with the index of its answer among those of all."""
    # What cannot be asked is said now, not with the first piece.
    batch = captioner.process(requests[0]) if requests else None
    return _pieces(captioner, requests, batch, sampling)


def _pieces(
    captioner: Captioner, requests: Sequence[Request], batch: Any, sampling: Sampling
) -> Iterator[tuple[int, str]]:
    """The batch is that of the first request."""
    generator = sampling.generator(captioner.device)
    first = 0
    for place, request in enumerate(requests):
        texts = [StrippedText() for _ in request.subjects]
        prompts = encode_request(captioner, request, batch if place == 0 else None)
        pieces = language.stream_text(
            captioner.decoder,
            tokenizer=captioner.tokenizer,
            **prompt_arguments(prompts),
            eos_token_ids=captioner.eos_token_ids,
            generator=generator,
            **sampling.per_token(),
        )
        for token, text in pieces:
            if piece := texts[token.index].put(text):
                yield first + token.index, piece
        first += len(texts)


def score_texts(
    captioner: Captioner,
    image: RgbImage,
    regions: Sequence[Region],
    texts: Sequence[str],
    prompt: str | None,
    kept: dict[Any, Any],
) -> list[float]:
    """Mean log-probability per token of a text for each region.

    Args:
        captioner: the model.
        image: uint8 RGB ``[H, W, 3]``.
        regions: one that comes several times is encoded once.
        texts: one for each region.
        prompt: what they answer; None for the model's default.
        kept: what the model keeps of the image from call to call.
    """
    unique = {id(region): region for region in regions}
    order = {key: index for index, key in enumerate(unique)}
    prompts = encode_request(
        captioner, RegionRequest(image, tuple(unique.values()), prompt, kept=kept)
    )
    with torch.inference_mode():
        prompts = prompts.select([order[id(region)] for region in regions])
        if isinstance(prompts, SharedPrompts):
            prompts = replace(prompts, prompts=captioner.append_text(prompts.prompts, texts))
        else:
            prompts = captioner.append_text(prompts, texts)
        scores = language.score(captioner.decoder, **prompt_arguments(prompts))
    return [float(value) for value in scores]


def encode_request(
    captioner: Captioner, request: Request, batch: Any = None
) -> PackedPrompts | SharedPrompts:
    """Prompts in evaluation mode, without autograd; a model in training goes back to it.

    The batch is the request's, where that has been processed.
    """
    with evaluating(captioner.model), torch.inference_mode():
        return captioner.encode(captioner.process(request) if batch is None else batch)


def prompt_arguments(prompts: PackedPrompts | SharedPrompts | ReadPrompts) -> dict[str, Any]:
    """As arguments of ``language.generate_text``."""
    return vars(prompts) if isinstance(prompts, SharedPrompts) else {"prompts": prompts}
