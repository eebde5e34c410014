"""A general vision-language model as a captioner: it is shown regions and asked in words."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastregion.evaluation.data_urls import data_url
from fastregion.evaluation.judges.chat import Chat
from fastregion.evaluation.present import PRESENTATIONS, Presented, present
from fastregion.images import load_image
from fastregion.regions import as_regions

__all__ = ["ShownModel"]

_DESCRIBE = "Describe <Prompt0> in detail: what it is and what it looks like, nothing else."
_PLACEHOLDER = re.compile(r"<Prompt(\d+)>")


class _Used(threading.local):
    """What answers took, in each of the threads that ask."""

    def __init__(self) -> None:
        self.usage: Counter[str] = Counter()


class ShownModel:
    """Describes regions by a chat model; see :class:`..benchmarks.base.Describer`.

    Args:
        chat: the model.
        presentation: how it is shown regions: one of :data:`..present.PRESENTATIONS`.

    Raises:
        ValueError: an unknown presentation.
    """

    model_type = "chat"

    def __init__(self, chat: Chat, presentation: str) -> None:
        if presentation not in PRESENTATIONS:
            raise ValueError(
                f"present: expected one of {', '.join(PRESENTATIONS)}, got {presentation!r}"
            )
        self.model_id = f"{chat.name}, {presentation}"
        self.concurrency = chat.concurrency
        self._chat, self._presentation = chat, presentation
        self._used = _Used()

    def describe(
        self, image: Any, regions: Any, prompt: str | None = None, **options: Any
    ) -> list[str]:
        """Describe each region in a request of its own.

        Args:
            image: a picture, as for ``Captioner.describe``.
            regions: what ``as_regions`` takes.
            prompt: what is asked; ``<Prompt0>`` becomes the region's name in words.
            options: ``max_new_tokens``, ``temperature``, ``top_p`` and ``seed``.

        Raises:
            Unanswered: the model gives no answer.
            NotImplementedError: a video, or another option.
        """
        pixels = self._picture(image)
        found = as_regions(regions, pixels.shape[:2])
        shown = [present(self._presentation, pixels, [region]) for region in found]
        return [self._ask(one, prompt or _DESCRIBE, options) for one in shown]

    def ask(self, image: Any, regions: Any, question: str, **options: Any) -> str:
        """Ask one question about all regions; as :meth:`describe` otherwise."""
        pixels = self._picture(image)
        shown = present(self._presentation, pixels, as_regions(regions, pixels.shape[:2]))
        return self._ask(shown, question, options)

    def take_usage(self) -> dict[str, int]:
        """Tokens and ``requests`` of this thread's answers since it was called last."""
        used, self._used.usage = self._used.usage, Counter()
        return dict(sorted(used.items()))

    def _picture(self, image: Any) -> Any:
        if isinstance(image, (list, tuple)):
            raise NotImplementedError(f"image: {self.model_id} is shown pictures, not videos")
        return load_image(image)

    def _ask(self, shown: Presented, prompt: str, options: dict[str, Any]) -> str:
        text = _PLACEHOLDER.sub(lambda found: _name(shown.names, int(found[1])), prompt)
        if text == prompt:  # a question that names no region
            text = f"This is about {' and '.join(shown.names)}.\n{prompt}"
        pictures = [
            {"type": "image_url", "image_url": {"url": data_url(np.asarray(picture))}}
            for picture in shown.pictures
        ]
        message = {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}
        answer = self._chat.ask([message], self._options(options))
        self._used.usage.update({"requests": 1, **answer.usage})
        return answer.text.strip()

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        known = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p",
                 "seed": "seed"}  # fmt: skip
        for name in options:
            if name not in known:
                raise NotImplementedError(f"{name}: {self.model_id} has no such option")
        return {"temperature": 0.0, **{known[name]: value for name, value in options.items()}}


def _name(names: Sequence[str], index: int) -> str:
    if index >= len(names):
        raise ValueError(f"prompt: names <Prompt{index}>, but there are {len(names)} regions")
    return names[index]
