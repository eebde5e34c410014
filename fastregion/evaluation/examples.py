"""Pictures with masks and what is true of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastregion.evaluation.ground_truth import RegionTruth, scene_truths
from fastregion.scenes import EVALUATION_SEEDS, generate_scene


@dataclass(frozen=True, kw_only=True)
class Example:
    """One picture to caption.

    Attributes:
        image: ``[H, W, 3]`` uint8.
        masks: One ``[H, W]`` bool mask for each region.
        truths: What is true of each region.
        lookalike: Whether several regions share colour and shape.
        complete: Whether the regions are all that the picture shows, so that claims such as "the
            leftmost of three" can be judged.
    """

    image: npt.NDArray[np.uint8]
    masks: Sequence[npt.NDArray[np.bool_]]
    truths: Sequence[RegionTruth]
    lookalike: bool = False
    complete: bool = True


@dataclass(frozen=True, kw_only=True)
class Task:
    """An example that is made when its turn comes.

    Attributes:
        name: Tells the example from all others of the evaluation.
        group: The set of examples it is counted in: "scenes", "look-alikes" or "photos".
        make: Makes the example.
        picture: Makes its image alone, which is quicker.
    """

    name: str
    group: str
    make: Callable[[], Example]
    picture: Callable[[], npt.NDArray[np.uint8]]


class PictureStore:
    """Pictures that are needed again soon, compressed; those that do not fit are made anew.

    Args:
        max_bytes: of all compressed pictures together.
    """

    def __init__(self, max_bytes: int = 128 << 20) -> None:
        self._room = max_bytes
        self._kept: dict[str, tuple[bytes, tuple[int, ...]]] = {}

    def keep(self, task: Task, image: npt.NDArray[np.uint8]) -> None:
        """Keep a task's image, where there is room."""
        if task.name in self._kept or self._room <= 0:
            return
        content = zlib.compress(image.tobytes(), level=1)
        if len(content) <= self._room:
            self._room -= len(content)
            self._kept[task.name] = content, image.shape

    def picture(self, task: Task) -> npt.NDArray[np.uint8]:
        """A task's image."""
        if task.name not in self._kept:
            return task.picture()
        content, shape = self._kept[task.name]
        return np.frombuffer(zlib.decompress(content), np.uint8).reshape(shape)


def scene_tasks(count: int, first_seed: int, lookalikes: int | None = None) -> list[Task]:
    """Rendered scenes of the seeds ``first_seed``, ``first_seed + 1``, ...

    Args:
        count: How many.
        first_seed: Of the first.
        lookalikes: As for :func:`fastregion.scenes.generate_scene`.

    Raises:
        ValueError: ``count`` is negative, or a seed is not an evaluation seed (0..9,999).
    """
    if count < 0:
        raise ValueError(f"scenes: expected a count of at least 0, got {count}")
    if first_seed < 0 or first_seed + count > EVALUATION_SEEDS:
        raise ValueError(
            f"first_seed: seeds of evaluation scenes are 0..{EVALUATION_SEEDS - 1}, got "
            f"{first_seed}..{first_seed + count - 1}"
        )
    group = "scenes" if lookalikes is None else "look-alikes"
    name = "scene" if lookalikes is None else f"{lookalikes} look-alikes"
    makers = [_SceneMaker(seed, lookalikes) for seed in range(first_seed, first_seed + count)]
    return [
        Task(name=f"{name} {maker.seed}", group=group, make=maker.example, picture=maker.picture)
        for maker in makers
    ]


@dataclass(frozen=True)
class _SceneMaker:
    seed: int
    lookalikes: int | None

    def example(self) -> Example:
        scene = generate_scene(self.seed, lookalikes=self.lookalikes)
        return Example(
            image=scene.image,
            masks=[region.mask for region in scene.regions],
            truths=scene_truths(scene),
            lookalike=scene.lookalike,
        )

    def picture(self) -> npt.NDArray[np.uint8]:
        return generate_scene(self.seed, lookalikes=self.lookalikes).image
