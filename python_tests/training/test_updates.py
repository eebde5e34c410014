"""Learning rates, parameter groups and optimisers."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from toy_training import ToyTask, toy_recipe, toy_task

from fastregion.training.loop import train
from fastregion.training.muon import Muon
from fastregion.training.optimizers import build_optimizers, set_learning_rate
from fastregion.training.recipe import Group, Optimizer, Schedule
from fastregion.training.schedule import learning_rate_factor


def _factors(schedule: Schedule, steps: int) -> list[float]:
    return [learning_rate_factor(schedule, k, k / steps, steps) for k in range(steps)]


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_schedules_are_those_of_the_papers(name: str) -> None:
    """From 0 in 6 steps, then half a cosine, or a line, to 0 where step 41 would be."""
    rest = [(step - 6) / (40 - 6) for step in range(6, 40)]
    fall = [0.5 + 0.5 * math.cos(math.pi * x) if name == "cosine" else 1 - x for x in rest]
    expected = [step / 6 for step in range(6)] + fall
    assert _factors(Schedule(name=name, warmup_steps=6), 40) == pytest.approx(expected)
    assert _factors(Schedule(name=name, warmup_ratio=0.15), 40) == pytest.approx(expected)


def test_warm_up_starts_where_it_is_told() -> None:
    factors = _factors(Schedule(name="cosine", warmup_ratio=0.5, warmup_start=1e-5), 8)
    assert factors[0] == 1e-5
    assert factors[2] == pytest.approx(1e-5 + (1 - 1e-5) / 2)
    assert factors[4] == 1.0


def test_steps_and_tails() -> None:
    step = Schedule(name="step", milestones=(0.5, 0.75), gamma=0.1)
    assert _factors(step, 4) == pytest.approx([1, 1, 0.1, 0.01])
    tail = Schedule(name="constant", decay_share=0.5, warmup_steps=2)
    assert _factors(tail, 8) == pytest.approx([0, 0.5, 1, 1, 1, 0.75, 0.5, 0.25])
    assert _factors(Schedule(name="constant"), 3) == [1, 1, 1]


def test_a_run_by_the_clock_warms_up_by_steps() -> None:
    schedule = Schedule(name="linear", warmup_steps=4)
    assert learning_rate_factor(schedule, 2, 0.25, None) == pytest.approx(0.5 * 0.75)
    assert learning_rate_factor(schedule, 9, 0.5, None) == pytest.approx(0.5)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("warm", [{}, {"warmup_ratio": 1.0}, {"warmup_steps": 50}])
@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "step"])
def test_factors_are_numbers_in_range(name: str, warm: dict[str, float], progress: float) -> None:
    schedule = Schedule(name=name, decay_share=0.3, milestones=(0.5,), **warm)
    for num_steps in (10, None):
        factor = learning_rate_factor(schedule, int(10 * progress), progress, num_steps)
        assert 0 <= factor <= 1


def _groups(task: ToyTask, optimizer: Optimizer) -> dict[str, tuple[str, float, float]]:
    names = {parameter: name for name, parameter in task.parameters().items()}
    return {
        names[parameter]: (type(made).__name__, group["lr_factor"], group["weight_decay"])
        for made in build_optimizers(task, optimizer)
        for group in made.param_groups
        for parameter in group["params"]
    }


def test_kinds_that_do_not_decay() -> None:
    def exempt(*kinds: str) -> set[str]:
        found = _groups(toy_task(), Optimizer(weight_decay=0.1, no_decay=kinds))
        return {name for name, (_, _, decay) in found.items() if decay == 0}

    norms = {f"layers.{k}.0.{kind}" for k in range(2) for kind in ("weight", "bias")}
    biases = {f"layers.{k}.{j}.bias" for k in range(2) for j in range(2)}
    biases |= {"head.bias", "unused.bias"}
    assert exempt() == set()
    assert exempt("norms") == norms
    assert exempt("biases") == biases
    assert exempt("embeddings") == {"embedding.weight"}
    assert exempt("vectors") == norms | biases
    assert exempt("norms", "embeddings") == norms | {"embedding.weight"}


def test_groups_by_name_and_frozen_parameters() -> None:
    task = toy_task()
    task.step.model.unused.requires_grad_(False)
    groups = (
        Group(match=("layers.0.*",), lr_factor=0.1),
        Group(match=("layers.*",), lr_factor=0.5, weight_decay=0.3),
    )
    recipe = Optimizer(weight_decay=0.1, no_decay=("norms",), groups=groups)
    found = _groups(task, recipe)
    assert "unused.weight" not in found
    assert found["layers.0.1.weight"] == ("AdamW", 0.1, 0.1)
    assert found["layers.0.0.weight"] == ("AdamW", 0.1, 0.0)
    assert found["layers.1.1.weight"] == ("AdamW", 0.5, 0.3)
    assert found["head.weight"] == ("AdamW", 1.0, 0.1)
    optimizers = build_optimizers(task, recipe)
    set_learning_rate(optimizers, 0.02)
    rates = sorted({group["lr"] for made in optimizers for group in made.param_groups})
    assert rates == pytest.approx([0.002, 0.01, 0.02])


def test_a_pattern_that_fits_nothing() -> None:
    with pytest.raises(ValueError, match=r"optimizer: 'layer\.\*' fits no parameter"):
        build_optimizers(toy_task(), Optimizer(groups=(Group(match=("layer.*",)),)))


def test_muon_trains_hidden_matrices() -> None:
    found = _groups(toy_task(), Optimizer(name="muon", adamw_for=("head.*",), weight_decay=0.1))
    by_muon = {name for name, (kind, _, _) in found.items() if kind == "Muon"}
    assert by_muon == {"layers.0.1.weight", "layers.1.1.weight", "unused.weight"}
    assert len(found) == len(toy_task().parameters())
    assert all(decay == 0.1 for _, _, decay in found.values())


def test_muon_runs_resume(tmp_path: Path) -> None:
    recipe = toy_recipe(
        steps=4, save_every=2, keep_last=3, optimizer=Optimizer(name="muon", learning_rate=1e-2)
    )
    task = toy_task()
    train(recipe, tmp_path / "whole", task=task)
    again = toy_task()
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    train(recipe, tmp_path / "cut", task=again)
    for name, value in task.step.state_dict().items():
        assert torch.equal(value, again.step.state_dict()[name]), name


def test_groups_of_muon_have_rates_of_their_own() -> None:
    weights = [torch.nn.Parameter(torch.eye(3)) for _ in range(2)]
    groups = [
        {"params": [weights[0]], "lr_factor": 1.0},
        {"params": [weights[1]], "lr_factor": 0.5},
    ]
    optimizer = Muon(groups, lr=1.0)
    set_learning_rate([optimizer], 0.1)
    for weight in weights:
        weight.grad = torch.eye(3)
    optimizer.step()
    moved = [(torch.eye(3) - weight).norm().item() for weight in weights]
    assert moved[0] == pytest.approx(2 * moved[1])
    assert math.isfinite(moved[0])
