"""Shares of right answers, by group of items and over several groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastregion.evaluation.benchmarks.base import Item, Scores

__all__ = ["by_group"]


def by_group(
    items: Sequence[Item],
    right: Mapping[str, bool],
    *,
    sets: Mapping[str, Sequence[str]],
    scale: float = 1.0,
) -> Scores:
    """Count right answers.

    Args:
        items: those that were answered.
        right: by item id.
        sets: further entries behind those of the groups: the groups whose items each pools.
        scale: of the table: 1 for shares, 100 for percentages.

    Returns:
        An entry for every group, in the order of the sets, then for every set; without those that
        have no item. Wrong items are the failures.
    """
    found = {item.group for item in items}
    ordered = dict.fromkeys(group for groups in sets.values() for group in groups)
    members = {group: (group,) for group in ordered if group in found} | dict(sets)
    table: dict[str, float] = {}
    counts: dict[str, int] = {}
    kept: dict[str, dict[str, Any]] = {item.id: {"right": right[item.id]} for item in items}
    for name, groups in members.items():
        ids = [item.id for item in items if item.group in groups]
        if not ids:
            continue
        table[name] = scale * sum(right[key] for key in ids) / len(ids)
        counts[name] = len(ids)
        for key in ids:
            kept[key][name] = scale * right[key]
    return Scores(
        table=table,
        items=kept,
        counts=counts,
        failures=tuple(item.id for item in items if not right[item.id]),
    )
