"""What the learning rate is multiplied by, as a function of how far a run has come."""

from __future__ import annotations

import math

from fastregion.training.recipe import Schedule

__all__ = ["learning_rate_factor"]


def learning_rate_factor(
    schedule: Schedule, step: int, progress: float, num_steps: int | None
) -> float:
    """The factor of a step.

    Args:
        schedule: the rule.
        step: updates done before it.
        progress: share of the run done before it, in 0..1.
        num_steps: updates in the run; None where it ends by the clock. There a warm-up of
            ``warmup_steps`` has no known share of the run: the rest is laid over all of it.
    """
    share = schedule.warmup_ratio
    if schedule.warmup_steps:
        share = schedule.warmup_steps / num_steps if num_steps else 0.0
        risen = step / schedule.warmup_steps
    else:
        risen = progress / share if share else 1.0
    warm = schedule.warmup_start + (1 - schedule.warmup_start) * min(risen, 1.0)
    if share and risen < 1:
        return warm
    after = (progress - share) / (1 - share) if share < 1 else 1.0
    return warm * _decayed(schedule, min(max(after, 0.0), 1.0), progress)


def _decayed(schedule: Schedule, after: float, progress: float) -> float:
    """The rule behind the warm-up, whose share that is done is ``after``."""
    if schedule.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * after))
    if schedule.name == "linear":
        return 1 - after
    if schedule.name == "step":
        return schedule.gamma ** sum(progress >= place for place in schedule.milestones)
    return min(1.0, (1 - progress) / schedule.decay_share) if schedule.decay_share else 1.0
