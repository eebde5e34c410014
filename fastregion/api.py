"""The two functions of a first day with fastregion: ``describe`` and ``load``."""

from __future__ import annotations

import functools
import os
from typing import Any

from fastregion.images import ImageSource
from fastregion.models.auto import load
from fastregion.models.base import Captioner

__all__ = ["describe", "load"]


def describe(
    image: ImageSource,
    regions: Any,
    prompt: str | None = None,
    *,
    model: str | os.PathLike[str] | Captioner = "fastregion/mini",
    **options: Any,
) -> Any:
    """Describe regions of an image in words.

    Args:
        image: a path, a PIL image, an array or a tensor; see
            :func:`fastregion.images.load_image`. Or, for a model that describes videos, a list of
            them, the frames, or the path of a video file (``pip install 'fastregion[video]'``).
        regions: one region or a list of them: masks, boxes, RLE, :class:`fastregion.Region`, ...;
            see :func:`fastregion.regions.as_regions`. In a video: for each frame; see
            :meth:`fastregion.Captioner.describe`.
        prompt: what to say instead of a detailed description.
        model: a captioner, or a name or folder for :func:`load`. The built-in model stays loaded
            between calls; of another one, load a captioner once and pass that.
        **options: those of :meth:`fastregion.Captioner.describe`, such as ``max_new_tokens``,
            ``temperature``, ``seed``, ``stream``, ``return_details``, ``batch_size``, ``share``,
            ``unique``.

    Returns:
        ``str`` for one region, ``list[str]`` for a list; see :meth:`fastregion.Captioner.describe`.

    Raises:
        FileNotFoundError, TypeError, ValueError: an argument is not as described; the message
            begins with its name.
        NotImplementedError: a video for a model of single images, or a model that fastregion does
            not run yet.
    """
    captioner = model if isinstance(model, Captioner) else _captioner(os.fspath(model))
    return captioner.describe(image, regions, prompt, **options)


def _captioner(name: str) -> Captioner:
    return _built_in() if name in ("mini", "fastregion/mini") else load(name)


@functools.cache
def _built_in() -> Captioner:
    return load("fastregion/mini")
