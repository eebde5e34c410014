"""What a captioner answers: a text, the region it is about, and how sure the model was."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from fastregion.images import RgbImage, check_output_path
from fastregion.models.drawing import draw_captions, draw_regions
from fastregion.regions import Region

__all__ = ["Description", "Uniqueness", "plot_descriptions"]

_THUMBNAIL_SIDE = 320  # pixels


@dataclass(frozen=True)
class Uniqueness:
    """How well a text tells its region from the others of the same call, under the model.

    Attributes:
        scores: mean log-probability per token of the text for each region of the call, in order.
        index: which of them is its own.
        num_tokens: tokens of the text, its end token included.
    """

    scores: tuple[float, ...]
    index: int
    num_tokens: int

    @property
    def score(self) -> float:
        """That for the own region."""
        return self.scores[self.index]

    @property
    def log_probability(self) -> float:
        """Log-probability that the text is about its own region, were all as likely beforehand."""
        highest = max(self.scores)
        total = sum(math.exp(self.num_tokens * (score - highest)) for score in self.scores)
        return self.num_tokens * (self.score - highest) - math.log(total)

    @property
    def nearest(self) -> int | None:
        """The other region that the text fits best; None where there is no other."""
        others = [k for k in range(len(self.scores)) if k != self.index]
        return max(others, key=self.scores.__getitem__, default=None)

    @property
    def margin(self) -> float:
        """By how much the own score exceeds the best other one; infinite without another."""
        if self.nearest is None:
            return math.inf
        return self.score - self.scores[self.nearest]

    @property
    def rank(self) -> int:
        """1 where the text fits its own region better than every other one.

        Otherwise as many more as fit it at least as well: a tie retrieves nothing.
        """
        return sum(score >= self.score for score in self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values; ``margin`` is None without another region."""
        return {
            "rank": self.rank,
            "probability": math.exp(self.log_probability),
            "margin": None if self.nearest is None else self.margin,
            "nearest": self.nearest,
            "scores": list(self.scores),
        }


@dataclass(frozen=True, eq=False)
class Description:
    """One region in words.

    A notebook shows it as a small picture with its text; ``str(description)`` is the text.

    Attributes:
        text: the description, without outer white space.
        region: what it describes.
        model_id: which captioner made it.
        token_ids: generated tokens, the end token included when there was one.
        token_logprobs: log-probability of each token under the model, natural logarithm.
        finish_reason: ``"stop"`` when the text came to its end, ``"length"`` when it was cut off.
        timings: seconds that the batch of this region took: ``encode``, ``generate``.
        image: the picture, uint8 RGB ``[H, W, 3]`` (a reference, shared by all regions), or None.
        uniqueness: how well it tells its region from the others, where that was asked for.
    """

    text: str
    region: Region
    model_id: str
    token_ids: Sequence[int] = field(repr=False)
    token_logprobs: Sequence[float] = field(repr=False)
    finish_reason: str
    timings: Mapping[str, float] = field(repr=False)
    image: RgbImage | None = field(default=None, repr=False)
    uniqueness: Uniqueness | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.text

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability per token; NaN when there is no token."""
        return float(np.mean(self.token_logprobs)) if self.token_logprobs else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Everything but the image, as plain JSON-able values."""
        uniqueness = self.uniqueness
        return {
            "text": self.text,
            "model": self.model_id,
            "region": self.region.to_dict(),
            "token_logprobs": [float(value) for value in self.token_logprobs],
            "finish_reason": self.finish_reason,
            "timings": {step: float(seconds) for step, seconds in self.timings.items()},
            **({} if uniqueness is None else {"uniqueness": uniqueness.to_dict()}),
        }

    def plot(self, path: str | os.PathLike[str] | None = None) -> Image.Image:
        """Draw the region and its text; see :func:`plot_descriptions`."""
        return plot_descriptions([self], path)

    def _repr_html_(self) -> str:
        """A self-contained figure for notebooks."""
        canvas = self.image
        if canvas is None:
            canvas = np.full((*self.region.mask.shape, 3), 200, np.uint8)
        buffer = io.BytesIO()
        draw_regions(canvas, [self.region.mask], longest_side=_THUMBNAIL_SIDE).save(
            buffer, format="JPEG", quality=88
        )
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        text, model = html.escape(self.text), html.escape(self.model_id)
        if self.uniqueness is not None:
            model += " \N{MIDDLE DOT} " + _told_apart(self.uniqueness)
        return (
            '<figure style="display:inline-block;margin:0.5em;max-width:340px">'
            f'<img src="data:image/jpeg;base64,{data}" alt="{text}" style="max-width:100%">'
            f'<figcaption>{text}<br><small style="opacity:0.6">{model}</small></figcaption>'
            "</figure>"
        )


def plot_descriptions(
    descriptions: Sequence[Description], path: str | os.PathLike[str] | None = None
) -> Image.Image:
    """Draw regions of one image with their texts.

    What is outside all regions is dimmed, each region is outlined in a colour of its own, and the
    texts stand below the picture (beside it when it is tall), numbered when there are several.

    Args:
        descriptions: at least one, all of the same image.
        path: where to save the drawing; its suffix decides the format.

    Returns:
        The drawing, in RGB.

    Raises:
        ValueError: no description, one without its image, images that differ in size, or a path
            whose folder does not exist or whose suffix is no image format.
    """
    if path is not None:
        check_output_path(path)
    if not descriptions:
        raise ValueError("descriptions: expected at least one, got none")
    image = descriptions[0].image
    if image is None:
        raise ValueError("descriptions: a description without its image cannot be drawn")
    for index, description in enumerate(descriptions):
        if description.region.size != image.shape[:2]:
            raise ValueError(
                f"descriptions: all must be of one image of size {image.shape[:2]}, "
                f"got {description.region.size} at {index}"
            )
    drawing = draw_captions(
        draw_regions(image, [description.region.mask for description in descriptions]),
        [_caption(description) for description in descriptions],
    )
    if path is not None:
        drawing.save(path)
    return drawing


def _caption(description: Description) -> str:
    """The text, marked where it does not tell its region from the others."""
    uniqueness = description.uniqueness
    if uniqueness is None or uniqueness.rank == 1:
        return description.text
    return f"{description.text} ({_told_apart(uniqueness)})"


def _told_apart(uniqueness: Uniqueness) -> str:
    """The uniqueness in words."""
    others = uniqueness.rank - 1
    if others:
        return f"fits {others} other region{'s' if others > 1 else ''} as well"
    if uniqueness.nearest is None:
        return "the only region"
    return f"unique ({math.exp(uniqueness.log_probability):.0%})"
