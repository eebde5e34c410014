"""Texts that tell the regions of a call apart: self-retrieval, and other texts where it fails.

With ``log p(c | r)`` the log-probability of a text ``c`` with its end token for region ``r``, and
all ``R`` regions of the call equally likely beforehand, whoever reads ``c`` takes it for region
``i`` with probability

    P(i | c) = p(c | i) / sum over r of p(c | r)

A text retrieves its region if it is likelier for it than for every other one. One that does, stays.
Another, ``c0``, is replaced by the candidate that a pragmatic speaker would choose (Frank and
Goodman 2012; of neural captions, Andreas and Klein 2016):

    c* = argmax  log p(c | i) + w log P(i | c),    w = 2

To tell apart is not enough: nothing fits the other regions worse than what fits none, so that the
second term, or a margin, favours texts that are wrong about all of them. The first term is the
price, and bounds it: ``p(c* | i) >= p(c0 | i) P(i | c0) ** w``, which is ``p(c0 | i) / R ** w`` for
a text that fits all regions alike. The weight was chosen on rendered scenes: with 4, retrieval
rises further, and so do false statements; means per token instead of sums gave more false
statements at the same retrieval. ``c0`` is a candidate itself: where nothing is better it stays,
and its scores say so. So it is where two regions are the same pixels, for which nothing is
searched: no text can tell them apart.

Candidates are what a beam search ends with and texts drawn from the model. An image is encoded
once. Regions are read by the decoder once as long as they are no more than a batch (otherwise at
most once for each of four passes: texts, their scores, candidates, their scores), and texts are
scored as short continuations of what was read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from fastregion import language
from fastregion.language import GeneratedText, PackedPrompts, ReadPrompts
from fastregion.language.decoder import step_decoder
from fastregion.models.answers import descriptions, encode_request, prompt_arguments
from fastregion.models.description import Description, Uniqueness
from fastregion.models.request import ImagesRequest, Request, Sampling, VideoRequest
from fastregion.models.shared_prompts import SharedPrompts
from fastregion.regions import Region

if TYPE_CHECKING:
    from fastregion.models.base import Captioner

__all__ = ["choose", "unique_answers"]

_BEAMS, _DRAWS = 6, 6  # candidates; twice as many find hardly more
_WEIGHT = 2.0  # w


def unique_answers(
    captioner: Captioner, requests: Sequence[Request], sampling: Sampling
) -> list[Description]:
    """Answers that tell the regions of all requests apart as well as could be found.

    Args:
        captioner: the model.
        requests: parts of one request, worked on one after the other.
        sampling: how the first texts are chosen; what retrieves its region stays as it is. Without
            a temperature, candidates are drawn with 1, and with seed 0 if there is none.

    Returns:
        Descriptions with ``uniqueness``; ``timings`` have the seconds of all comparisons and
        searches of the call as ``unique``.
    """
    parts = _Parts(captioner, requests)
    generator = sampling.generator(captioner.device)
    found = parts.describe(sampling, generator)
    start = time.perf_counter()
    results = parts.compare([(answer.text, i) for i, answer in enumerate(found)])
    lost = [i for i, one in enumerate(results) if one.rank > 1 and not parts.has_twin(i)]
    if generator is None and not sampling.temperature:
        generator = torch.Generator(captioner.device).manual_seed(0)
    candidates = parts.candidates(lost, sampling, generator)
    compared = iter(parts.compare([(one.text.strip(), i) for i in lost for one in candidates[i]]))
    for i in lost:
        options = [results[i], *(next(compared) for _ in candidates[i])]
        best = choose(options)
        if best:
            results[i], written = options[best], candidates[i][best - 1]
            found[i] = replace(
                found[i],
                text=written.text.strip(),
                token_ids=tuple(written.token_ids),
                token_logprobs=tuple(written.logprobs),
                finish_reason=written.finish_reason,
            )
    seconds = time.perf_counter() - start
    return [
        replace(answer, timings={**answer.timings, "unique": seconds}, uniqueness=result)
        for answer, result in zip(found, results, strict=True)
    ]


def choose(options: Sequence[Uniqueness]) -> int:
    """Which text describes a region best among all; see the module.

    Args:
        options: of the text that may be replaced, and of candidates for the same region.

    Returns:
        The index; of equally good ones the first.
    """
    values = [one.num_tokens * one.score + _WEIGHT * one.log_probability for one in options]
    return values.index(max(values))


def _pixels(request: Request) -> list[tuple[bytes | None, ...]]:
    """The masks of each region, or object of a video, to compare."""
    assert not isinstance(request, ImagesRequest), "texts are compared within one image"
    objects: Iterable[Sequence[Region | None]] = (
        request.objects
        if isinstance(request, VideoRequest)
        else ((region,) for region in request.regions)
    )
    return [
        tuple(None if region is None else region.pixels()[0].tobytes() for region in regions)
        for regions in objects
    ]


class _Parts:
    """Parts of a request: each is encoded once, and one at a time is read by the decoder.

    The prompts of all are kept; keys and values, which are many times larger, are those of the part
    that was read last.
    """

    def __init__(self, captioner: Captioner, requests: Sequence[Request]) -> None:
        self._captioner = captioner
        self._requests = requests
        self._prompts: list[PackedPrompts | SharedPrompts] = []
        self._newest = -1
        self._read: ReadPrompts | None = None
        pixels = [key for request in requests for key in _pixels(request)]
        self._alike = [pixels.index(key) for key in pixels]  # the first of the same pixels

    def has_twin(self, index: int) -> bool:
        """Whether another region is the same pixels."""
        return self._alike.count(self._alike[index]) > 1

    def describe(self, sampling: Sampling, generator: torch.Generator | None) -> list[Description]:
        """The texts of all parts that are written without a comparison."""
        found: list[Description] = []
        for index, request in enumerate(self._requests):
            start = time.perf_counter()
            self._prompts.append(encode_request(self._captioner, request))
            encoded = time.perf_counter()
            generated = self._captioner.generate(self._reading(index), sampling, generator)
            timings = {"encode": encoded - start, "generate": time.perf_counter() - encoded}
            found += descriptions(self._captioner, request, generated, timings)
        return found

    def compare(self, texts: Sequence[tuple[str, int]]) -> list[Uniqueness]:
        """How well each text tells the region of this index from those of all parts."""
        if not texts:
            return []
        different = {text: row for row, text in enumerate(dict.fromkeys(text for text, _ in texts))}
        token_ids = self._token_ids(list(different))
        indices = range(len(self._prompts))
        found = {
            index: language.score_continuations(
                self._captioner.decoder, self._reading(index), token_ids
            )
            # What has been read comes first.
            for index in sorted(indices, key=lambda index: index != self._newest)
        }
        # Regions of the same pixels shall not differ by rounding.
        scores = torch.cat([found[index] for index in indices])[self._alike].T.tolist()  # [T, R]
        return [
            Uniqueness(tuple(scores[row]), index, len(token_ids[row]))
            for text, index in texts
            for row in (different[text],)
        ]

    def candidates(
        self, wanted: Sequence[int], sampling: Sampling, generator: torch.Generator | None
    ) -> dict[int, list[GeneratedText]]:
        """Further texts for some regions, by their indices among those of all parts."""
        captioner = self._captioner
        searching = replace(sampling, temperature=0.0, num_beams=max(_BEAMS, sampling.num_beams))
        drawing = replace(sampling, temperature=sampling.temperature or 1.0, num_beams=1)
        found: dict[int, list[GeneratedText]] = {}
        first = 0
        for part, request in enumerate(self._requests):
            count = len(request.subjects)
            rows = [index - first for index in wanted if first <= index < first + count]
            if rows:
                read = self._reading(part)
                ended = captioner.candidates(read.branch(rows), searching)
                repeated = read.branch([row for row in rows for _ in range(_DRAWS)])
                drawn = iter(captioner.generate(repeated, drawing, generator))
                for row, texts in zip(rows, ended, strict=True):
                    texts += [next(drawn) for _ in range(_DRAWS)]
                    found[first + row] = [one for one in texts if one.text.strip()]
            first += count
        return found

    def _reading(self, index: int) -> ReadPrompts:
        """The prompts of a part with their keys and values."""
        if self._read is None or index != self._newest:
            self._read = None  # before the next take as much memory
            self._read = language.read_prompts(
                self._captioner.decoder, **prompt_arguments(self._prompts[index])
            )
            self._newest = index
        return self._read

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """What ``append_text`` puts behind a prompt, the end token included."""
        rows = [p if isinstance(p, PackedPrompts) else p.prompts for p in self._prompts]
        with torch.inference_mode():
            any_token = language.pack([rows[0].embeddings[:1]] * len(texts))
            appended = self._captioner.append_text(any_token, texts)
        assert appended.labels is not None
        # A text that went on to the end of the context has no place for an end token.
        room = step_decoder(self._captioner.decoder).longest - 1
        room -= max(int(prompts.positions.max()) for prompts in rows)
        parts = torch.split(appended.labels, list(appended.lengths))
        return [ids[1 : 1 + room].tolist() for ids in parts]
