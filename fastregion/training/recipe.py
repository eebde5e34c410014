"""A recipe: everything that decides a training run, as a dataclass and as YAML."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from fastregion.training.data import DataSource
from fastregion.training.settings import from_mapping, with_overrides
from fastregion.training.systems import SYSTEMS

__all__ = [
    "PACKAGED",
    "Group",
    "Lora",
    "Optimizer",
    "Recipe",
    "Schedule",
    "parse_overrides",
    "read_recipe",
]

_FOLDER = Path(__file__).with_name("recipes")
_MAX_YAML_BYTES = 1 << 20  # far above any honest one

PACKAGED = tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters that are trained otherwise than the rest; the first group that fits counts.

    Attributes:
        match: patterns of published names, as in a shell.
        lr_factor: what their learning rate is multiplied by.
        weight_decay: theirs; None for that of the optimiser.
    """

    match: tuple[str, ...]
    lr_factor: float = 1.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        for name in ("lr_factor", "weight_decay"):
            if (value := getattr(self, name)) is not None:
                at_least(0.0, **{f"optimizer.groups.{name}": value})


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How a gradient becomes an update.

    Attributes:
        name: ``adamw``, or ``muon`` for the matrices of hidden layers and AdamW for the rest.
        learning_rate: at its peak.
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: decoupled, times the learning rate.
        momentum: Muon's.
        no_decay: kinds of parameters that do not decay: those of norms, of embeddings, biases
            (by name), or everything with fewer than two dimensions (``vectors``).
        adamw_for: with Muon, patterns of names of matrices that AdamW trains, beside embeddings.
        groups: exceptions by name.
    """

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.95
    no_decay: tuple[Literal["norms", "embeddings", "biases", "vectors"], ...] = ()
    adamw_for: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "eps"):
            at_least(0.0, **{f"optimizer.{name}": getattr(self, name)})
        for beta in (*self.betas, self.momentum):
            if not 0 <= beta < 1:
                raise ValueError(f"optimizer.betas, momentum: must lie in [0, 1), got {beta}")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What the learning rate is multiplied by over a run.

    Attributes:
        name: after the warm-up: ``cosine`` to 0; ``linear`` to 0; ``constant``, with a linear tail
            to 0 over the last ``decay_share``; ``step``, by ``gamma`` at each milestone.
        warmup_ratio: share of the run over which the rate rises linearly; or
        warmup_steps: the number of such steps.
        warmup_start: what the warm-up begins with.
        decay_share: of ``constant``.
        milestones: of ``step``, as shares of the run.
        gamma: of ``step``.
    """

    name: Literal["cosine", "linear", "constant", "step"] = "cosine"
    warmup_ratio: float = 0.0
    warmup_steps: int = 0
    warmup_start: float = 0.0
    decay_share: float = 0.0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        shares = {
            "warmup_ratio": self.warmup_ratio,
            "warmup_start": self.warmup_start,
            "decay_share": self.decay_share,
            **{f"milestones[{k}]": value for k, value in enumerate(self.milestones)},
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"schedule.{name}: must lie in 0..1, got {value}")
        for name in ("warmup_steps", "gamma"):
            at_least(0, **{f"schedule.{name}": getattr(self, name)})
        if self.warmup_ratio and self.warmup_steps:
            raise ValueError("schedule.warmup_ratio, warmup_steps: give at most one of them")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank updates of frozen layers.

    Attributes:
        rank: of the updates.
        alpha: the updates are scaled by ``alpha / rank``.
        dropout: in training.
        targets: patterns of published module names whose layers get one; empty for the decoder's
            linear layers.
        also_train: patterns of published parameter names that are trained themselves, such as those
            of the mask's path.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ()
    also_train: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least(1, **{"lora.rank": self.rank})
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"lora.alpha: must be positive, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout: must lie in [0, 1), got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run.

    Attributes:
        system: what is trained, a module of ``fastregion.training.systems``.
        start_from: a captioner's name or folder; None for the system's own start.
        options: settings of the system.
        data: where rows come from, side by side; relative paths start from the working folder.
            Empty where the system makes its own.
        epochs: the length of the run; or
        steps: the same in updates of the weights; or
        minutes: the same in time of training.
        batch_size: samples of a process's micro-batch; or
        batch_tokens: the most decoder tokens in it, samples being packed until it is full.
        accumulation: micro-batches to a step, in each process.
        group_by_length: put samples of like length together.
        optimizer: see there.
        schedule: see there.
        clip: largest norm of the gradient; None for no limit.
        precision: of the arithmetic; weights and optimiser remain float32.
        gradient_checkpointing: keep less of the forward pass, and compute it again.
        ema: decay of a moving average of the weights, which is saved in their place; None for none.
        lora: train low-rank updates instead of the decoder.
        train: patterns of published names; what fits none is frozen.
        freeze: patterns of published names that are frozen.
        seed: of weights, order and chance.
        workers: processes that make batches, for each training process; 0 for none.
        fsdp: shard weights, gradients and optimiser over the processes.
        save_every: steps between checkpoints; or
        save_minutes: time of training between them. There is one at the end in any case.
        keep_last: how many checkpoints stay.
        tensorboard: whether to write its files beside ``metrics.jsonl``.
        max_bad_share: share of rows that may be unusable.
    """

    system: str
    start_from: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[DataSource, ...] = ()
    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int | None = None
    batch_tokens: int | None = None
    accumulation: int = 1
    group_by_length: bool = False
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    clip: float | None = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    ema: float | None = None
    lora: Lora | None = None
    train: tuple[str, ...] = ("*",)
    freeze: tuple[str, ...] = ()
    seed: int = 0
    workers: int = 0
    fsdp: bool = False
    save_every: int | None = None
    save_minutes: float | None = None
    keep_last: int = 2
    tensorboard: bool = True
    max_bad_share: float = 0.01

    def __post_init__(self) -> None:
        if self.system not in SYSTEMS:
            raise ValueError(f"system: expected one of {', '.join(SYSTEMS)}, got {self.system!r}")
        for names in (("epochs", "steps", "minutes"), ("batch_size", "batch_tokens")):
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) != 1:
                what = " and ".join(given) or "none"
                raise ValueError(f"{', '.join(names)}: give exactly one of them, got {what}")
        for name in (
            "epochs",
            "steps",
            "minutes",
            "batch_size",
            "batch_tokens",
            "clip",
            "save_minutes",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: must be positive, got {value}")
        if self.group_by_length and self.batch_size is None:
            raise ValueError("group_by_length: needs batch_size; packed batches need it not")
        at_least(1, accumulation=self.accumulation, keep_last=self.keep_last)
        at_least(0, seed=self.seed, workers=self.workers)
        if self.save_every is not None:
            at_least(1, save_every=self.save_every)
        for name, value in (("ema", self.ema), ("max_bad_share", self.max_bad_share)):
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name}: must lie in [0, 1), got {value}")

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What products are computed in; None for the weights' own type."""
        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]


def at_least(least: float, **values: float) -> None:
    """Raise for a value that is smaller, by its name."""
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name}: must be at least {least}, got {value}")


def read_recipe(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        name: a packaged one (``gar``, ``dam``, ``ureca_stage1``, ``ureca_stage2``, ``pix2cap``,
            ``mini``), or a YAML file.
        overrides: values at dotted keys, which take the place of the file's. Where one of several
            keys that exclude each other is given, the file's others are dropped.

    Raises:
        ImportError: pyyaml is not installed.
        FileNotFoundError: no such recipe.
        ValueError: not YAML, or something in it is wrong; the message begins with its key.
    """
    file = _FOLDER / f"{name}.yaml" if name in PACKAGED else Path(name)
    if not file.is_file():
        raise FileNotFoundError(
            f"recipe: no file {str(name)!r}; packaged recipes are {', '.join(PACKAGED)}"
        )
    if file.stat().st_size > _MAX_YAML_BYTES:
        raise ValueError(f"recipe: {str(file)!r} is larger than {_MAX_YAML_BYTES >> 20} MiB")
    values = _parse_yaml(file.read_text(encoding="utf-8"), f"recipe: {str(file)!r}")
    if not isinstance(values, dict):
        raise ValueError(f"recipe: {str(file)!r}: expected keys and values, got {values!r}")
    overrides = overrides or {}
    for rivals in _RIVALS:
        if any(key in overrides and overrides[key] is not None for key in rivals):
            for key in rivals:
                place, _, last = key.rpartition(".")
                inner = values.get(place) if place else values
                if isinstance(inner, dict):
                    inner.pop(last, None)
    return from_mapping(Recipe, with_overrides(values, overrides))


# Of each, a recipe has one.
_RIVALS = (
    ("epochs", "steps", "minutes"),
    ("batch_size", "batch_tokens"),
    ("schedule.warmup_ratio", "schedule.warmup_steps"),
)


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Values by dotted keys from ``key=value``, as a command line has them; values are YAML.

    Raises:
        ImportError: pyyaml is not installed.
        ValueError: an argument of another form.
    """
    values = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
            raise ValueError(f"{argument!r}: expected key=value, such as steps=100")
        values[key] = _parse_yaml(value, key)
    return values


def _parse_yaml(text: str, where: str) -> Any:
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError('recipes need pyyaml: pip install "fastregion[train]"') from error
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from error
