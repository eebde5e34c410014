"""A tiny task for the training loop: next tokens of short sequences, learned by a few layers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.models.weights import OWN_NAMES
from fastregion.training.batches import Batches, Loading
from fastregion.training.data import BatchLoader
from fastregion.training.metrics import METRICS, read_metrics
from fastregion.training.recipe import Optimizer, Recipe
from fastregion.training.task import Loss, Task

VOCABULARY, WIDTH = 13, 12


class ToyRecords:
    """Sequences of 3 to 11 tokens, each a walk with a stride of its own."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return [(index + k * (1 + index % 4)) % VOCABULARY for k in range(3 + index * 5 % 9)]

    def name(self, index: int) -> str:
        return f"row {index}"


@dataclass(frozen=True)
class ToyBatch:
    sequences: tuple[Tensor, ...]

    def to(self, device: torch.device) -> ToyBatch:
        return ToyBatch(tuple(sequence.to(device) for sequence in self.sequences))


class ToyModel(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(2)
        )
        self.dropout = nn.Dropout(dropout)
        self.unused = nn.Linear(3, 3)  # by every batch of this task
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen += 1
        states = self.embedding(tokens)
        for layer in self.layers:
            states = states + self.dropout(layer(states))
        return self.head(states)


class ToyStep(nn.Module):
    def __init__(self, model: ToyModel) -> None:
        super().__init__()
        self.model = model
        self.poisoned_at: int | None = None

    def forward(self, batch: ToyBatch) -> Loss:
        total = torch.zeros(())
        targets = 0
        for sequence in batch.sequences:
            logits = self.model(sequence[:-1]).float()
            total = total.to(logits) + F.cross_entropy(logits, sequence[1:], reduction="sum")
            targets += len(sequence) - 1
        if self.poisoned_at is not None and self.model.seen >= self.poisoned_at:
            total = total * torch.nan
        return Loss(total, torch.tensor(float(targets)), {"text": total.detach()})


@dataclass(frozen=True, kw_only=True)
class ToyOptions:
    rows: int = 37


class ToyTask(Task):
    def __init__(self, *, dropout: float, noise: bool, rows: int, seconds: float) -> None:
        model = ToyModel(dropout)
        self.captioner = SimpleNamespace(layout=OWN_NAMES, model=model)  # type: ignore[assignment]
        self.step = ToyStep(model)
        self.noise, self.rows, self.seconds = noise, rows, seconds
        self.progress: list[float] = []

    def sample(self, record: Any, rng: np.random.Generator) -> Tensor:
        tokens = torch.tensor(record)
        if self.noise:
            tokens[0] = int(rng.integers(VOCABULARY))
        return tokens

    def num_tokens(self, sample: Tensor) -> int:
        return len(sample)

    def collate(self, samples: Sequence[Tensor]) -> ToyBatch:
        return ToyBatch(tuple(samples))

    def decoded(self, sample: ToyBatch) -> str:
        rows = (one.tolist() for one in sample.sequences)
        return "\n".join(f"{row[0]} [[{' '.join(map(str, row[1:]))}]]" for row in rows)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        tensors = {name: value.clone() for name, value in self.step.model.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")

    def set_progress(self, progress: float) -> None:
        self.progress.append(progress)
        time.sleep(self.seconds)

    def batches(self, loading: Loading) -> Batches | None:
        return BatchLoader(
            ToyRecords(self.rows),
            sample=self.sample,
            num_tokens=self.num_tokens,
            collate=self.collate,
            seed=loading.seed,
            samples_per_batch=loading.batch_size,
            tokens_per_batch=loading.batch_tokens,
            num_workers=loading.num_workers,
            process=loading.process,
            num_processes=loading.num_processes,
        )


def toy_recipe(*, learning_rate: float = 1e-2, **values: Any) -> Recipe:
    return Recipe(
        **{
            "system": "mini",
            "steps": 20,
            "batch_size": 4,
            "tensorboard": False,
            "optimizer": Optimizer(learning_rate=learning_rate, weight_decay=0.1),
            **values,
        }
    )


def toy_task(
    *, dropout: float = 0.0, noise: bool = False, rows: int = 37, seconds: float = 0.0
) -> ToyTask:
    """A new one, always with the same weights; a step lasts ``seconds`` longer than it takes."""
    torch.manual_seed(5)
    return ToyTask(dropout=dropout, noise=noise, rows=rows, seconds=seconds)


def losses(folder: Path) -> list[float]:
    """The loss of every step of a run."""
    return [row["loss"] for row in read_metrics(folder / METRICS)]
